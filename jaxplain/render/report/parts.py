"""What a report consists of. All texts may hold anything; they are shown as text."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxplain.render.curves import Curve
from jaxplain.sag import AttentionGraph

Verdict = Literal["passes", "unclear", "fails", "n/a"]


class Picture(NamedTuple):
    """A picture, what it shows (for those who cannot see it) and what stands below."""

    rgb: NDArray[np.uint8]  # [H, W, 3]
    alt: str
    caption: str = ""


class Choice(NamedTuple):
    """A class and its probability."""

    label: str
    probability: float
    explained: bool  # the one that the page is about


class Card(NamedTuple):
    """One method: its heatmap and curves, or why there are none."""

    title: str
    about: str  # what the method does, in a sentence
    picture: Picture | None = None
    deletion: Curve | None = None
    insertion: Curve | None = None
    reading: str = ""  # what the curves say, in a sentence
    verdict: Verdict = "n/a"  # of the sanity check
    reason: str = ""  # why it failed


class Check(NamedTuple):
    """One method's map before and after the network forgot everything."""

    title: str
    before: Picture
    after: Picture | None  # None where there is none
    rank: float  # 0 to 1; NaN is written and not drawn
    verdict: Verdict
    words: str
    control: bool = False  # must fail


class Root(NamedTuple):
    """A picture with the outlines and numbers of patches."""

    picture: Picture
    patches: tuple[int, ...]


class Graph(NamedTuple):
    """An attention graph and its explanations as pictures."""

    graph: AttentionGraph
    hidden: NDArray[np.uint8]  # [H, W, 3], the baseline as a picture
    roots: tuple[Root, ...]
    words: str  # what was found, in a sentence


class Figures(NamedTuple):
    """A table: headings, rows of cells of which the first names the row, and places printed bold."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()  # (row, column)


class Report(NamedTuple):
    """Everything about one photo."""

    title: str  # the photo's name
    label: str  # the explained class
    probability: float
    photo: Picture
    findings: tuple[str, ...]  # in short, a sentence each
    choices: tuple[Choice, ...]
    cards: tuple[Card, ...]
    checks: tuple[Check, ...]  # none: not asked for
    check_words: str  # what the checks say together
    graph: Graph | str | None  # a string says why there is none; None: not asked for
    figures: Figures
    facts: tuple[tuple[str, str], ...]


class Section(NamedTuple):
    """A report as HTML, ready for its page."""

    title: str
    label: str
    html: str
