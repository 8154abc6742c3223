"""A background thread that writes results from the devices to the store."""

import threading
import time
from collections.abc import Callable
from queue import Empty, Queue
from typing import NamedTuple

import jax
import numpy as np

from jaxplain.runs.dataset import LoadedGroup
from jaxplain.runs.sharding import ExplainedBatch
from jaxplain.runs.store import FinishedRows, ResultStore, RowStatus, leaves_of
from jaxplain.runs.subject import TOP

_QUEUED_STEPS = 2  # maximum number of steps waiting for the writer; each occupies device memory
_COMMIT_SECONDS = 1.0  # time between commits, so that fast methods do not spend their time writing files
_ROWS_PER_COMMIT = 1024  # maximum
_NOT_FINITE = "the score of the image is NaN or infinite; check the model and its input"


class _QueuedStep(NamedTuple):
    group: LoadedGroup
    explained: ExplainedBatch | None  # results for the readable images; None if there are none


class ResultWriter:
    """Commits results from a separate thread, at most once per second, while the devices keep working.

    Args:
      store: the store to write to.
      n_classes: number of the model's classes, to name a target that is none of them; None for a score.
      on_commit: called after each commit with its rows.
    """

    def __init__(
        self, store: ResultStore, n_classes: int | None, on_commit: Callable[[FinishedRows], None]
    ) -> None:
        self._store, self._n_classes, self._on_commit = store, n_classes, on_commit
        self._queue: Queue[_QueuedStep | None] = Queue(_QUEUED_STEPS)
        self._waiting: list[FinishedRows] = []
        self._last_commit = -np.inf
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="jaxplain-write", daemon=True)
        self._thread.start()

    def put(self, group: LoadedGroup, explained: ExplainedBatch | None) -> None:
        """Queue a step; block while the queue is full, and raise any error from an earlier step."""
        self.check()
        self._queue.put(_QueuedStep(group, explained))

    def check(self) -> None:
        """Raise the exception that ended the thread, if there was one."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Commit all queued steps and end the thread; call `check` afterwards."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                if self._is_due():
                    self._commit()
            self._commit()
        except BaseException as error:  # raised again in the thread that calls `put` or `check`
            self._error = error
            while not self._closed:  # keep emptying the queue, or `put` and `close` would block forever
                self._closed = self._queue.get() is None

    def _take(self) -> bool:
        """Take the next step, or wait until a commit is due; return False at the end."""
        try:
            step = self._queue.get(timeout=self._seconds_until_commit())
        except Empty:
            return True
        if step is None:
            self._closed = True
            return False
        self._waiting += _finished_rows(step, self._n_classes)
        return True

    def _seconds_until_commit(self) -> float | None:
        remaining = self._last_commit + _COMMIT_SECONDS - time.monotonic()
        return max(0.0, remaining) if self._waiting else None

    def _is_due(self) -> bool:
        many = sum(len(part.rows) for part in self._waiting) >= _ROWS_PER_COMMIT
        return bool(self._waiting) and (many or self._seconds_until_commit() == 0.0)

    def _commit(self) -> None:
        waiting, self._waiting = self._waiting, []
        for with_results in (True, False):  # every write replaces files, so write as few times as possible
            parts = [part for part in waiting if bool(part.leaves) is with_results]
            if parts:
                rows = _concatenated(parts)
                self._store.write(rows)
                self._on_commit(rows)
        self._last_commit = time.monotonic()


def _reason(target: int, n_classes: int | None) -> str:
    """Return why an image has no finite score."""
    return _NOT_FINITE if n_classes is None or target < n_classes else f"no class {target} of {n_classes}"


def _finished_rows(step: _QueuedStep, n_classes: int | None) -> list[FinishedRows]:
    """Return a step's rows, after waiting for the devices."""
    parts = [_failed_rows(step.group)] if step.group.failed else []
    if step.explained is None:
        return parts
    explained = jax.device_get(step.explained)
    rows = np.array([image.row for image in step.group.ready])
    count = len(rows)  # the first of B; the rest is padding
    score = np.asarray(explained.score[:count])
    targets = np.asarray(explained.target[:count])
    finite = np.isfinite(score)
    failed = {int(row): _reason(int(targets[i]), n_classes) for i, row in enumerate(rows) if not finite[i]}
    ready = FinishedRows(
        rows=rows,
        status=np.where(finite, RowStatus.OK, RowStatus.FAILED).astype(np.int8),
        target=targets,
        score=score,
        reasons={int(row): "" for row in rows} | failed,
        leaves={name: np.asarray(leaf)[:count] for name, leaf in leaves_of(explained.result).items()},
    )
    return [*parts, ready]


def _failed_rows(group: LoadedGroup) -> FinishedRows:
    count = len(group.failed)
    return FinishedRows(
        rows=np.array([image.row for image in group.failed]),
        status=np.full(count, RowStatus.FAILED, np.int8),
        target=np.full(count, TOP, np.int32),
        score=np.full(count, np.nan, np.float32),
        reasons={image.row: image.reason for image in group.failed},
        leaves={},
    )


def _concatenated(parts: list[FinishedRows]) -> FinishedRows:
    def joined(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays)

    reasons = {row: reason for part in parts for row, reason in part.reasons.items()}
    alike = [part._replace(reasons={}) for part in parts]
    return jax.tree_util.tree_map(joined, *alike)._replace(reasons=reasons)
