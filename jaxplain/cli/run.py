"""Apply a command to many photos; a photo that fails does not stop the others and is listed at the end."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn, TypeVar

import jax
import typer
from rich import box
from rich.table import Table

from jaxplain import zoo
from jaxplain.checks import check_choice
from jaxplain.cli import screen
from jaxplain.files import OutputError
from jaxplain.images import ImageError
from jaxplain.runs.photos import Photo, left_out_line, read_photo
from jaxplain.runs.records import error_line

DEBUG = "JAXPLAIN_DEBUG"  # environment variable that makes unexpected errors show a traceback
FAILED, WRONG, INTERRUPTED = 1, 2, 130  # exit statuses: some photos failed, invalid command, Ctrl-C
LEFT = "To continue, run the command on the remaining photos."
_START_OVER = "Run the same command again to start over."
_NAME_COLUMNS = 8  # minimum width of a name column

Result = TypeVar("Result")


def load_classifier(name: str, weights: Path | None = None, labels: Path | None = None) -> zoo.ZooClassifier:
    """Load a classifier from the zoo, with the labels in a file if one is given, showing a progress message.

    Raises:
      ValueError: the name is unknown, the weights are missing or do not match the model, or the file has no
        labels for them.
    """
    check_choice(name, zoo.MODELS, "model")
    check_device()
    with screen.waiting(f"loading {name}"):
        names = None if labels is None else zoo.read_labels(labels)
        return zoo.load(name, weights=weights, labels=names)


def check_device() -> None:
    """Raise a ValueError if JAX cannot start, because the environment asks for a device that is not there."""
    try:
        jax.default_backend()
    except Exception as error:  # an AssertionError or RuntimeError, by version and platform
        raise ValueError(
            f"JAX finds no device for JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: unset that "
            f"variable, set it to cpu, or install JAX for that platform ({DEBUG}=1 shows JAX's own message)."
        ) from error


def with_advice(error: Exception) -> str:
    """Format an error from outside jaxplain as one line that includes a remedy."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"{error_line(error).rstrip('.')}. To use less memory, reduce --batch-size, --per-device-batch "
            "or --size (if the command has them), or choose a smaller --model."
        )
    return f"{error_line(error)} ({DEBUG}=1 shows the traceback)"


@dataclass
class Tally:
    """Outcome of a run over photos."""

    total: int
    program: Any = None  # the compiled program; None if no photo could be read
    done: int = 0
    rows: list[tuple[str, ...]] = field(default_factory=list)  # rows of the final table
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False

    @contextmanager
    def noting_failure(self, path: Path) -> Iterator[None]:
        """Record the failure of a photo instead of stopping the run."""
        try:
            yield
        except (ImageError, OutputError) as error:
            self.failures.append(str(error))
        except Exception as error:
            if os.environ.get(DEBUG):
                raise
            self.failures.append(f"{path}: unexpected {with_advice(error)}")


def for_each(
    paths: list[Path],
    prepare: Callable[[], Any],
    rows: Callable[[Any, Photo], Iterable[tuple[str, ...]]],
    bar: screen.ProgressBar | None = None,
    *,
    white_level: float | None = None,
) -> Tally:
    """Apply a program to all readable photos and return the outcome.

    The program is prepared when the first photo has been read.

    Args:
      paths: the photos.
      prepare: compiles or loads the program and returns it.
      rows: processes one photo and returns its table rows.
      bar: the progress bar, for a caller that shows the parts of its work; None makes one.
      white_level: see `jaxplain.load_image`.
    """
    tally = Tally(len(paths))
    try:
        with bar or screen.ProgressBar(len(paths)) as bar:
            for photo in _readable(paths, white_level, bar, tally):
                if tally.program is None:
                    bar.tell("compiling")
                    tally.program = interruptible(prepare)
                bar.tell(photo.path.name)
                with tally.noting_failure(photo.path):
                    tally.rows += list(rows(tally.program, photo))
                    tally.done += 1
    except KeyboardInterrupt:
        tally.interrupted = True
    return tally


def _readable(
    paths: list[Path], white_level: float | None, bar: screen.ProgressBar, tally: Tally
) -> Iterator[Photo]:
    for path in paths:
        photo = None
        with tally.noting_failure(path):
            photo = read_photo(path, white_level)
        if photo is not None:
            yield photo
        bar.advance()


def show_left_out(left_out: Counter[str]) -> None:
    """Say which files in a folder are not photos, if there are any; see `jaxplain.runs.photos.photos_in`."""
    if left_out:
        screen.say(left_out_line(left_out))


def interruptible(work: Callable[[], Result]) -> Result:
    """Call `work` in another thread and wait; in the main thread, compiled code would delay Ctrl-C."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result()


# ---------------------------------------------------------------------------------------------------------
# Output and exit


def display_names(paths: list[Path]) -> dict[Path, str]:
    """Map each path to its file name, or to the full path if several files have that name."""
    counts = Counter(path.name for path in paths)
    return {path: path.name if counts[path.name] == 1 else str(path) for path in paths}


def table(*headers: str) -> Table:
    """Make a table that wraps names but never numbers; headers of number columns start with ">"."""
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
    for header in headers:
        number = header.startswith(">")
        table.add_column(
            header.lstrip(">"),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            min_width=None if number else _NAME_COLUMNS,
        )
    return table


def finish(tally: Tally, table: Table, remarks: Sequence[str] = (), *, kept: str = "") -> None:
    """Show the results and failures; exit with an error status unless all photos succeeded.

    `kept` is shown after Ctrl-C: where the finished results are, and how to continue.
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
        screen.say(f"{len(tally.failures)} of {count_of(tally.total, 'photo')} failed.")
    if tally.interrupted:
        done = f"{tally.done} of {count_of(tally.total, 'photo')} done."
        end_interrupted(f"{done} {kept if tally.done else _START_OVER}")
    if tally.failures:
        raise typer.Exit(FAILED)


def count_of(count: int, noun: str) -> str:
    """Return a count followed by its noun, singular or plural.

    Example:
      >>> count_of(1, "photo"), count_of(2, "photo")
      ('1 photo', '2 photos')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def end_interrupted(text: str) -> NoReturn:
    """End an interrupted command with a message about what was kept and how to continue."""
    screen.say(text, "interrupted", "yellow")
    raise typer.Exit(INTERRUPTED) from None


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn errors and Ctrl-C into a plain message and the corresponding exit status."""
    try:
        yield
    except KeyboardInterrupt:  # before the first photo or after the last
        end_interrupted("run the same command again to start over.")
    except (ValueError, TypeError, OSError) as error:  # jaxplain's own errors already include a remedy
        _refuse(error, str(error))
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        _refuse(error, with_advice(error))


def _refuse(error: Exception, text: str) -> NoReturn:
    if os.environ.get(DEBUG):
        raise error
    screen.say(text, "error", "red")
    raise typer.Exit(WRONG) from None
