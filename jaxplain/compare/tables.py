"""A comparison as text: Markdown for people, CSV and JSON for programs."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxplain.compare.measures import MEASURES
from jaxplain.compare.rows import OK, Row
from jaxplain.compare.run import Comparison
from jaxplain.compare.summary import Interval, Summary, best, groups, summarize
from jaxplain.jobs.records import number
from jaxplain.render.curves import format_area

_ARROWS = {"low": "↓", "high": "↑"}
_PERCENT = ("average_drop", "increase")  # the measures whose values are percents


def markdown(found: Comparison) -> str:
    """Tables of means with their intervals, the best in bold, and what failed."""
    measures = found.settings.measures
    lines = ["# Comparison of explanations", "", *_facts(found), ""]
    for model, size, several in groups(summarize(found.rows, measures)):
        lines += [f"## {model}, {size} x {size}", "", *_table(several, measures), ""]
    lines += ["## Measures", "", *(f"- {heading(name)}: {MEASURES[name].about}" for name in measures), ""]
    failures = [row for row in found.rows if row.status != OK]
    if failures:
        lines += ["## Failed", "", *_failures(failures), ""]
    return "\n".join(lines)


def _facts(found: Comparison) -> Iterator[str]:
    settings = found.settings
    yield (
        f"{len(found.photos)} photos, each explained for its top prediction. Means over photos, in brackets "
        "their 95% bootstrap intervals; the best of each column in bold."
    )
    yield ""
    yield (
        f"Baseline {settings.baseline}, seed {settings.seed}, curves of {settings.curve_steps} steps, "
        f"jaxplain {settings.record()['jaxplain']}. Maps finer than a size were averaged over its cells, "
        "coarser ones interpolated. Seconds: median of one explanation, compiled; evaluations: images scored "
        "by the model."
    )


def _table(several: Sequence[Summary], measures: Sequence[str]) -> Iterator[str]:
    yield "| method | " + " | ".join(map(heading, measures)) + " | seconds | evaluations | photos | failed |"
    yield "|---|" + "---|" * len(measures) + "---:|---:|---:|---:|"
    tops = {name: best(several, name, MEASURES[name].better) for name in measures}
    for one in several:
        cells = [_cell(name, one.measures[name], tops[name]) for name in measures]
        evaluations = f"{one.evaluations:,.0f}" if np.isfinite(one.evaluations) else "n/a"
        seconds = f"{one.seconds:.2f}" if np.isfinite(one.seconds) else "n/a"
        yield (
            "| "
            + " | ".join(
                [_escaped(one.method), *cells, seconds, evaluations, str(one.images), str(one.failed)]
            )
            + " |"
        )


def heading(name: str) -> str:
    """A measure's name and the direction that is good."""
    return f"{name.replace('_', ' ')} {_ARROWS[MEASURES[name].better]}"


def _cell(name: str, interval: Interval, top: float) -> str:
    mean = written(name, interval.mean)
    if interval.images and interval.mean == top:
        mean = f"**{mean}**"
    return (
        f"{mean} [{written(name, interval.low)}, {written(name, interval.high)}]"
        if interval.images
        else "n/a"
    )


def written(name: str, value: float) -> str:
    """A mean as the table shows it.

    Example:
      >>> written("deletion", 0.0932), written("average_drop", 12.345), written("gini", float("nan"))
      ('.093', '12.3', 'n/a')
    """
    if name in _PERCENT and np.isfinite(value):
        return f"{value:.1f}"
    return format_area(value)


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    yield "| method | size | photo | reason |"
    yield "|---|---:|---|---|"
    for row in rows:
        yield f"| {_escaped(row.method)} | {row.size} | {_escaped(row.photo)} | {_escaped(row.reason)} |"


def _escaped(text: str) -> str:
    """Names and reasons may hold anything, and a bar or a line break would break the table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def summary_csv(found: Comparison) -> str:
    """One line for each classifier, size, method and measure."""
    head = ["model", "size", "method", "measure", "better", "mean", "low", "high", "photos", "failed"]
    return _csv(
        head,
        (
            [
                one.model,
                one.size,
                one.method,
                name,
                MEASURES[name].better,
                *_ends(value),
                value.images,
                one.failed,
            ]
            for one in summarize(found.rows, found.settings.measures)
            for name, value in one.measures.items()
        ),
    )


def _ends(interval: Interval) -> list[float | None]:
    return [number(end) for end in (interval.mean, interval.low, interval.high)]


def photos_csv(found: Comparison) -> str:
    """One line for each photo, classifier, size and method."""
    plain = ["photo", "sha256", "model", "size", "method", "status", "reason", "label", "probability"]
    plain += ["seconds", "evaluations"]
    return _csv(
        [*plain, *found.settings.measures],
        (
            [*(getattr(row, name) for name in plain), *map(row.values.get, found.settings.measures)]
            for row in found.rows
        ),
    )


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def to_json(found: Comparison) -> str:
    """Settings, summaries, and every row with its curves."""
    summaries = [
        {
            "model": one.model,
            "method": one.method,
            "size": one.size,
            "photos": one.images,
            "failed": one.failed,
            "seconds": number(one.seconds),
            "evaluations": number(one.evaluations),
            "measures": {
                name: dict(zip(("mean", "low", "high"), _ends(value), strict=True)) | {"photos": value.images}
                for name, value in one.measures.items()
            },
        }
        for one in summarize(found.rows, found.settings.measures)
    ]
    record = {
        "settings": found.settings.record(),
        "measures": {
            name: {"better": MEASURES[name].better, "about": MEASURES[name].about}
            for name in found.settings.measures
        },
        "summaries": summaries,
        "rows": [vars(row) for row in found.rows],
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
