"""Results on their way from the devices to the store, in a thread of their own."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, Queue
from threading import Thread
from typing import NamedTuple

import jax
import numpy as np

from jaxplain.batch.loading import Group
from jaxplain.batch.program import NO_TARGET, Explained
from jaxplain.batch.store import ResultStore, Rows, RowStatus, leaves_of

_WAITING = 2  # steps that may wait for the writer, and so lie on the devices
_COMMIT_SECONDS = 1.0  # between commits, so that fast methods do not spend their time on files
_MOST_ROWS = 1024  # that wait for a commit
_NOT_FINITE = "the score of the image is NaN or infinite; check the model and its input"


class _Step(NamedTuple):
    group: Group
    explained: Explained | None  # of the good ones; None where there are none


@dataclass
class Means:
    """Running means of the numbers that a run's results hold."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, leaves: Mapping[str, np.ndarray]) -> None:
        """Numbers of further rows; NaN is left out."""
        for name, leaf in leaves.items():
            if leaf.ndim == 1 and leaf.dtype.kind == "f":
                known = leaf[np.isfinite(leaf)]
                self.sums[name] = self.sums.get(name, 0.0) + float(known.sum(dtype=np.float64))
                self.counts[name] = self.counts.get(name, 0) + known.size

    def now(self) -> dict[str, float]:
        """The means so far."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}


class Writer:
    """Commits what the devices return, at most once a second, while they go on.

    Args:
      store: where to.
      committed: hears after each commit how many of its rows are ok and how many failed.
    """

    def __init__(self, store: ResultStore, committed: Callable[[int, int], None]) -> None:
        self.means = Means()
        self._store, self._committed = store, committed
        self._queue: Queue[_Step | None] = Queue(_WAITING)
        self._waiting: list[Rows] = []
        self._last_commit = -np.inf
        self._closed = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="jaxplain-write", daemon=True)
        self._thread.start()

    def put(self, group: Group, explained: Explained | None) -> None:
        """Hand over a step; waits while too many are waiting already.

        Raises:
          OutputError: an earlier one could not be written.
        """
        self.check()
        self._queue.put(_Step(group, explained))

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Commit what was handed over, and end; `check` says whether all went well."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                if self._due():
                    self._commit()
            self._commit()
        except BaseException as error:  # handed to the thread that puts
            self._error = error
            while not self._closed:  # nobody may wait for a thread that is gone
                self._closed = self._queue.get() is None

    def _take(self) -> bool:
        """Fetch the next step, or wait until a commit is due; False at the end."""
        try:
            step = self._queue.get(timeout=self._patience())
        except Empty:
            return True
        if step is None:
            self._closed = True
            return False
        self._waiting += _fetched(step)
        return True

    def _patience(self) -> float | None:
        left = self._last_commit + _COMMIT_SECONDS - time.monotonic()
        return max(0.0, left) if self._waiting else None

    def _due(self) -> bool:
        many = sum(len(done.rows) for done in self._waiting) >= _MOST_ROWS
        return bool(self._waiting) and (many or self._patience() == 0.0)

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        for done in _joined(waiting):
            self._store.write(done)
            good = done.status == RowStatus.OK
            self.means.add({name: leaf[good] for name, leaf in done.leaves.items()})
            self._committed(int(good.sum()), int((~good).sum()))
        self._last_commit = time.monotonic()


def _fetched(step: _Step) -> list[Rows]:
    """The rows of a step, when the devices are through with it."""
    found = [_bad(step.group)] if step.group.bad else []
    if step.explained is None:
        return found
    explained = jax.device_get(step.explained)
    rows = np.array([one.row for one in step.group.good])
    count = len(rows)  # of B; what follows is padding
    score = np.asarray(explained.score[:count])
    finite = np.isfinite(score)
    done = Rows(
        rows=rows,
        status=np.where(finite, RowStatus.OK, RowStatus.FAILED).astype(np.int8),
        target=np.asarray(explained.target[:count]),
        score=score,
        reasons={int(row): "" if fine else _NOT_FINITE for row, fine in zip(rows, finite, strict=True)},
        leaves={name: np.asarray(leaf)[:count] for name, leaf in leaves_of(explained.result).items()},
    )
    return [*found, done]


def _bad(group: Group) -> Rows:
    count = len(group.bad)
    return Rows(
        rows=np.array([one.row for one in group.bad]),
        status=np.full(count, RowStatus.FAILED, np.int8),
        target=np.full(count, NO_TARGET, np.int32),
        score=np.full(count, np.nan, np.float32),
        reasons={one.row: one.reason for one in group.bad},
        leaves={},
    )


def _joined(waiting: list[Rows]) -> list[Rows]:
    """One of all that have results and one of all that have none: every write is a file."""
    groups = [[done for done in waiting if bool(done.leaves) is full] for full in (True, False)]
    return [_concatenated(group) for group in groups if group]


def _concatenated(group: list[Rows]) -> Rows:
    return Rows(
        rows=np.concatenate([done.rows for done in group]),
        status=np.concatenate([done.status for done in group]),
        target=np.concatenate([done.target for done in group]),
        score=np.concatenate([done.score for done in group]),
        reasons={row: reason for done in group for row, reason in done.reasons.items()},
        leaves={name: np.concatenate([done.leaves[name] for done in group]) for name in group[0].leaves},
    )
