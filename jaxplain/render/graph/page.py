"""An attention graph as a page of its own: one HTML file that answers questions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxplain.render.graph import style
from jaxplain.render.graph.layout import Engine
from jaxplain.render.graph.patches import outlines
from jaxplain.render.graph.svg import graph_body
from jaxplain.render.png import data_uri
from jaxplain.sag import AttentionGraph


def graph_page(
    graph: AttentionGraph,
    rgb: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    *,
    label: str,
    probability: float,
    known: AttentionGraph | None = None,
    title: str = "Attention graph",
    facts: Iterable[tuple[str, str]] = (),
    engine: Engine = "auto",
) -> str:
    """A self-contained page: the graph, and the photo with patches to hide and show.

    Hiding patches shows which explanations still hold, as far as the graph knows; pointing at a node outlines
    its patches on the photo; roots can be switched off. Works with the keyboard, on a phone, in print, light
    and dark, and without a network.

    Args:
        graph: what is drawn.
        rgb: uint8 ``[H, W, 3]``, the photo as the model saw it.
        hidden: uint8 ``[H, W, 3]``, the baseline as a picture.
        label: name of the explained class.
        probability: of the class on the photo.
        known: a fuller graph of the same photo to answer from; ``graph`` itself if left out.
        title: of the page.
        facts: names and values for the table of settings.
        engine: of the layout; see `jaxplain.render.graph.layout.layout`.

    Returns:
        HTML text. Label, title and facts may hold anything; they are shown as text.

    Raises:
        ValueError: pictures of different shapes.

    Example:
        >>> empty = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ())
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> "no sufficient set" in graph_page(empty, picture, picture, label="cat", probability=0.5)
        True
    """
    sizes = style.plan(graph, rgb.shape, engine)
    room = 3  # for frames that reach over the edge
    width, height = max(sizes.layout.width, 220) + 2 * room, max(sizes.layout.height, 30) + 2 * room
    chance = f"{probability:.2f}" if math.isfinite(probability) else "n/a"
    rows = (f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts)
    template = files("jaxplain.render.graph").joinpath("page.html").read_text(encoding="utf-8")
    # Of the template's own dollar signs there are none: only names in it are replaced.
    return Template(template).substitute(
        title=escape(title),
        heading=f"Why {escape(label)}? <small>p = {chance}</small>",
        threshold=f"{graph.threshold:.0%}",
        width=f"{width:.0f}",
        height=f"{height:.0f}",
        body=f"<g transform='translate({room} {room})'>{graph_body(graph, rgb, hidden, sizes)}</g>",
        logic=escape(graph.logic_form()),
        facts="".join(rows),
        data=_inert(_data(graph, known or graph, rgb, hidden)),
    )


def _data(
    graph: AttentionGraph, known: AttentionGraph, rgb: NDArray[np.uint8], hidden: NDArray[np.uint8]
) -> dict[str, Any]:
    """What the page's script reads."""
    return {
        "grid": graph.grid,
        "size": [rgb.shape[1], rgb.shape[0]],
        "threshold": graph.threshold,
        "outlines": outlines(graph.grid),
        "nodes": [
            {"patches": node.patches, "share": _share(node.relative), "root": node.is_root}
            for node in graph.nodes
        ],
        "edges": [[edge.parent, edge.child] for edge in graph.edges],
        "known": [[node.patches, _share(node.relative)] for node in known.nodes],
        "photo": data_uri(rgb),
        "hidden": data_uri(hidden),
    }


def _share(relative: float) -> float | None:
    return float(f"{relative:.5g}") if math.isfinite(relative) else None


def _inert(content: dict[str, Any]) -> str:
    """JSON that cannot end its script element."""
    return json.dumps(content, allow_nan=False).replace("<", "\\u003c")
