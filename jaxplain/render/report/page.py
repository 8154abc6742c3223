"""Reports as one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from jaxplain.render.report.drawings import axis_top
from jaxplain.render.report.elements import (
    card,
    check,
    choice,
    facts_table,
    figures_table,
    graph_part,
    picture,
    written,
)
from jaxplain.render.report.parts import Report, Section

# Jet, as `render.colormap` has it, at nine points.
_SCALE = "#000080, #0000ff, #0080ff, #00ffff, #80ff80, #ffff00, #ff8000, #ff0000, #800000"

_MAPS = (
    "How to read a heatmap: red marks the cells that the method calls important for the class, blue those it "
    "does not; each map has its own scale, so compare places and not shades."
)
_CURVES = (
    "How to read the curves: cells are taken in the order of the map. Deletion hides them (a map that found "
    "what matters falls fast, low area), insertion shows only them (it rises fast, high area). Read both: a "
    "low deletion alone can come from a pattern that merely upsets the network."
)
_CHECKS = (
    "How to read a pair: left the map of the network, right that of the same network with all its parameters "
    "shuffled. A method that explains the network must lose its map; the number is how alike the two still "
    "are (rank correlation without its sign: 0 nothing in common, 1 the same)."
)
_CHOICES = (
    "How to read the bars: the probability that the network gives to each class; those of all sum to 1."
)
_ROOTS = (
    "How to read these pictures: first the photo with its patches and their numbers, then what the network "
    "was shown. Each set of patches alone convinces it, and none of its patches can be left out."
)
_GRAPH = (
    "How to read the graph: framed above, the explanations; each step down hides the patch whose number "
    "stands at the line, and the percentage is what is left of the score. The thicker and redder a line, the "
    "more that patch costs."
)
_NUMBERS = "How to read the table: the best figure of a column is bold; seconds are for this photo."


def report_page(
    sections: Sequence[Section],
    *,
    title: str,
    summary: str = "",
    limits: Iterable[str] = (),
    notes: Iterable[str] = (),
    made: str = "",
) -> str:
    """A self-contained page: a section a photo, with links to each, and what all this cannot tell.

    Works on a phone, in print, light and dark, without a network and without JavaScript.

    Args:
        sections: what to show, numbered from 1 in this order; see `report_section`.
        title: of the page.
        summary: a sentence below it.
        limits: sentences at the end.
        notes: what went wrong, above all reports.
        made: with what, the last line.

    Returns:
        HTML text. All texts may hold anything; they are shown as text.

    Example:
        >>> "cannot tell" in report_page([], title="No photo")
        True
    """
    template = files("jaxplain.render.report").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        summary=escape(summary),
        scale=_SCALE,
        notes="".join(f"<p class='notes'>{escape(note)}</p>" for note in notes),
        links=_links(sections),
        reports="".join(one.html for one in sections),
        limits="".join(f"<li>{escape(limit)}</li>" for limit in limits),
        made=escape(made),
    )


def _links(sections: Sequence[Section]) -> str:
    if len(sections) < 2:
        return ""
    items = (
        f"<li><a href='#photo-{at}'>{escape(one.title)}</a> "
        f"<span class='muted'>{escape(one.label)}</span></li>"
        for at, one in enumerate(sections, 1)
    )
    return f"<nav aria-label='photos'><ul>{''.join(items)}</ul></nav>"


def report_section(one: Report, number: int = 1) -> Section:
    """One photo's section of a page, which keeps what was drawn when further ones are added.

    Args:
        one: what to show.
        number: of the section on its page, from 1.

    Returns:
        A section for `report_page`.

    Raises:
        TypeError, ValueError: a picture that is not uint8 ``[H, W, 3]``, or pictures of different shapes.

    Example:
        >>> from jaxplain.render.report.parts import Figures, Picture
        >>> import numpy as np
        >>> photo = Picture(np.zeros((4, 4, 3), np.uint8), "black")
        >>> bare = Report("a.png", "cat", 0.9, photo, (), (), (), (), "", None, Figures(("method",), ()), ())
        >>> report_section(bare).html[:36]
        "<section class='photo' id='photo-1' "
    """
    heading = f"{escape(one.title)}: {escape(one.label)}, p = {written(one.probability)}"
    parts = [
        f"<section class='photo' id='photo-{number}' aria-labelledby='title-{number}'>"
        f"<h2 id='title-{number}'>{heading}</h2>",
        f"<div class='top'>{picture(one.photo)}<div>{_short(one)}{_choices(one)}</div></div>",
        _maps(one),
        _checks(one),
        graph_part(one.graph, one.photo.rgb, (_ROOTS, _GRAPH)),
        "<h3>Settings and timings</h3>",
        figures_table(one.figures, _NUMBERS),
        facts_table(one.facts),
        "</section>",
    ]
    return Section(one.title, one.label, "\n".join(parts))


def _short(one: Report) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in one.findings)
    return f"<div class='short'><h3>In short</h3><ul>{items}</ul></div>"


def _choices(one: Report) -> str:
    items = "".join(map(choice, one.choices))
    return f"<h3>What the network says</h3><p class='how'>{_CHOICES}</p><ol class='choices'>{items}</ol>"


def _maps(one: Report) -> str:
    top = axis_top([curve for part in one.cards for curve in (part.deletion, part.insertion) if curve])
    cards = "".join(card(part, top) for part in one.cards)
    scale = "<div class='scale'><span>less important</span><i></i><span>more important</span></div>"
    return (
        f"<h3>Where each method looks</h3><div class='hows'><p class='how'>{_MAPS}</p>"
        f"<p class='how'>{_CURVES}</p></div>{scale}<div class='cards'>{cards}</div>"
    )


def _checks(one: Report) -> str:
    if not one.checks:
        return ""
    pairs = "".join(map(check, one.checks))
    return (
        f"<h3>Sanity check: are the maps about the network?</h3><p class='how'>{_CHECKS}</p>"
        f"<p><strong>{escape(one.check_words)}</strong></p><div class='checks'>{pairs}</div>"
    )
