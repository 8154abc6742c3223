"""Means over photos, with bootstrap confidence intervals."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from jaxplain.compare.rows import OK, Row

RESAMPLES = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over photos and where it would lie on other photos of the kind."""

    mean: float
    low: float  # ends of the 95% bootstrap interval
    high: float
    images: int  # photos with a value


class Summary(NamedTuple):
    """One method at one size: the means of its measures."""

    model: str
    method: str
    size: int
    measures: dict[str, Interval]
    seconds: float  # median; NaN where nothing was done
    evaluations: float  # mean; NaN where the method does not say
    images: int  # photos that were explained
    failed: int


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Mean and percentile bootstrap interval (2,000 resamples of the photos, 95%).

    The resamples depend on the seed and the number of values only: means of several methods on the same
    photos are resampled alike.

    Args:
      values: one a photo; NaN is left out.

    Example:
      >>> bootstrap([0.5, 0.5, 0.5])
      Interval(mean=0.5, low=0.5, high=0.5, images=3)
    """
    known = np.asarray([value for value in values if np.isfinite(value)], np.float64)
    if not known.size:
        return Interval(np.nan, np.nan, np.nan, 0)
    means = known[_resamples(known.size, seed)].mean(1)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(known.mean()), float(low), float(high), known.size)


@lru_cache(maxsize=8)
def _resamples(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))


def summarize(rows: Iterable[Row], measures: Iterable[str]) -> list[Summary]:
    """One summary for each classifier, method and size, in the order of the rows."""
    measures = list(measures)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.method, row.size), []).append(row)
    return [_summary(*group, found, measures) for group, found in groups.items()]


def _summary(model: str, method: str, size: int, rows: list[Row], measures: list[str]) -> Summary:
    good = [row for row in rows if row.status == OK]
    seconds = [row.seconds for row in good if row.seconds is not None]
    evaluations = [row.evaluations for row in good if row.evaluations is not None]
    return Summary(
        model=model,
        method=method,
        size=size,
        measures={name: bootstrap([_value(row, name) for row in good]) for name in measures},
        seconds=float(np.median(seconds)) if seconds else np.nan,
        evaluations=float(np.mean(evaluations)) if evaluations else np.nan,
        images=len(good),
        failed=len(rows) - len(good),
    )


def _value(row: Row, measure: str) -> float:
    value = row.values.get(measure)
    return np.nan if value is None else value


def difference(rows: Iterable[Row], measure: str, one: str, other: str, size: int) -> Interval:
    """Mean of one method's measure minus another's, over the photos that both explained, paired.

    An interval that leaves out 0 says which of the two is better on such photos; the two methods' own
    intervals may overlap all the same, for photos differ more than methods.

    Example:
      >>> rows = [Row("a", "1", "m", "w", name, 7, "ok", values={"deletion": value})
      ...         for name, value in (("igos", 0.1), ("igos++", 0.3))]
      >>> round(difference(rows, "deletion", "igos", "igos++", 7).mean, 3)
      -0.2
    """
    found: dict[str, dict[tuple[str, str], float]] = {one: {}, other: {}}
    for row in rows:
        if row.method in found and row.size == size and row.status == OK:
            found[row.method][row.model, row.sha256] = _value(row, measure)
    shared = [key for key in found[one] if key in found[other]]
    return bootstrap([found[one][key] - found[other][key] for key in shared])


class MeanCurves(NamedTuple):
    """Deletion and insertion of one method, averaged over photos."""

    fraction: np.ndarray  # [T]
    deletion: np.ndarray  # [T]
    insertion: np.ndarray  # [T]


def mean_curves(rows: Iterable[Row]) -> dict[str, MeanCurves]:
    """By method; rows of one classifier and size."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == OK:
            groups.setdefault(row.method, []).append(row)
    return {name: _mean_curves(found) for name, found in groups.items()}


def _mean_curves(rows: list[Row]) -> MeanCurves:
    def mean(of: Callable[[Row], list[float | None]]) -> np.ndarray:
        return np.mean([np.asarray(of(row), np.float64) for row in rows], axis=0)

    return MeanCurves(
        mean(lambda row: row.fraction), mean(lambda row: row.deletion), mean(lambda row: row.insertion)
    )


def best(summaries: Iterable[Summary], measure: str, better: str) -> float:
    """The best mean of a measure among methods; NaN where none has one."""
    means = [one.measures[measure].mean for one in summaries]
    known = [mean for mean in means if np.isfinite(mean)]
    return (min if better == "low" else max)(known, default=np.nan)


def groups(summaries: Iterable[Summary]) -> Iterator[tuple[str, int, list[Summary]]]:
    """Summaries by classifier and size: what is compared with each other."""
    found: dict[tuple[str, int], list[Summary]] = {}
    for one in summaries:
        found.setdefault((one.model, one.size), []).append(one)
    for (model, size), several in found.items():
        yield model, size, several
