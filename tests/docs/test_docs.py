"""The documentation without mkdocs: pages, links, code, and whether the reference has everything public."""

import ast
import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest
import typer
import yaml  # flax needs it too

import jaxplain
from jaxplain.cli.app import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
# Texts checked in the same way that are not pages of the site.
OTHERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/README.md")
TEXTS = [*PAGES, *(ROOT / name for name in OTHERS)]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def every(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path):
    """A page without its blocks of code."""
    return FENCE.sub("", path.read_text())


def nav_pages(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav_pages(value) if isinstance(value, list) else [value]


# ---------------------------------------------------------------------------------------- pages and links


def test_every_page_is_in_the_navigation_once():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert config["strict"]
    assert sorted(nav_pages(config["nav"])) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@cache
def anchors(path):
    """The anchors of a page: its headings, and the names in its reference, members of modules included."""
    headings = re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)
    names = DIRECTIVE.findall(prose(path))
    members = [f"{name}.{member}" for name in names for member in public(resolve(name))]
    return {slug(heading) for heading in headings} | {*names, *members}


def slug(heading):
    """Return the anchor that Python-Markdown's table of contents makes of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


@every(TEXTS)
def test_links_resolve(path):
    for link in LINK.findall(prose(path)):
        if re.match(r"\w+:", link):
            continue  # a web address
        target, _, anchor = link.partition("#")
        assert not target.startswith("/")
        file = (path.parent / target).resolve() if target else path
        assert file.is_file(), f"{link} names no file"
        if path in PAGES:
            assert file.is_relative_to(DOCS), f"{link} leaves the site"
        if anchor:
            assert anchor in anchors(file), f"{link}: no such heading"


def test_broken_links_are_detected():
    """The check itself."""
    assert LINK.findall("see [here](a.md#b), ![picture](c.jpg)") == ["a.md#b", "c.jpg"]
    assert slug("Accelerators, and `precision`?") == "accelerators-and-precision"


# --------------------------------------------------------------------------------------------------- code


class Unknown(Exception):
    """A name that jaxplain does not have."""


def resolve(dotted):
    """Return the object of a dotted name that starts with jaxplain (or jx)."""
    first, *rest = dotted.split(".")
    assert first in ("jaxplain", "jx")
    thing, module = importlib.import_module("jaxplain"), "jaxplain"
    for name in rest:
        module = f"{module}.{name}"
        if not hasattr(thing, name):
            try:
                importlib.import_module(module)
            except ModuleNotFoundError:
                raise Unknown(module) from None
        thing = getattr(thing, name)
    return thing


class Names(ast.NodeVisitor):
    """Checks the names that code takes from jaxplain, and the keywords that it passes to them."""

    def __init__(self):
        self.known = {"jx": "jaxplain", "jaxplain": "jaxplain"}

    def visit_ImportFrom(self, node):
        if node.module and node.module.split(".")[0] == "jaxplain":
            for alias in node.names:
                self.known[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                resolve(f"{node.module}.{alias.name}")

    def visit_Attribute(self, node):
        dotted = self.dotted(node)
        if dotted is None:
            self.generic_visit(node)
        else:
            resolve(dotted)

    def visit_Call(self, node):
        dotted = self.dotted(node.func)
        if dotted is not None and callable(function := resolve(dotted)):
            given = {keyword.arg for keyword in node.keywords} - {None}
            taken = keywords(function)
            if taken is not None and (unknown := given - taken):
                raise Unknown(f"{dotted}({', '.join(sorted(unknown))}=)")
        self.generic_visit(node)

    def dotted(self, node):
        """Return the full name of an attribute of something from jaxplain, None for anything else."""
        if isinstance(node, ast.Attribute):
            base = self.dotted(node.value)
            inside = base is not None and (inspect.ismodule(thing := resolve(base)) or inspect.isclass(thing))
            return f"{base}.{node.attr}" if inside else None
        return self.known.get(node.id) if isinstance(node, ast.Name) else None


def keywords(function):
    """Return the keywords that a function or class takes; None where it passes others on to a function."""
    made_by = function.__init__ if inspect.isclass(function) else function
    parameters = inspect.signature(made_by).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if passes_on else set(parameters)


def blocks(path, *languages):
    return [code for language, code in FENCE.findall(path.read_text()) if language in languages]


@every([path for path in TEXTS if blocks(path, "python")])
def test_names_in_code_exist(path):
    names = Names()  # a page's later blocks use what its earlier ones have imported
    for code in blocks(path, "python"):
        names.visit(ast.parse(code))


@every([path for path in TEXTS if blocks(path, "python", "py")])
def test_code_compiles(path):
    for code in blocks(path, "python", "py"):  # "py": names that the reader is to add
        compile(code, str(path), "exec")


@pytest.mark.parametrize(
    "code",
    [
        "jx.no_such_name",
        "jx.masks.no_such_name(1)",
        "from jaxplain.runs.compare import nothing",
        "from jaxplain import masks\nmasks.Nothing",
        "jx.igos_pp(score, image, baseline, no_such_option=1)",
        "jx.sag.search(score, image, baseline, beam=1)",
    ],
)
def test_unknown_names_are_detected(code):
    with pytest.raises(Unknown):
        Names().visit(ast.parse(code))


COMMANDS = typer.main.get_command(app)


def commands(path):
    """Return every `jaxplain ...` of a page as words, from its text and its shell blocks."""
    text = prose(path)
    shell = "\n".join(blocks(path, "bash")).replace("\\\n", " ")
    lines = [*re.findall(r"`jaxplain ([^`]+)`", text), *re.findall(r"\bjaxplain ([a-z-].*)", shell)]
    return [line.partition("#")[0].split() for line in lines]


def check_command(words, command=COMMANDS):
    """Raise `Unknown` for a command or an option that the command line does not have."""
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            raise Unknown(name)
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
    for word in words:
        if word.startswith("-") and word.partition("=")[0] not in options:
            raise Unknown(f"{command.name} {word}")


@every([path for path in TEXTS if commands(path)])
def test_command_lines_exist(path):
    for words in commands(path):
        check_command(words)


def test_unknown_options_are_detected():
    for words in (["explane", "a.jpg"], ["explain", "a.jpg", "--no-such"], ["xnn", "fitt"]):
        with pytest.raises(Unknown):
            check_command(words)


@every(TEXTS)
def test_names_in_the_text_exist(path):
    for name in re.findall(r"`((?:jx|jaxplain)(?:\.\w+)+)(?:\([^`]*)?`", prose(path)):
        resolve(name)


# ---------------------------------------------------------------------------------------------- reference


def public(thing):
    """Return the public functions and classes of a module or package of jaxplain, by name; {} for others.

    For a module only those that it defines; for a package those that it re-exports.
    """
    if not inspect.ismodule(thing):
        return {}
    inside = "jaxplain." if hasattr(thing, "__path__") else f"{thing.__name__}."
    names = getattr(thing, "__all__", [name for name in vars(thing) if not name.startswith("_")])
    members = {name: getattr(thing, name) for name in names}
    return {
        name: member
        for name, member in members.items()
        if (inspect.isfunction(member) or inspect.isclass(member))
        and f"{member.__module__}.".startswith(inside)
    }


REFERENCE = [name for page in PAGES for name in DIRECTIVE.findall(prose(page))]
# Packages whose modules are internal: only what they re-export is public. `cli` is documented by its help.
PACKAGES = ("attributions", "masks", "metrics", "sag", "xnn", "zoo")
INTERNAL = {
    "jaxplain.__main__",
    "jaxplain.checks",
    "jaxplain.cli",
    *(f"jaxplain.{name}" for name in PACKAGES),
}
MODULES = [
    module.name
    for module in pkgutil.walk_packages(jaxplain.__path__, "jaxplain.")
    if not any(f"{module.name}.".startswith(f"{name}.") for name in INTERNAL)
]


def test_every_name_of_the_reference_exists_and_occurs_once():
    assert len(REFERENCE) == len(set(REFERENCE)) > 100
    for name in REFERENCE:
        resolve(name)


@cache
def documented():
    """Return the identities of all functions and classes in the reference."""
    things = [resolve(name) for name in REFERENCE]
    return {id(member) for thing in things for member in [thing, *public(thing).values()]}


@pytest.mark.parametrize("name", ["jaxplain", *(f"jaxplain.{name}" for name in PACKAGES), *MODULES])
def test_everything_public_is_in_the_reference(name):
    members = public(importlib.import_module(name))
    assert [member for member, thing in members.items() if id(thing) not in documented()] == []
    if name.removeprefix("jaxplain.") in PACKAGES:
        assert len(members) > 5
