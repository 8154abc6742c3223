"""What all drawings of attention graphs share: sizes, colours, words."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxplain.images import resize
from jaxplain.render.graph.layout import Engine, Layout, layout
from jaxplain.render.graph.patches import masked_photo
from jaxplain.sag import AttentionGraph, Edge, Node

THUMBNAIL = 96  # pixels, the longer side
CAPTION = 24  # pixels below a thumbnail
FRAME = 4
GAP = (26.0, 64.0)  # between nodes, between rows
MARGIN = 24
EMPTY = "no sufficient set was found"

ROOT_COLOR = (0, 114, 178)
NODE_COLOR = (190, 190, 190)
_PALE, _STEEP = (176, 184, 192), (213, 94, 0)  # an edge that costs nothing, one that costs all


class Plan(NamedTuple):
    """A graph ready to be drawn."""

    layout: Layout
    node: tuple[float, float]  # width, height with caption
    thumbnail: tuple[int, int]  # width, height


def plan(graph: AttentionGraph, shape: tuple[int, ...], engine: Engine) -> Plan:
    """Sizes and places for a graph of a photo of this shape [H, W, 3]."""
    scale = THUMBNAIL / max(shape[:2])
    thumbnail = (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    node = (thumbnail[0] + 2.0 * FRAME, thumbnail[1] + 2.0 * FRAME + CAPTION)
    return Plan(layout(graph, node, GAP, engine), node, thumbnail)


def thumbnail(
    rgb: NDArray[np.uint8], hidden: NDArray[np.uint8], node: Node, graph: AttentionGraph, sizes: Plan
) -> NDArray[np.uint8]:
    """The masked photo of a node, at the size of its thumbnail."""
    width, height = sizes.thumbnail
    return resize(masked_photo(rgb, hidden, node.patches, graph.grid), (height, width))


def drop_share(edge: Edge, graph: AttentionGraph) -> float:
    """What an edge costs as a share of the image's score, within 0..1; 0 where it is not known."""
    share = edge.drop / graph.image_score if graph.image_score else 0.0
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0


def edge_color(share: float) -> tuple[int, int, int]:
    """Grey for an edge that costs nothing, to vermilion for one that costs the whole score."""
    mix = [
        round(pale + (steep - pale) * min(1.0, 1.4 * share))
        for pale, steep in zip(_PALE, _STEEP, strict=True)
    ]
    return mix[0], mix[1], mix[2]


def edge_width(share: float) -> float:
    """In pixels."""
    return 1.2 + 7.0 * share


def percent(relative: float) -> str:
    """A share as people read it."""
    return f"{100 * relative:.0f}%" if math.isfinite(relative) else "n/a"


def name(node: Node) -> str:
    """The patches of a node in words."""
    return " ".join(f"P{patch}" for patch in node.patches) or "no patch"
