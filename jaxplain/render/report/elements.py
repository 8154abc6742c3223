"""The elements of a report as HTML; every text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape

import numpy as np
from numpy.typing import NDArray

from jaxplain.render.png import data_uri
from jaxplain.render.report.drawings import curves_svg, graph_svg, patches_svg
from jaxplain.render.report.parts import Card, Check, Choice, Figures, Graph, Picture, Verdict

_BADGES: dict[Verdict, str] = {
    "passes": "✓ passes the sanity check",
    "unclear": "? sanity check unclear",
    "fails": "✗ fails the sanity check",
    "n/a": "",
}


def written(value: float) -> str:
    """A number from 0 to 1 as people read it.

    Example:
        >>> written(0.567), written(0.001), written(0.0), written(float("nan"))
        ('0.57', '< 0.01', '0.00', 'n/a')
    """
    if not math.isfinite(value):
        return "n/a"
    return "< 0.01" if 0.0 < value < 0.005 else f"{value:.2f}"


def picture(one: Picture, over: str = "") -> str:
    """A picture inside the page with its caption; `over` is an element that lies on it.

    Example:
        >>> black = Picture(np.zeros((4, 6, 3), np.uint8), "black", "all of it")
        >>> picture(black).endswith("<figcaption>all of it</figcaption></figure>")
        True
    """
    caption = f"<figcaption>{escape(one.caption)}</figcaption>" if one.caption else ""
    height, width = one.rgb.shape[:2]
    return (
        f"<figure><div class='over'>"
        f"<img src='{data_uri(one.rgb)}' width='{width}' height='{height}' alt='{escape(one.alt)}'>"
        f"{over}</div>{caption}</figure>"
    )


def choice(one: Choice) -> str:
    """A class and its bar."""
    kind = " class='explained'" if one.explained else ""
    value = f"<b>{written(one.probability)}</b>"
    return f"<li{kind}><span>{escape(one.label)}</span>{_bar(one.probability)}{value}</li>"


def _bar(share: float, kind: str = "") -> str:
    length = 100 * min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    return f"<div class='track {kind}' aria-hidden='true'><i style='width:{length:.1f}%'></i></div>"


def card(one: Card, top: float) -> str:
    """A method: heatmap and curves up to `top`, or why it failed."""
    head = f"<h4>{escape(one.title)}</h4><p class='about small muted'>{escape(one.about)}</p>"
    if one.picture is None or one.deletion is None or one.insertion is None:
        reason = f"<p class='why'>Failed: {escape(one.reason)}</p>"
        return f"<article class='card failed'>{head}{reason}</article>"
    areas = (
        f"<div class='areas'>{_legend('del', 'deletion', one.deletion.area, 'low')}"
        f"{_legend('ins', 'insertion', one.insertion.area, 'high')}</div>"
    )
    name = f"{one.title}: deletion and insertion curves. {one.reading}"
    badge = _BADGES[one.verdict]
    return (
        f"<article class='card'>{head}{picture(one.picture)}{areas}"
        f"{curves_svg(one.deletion, one.insertion, top, name)}<p class='read small'>{escape(one.reading)}</p>"
        + (f"<p class='badge {one.verdict}'>{badge}</p>" if badge else "")
        + "</article>"
    )


def _legend(kind: str, name: str, area: float, good: str) -> str:
    value = f"{area:.3f}" if math.isfinite(area) else "n/a"
    return (
        f"<span class='{kind}'><i class='key'></i>{name} <b>{value}</b> <small>{good} is good</small></span>"
    )


def check(one: Check) -> str:
    """A map before and after the network forgot everything."""
    kind = "none" if one.verdict == "n/a" else one.verdict
    after = picture(one.after) if one.after else "<figure><div class='empty'></div></figure>"
    return (
        f"<article class='check{' control' if one.control else ''}'><h4>{escape(one.title)}</h4>"
        f"<div class='pair'>{picture(one.before)}{after}</div>{_bar(one.rank, kind)}"
        f"<p class='small'>alike: <b>{written(one.rank)}</b>, "
        f"<span class='{kind}'>{escape(one.words)}</span></p>"
        "</article>"
    )


def graph_part(one: Graph | str | None, rgb: NDArray[np.uint8], how: tuple[str, str]) -> str:
    """The attention graph, or why there is none; how to read its pictures and the drawing."""
    if one is None:
        return ""
    head = "<h3>Which parts of the photo suffice</h3>"
    if isinstance(one, str):
        return f"{head}<p><strong>No attention graph: {escape(one)}</strong></p>"
    words = f"<p><strong>{escape(one.words)}</strong></p>"
    if not one.graph.nodes:
        return f"{head}{words}"
    grid = one.graph.grid
    roots = "".join(picture(root.picture, patches_svg(root.patches, grid)) for root in one.roots)
    drawing = graph_svg(one.graph, rgb, one.hidden, f"attention graph. {one.words}")
    return (
        f"{head}<p class='how'>{escape(how[0])}</p>{words}<div class='roots'>{roots}</div>"
        f"<p class='how'>{escape(how[1])}</p>"
        "<div class='scroller' tabindex='0' role='region' aria-label='attention graph, scrolls sideways'>"
        f"{drawing}</div>"
    )


def figures_table(one: Figures, caption: str) -> str:
    """Numbers of all methods."""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in one.head)
    rows = "".join(_row(at, cells, one.best) for at, cells in enumerate(one.rows))
    return (
        "<div class='scroller' tabindex='0' role='region' aria-label='figures of all methods'>"
        f"<table class='figures'><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(at: int, cells: tuple[str, ...], best: frozenset[tuple[int, int]]) -> str:
    rest = (
        f"<td>{f'<strong>{escape(cell)}</strong>' if (at, col) in best else escape(cell)}</td>"
        for col, cell in enumerate(cells[1:], 1)
    )
    return f"<tr><th scope='row'>{escape(cells[0])}</th>{''.join(rest)}</tr>"


def facts_table(facts: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    rows = (f"<tr><th scope='row'>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f"<table class='facts'>{''.join(rows)}</table>"
