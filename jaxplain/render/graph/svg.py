"""An attention graph as SVG: one file, thumbnails inside."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np
from numpy.typing import NDArray

from jaxplain.render.graph import style
from jaxplain.render.graph.layout import Engine
from jaxplain.render.png import data_uri
from jaxplain.sag import AttentionGraph

_PHOTO = 190  # pixels, width of the photo beside the graph
_FONT = "font-family='Helvetica, Arial, sans-serif'"


def graph_svg(
    graph: AttentionGraph,
    rgb: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    *,
    label: str = "",
    engine: Engine = "auto",
) -> str:
    """Draw a graph: masked photos as nodes with the share of the score they keep, steeper edges thicker.

    Args:
        graph: to be drawn; see `AttentionGraph.pruned` for one that is too large.
        rgb: uint8 ``[H, W, 3]``, the photo as the model saw it.
        hidden: uint8 ``[H, W, 3]``, the baseline as a picture.
        label: text below the photo.
        engine: of the layout; see `jaxplain.render.graph.layout.layout`.

    Returns:
        A whole SVG document.

    Raises:
        ValueError: pictures of different shapes.
        RuntimeError: engine "dot" without Graphviz.

    Example:
        >>> empty = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ())
        >>> picture = np.zeros((4, 4, 3), np.uint8)
        >>> graph_svg(empty, picture, picture).startswith("<svg")
        True
    """
    sizes = style.plan(graph, rgb.shape, engine)
    photo_height = _PHOTO * rgb.shape[0] / rgb.shape[1]
    left = style.MARGIN + _PHOTO + 2 * style.MARGIN
    width = left + max(sizes.layout.width, 220) + style.MARGIN
    height = 2 * style.MARGIN + max(sizes.layout.height, photo_height + 110)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' role='img' {_FONT}>",
        f"<title>{escape(label or 'attention graph')}</title>",
        "<rect width='100%' height='100%' fill='white'/>",
        _photo(rgb, label, photo_height),
        f"<g transform='translate({left} {style.MARGIN})'>{graph_body(graph, rgb, hidden, sizes)}</g>",
        "</svg>",
    ]
    return "\n".join(parts)


def graph_body(
    graph: AttentionGraph, rgb: NDArray[np.uint8], hidden: NDArray[np.uint8], sizes: style.Plan
) -> str:
    """Edges and nodes as SVG elements, without the document around them."""
    if not graph.nodes:
        return f"<text x='0' y='20' font-size='15' class='empty'>{style.EMPTY}</text>"
    edges = list(_edges(graph, sizes))
    nodes = (_node(graph, at, rgb, hidden, sizes) for at in range(len(graph.nodes)))
    return "\n".join([*(line for line, _ in edges), *(text for _, text in edges), *nodes])


def _edges(graph: AttentionGraph, sizes: style.Plan) -> Iterator[tuple[str, str]]:
    """The line and the label of each edge; labels go on top of all lines."""
    half = sizes.node[1] / 2
    for number, edge in enumerate(graph.edges):
        (x1, y1), (x2, y2) = sizes.layout.centers[edge.parent], sizes.layout.centers[edge.child]
        top, bottom = y1 + half, y2 - half
        share = style.drop_share(edge, graph)
        color = "rgb({},{},{})".format(*style.edge_color(share))
        bend = (bottom - top) / 2
        turns = f"{x1:.1f} {top + bend:.1f} {x2:.1f} {bottom - bend:.1f}"
        path = f"M{x1:.1f} {top:.1f}C{turns} {x2:.1f} {bottom:.1f}"
        tip = f"without P{edge.patch}: {style.percent(-share)}"
        data = f"data-edge='{number}' data-parent='{edge.parent}' data-child='{edge.child}'"
        yield (
            f"<path class='edge' {data} d='{path}' fill='none' stroke='{color}' "
            f"stroke-width='{style.edge_width(share):.1f}'><title>{tip}</title></path>",
            # Near the child, where edges of one parent have parted.
            f"<text class='removed' {data} "
            f"x='{x1 + 0.76 * (x2 - x1):.1f}' y='{top + 0.68 * (bottom - top) + 4:.1f}' "
            f"font-size='11' text-anchor='middle' fill='#444' stroke='white' stroke-width='3' "
            f"paint-order='stroke'>-P{edge.patch}</text>",
        )


def _node(
    graph: AttentionGraph, at: int, rgb: NDArray[np.uint8], hidden: NDArray[np.uint8], sizes: style.Plan
) -> str:
    node = graph.nodes[at]
    x, y = (center - side / 2 for center, side in zip(sizes.layout.centers[at], sizes.node, strict=True))
    width, height = sizes.thumbnail
    picture = data_uri(style.thumbnail(rgb, hidden, node, graph, sizes))
    color = "rgb({},{},{})".format(*(style.ROOT_COLOR if node.is_root else style.NODE_COLOR))
    kept = style.percent(node.relative)
    weight = "bold" if node.is_root else "normal"
    return (
        f"<g class='node{' root' if node.is_root else ''}' data-node='{at}' "
        f"transform='translate({x:.1f} {y:.1f})'>"
        f"<title>{style.name(node)}: {kept} of the score</title>"
        f"<rect class='frame' width='{sizes.node[0]:.0f}' height='{sizes.node[1]:.0f}' rx='5' fill='white' "
        f"stroke='{color}' stroke-width='{2.5 if node.is_root else 1}'/>"
        f"<image x='{style.FRAME}' y='{style.FRAME}' width='{width}' height='{height}' href='{picture}'/>"
        f"<text class='kept' x='{sizes.node[0] / 2:.1f}' y='{sizes.node[1] - 8:.1f}' font-size='14' "
        f"font-weight='{weight}' text-anchor='middle' fill='#222'>{kept}</text></g>"
    )


def _photo(rgb: NDArray[np.uint8], label: str, height: float) -> str:
    lines = [label, "Framed: explanations, sets that suffice", "and lose it without any one patch.",
             "Edges: the patch removed; the more it", "costs, the thicker and redder."]  # fmt: skip
    texts = (
        f"<text x='0' y='{height + 22 + 18 * row:.0f}' font-size='{14 if row == 0 else 11}' "
        f"fill='{'#222' if row == 0 else '#555'}'>{escape(line)}</text>"
        for row, line in enumerate(lines)
    )
    return (
        f"<g transform='translate({style.MARGIN} {style.MARGIN})'>"
        f"<image width='{_PHOTO}' height='{height:.0f}' href='{data_uri(rgb)}'/>{''.join(texts)}</g>"
    )
