"""What a store of results says as a whole: how many rows, their means, why some failed."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from jaxplain.batch.store import ResultStore, RowStatus

_NORMAL_95 = 1.96  # standard errors; of thousands of rows the mean is as good as normal


class Mean(NamedTuple):
    """A mean over rows and its 95% interval."""

    mean: float
    low: float
    high: float
    rows: int  # with a finite value


class Report(NamedTuple):
    """A store in numbers."""

    config: dict[str, Any]  # what the run was made with
    rows: dict[str, int]  # by the name of a `RowStatus`, in lower case
    means: dict[str, Mean]  # of every array that has one number a row, the score among them
    reasons: dict[str, int]  # why rows failed, the most frequent first


def report(store: ResultStore) -> Report:
    """Read a store's table and its numbers, but none of its maps.

    Raises:
      OutputError: an array is damaged; running `explain_dataset` again mends it.
    """
    status = store.status()
    done = status == RowStatus.OK
    numbers = {name for name, leaf in store.leaves.items() if leaf.shape == () and "float" in leaf.dtype}
    names = ["row_score", *sorted(numbers)]
    failed = np.flatnonzero(status == RowStatus.FAILED)
    reasons = store.reasons() if failed.size else []
    return Report(
        config=store.config,
        rows={one.name.lower(): int(np.sum(status == one)) for one in RowStatus},
        means={name: _mean(store.read(name)[done]) for name in names},
        reasons=dict(Counter(reasons[row] for row in failed).most_common()),
    )


def _mean(values: np.ndarray) -> Mean:
    known = values[np.isfinite(values)].astype(np.float64)
    if not known.size:
        return Mean(np.nan, np.nan, np.nan, 0)
    mean = float(known.mean())
    error = _NORMAL_95 * float(known.std(ddof=1)) / known.size**0.5 if known.size > 1 else np.nan
    return Mean(mean, mean - error, mean + error, known.size)
