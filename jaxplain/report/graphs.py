"""Drawings of attention graphs, rendered as SVG, PNG and an interactive page."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from jaxplain import overlay
from jaxplain.images import check_rgb, resize
from jaxplain.report import canvas, pages
from jaxplain.report.layout import LayoutEngine, layout
from jaxplain.sag import AttentionGraph, Edge, Node

EMPTY = "no sufficient set was found"
EXPLANATION_COLOR, NODE_COLOR = "#0072b2", "#bebebe"
_PALE, _STEEP = (176, 184, 192), (213, 94, 0)  # edge colors at zero cost and at full cost

# In SVG pixels; the PNG has twice the resolution.
_THUMBNAIL, _CAPTION, _FRAME = 96, 24, 4
_GAP = (26.0, 64.0)  # between nodes, between rows
_MARGIN, _PHOTO, _SMALLEST = 24, 190, (220.0, 30.0)
_PER_INCH = 96
_POINT = 72 / _PER_INCH  # points per pixel
_LEGEND = (
    "Framed: explanations. The set suffices,",
    "but not without any one of its patches.",
    "On an edge: the patch removed; thicker",
    "and redder edges cost more.",
)

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle, in fractions of the image's width and height."""

    left: float
    top: float
    right: float
    bottom: float


class DrawnNode(NamedTuple):
    """A node and its position."""

    left: float
    top: float
    picture: NDArray[np.uint8]  # the masked photo as a thumbnail
    border: tuple[tuple[Point, Point], ...]  # outline of the visible patches, in thumbnail pixels
    kept: str  # fraction of the score, as text
    title: str
    is_explanation: bool
    color: str
    line_width: float


class DrawnEdge(NamedTuple):
    """An edge and its position: a cubic Bézier curve whose ends are vertical."""

    parent: int
    child: int
    start: Point
    bends: tuple[Point, Point]
    end: Point
    color: str
    width: float
    label: str
    label_at: Point
    title: str


class Drawing(NamedTuple):
    """A graph ready to be drawn, with all coordinates in pixels from the top left corner."""

    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]
    width: float
    height: float
    node_size: Point  # width, height including the caption
    thumbnail_size: tuple[int, int]  # width, height
    frame: int
    empty: str = EMPTY  # the text shown for a graph without nodes


# ---------------------------------------------------------------------------------------------------------
# A photo's patches


def outlines(grid: tuple[int, int]) -> list[Box]:
    """Return the outlines of a grid's patches.

    Each patch surrounds its lattice point and extends halfway to the neighboring points. The lattice's
    corners are the image's corners, so patches at the border are half as wide.

    Args:
      grid: (rows, columns).

    Returns:
      One box per patch, in row-major order; together the boxes tile the image.

    Example:
      >>> [box.right for box in outlines((1, 3))]
      [0.25, 0.75, 1.0]
    """
    tops, lefts = (_bounds(count) for count in grid)
    return [
        Box(lefts[col], tops[row], lefts[col + 1], tops[row + 1])
        for row in range(grid[0])
        for col in range(grid[1])
    ]


def _bounds(count: int) -> list[float]:
    if count == 1:
        return [0.0, 1.0]
    return [0.0, *((index + 0.5) / (count - 1) for index in range(count - 1)), 1.0]


def borders(patches: Iterable[int], grid: tuple[int, int]) -> list[tuple[Point, Point]]:
    """Return the line segments that separate a set's patches from the others, in fractions of the image size.

    Example:
      >>> borders([0], (1, 2))
      [((0.5, 0.0), (0.5, 1.0))]
    """
    shown = np.zeros(grid, bool)
    shown.flat[list(patches)] = True
    tops, lefts = (_bounds(count) for count in grid)
    lines: list[tuple[Point, Point]] = []
    for row, col in np.argwhere(shown[:, 1:] != shown[:, :-1]).tolist():
        lines.append(((lefts[col + 1], tops[row]), (lefts[col + 1], tops[row + 1])))
    for row, col in np.argwhere(shown[1:] != shown[:-1]).tolist():
        lines.append(((lefts[col], tops[row + 1]), (lefts[col + 1], tops[row + 1])))
    return lines


def masked_photo(
    pixels: NDArray[np.uint8], hidden: NDArray[np.uint8], patches: Iterable[int], grid: tuple[int, int]
) -> NDArray[np.uint8]:
    """Return the image that the model scored: the photo at the visible patches, the baseline elsewhere.

    Args:
      pixels: the photo, uint8 [H, W, 3].
      hidden: the baseline as an image, uint8 [H, W, 3].
      patches: indices of the visible patches.
      grid: number of (rows, columns) of patches.

    Returns:
      The masked photo, uint8 [H, W, 3].

    Raises:
      ValueError: the two images differ in shape.

    Example:
      >>> white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
      >>> masked_photo(white, black, [0], (2, 2))[..., 0].tolist()[0]
      [255, 170, 85, 0]
    """
    check_rgb(pixels)
    check_rgb(hidden)
    if pixels.shape != hidden.shape:
        raise ValueError(f"photo {pixels.shape} and baseline {hidden.shape} must have the same shape.")
    indicator = np.zeros(grid[0] * grid[1])
    indicator[list(patches)] = 1.0
    mask = overlay.resize_bilinear(indicator.reshape(grid), pixels.shape[:2])[..., None]
    return np.floor(hidden + mask * (pixels.astype(float) - hidden) + 0.5).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------
# The drawing


def draw(
    graph: AttentionGraph,
    pixels: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    engine: LayoutEngine = "auto",
) -> Drawing:
    """Lay out the drawing of a graph; see `graph_svg` for arguments and errors."""
    scale = _THUMBNAIL / max(pixels.shape[:2])
    thumbnail = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    size = (thumbnail[0] + 2.0 * _FRAME, thumbnail[1] + 2.0 * _FRAME + _CAPTION)
    placed = layout(graph, size, _GAP, engine)
    return Drawing(
        nodes=tuple(
            _node(graph, node, (x - size[0] / 2, y - size[1] / 2), pixels, hidden, thumbnail)
            for node, (x, y) in zip(graph.nodes, placed.centers, strict=True)
        ),
        edges=tuple(_edge(graph, edge, placed.centers, size[1] / 2) for edge in graph.edges),
        width=max(placed.width, _SMALLEST[0]),
        height=max(placed.height, _SMALLEST[1]),
        node_size=size,
        thumbnail_size=thumbnail,
        frame=_FRAME,
    )


def _node(
    graph: AttentionGraph,
    node: Node,
    corner: Point,
    pixels: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    size: tuple[int, int],
) -> DrawnNode:
    shown = masked_photo(pixels, hidden, node.patches, graph.grid)
    kept = pages.percent_text(node.relative)
    return DrawnNode(
        left=corner[0],
        top=corner[1],
        picture=resize(shown, (2 * size[1], 2 * size[0])),
        border=tuple(
            ((x1 * size[0], y1 * size[1]), (x2 * size[0], y2 * size[1]))
            for (x1, y1), (x2, y2) in borders(node.patches, graph.grid)
        ),
        kept=kept,
        title=f"{patch_names(node.patches)}: {kept} of the score",
        is_explanation=node.is_explanation,
        color=EXPLANATION_COLOR if node.is_explanation else NODE_COLOR,
        line_width=2.5 if node.is_explanation else 1.0,
    )


def _edge(graph: AttentionGraph, edge: Edge, centers: tuple[Point, ...], half: float) -> DrawnEdge:
    (x1, y1), (x2, y2) = centers[edge.parent], centers[edge.child]
    top, bottom = y1 + half, y2 - half
    share = _drop_share(edge, graph)
    return DrawnEdge(
        parent=edge.parent,
        child=edge.child,
        start=(x1, top),
        bends=((x1, (top + bottom) / 2), (x2, (top + bottom) / 2)),
        end=(x2, bottom),
        color=_edge_color(share),
        width=1.2 + 7.0 * share,
        label=f"-P{edge.patch}",
        # Place the label near the child, where edges are farther apart.
        label_at=(x1 + 0.76 * (x2 - x1), top + 0.68 * (bottom - top)),
        title=f"without P{edge.patch}: {pages.percent_text(-share)}",
    )


def patch_names(patches: Iterable[int], separator: str = " ") -> str:
    """Return the names of patches as shown on pages, such as "P3 P4"."""
    return separator.join(f"P{patch}" for patch in patches) or "no patch"


def _drop_share(edge: Edge, graph: AttentionGraph) -> float:
    """Return the cost of an edge as a fraction of the image's score, in [0, 1]; 0 if unknown."""
    share = edge.drop / graph.image_score if graph.image_score else 0.0
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0


def _edge_color(share: float) -> str:
    """Blend from gray (an edge that costs nothing) to vermilion (one that costs the whole score)."""
    weight = min(1.0, 1.4 * share)
    mixed = (round(pale + (steep - pale) * weight) for pale, steep in zip(_PALE, _STEEP, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


# ---------------------------------------------------------------------------------------------------------
# SVG and PNG


def graph_svg(
    graph: AttentionGraph,
    pixels: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    *,
    label: str = "",
    engine: LayoutEngine = "auto",
) -> str:
    """Draw a graph as SVG, beside its photo; nodes are masked photos with the fraction of the score kept.

    Args:
      graph: the graph to draw; prune a large one with `AttentionGraph.pruned`.
      pixels: the photo as the model sees it, uint8 [H, W, 3].
      hidden: the baseline as an image, uint8 [H, W, 3].
      label: text below the photo.
      engine: layout engine; see `jaxplain.report.layout.layout`.

    Returns:
      A complete SVG document.

    Raises:
      ValueError: the photo and the baseline differ in shape.
      RuntimeError: the engine is "dot" and Graphviz is not installed or fails.

    Example:
      >>> empty = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ())
      >>> picture = np.zeros((4, 4, 3), np.uint8)
      >>> graph_svg(empty, picture, picture).startswith("<svg")
      True
    """
    sheet = _beside_photo(draw(graph, pixels, hidden, engine), pixels)
    return pages.render("graph.svg", **sheet, label=label, legend=_LEGEND, margin=_MARGIN).strip()


def graph_png(
    graph: AttentionGraph,
    pixels: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    *,
    label: str = "",
    engine: LayoutEngine = "auto",
) -> bytes:
    """Draw a graph as `graph_svg` does, but as a PNG; a long label is shortened.

    See `graph_svg` for arguments and errors.

    Example:
      >>> empty = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ())
      >>> picture = np.zeros((4, 4, 3), np.uint8)
      >>> graph_png(empty, picture, picture)[:4]
      b'\\x89PNG'
    """
    drawing = draw(graph, pixels, hidden, engine)
    sheet = _beside_photo(drawing, pixels)
    width, height = sheet["size"]
    ax = canvas.blank(width, height, dpi=2 * _PER_INCH, units=_PER_INCH)
    left, top = sheet["left"], float(_MARGIN)
    photo_width, photo_height = sheet["photo_size"]
    canvas.place(ax, pixels, _MARGIN, top, photo_width, photo_height)
    _write(ax, _MARGIN, top + photo_height + 22, label, 14, ha="left", width=photo_width / _PER_INCH)
    for row, line in enumerate(_LEGEND):
        _write(ax, _MARGIN, top + photo_height + 40 + 18 * row, line, 10, ha="left", color=canvas.MUTED)
    if not drawing.nodes:
        _write(ax, left, top + 20, drawing.empty, 15, ha="left")
    for edge in drawing.edges:
        _draw_edge(ax, edge, (left, top))
    for edge in drawing.edges:
        x, y = edge.label_at
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
        _write(ax, left + x, top + y, edge.label, 11, va="center", bbox=box)
    for node in drawing.nodes:
        _draw_node(ax, node, drawing, (left, top))
    return canvas.axes_png(ax)


def _beside_photo(drawing: Drawing, pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return the positions of the photo and the graph on the sheet."""
    height = max(1.0, _PHOTO * pixels.shape[0] / pixels.shape[1])
    left = _MARGIN + _PHOTO + 2.0 * _MARGIN
    size = (left + drawing.width + _MARGIN, 2.0 * _MARGIN + max(drawing.height, height + 110))
    return {
        "drawing": drawing,
        "photo": pixels,
        "photo_size": (float(_PHOTO), height),
        "left": left,
        "size": size,
    }


def _write(ax: Axes, x: float, y: float, text: str, size: float, ha: Any = "center", **more: Any) -> None:
    """Write text, with its size in pixels."""
    canvas.write(ax, x, y, text, size=size * _POINT, ha=ha, **more)


def _draw_edge(ax: Axes, edge: DrawnEdge, origin: Point) -> None:
    points = np.array([edge.start, *edge.bends, edge.end]) + origin
    curve = Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    ax.add_patch(PathPatch(curve, fill=False, edgecolor=edge.color, linewidth=edge.width * _POINT))


def _draw_node(ax: Axes, node: DrawnNode, drawing: Drawing, origin: Point) -> None:
    left, top = origin[0] + node.left, origin[1] + node.top
    width, height = drawing.node_size
    frame = FancyBboxPatch(
        (left, top), width, height, boxstyle="round,pad=0,rounding_size=5", facecolor="white",
        edgecolor=node.color, linewidth=node.line_width * _POINT,
    )  # fmt: skip
    ax.add_patch(frame)
    corner = left + _FRAME, top + _FRAME
    canvas.place(ax, node.picture, *corner, *drawing.thumbnail_size)
    for line in node.border:
        x, y = (np.array(line) + corner).T
        ax.plot(x, y, color="white", alpha=0.9, linewidth=0.9, linestyle="-", marker="")
    _write(ax, left + width / 2, top + height - 8, node.kept, 14, bold=node.is_explanation)


# ---------------------------------------------------------------------------------------------------------
# The page


def graph_page(
    graph: AttentionGraph,
    pixels: NDArray[np.uint8],
    hidden: NDArray[np.uint8],
    *,
    label: str,
    probability: float,
    known: AttentionGraph | None = None,
    title: str = "Attention graph",
    facts: Iterable[tuple[str, str]] = (),
    engine: LayoutEngine = "auto",
) -> str:
    """Return a standalone page with the graph and with the photo, whose patches can be hidden and shown.

    When patches are hidden, the page shows which explanations still hold, as far as scores are known.
    Hovering over a node outlines its patches on the photo, and individual explanations can be switched off.
    The page works with the keyboard, on phones, in print, in light and dark mode, and offline.

    Args:
      graph: the graph to draw.
      pixels: the photo as the model sees it, uint8 [H, W, 3].
      hidden: the baseline as an image, uint8 [H, W, 3].
      label: name of the explained class.
      probability: the class's probability on the photo.
      known: a larger graph of the same photo, with more known scores. If None, `graph` is used.
      title: title of the page.
      facts: (name, value) pairs for the table of settings.
      engine: layout engine; see `jaxplain.report.layout.layout`.

    Returns:
      The page as HTML. The label, title and facts may contain any text; they are escaped.

    Raises:
      ValueError: the photo and the baseline differ in shape.

    Example:
      >>> empty = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (), ())
      >>> picture = np.zeros((4, 4, 3), np.uint8)
      >>> "no sufficient set" in graph_page(empty, picture, picture, label="cat", probability=0.5)
      True
    """
    return pages.render(
        "graph.html",
        title=title,
        label=label,
        probability=f"{probability:.2f}" if math.isfinite(probability) else "n/a",
        threshold=pages.percent_text(graph.threshold),
        drawing=draw(graph, pixels, hidden, engine),
        logic=graph.logic_form(),
        facts=list(facts),
        data=dict(_page_data(graph, known or graph, pixels, hidden)),
    )


def _page_data(
    graph: AttentionGraph, known: AttentionGraph, pixels: NDArray[np.uint8], hidden: NDArray[np.uint8]
) -> Iterator[tuple[str, Any]]:
    """Yield the data that the page's script reads."""
    yield "grid", graph.grid
    yield "size", [pixels.shape[1], pixels.shape[0]]
    yield "threshold", graph.threshold
    yield "outlines", outlines(graph.grid)
    nodes = ((node.patches, _share(node.relative), node.is_explanation) for node in graph.nodes)
    yield "nodes", [dict(zip(("patches", "share", "explanation"), node, strict=True)) for node in nodes]
    yield "edges", [[edge.parent, edge.child] for edge in graph.edges]
    yield "known", [[node.patches, _share(node.relative)] for node in known.nodes]
    yield "photo", overlay.data_uri(pixels)
    yield "hidden", overlay.data_uri(hidden)


def _share(relative: float) -> float | None:
    """Round a fraction for JSON; return None if it is not finite."""
    return float(f"{relative:.5g}") if math.isfinite(relative) else None
