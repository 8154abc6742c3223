"""Self-contained HTML pages, rendered from this package's templates.

The parts of a report are plain data. Their text may contain any characters; it is escaped.
"""

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from jaxplain import overlay

Verdict = Literal["passes", "unclear", "fails", "n/a"]

# Possible upper ends of the axis, chosen so that their halves are short numbers.
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


class Picture(NamedTuple):
    """A picture with its alternative text and caption."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    alt: str
    caption: str = ""


class Choice(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float
    explained: bool  # whether this is the class that the page explains


class Curve(NamedTuple):
    """A deletion or insertion curve."""

    fraction: ArrayLike  # [T], fraction of the cells
    score: ArrayLike  # [T]
    auc: float

    @property
    def points(self) -> list[tuple[float, float]]:
        """The points (fraction, score) whose score is finite."""
        pairs = zip(np.asarray(self.fraction).tolist(), np.asarray(self.score).tolist(), strict=True)
        return [(fraction, score) for fraction, score in pairs if math.isfinite(score)]


class Card(NamedTuple):
    """One method's heatmap and curves, or the reason why there are none."""

    title: str
    description: str
    picture: Picture | None = None
    deletion: Curve | None = None
    insertion: Curve | None = None
    reading: str = ""  # a sentence that describes the curves
    verdict: Verdict = "n/a"  # verdict of the sanity check
    reason: str = ""  # reason why the method failed


class CheckedMap(NamedTuple):
    """One method's maps for the trained network and for the network with shuffled parameters."""

    title: str
    before: Picture
    after: Picture | None
    similarity: float  # 0 to 1; NaN is printed but not drawn
    verdict: Verdict
    words: str
    control: bool = False  # whether this is the control, which must fail


class PatchPicture(NamedTuple):
    """A picture with the outlines and numbers of its patches."""

    picture: Picture
    outlines: tuple[tuple[int, Any], ...]  # patch number and its `graphs.Box`


class GraphPart(NamedTuple):
    """An attention graph, with its explanations as pictures."""

    drawing: Any  # a `jaxplain.report.graphs.Drawing`
    pictures: tuple[PatchPicture, ...]
    words: str  # a sentence that describes the result


class Figures(NamedTuple):
    """A table: headings, rows (whose first cell is also a heading), and the cells printed in bold."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()  # (row, column)


class Report(NamedTuple):
    """The contents of the report on one photo."""

    title: str  # the photo's name
    label: str  # the explained class
    probability: float
    photo: Picture
    findings: tuple[str, ...]  # one sentence each
    choices: tuple[Choice, ...]
    cards: tuple[Card, ...]
    checks: tuple[CheckedMap, ...]  # empty if not requested
    check_words: str  # a summary of all checks
    graph: GraphPart | str | None  # a string gives the reason why there is no graph; None if not requested
    figures: Figures
    facts: tuple[tuple[str, str], ...]


class Section(NamedTuple):
    """A report rendered as HTML, ready to be placed on a page."""

    title: str
    label: str
    html: Markup


def report_section(report: Report, number: int = 1) -> Section:
    """Render one photo's section of a page, independently of the other sections.

    Args:
      report: the report to render.
      number: number of the section on its page, starting at 1.

    Raises:
      TypeError, ValueError: a picture is not uint8 [H, W, 3].

    Example:
      >>> photo = Picture(np.zeros((4, 4, 3), np.uint8), "black")
      >>> report = Report("a.png", "cat", 0.9, photo, (), (), (), (), "", None, Figures(("method",), ()), ())
      >>> report_section(report).html.count("a.png: cat, p = 0.90")
      1
    """
    top = axis_top(curve for card in report.cards for curve in (card.deletion, card.insertion) if curve)
    html = Markup(render("section.html", report=report, number=number, top=top))
    return Section(report.title, report.label, html)


def axis_top(curves: Iterable[Curve]) -> float:
    """Return the upper end of an axis shared by several curves.

    Example:
      >>> axis_top([Curve([0, 1], [0.57, 0.1], 0.2)]), axis_top([])
      (0.6, 1.0)
    """
    largest = max((score for curve in curves for _, score in curve.points), default=1.0)
    return next((top for top in _TOPS if top >= largest), 1.0)


# ---------------------------------------------------------------------------------------------------------
# Templates


def render(template: str, **context: Any) -> str:
    """Render one of this package's templates; values are escaped, and a missing value is an error.

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
    """Format a fraction as a percentage.

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
    environment.tests["finite"] = math.isfinite
    environment.filters |= {
        "probability": probability_text,
        "percent": percent_text,
        "auc": lambda value: f"{value:.3f}" if math.isfinite(value) else "n/a",
        "data_uri": overlay.data_uri,
        "bar": lambda value: f"{100 * min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0:.1f}",
        "px": lambda value: f"{value:.1f}".rstrip("0").rstrip("."),
    }
    return environment
