"""Summary of a store of results: row counts, means, reasons of failures."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from jaxplain.runs.store import ResultStore, RowStatus

_NORMAL_95 = 1.96  # standard errors; the mean of thousands of rows is nearly normal


class MeanOfRows(NamedTuple):
    """A mean over rows and its 95% confidence interval."""

    mean: float
    low: float
    high: float
    rows: int  # with a finite value


class BatchReport(NamedTuple):
    """Summary of a store."""

    config: dict[str, Any]  # configuration of the run
    rows: dict[str, int]  # count by the lower-case name of a `RowStatus`
    means: dict[str, MeanOfRows]  # of the score and of every array with one number per row
    reasons: dict[str, int]  # why rows failed, most frequent first


def batch_report(store: ResultStore) -> BatchReport:
    """Summarize a store; reads its scalars, but no maps.

    Raises:
      OutputError: an array is damaged; running `explain_dataset` again repairs it.
    """
    status = store.status()
    ok = status == RowStatus.OK
    scalars = {name for name, leaf in store.leaves.items() if leaf.shape == () and "float" in leaf.dtype}
    failed = np.flatnonzero(status == RowStatus.FAILED)
    reasons = store.reasons() if failed.size else []
    return BatchReport(
        config=store.config,
        rows={state.name.lower(): int(np.sum(status == state)) for state in RowStatus},
        means={name: _mean(store.read(name)[ok]) for name in ("row_score", *sorted(scalars))},
        reasons=dict(Counter(reasons[row] for row in failed).most_common()),
    )


def _mean(values: np.ndarray) -> MeanOfRows:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return MeanOfRows(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    error = _NORMAL_95 * float(finite.std(ddof=1)) / finite.size**0.5 if finite.size > 1 else np.nan
    return MeanOfRows(mean, mean - error, mean + error, finite.size)
