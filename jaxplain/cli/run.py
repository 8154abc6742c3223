"""A run over many photos: each that can be read is worked on, and none that fails stops the others."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from jaxplain.cli import screen
from jaxplain.files import OutputError
from jaxplain.images import ImageError
from jaxplain.jobs.photos import Photo, read_photo
from jaxplain.jobs.records import told

DEBUG = "JAXPLAIN_DEBUG"  # environment variable: unexpected errors show their traceback

Result = TypeVar("Result")


def with_advice(error: Exception) -> str:
    """An error that is none of jaxplain's own, in a line, and what can be done about it."""
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"{told(error).rstrip('.')}. Ask for less at a time, by --batch-size or --per-device-batch where "
            "the command has them, or take a smaller --size or --model."
        )
    return f"{told(error)} ({DEBUG}=1 shows where)"


@dataclass
class Tally:
    """What came of the photos of a run."""

    total: int
    program: Any = None  # what was compiled for them; None if none could be read
    done: int = 0
    rows: list[tuple[str, ...]] = field(default_factory=list)  # of the final table
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False

    @contextmanager
    def noting_failure(self, path: Path) -> Iterator[None]:
        """A photo that fails does not stop the others."""
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
    lend_voice: Callable[[Callable[[str], None]], None] = lambda tell: None,
) -> Tally:
    """Table rows from each photo that can be read and a program, which is prepared at the first of them.

    `lend_voice` gets a function that says what is being done, for work of many parts.
    """
    tally = Tally(len(paths))
    try:
        with screen.Bar(len(paths)) as bar:
            lend_voice(bar.tell)
            for photo in _readable(paths, bar, tally):
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


def _readable(paths: list[Path], bar: screen.Bar, tally: Tally) -> Iterator[Photo]:
    for path in paths:
        photo = None
        with tally.noting_failure(path):
            photo = read_photo(path)
        if photo is not None:
            yield photo
        bar.advance()


def interruptible(work: Callable[[], Result]) -> Result:
    """Wait for work in another thread: compiled code would keep Ctrl-C waiting until it returns."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future.result()


def distinct(images: list[Path]) -> list[Path]:
    """Each file once, however its path is written."""
    first: dict[str, Path] = {}
    for path in images:
        first.setdefault(os.path.abspath(path), path)
    return list(first.values())
