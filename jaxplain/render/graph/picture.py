"""An attention graph as a picture, drawn with Pillow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from jaxplain.images import resize
from jaxplain.render.graph import style
from jaxplain.render.graph.layout import Engine
from jaxplain.render.text import INK, MUTED, printable, shorten, write
from jaxplain.sag import AttentionGraph

_PHOTO = 190
_SUPERSAMPLING = 3  # Pillow draws lines without antialiasing
_POINTS = 24  # of a bent edge
_LEGEND = ("framed: explanations", "edges: the patch removed,", "redder where it costs more")


def graph_png(
    graph: AttentionGraph,
    rgb: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    *,
    label: str = "",
    engine: Engine = "auto",
) -> Image.Image:
    """Draw a graph beside its photo; what `graph_svg` draws, as pixels.

    Args:
        graph: to be drawn.
        rgb: uint8 ``[H, W, 3]``, the photo as the model saw it.
        hidden: uint8 ``[H, W, 3]``, the baseline as a picture.
        label: text below the photo, shortened where it does not fit.
        engine: of the layout; see `jaxplain.render.graph.layout.layout`.

    Returns:
        An RGB picture on white.

    Raises:
        ValueError: pictures of different shapes.
        RuntimeError: engine "dot" without Graphviz.

    Example:
        >>> empty = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ())
        >>> graph_png(empty, np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)).mode
        'RGB'
    """
    sizes = style.plan(graph, rgb.shape, engine)
    photo_height = max(1, round(_PHOTO * rgb.shape[0] / rgb.shape[1]))
    left = 3 * style.MARGIN + _PHOTO
    width = round(left + max(sizes.layout.width, 220) + style.MARGIN)
    height = round(2 * style.MARGIN + max(sizes.layout.height, photo_height + 90))
    picture = _edges(graph, sizes, (width, height), (left, style.MARGIN))
    picture.paste(Image.fromarray(resize(rgb, (photo_height, _PHOTO))), (style.MARGIN, style.MARGIN))
    _write_beside(picture, label, photo_height)
    if not graph.nodes:
        write(picture, (left, style.MARGIN + 20), style.EMPTY, size=15, anchor="ls")
    for number in range(len(graph.nodes)):
        _draw_node(picture, graph, number, rgb, hidden, sizes, (left, style.MARGIN))
    _write_removed(picture, graph, sizes, (left, style.MARGIN))
    return picture


def _write_beside(picture: Image.Image, label: str, photo_height: int) -> None:
    y = style.MARGIN + photo_height + 22
    write(picture, (style.MARGIN, y), shorten(printable(label), 15, _PHOTO), size=15, anchor="ls")
    for row, line in enumerate(_LEGEND):
        write(picture, (style.MARGIN, y + 22 + 17 * row), line, size=13, anchor="ls", color=MUTED)


def _ends(
    graph: AttentionGraph, number: int, sizes: style.Plan
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an edge starts and ends: the bottom of its parent, the top of its child."""
    edge, half = graph.edges[number], sizes.node[1] / 2
    (x1, y1), (x2, y2) = sizes.layout.centers[edge.parent], sizes.layout.centers[edge.child]
    return (x1, y1 + half), (x2, y2 - half)


def _edges(
    graph: AttentionGraph, sizes: style.Plan, size: tuple[int, int], origin: tuple[int, int]
) -> Image.Image:
    """All edges on white, antialiased."""
    scale = _SUPERSAMPLING
    large = Image.new("RGB", (size[0] * scale, size[1] * scale), "white")
    draw = ImageDraw.Draw(large)
    for number, edge in enumerate(graph.edges):
        (x1, y1), (x2, y2) = _ends(graph, number, sizes)
        share = style.drop_share(edge, graph)
        points = []
        for t in np.linspace(0, 1, _POINTS):  # a cubic that leaves and arrives upright
            bent = t * t * (3 - 2 * t)
            points.append(
                (scale * (origin[0] + x1 + bent * (x2 - x1)), scale * (origin[1] + y1 + t * (y2 - y1)))
            )
        draw.line(points, style.edge_color(share), round(scale * style.edge_width(share)), joint="curve")
    return large.reduce(scale)


def _draw_node(
    picture: Image.Image,
    graph: AttentionGraph,
    number: int,
    rgb: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    sizes: style.Plan,
    origin: tuple[int, int],
) -> None:
    node, (x, y) = graph.nodes[number], sizes.layout.centers[number]
    left, top = round(origin[0] + x - sizes.node[0] / 2), round(origin[1] + y - sizes.node[1] / 2)
    box = (left, top, left + round(sizes.node[0]), top + round(sizes.node[1]))
    color, width = (style.ROOT_COLOR, 3) if node.is_root else (style.NODE_COLOR, 1)
    ImageDraw.Draw(picture).rounded_rectangle(box, 5, fill="white", outline=color, width=width)
    shown = Image.fromarray(style.thumbnail(rgb, hidden, node, graph, sizes))
    picture.paste(shown, (left + style.FRAME, top + style.FRAME))
    write(picture, ((box[0] + box[2]) / 2, box[3] - 8), style.percent(node.relative), size=14, anchor="ms")


def _write_removed(
    picture: Image.Image, graph: AttentionGraph, sizes: style.Plan, origin: tuple[int, int]
) -> None:
    """The removed patch on each edge, on a white ground, near the child where edges have parted."""
    draw = ImageDraw.Draw(picture)
    for number, edge in enumerate(graph.edges):
        (x1, y1), (x2, y2) = _ends(graph, number, sizes)
        x, y = origin[0] + x1 + 0.76 * (x2 - x1), origin[1] + y1 + 0.68 * (y2 - y1)
        text = f"-P{edge.patch}"
        half = 3.2 * len(text) + 1
        draw.rectangle((x - half, y - 7, x + half, y + 6), fill="white")
        write(picture, (x, y), text, size=11, anchor="mm", color=INK)
