"""How a command ends: with its table, its failures in plain words, and an exit status that says which."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import jax
import typer
from rich import box
from rich.table import Table

from jaxplain.cli import screen
from jaxplain.cli.run import DEBUG, Tally, with_advice

FAILED, WRONG, INTERRUPTED = 1, 2, 130  # exit status: some photos failed, the command is wrong, Ctrl-C
_NAMES = 8  # columns of a name at least, however narrow the screen
LEFT = "To go on, give the command the photos that are left."
_ANEW = "The same command starts anew."


def display_names(paths: list[Path]) -> dict[Path, str]:
    """File names, and whole paths where a name comes twice."""
    counts = Counter(path.name for path in paths)
    return {path: path.name if counts[path.name] == 1 else str(path) for path in paths}


def table(*headers: str) -> Table:
    """A table that folds names where the screen is narrow and never numbers, whose headers start with ">"."""
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
    for header in headers:
        number = header.startswith(">")
        table.add_column(
            header.lstrip(">"),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            min_width=None if number else _NAMES,
        )
    return table


def finish(tally: Tally, table: Table, remarks: Sequence[str] = (), *, kept: str = "") -> None:
    """Show what came out and what failed; the exit status says whether all is well.

    `kept` is said after Ctrl-C: where the photos that were done are, and how to go on.
    """
    for row in tally.rows:
        table.add_row(*map(screen.printable, row))
    if tally.rows:
        screen.show(table)
    for remark in remarks:
        screen.say(remark, "warning", "yellow")
    for failure in tally.failures:
        screen.say(failure, "failed", "red")
    if tally.failures:
        screen.say(f"{len(tally.failures)} of {tally.total} photos failed.")
    if tally.interrupted:
        end_interrupted(f"{tally.done} of {tally.total} photos were done. {kept if tally.done else _ANEW}")
    if tally.failures:
        raise typer.Exit(FAILED)


def end_interrupted(text: str) -> NoReturn:
    """End a command that was told to stop, with what is kept and how to go on."""
    screen.say(text, "interrupted", "yellow")
    raise typer.Exit(INTERRUPTED) from None


@contextmanager
def clear_errors() -> Iterator[None]:
    """A command that cannot run, or is told to stop, ends with plain words and its own exit status."""
    try:
        yield
    except KeyboardInterrupt:  # before its first photo, or after its last
        end_interrupted("give the same command to start anew.")
    except (ValueError, TypeError, OSError) as error:  # what jaxplain refuses says so in plain words
        _refuse(error, str(error))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        _refuse(error, with_advice(error))


def _refuse(error: Exception, text: str) -> NoReturn:
    if os.environ.get(DEBUG):
        raise error
    screen.say(text, "error", "red")
    raise typer.Exit(WRONG) from None
