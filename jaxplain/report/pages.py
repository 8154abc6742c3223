"""Pages: self-contained HTML files, rendered from the templates of this package.

The parts of a report are plain data. Their texts may hold any characters; they are escaped.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from jaxplain import overlay

Verdict = Literal["passes", "unclear", "fails", "n/a"]

# The axes of the curves: their size and margins, in pixels. They are drawn as SVG in the page's own
# colors, which follow light and dark; those of matplotlib's SVG are fixed.
_WIDTH, _HEIGHT = 300, 176
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 34
# Upper ends of the axis; their halves are short numbers.
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


class Picture(NamedTuple):
    """A picture, its alternative text, and its caption."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    alt: str
    caption: str = ""


class Choice(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float
    explained: bool  # the class that the page explains


class Curve(NamedTuple):
    """A deletion or insertion curve."""

    fraction: ArrayLike  # [T], share of the cells
    score: ArrayLike  # [T]
    auc: float


class Card(NamedTuple):
    """One method: its heatmap and curves, or why there are none."""

    title: str
    description: str
    picture: Picture | None = None
    deletion: Curve | None = None
    insertion: Curve | None = None
    reading: str = ""  # the curves in a sentence
    verdict: Verdict = "n/a"  # of the sanity check
    reason: str = ""  # why it failed


class CheckedMap(NamedTuple):
    """One method's map of the trained network and of the network with shuffled parameters."""

    title: str
    before: Picture
    after: Picture | None
    similarity: float  # 0 to 1; NaN is printed, but not drawn
    verdict: Verdict
    words: str
    control: bool = False  # must fail


class PatchPicture(NamedTuple):
    """A picture with outlines and numbers of patches."""

    picture: Picture
    outlines: tuple[tuple[int, Any], ...]  # number of the patch and its `graphs.Box`


class GraphPart(NamedTuple):
    """An attention graph and its explanations as pictures."""

    drawing: Any  # a `jaxplain.report.graphs.Drawing`
    pictures: tuple[PatchPicture, ...]
    words: str  # the result in a sentence


class Figures(NamedTuple):
    """A table: headings, rows whose first cell is a heading too, and the cells printed bold."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()  # (row, column)


class Report(NamedTuple):
    """Everything about one photo."""

    title: str  # the photo's name
    label: str  # the explained class
    probability: float
    photo: Picture
    findings: tuple[str, ...]  # a sentence each
    choices: tuple[Choice, ...]
    cards: tuple[Card, ...]
    checks: tuple[CheckedMap, ...]  # empty: not requested
    check_words: str  # all checks in a sentence
    graph: GraphPart | str | None  # a string: why there is none; None: not requested
    figures: Figures
    facts: tuple[tuple[str, str], ...]


class Section(NamedTuple):
    """A report as HTML, ready for its page."""

    title: str
    label: str
    html: str


class _DrawnCurve(NamedTuple):
    """A curve in pixels of the drawing."""

    kind: str
    line: list[tuple[float, float]]
    base: tuple[float, float, float]  # first x, last x, and y of zero


def report_page(
    sections: Sequence[Section],
    *,
    title: str,
    summary: str = "",
    limits: Iterable[str] = (),
    notes: Iterable[str] = (),
    made_with: str = "",
) -> str:
    """Make a page of one section per photo, with links to each, and the limits of what it shows.

    The page works on phones, in print, in light and dark mode, offline and without JavaScript.

    Args:
      sections: what to show, numbered from 1 in this order; see `report_section`.
      title: of the page.
      summary: a sentence below the title.
      limits: sentences at the end.
      notes: what went wrong, above all reports.
      made_with: the last line.

    Returns:
      HTML text.

    Example:
      >>> "cannot tell" in report_page([], title="No photo")
      True
    """
    return render(
        "report.html",
        title=title,
        summary=summary,
        scale=_scale(),
        sections=[section._replace(html=Markup(section.html)) for section in sections],
        limits=list(limits),
        notes=list(notes),
        made_with=made_with,
    )


def report_section(report: Report, number: int = 1) -> Section:
    """Render one photo's section of a page, independently of the other sections.

    Args:
      report: what to show.
      number: of the section on its page, from 1.

    Raises:
      TypeError, ValueError: a picture that is not uint8 [H, W, 3].

    Example:
      >>> photo = Picture(np.zeros((4, 4, 3), np.uint8), "black")
      >>> report = Report("a.png", "cat", 0.9, photo, (), (), (), (), "", None, Figures(("method",), ()), ())
      >>> report_section(report).html.count("a.png: cat, p = 0.90")
      1
    """
    curves = [curve for card in report.cards for curve in (card.deletion, card.insertion) if curve]
    top = axis_top(curves)
    drawn = [
        [drawn_curve("ins", card.insertion, top), drawn_curve("del", card.deletion, top)]
        if card.insertion and card.deletion
        else []
        for card in report.cards
    ]
    html = render("section.html", report=report, number=number, drawn=drawn, axes=_axes(top))
    return Section(report.title, report.label, html)


def axis_top(curves: Iterable[Curve]) -> float:
    """Return the upper end of an axis that several curves share.

    Example:
      >>> axis_top([Curve([0, 1], [0.57, 0.1], 0.2)]), axis_top([])
      (0.6, 1.0)
    """
    values = [float(value) for curve in curves for value in np.asarray(curve.score) if math.isfinite(value)]
    return next((top for top in _TOPS if values and top >= max(values)), 1.0)


def drawn_curve(kind: str, curve: Curve, top: float) -> _DrawnCurve:
    """Place a curve on axes up to `top`; points that are not finite are dropped."""
    line = [
        (_x(float(x)), _y(float(y), top))
        for x, y in zip(np.asarray(curve.fraction), np.asarray(curve.score), strict=True)
        if math.isfinite(float(y))
    ]
    ends = (line[0][0], line[-1][0]) if line else (0.0, 0.0)
    return _DrawnCurve(kind, line, (*ends, _y(0.0, top)))


def _x(fraction: float) -> float:
    return _LEFT + fraction * (_WIDTH - _LEFT - _RIGHT)


def _y(score: float, top: float) -> float:
    return _HEIGHT - _BOTTOM - min(1.0, max(0.0, score / top)) * (_HEIGHT - _TOP - _BOTTOM)


def _axes(top: float) -> dict[str, Any]:
    """Return the properties shared by the axes of all cards."""
    labels = ((0.0, "start", "0%"), (0.5, "middle", "cells, most important first"), (1.0, "end", "100%"))
    return {
        "size": (_WIDTH, _HEIGHT),
        "left": _LEFT,
        "right": _WIDTH - _RIGHT,
        "ticks": [(_y(tick, top), f"{tick:.3g}") for tick in (0.0, top / 2, top)],
        "labels": [(_x(fraction), anchor, text) for fraction, anchor, text in labels],
        "label_y": _HEIGHT - 16,
    }


@functools.cache
def _scale() -> str:
    """Return the colors of a heatmap as stops of a CSS gradient."""
    colors = overlay.heatmap([[0.0, 1.0]], (1, 9), limits=(0.0, 1.0))[0].tolist()
    return ", ".join("#{:02x}{:02x}{:02x}".format(*color) for color in colors)


# ---------------------------------------------------------------------------------------------------------
# Templates


def render(template: str, **context: Any) -> str:
    """Render a template of this package; every value is escaped, and a missing one is an error.

    Example:
      >>> render("base.html", title="cats & dogs").count("cats &amp; dogs")
      1
    """
    return _environment().get_template(template).render(context)


def probability_text(value: float) -> str:
    """Format a number from 0 to 1 for display.

    Example:
      >>> [probability_text(value) for value in (0.567, 0.001, 0.0, float("nan"))]
      ['0.57', '< 0.01', '0.00', 'n/a']
    """
    if not math.isfinite(value):
        return "n/a"
    return "< 0.01" if 0.0 < value < 0.005 else f"{value:.2f}"


def percent_text(share: float) -> str:
    """Format a share as a percentage.

    Example:
      >>> percent_text(0.567), percent_text(float("nan"))
      ('57%', 'n/a')
    """
    return f"{100 * share:.0f}%" if math.isfinite(share) else "n/a"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jaxplain.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "probability": probability_text,
        "percent": percent_text,
        "auc": lambda value: f"{value:.3f}" if math.isfinite(value) else "n/a",
        "data_uri": overlay.data_uri,
        "bar": lambda value: f"{100 * min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0:.1f}",
        "px": lambda value: f"{value:.1f}".rstrip("0").rstrip("."),
    }
    return environment
