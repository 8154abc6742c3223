"""Summaries of comparisons: means over photos with bootstrap intervals, as Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxplain.runs.measures import MEASURES
from jaxplain.runs.records import number
from jaxplain.runs.sinks import OK, Row

if TYPE_CHECKING:
    from jaxplain.runs.compare import Comparison

RESAMPLES = 2000
LEVEL = 0.95
_ARROWS = {"low": "↓", "high": "↑"}
_PERCENT = ("average_drop", "increase")  # measures whose values are percentages


class Interval(NamedTuple):
    """A mean over photos with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    images: int  # number of photos with a value


class MethodSummary(NamedTuple):
    """Mean measures of one method at one size."""

    model: str
    method: str
    size: int
    measures: dict[str, Interval]
    seconds: float  # median; NaN if no photo was explained
    evaluations: float  # mean; NaN if the method does not count them
    images: int  # number of explained photos
    failed: int


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the mean and its 95% percentile bootstrap interval (2,000 resamples of the photos).

    The resamples depend only on the seed and the number of values, so methods measured on the same photos
    share their resamples.

    Args:
      values: one value per photo; NaN is ignored.
      seed: random seed for the resamples.

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


def summarize_rows(rows: Iterable[Row], measures: Iterable[str]) -> list[MethodSummary]:
    """Return one summary per classifier, method and size, in row order."""
    measures = list(measures)
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.method, row.size), []).append(row)
    return [_summary(*group, members, measures) for group, members in groups.items()]


def _summary(model: str, method: str, size: int, rows: list[Row], measures: list[str]) -> MethodSummary:
    good = [row for row in rows if row.status == OK]
    seconds = [row.seconds for row in good if row.seconds is not None]
    evaluations = [row.evaluations for row in good if row.evaluations is not None]
    return MethodSummary(
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
    """Return the mean difference between two methods' measures, paired over the photos that both explained.

    If the interval excludes 0, its sign shows which method is better on such photos. The methods' own
    intervals may still overlap, because photos differ more than methods do.

    Example:
      >>> rows = [Row("a", "1", "m", "w", name, 7, "ok", values={"deletion": value})
      ...         for name, value in (("igos", 0.1), ("igos++", 0.3))]
      >>> round(difference(rows, "deletion", "igos", "igos++", 7).mean, 3)
      -0.2
    """
    values: dict[str, dict[tuple[str, str], float]] = {one: {}, other: {}}
    for row in rows:
        if row.method in values and row.size == size and row.status == OK:
            values[row.method][row.model, row.sha256] = _value(row, measure)
    shared = [key for key in values[one] if key in values[other]]
    return bootstrap([values[one][key] - values[other][key] for key in shared])


class MeanCurves(NamedTuple):
    """Deletion and insertion curves of one method, averaged over photos."""

    fraction: np.ndarray  # [T]
    deletion: np.ndarray  # [T]
    insertion: np.ndarray  # [T]


def mean_curves(rows: Iterable[Row]) -> dict[str, MeanCurves]:
    """Return mean curves by method, from rows for one classifier and size."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.status == OK:
            groups.setdefault(row.method, []).append(row)

    def mean(rows: list[Row], name: str) -> np.ndarray:
        return np.mean([np.asarray(getattr(row, name), np.float64) for row in rows], axis=0)

    return {
        method: MeanCurves(*(mean(members, name) for name in MeanCurves._fields))
        for method, members in groups.items()
    }


def best(summaries: Iterable[MethodSummary], measure: str) -> float:
    """Return the best mean of a measure over all methods; NaN if no method has one."""
    means = [summary.measures[measure].mean for summary in summaries]
    known = [mean for mean in means if np.isfinite(mean)]
    return (min if MEASURES[measure].better == "low" else max)(known, default=np.nan)


def groups(summaries: Iterable[MethodSummary]) -> Iterator[tuple[str, int, list[MethodSummary]]]:
    """Yield the summaries grouped by classifier and size; methods are compared within a group."""
    grouped: dict[tuple[str, int], list[MethodSummary]] = {}
    for summary in summaries:
        grouped.setdefault((summary.model, summary.size), []).append(summary)
    for (model, size), members in grouped.items():
        yield model, size, members


# ---------------------------------------------------------------------------------------------------------
# Text


def heading(name: str) -> str:
    """Return a measure's name with an arrow that shows which direction is better."""
    return f"{name.replace('_', ' ')} {_ARROWS[MEASURES[name].better]}"


def format_mean(name: str, value: float) -> str:
    """Format the mean of a measure for a table.

    Example:
      >>> format_mean("deletion", 0.0932), format_mean("average_drop", 12.345), format_mean("gini", np.nan)
      ('.093', '12.3', 'n/a')
    """
    if not np.isfinite(value):
        return "n/a"
    if name in _PERCENT:
        return f"{value:.1f}"
    text = f"{value:.3f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def markdown(comparison: "Comparison") -> str:
    """Return Markdown tables of means with their intervals, the best in bold, and a table of failures."""
    measures = comparison.settings.measures
    lines = ["# Comparison of explanations", "", *_facts(comparison), ""]
    for model, size, members in groups(summarize_rows(comparison.rows, measures)):
        lines += [f"## {model}, {size} x {size}", "", *_table(members, measures), ""]
    lines += ["## Measures", "", *(f"- {heading(name)}: {MEASURES[name].about}" for name in measures), ""]
    failures = [row for row in comparison.rows if row.status != OK]
    if failures:
        lines += ["## Failed", "", *_failures(failures), ""]
    return "\n".join(lines)


def _facts(comparison: "Comparison") -> Iterator[str]:
    settings = comparison.settings
    yield (
        f"{len(comparison.photos)} photos, each explained for its top prediction. Means over photos with 95% "
        "bootstrap intervals in brackets; the best of each column in bold."
    )
    yield ""
    yield (
        f"Baseline {settings.baseline}, seed {settings.seed}, curves of {settings.curve_steps} steps, "
        f"jaxplain {settings.record()['jaxplain']}. Maps finer than a size were averaged over its cells, "
        "coarser ones interpolated. Seconds: median time per explanation, without compiling; evaluations: "
        "images through the model."
    )


def _table(members: Sequence[MethodSummary], measures: Sequence[str]) -> Iterator[str]:
    yield "| method | " + " | ".join(map(heading, measures)) + " | seconds | evaluations | photos | failed |"
    yield "|---|" + "---|" * len(measures) + "---:|---:|---:|---:|"
    tops = {name: best(members, name) for name in measures}
    for summary in members:
        cells = [_cell(name, summary.measures[name], tops[name]) for name in measures]
        evaluations = f"{summary.evaluations:,.0f}" if np.isfinite(summary.evaluations) else "n/a"
        seconds = f"{summary.seconds:.2f}" if np.isfinite(summary.seconds) else "n/a"
        counts = [str(summary.images), str(summary.failed)]
        yield "| " + " | ".join([_escaped(summary.method), *cells, seconds, evaluations, *counts]) + " |"


def _cell(name: str, interval: Interval, top: float) -> str:
    if not interval.images:
        return "n/a"
    mean, low, high = (format_mean(name, value) for value in interval[:3])
    return f"{f'**{mean}**' if interval.mean == top else mean} [{low}, {high}]"


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    yield "| method | size | photo | reason |"
    yield "|---|---:|---|---|"
    for row in rows:
        yield f"| {_escaped(row.method)} | {row.size} | {_escaped(row.photo)} | {_escaped(row.reason)} |"


def _escaped(text: str) -> str:
    """Escape characters that would break the table; names and reasons may contain any character."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def summary_csv(comparison: "Comparison") -> str:
    """Return the summary as CSV, with one line per classifier, size, method and measure."""
    head = ["model", "size", "method", "measure", "better", "mean", "low", "high", "photos", "failed"]
    lines = (
        [
            *(summary.model, summary.size, summary.method, name, MEASURES[name].better),
            *map(number, interval[:3]),
            *(interval.images, summary.failed),
        ]
        for summary in summarize_rows(comparison.rows, comparison.settings.measures)
        for name, interval in summary.measures.items()
    )
    return _csv(head, lines)


def photos_csv(comparison: "Comparison") -> str:
    """Return the results as CSV, with one line per photo, classifier, size and method."""
    columns = ["photo", "sha256", "model", "size", "method", "status", "reason", "label", "probability"]
    columns += ["seconds", "evaluations"]
    measures = comparison.settings.measures
    lines = (
        [*(getattr(row, name) for name in columns), *map(row.values.get, measures)] for row in comparison.rows
    )
    return _csv([*columns, *measures], lines)


def _csv(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()


def comparison_json(comparison: "Comparison") -> str:
    """Return the settings, the summaries, and all rows with their curves."""
    measures = comparison.settings.measures
    record = {
        "settings": comparison.settings.record(),
        "measures": {
            name: {"better": MEASURES[name].better, "about": MEASURES[name].about} for name in measures
        },
        "summaries": [_summary_record(summary) for summary in summarize_rows(comparison.rows, measures)],
        "rows": [vars(row) for row in comparison.rows],
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _summary_record(summary: MethodSummary) -> dict[str, Any]:
    return {
        "model": summary.model,
        "method": summary.method,
        "size": summary.size,
        "photos": summary.images,
        "failed": summary.failed,
        "seconds": number(summary.seconds),
        "evaluations": number(summary.evaluations),
        "measures": {
            name: {
                "mean": number(interval.mean),
                "low": number(interval.low),
                "high": number(interval.high),
                "photos": interval.images,
            }
            for name, interval in summary.measures.items()
        },
    }
