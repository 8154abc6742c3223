"""Terminal output: messages and a progress bar on standard error, tables on standard output."""

import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

_FILE_WIDTH = 200  # width of a table in a file or a pipe, where nothing needs to wrap
_NAME_WIDTH = 28  # maximum width of a file name beside the bar
_LOG_SECONDS = 10.0  # interval between progress lines in a log
_SPEED_PERIOD = 3600.0  # seconds of history used to estimate the remaining time; a photo may take minutes


def say(text: str, label: str = "", style: str = "") -> None:
    """Print a message to standard error, without wrapping it if the output is a log."""
    err = _errors()
    err.print(*[Text(label, style)] if label else [], printable(text), soft_wrap=not err.is_terminal)


def show_warnings() -> None:
    """From now on, print jaxplain's own warnings as messages, without the line of code that issued them."""
    others = warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        if category.__module__.partition(".")[0] == "jaxplain":
            say(str(message), "warning", "yellow")
        else:
            others(message, category, *where, **rest)

    warnings.showwarning = show_warning


def show(table: Table) -> None:
    """Print a table to standard output, fitted to the terminal, or unwrapped in a file or a pipe.

    If the terminal is too narrow for the numbers and the shortest name columns, lines wrap.
    """
    out = Console(highlight=False)
    if not out.is_terminal and "COLUMNS" not in os.environ:
        out.width = _FILE_WIDTH
    out.width = max(out.width, Measurement.get(out, out.options.update(width=_FILE_WIDTH), table).minimum)
    out.print(table)


def _errors() -> Console:
    return Console(highlight=False, stderr=True)


def printable(text: str) -> Text:
    """Escape control characters and undecodable bytes, so that the text cannot control the terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text))


def shortened(name: str, width: int = _NAME_WIDTH) -> str:
    """Shorten a name to at most `width` characters by cutting out its middle."""
    if len(name) <= width:
        return name
    tail = (width - 3) // 2
    return f"{name[: width - 3 - tail]}...{name[-tail:]}"


@contextmanager
def waiting(doing: str) -> Iterator[None]:
    """Show a status message while no bar is displayed: a spinner on a terminal, a line in a log."""
    console = _errors()
    if console.is_terminal:
        with console.status(printable(doing), spinner="line"):
            yield
    else:
        say(doing)
        yield


class ProgressBar:
    """Progress display of a run: a bar on a terminal, removed when done, or one line per step in a log.

    A step may take minutes, so a log gets a line at least every ten seconds to show that the run is alive.
    """

    def __init__(self, total: int) -> None:
        self._total, self.done = total, 0
        self._logged = -_LOG_SECONDS
        self._doing, self._since = "", time.monotonic()
        self._last_line, self._ended = time.monotonic(), threading.Event()
        console = _errors()
        self._in_log = not console.is_terminal
        self._bar = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            speed_estimate_period=_SPEED_PERIOD,
            disable=self._in_log,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        if self._in_log:
            threading.Thread(target=self._log_regularly, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._bar.stop()

    def _log_regularly(self) -> None:
        while not self._ended.wait(max(0.0, self._last_line + _LOG_SECONDS - time.monotonic()) + 0.01):
            if self._doing and time.monotonic() - self._last_line >= _LOG_SECONDS:
                place = min(self.done + 1, self._total)
                self._log(f"[{place}/{self._total}] {self._doing}: {time.monotonic() - self._since:.0f} s")

    def _log(self, line: str) -> None:
        self._last_line = time.monotonic()
        say(line)

    def tell(self, doing: str) -> None:
        """Show the current activity."""
        self._doing, self._since = doing, time.monotonic()
        self._bar.update(self._task, description=shortened(printable(doing).plain), refresh=True)
        if self._in_log:
            self._log(f"[{min(self.done + 1, self._total)}/{self._total}] {doing}")

    def pace(self, text: str) -> None:
        """Show the speed beside the bar, or log it periodically."""
        self._bar.update(self._task, description=printable(text).plain, refresh=True)
        if self._in_log and (time.monotonic() - self._logged > _LOG_SECONDS or self.done == self._total):
            self._logged = time.monotonic()
            self._log(f"[{self.done}/{self._total}] {text}")

    def advance(self, count: int = 1) -> None:
        """Advance the bar by `count` photos."""
        self.done += count
        self._bar.advance(self._task, count)
