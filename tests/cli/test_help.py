"""The help of every command, as a newcomer reads it: complete, with defaults, and with examples that work."""

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from jaxplain.cli import app as cli


def walk(command, *path):
    """All commands with their paths, groups among them."""
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from walk(part, *path, name)


ROOT = typer.main.get_command(cli.app)
COMMANDS = dict(walk(ROOT))


def every(what=lambda command: True):
    paths = [path for path, command in COMMANDS.items() if what(command)]
    return pytest.mark.parametrize("path", paths, ids=lambda path: " ".join(path) or "jaxplain")


def examples(command):
    """The words of every example of a command's help."""
    return [shlex.split(line) for line in re.findall(r"\[bold](.*?)\[/]", command.epilog or "")]


def check_example(words):
    """Raises click's error where a command line names no command, or its options and arguments do not fit."""
    name, *rest = words[words.index("jaxplain") :]
    path = ()
    while rest and (*path, rest[0]) in COMMANDS:
        path = (*path, rest.pop(0))
    if hasattr(COMMANDS[path], "commands") and rest[:1] != ["-h"]:
        raise ValueError(f"No such command: {rest[:1]}")
    if "-h" not in rest:
        COMMANDS[path].make_context(name, rest)  # parses, and runs nothing
    return path


def shown(path, columns):
    done = CliRunner(env={"COLUMNS": str(columns)}).invoke(cli.app, [*path, "--help"])
    assert done.exit_code == 0
    return done.stdout


def test_all_commands_are_walked():
    assert {("explain",), ("batch-report",), ("xnn",), ("xnn", "fit")} < set(COMMANDS)


def options_of(command):
    return {option for parameter in command.params for option in parameter.opts}


@every(lambda command: "--weights" in options_of(command))
def test_every_command_with_weights_takes_their_labels(path):
    # xnn fit explains classes that are folders of photos, and leaves the classifier's own unused.
    assert ("--labels" in options_of(COMMANDS[path])) != (path == ("xnn", "fit"))


@every()
def test_every_help_has_examples_that_parse(path):
    assert examples(COMMANDS[path])
    for words in examples(COMMANDS[path]):
        found = check_example(words)
        assert found[: len(path)] == path, "an example of another command"
        assert "jaxplain" in words


@pytest.mark.parametrize(
    "line",
    [
        "jaxplain explane a.jpg",
        "jaxplain explain",
        "jaxplain explain a.jpg --taget x",
        "jaxplain explain a.jpg --size x",
        "jaxplain xnn fit",
    ],
)
def test_an_example_that_does_not_parse_would_be_seen(line):
    """The check itself."""
    with pytest.raises(Exception, match=r"No such|Missing|valid"):
        check_example(shlex.split(line))


@every(lambda command: not hasattr(command, "commands"))
def test_every_option_says_what_it_is_and_its_default(path):
    for option in COMMANDS[path].params:
        if option.name == "help":
            continue
        assert len(option.help or "") > 10, f"{option.name} has no help"
        message = (
            option.default not in (None, [], ()) or option.show_default or "default:" in option.help.lower()
        )
        assert option.required or option.is_flag or message, f"{option.name} does not say its default"


@every()
@pytest.mark.parametrize("columns", [80, 120])
def test_help_fits_the_screen_and_loses_nothing(path, columns):
    text = shown(path, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())
    for option in COMMANDS[path].params:
        if option.name != "help" and option.help:
            first = option.help.replace("\\[", "[").split()[:3]
            assert " ".join(first) in words
    for line in examples(COMMANDS[path]):
        assert " ".join(line[:2]) in words


def test_no_paragraph_of_the_help_breaks_where_the_source_does():
    for command in COMMANDS.values():
        assert not re.search(r"[^\n]\n[^\n]", command.help or "")


def test_defaults_in_words_are_shown():
    """Rich takes a default that is written into the help in brackets for its own markup, and drops it."""
    assert "with -features appended" in " ".join(shown(("xnn", "fit"), 120).split())
    assert "with -report appended" in " ".join(shown(("xnn", "report"), 120).split())
    assert "efficientnet-lite0)]" in shown(("sag-stats",), 120)
    for command in COMMANDS.values():
        for option in command.params:
            assert "[default" not in (getattr(option, "help", None) or "")


@every()
def test_every_option_has_a_help(path):
    assert [option.name for option in COMMANDS[path].params if not option.help] == []


def test_the_first_page_says_what_to_try_first():
    words = " ".join(shown((), 120).split())
    places = [words.index(name) for name in ("Start here", "Look closer", "Many photos", "jaxplain demo")]
    assert places == sorted(places)
    assert "fit first" in " ".join(shown(("xnn",), 120).split())
