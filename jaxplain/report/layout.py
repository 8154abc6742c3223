"""Layout of an attention graph, with one row per level and few edge crossings."""

import shutil
import subprocess
from collections import defaultdict
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from jaxplain.checks import check_choice
from jaxplain.sag import AttentionGraph

LayoutEngine = Literal["auto", "dot", "plain"]
_SWEEPS = 8  # alternating down and up; more sweeps change little in graphs of this size
_TIMEOUT = 20.0  # time limit for Graphviz, in seconds
_POINTS = 72.0  # per inch, Graphviz's unit


class Layout(NamedTuple):
    """Centers of the nodes, measured from the top left corner, and the size of the drawing."""

    centers: tuple[tuple[float, float], ...]  # (x, y) of each node, in pixels
    width: float
    height: float
    engine: str  # "dot" or "plain"


def layout(
    graph: AttentionGraph,
    node: tuple[float, float],
    gap: tuple[float, float],
    engine: LayoutEngine = "auto",
) -> Layout:
    """Place a graph's nodes in one row per level; the same graph always has the same layout.

    Args:
      graph: the graph to draw.
      node: (width, height) of a node, in pixels.
      gap: minimum distances (between nodes, between rows), in pixels.
      engine: "dot" for Graphviz, "plain" for this module's layered layout (barycenters), or "auto" for
        Graphviz if it is installed and works, otherwise "plain".

    Raises:
      RuntimeError: the engine is "dot" and Graphviz is not installed or fails.
      ValueError: the engine is unknown.

    Example:
      >>> from jaxplain.sag import Node
      >>> one = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (Node((0,), 1.0, 1.0, 0, True),), ())
      >>> layout(one, (100, 80), (20, 40), "plain").centers
      ((50.0, 40.0),)
    """
    check_choice(engine, ("auto", "dot", "plain"), "engine")
    if engine == "dot" and shutil.which("dot") is None:
        raise RuntimeError("Graphviz's program dot is not installed; install graphviz or use engine='plain'.")
    if graph.nodes and engine != "plain" and shutil.which("dot"):
        try:
            return _dot_layout(graph, node, gap)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            if engine == "dot":
                raise RuntimeError(f"Graphviz's program dot failed: {error}") from error
    return _plain_layout(graph, node, gap)


# ---------------------------------------------------------------------------------------------------------
# Graphviz


def _dot_layout(graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float]) -> Layout:
    """Read positions from `dot -Tplain`, whose units are inches from the bottom left corner."""
    # The graphviz package offers no timeout.
    done = subprocess.run(
        ["dot", "-Tplain"],
        input=_dot_source(graph, node, gap),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    width, height = (float(side) * _POINTS for side in lines[0][2:4])
    places = {
        line[1]: (float(line[2]) * _POINTS, float(line[3]) * _POINTS) for line in lines if line[0] == "node"
    }
    if len(places) != len(graph.nodes):
        raise ValueError(f"{len(places)} of {len(graph.nodes)} nodes were placed")
    centers = tuple((places[f"n{n}"][0], height - places[f"n{n}"][1]) for n in range(len(graph.nodes)))
    return Layout(centers, width, height, "dot")


def _dot_source(graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float]) -> str:
    import graphviz

    drawing = graphviz.Digraph(
        graph_attr={"nodesep": f"{gap[0] / _POINTS:.4f}", "ranksep": f"{gap[1] / _POINTS:.4f}", "pad": "0"},
        node_attr={
            "shape": "box",
            "fixedsize": "true",
            "label": "",
            "width": f"{node[0] / _POINTS:.4f}",
            "height": f"{node[1] / _POINTS:.4f}",
        },
    )
    levels = _levels(graph)
    for members in levels:
        with drawing.subgraph() as row:
            row.attr(rank="same")
            for member in members:
                row.node(f"n{member}")
    for upper, lower in pairwise(levels):  # keeps a level that has no edges in its row
        drawing.edge(f"n{upper[0]}", f"n{lower[0]}", style="invis", weight="0")
    for edge in graph.edges:
        drawing.edge(f"n{edge.parent}", f"n{edge.child}")
    return str(drawing.source)


# ---------------------------------------------------------------------------------------------------------
# Our own layered layout


def _plain_layout(graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float]) -> Layout:
    """Order each row by barycenters, then move each node as close to its neighbors' mean as possible."""
    neighbors = _neighbors(graph)
    levels = _ordered_levels(graph, neighbors)
    step = node[0] + gap[0]
    x = {member: position * step for row in levels for position, member in enumerate(row)}
    for sweep in range(_SWEEPS):
        for row in levels if sweep % 2 else reversed(levels):
            _move_to_neighbors(row, x, neighbors, step)
    left = min(x.values(), default=0.0)
    centers = tuple(
        (x[index] - left + node[0] / 2, one.level * (node[1] + gap[1]) + node[1] / 2)
        for index, one in enumerate(graph.nodes)
    )
    width = max((center[0] for center in centers), default=0.0) + node[0] / 2
    height = max((center[1] for center in centers), default=0.0) + node[1] / 2
    return Layout(centers, width, height, "plain")


def _levels(graph: AttentionGraph) -> list[list[int]]:
    rows: dict[int, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        rows[node.level].append(index)
    return [rows[level] for level in sorted(rows)]


def _neighbors(graph: AttentionGraph) -> dict[int, list[int]]:
    neighbors: dict[int, list[int]] = defaultdict(list)
    for edge in graph.edges:
        neighbors[edge.parent].append(edge.child)
        neighbors[edge.child].append(edge.parent)
    return neighbors


def _positions(levels: list[list[int]]) -> dict[int, int]:
    return {member: position for row in levels for position, member in enumerate(row)}


def _ordered_levels(graph: AttentionGraph, neighbors: dict[int, list[int]]) -> list[list[int]]:
    """Return the members of each level from left to right, in the order with the fewest crossings found."""
    levels = _levels(graph)
    best, fewest = levels, _crossings(levels, graph)
    for sweep in range(_SWEEPS):
        levels = _sweep(levels, graph, neighbors, down=sweep % 2 == 0)
        if (count := _crossings(levels, graph)) < fewest:
            best, fewest = levels, count
    return best


def _sweep(
    levels: list[list[int]], graph: AttentionGraph, neighbors: dict[int, list[int]], down: bool
) -> list[list[int]]:
    """Sort each level by its members' barycenters in the level before it."""
    positions = _positions(levels)
    result = list(levels)

    def barycenter(member: int) -> tuple[float, int]:
        side = graph.nodes[member].level + (-1 if down else 1)
        near = [positions[other] for other in neighbors[member] if graph.nodes[other].level == side]
        return (sum(near) / len(near) if near else positions[member]), positions[member]

    for number in range(len(levels)) if down else reversed(range(len(levels))):
        result[number] = sorted(levels[number], key=barycenter)
        positions |= _positions([result[number]])
    return result


def _crossings(levels: list[list[int]], graph: AttentionGraph) -> int:
    positions = _positions(levels)
    by_level: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for edge in graph.edges:
        by_level[graph.nodes[edge.parent].level].append((positions[edge.parent], positions[edge.child]))
    return sum(
        (one[0] - two[0]) * (one[1] - two[1]) < 0
        for edges in by_level.values()
        for index, one in enumerate(edges)
        for two in edges[:index]
    )


def _move_to_neighbors(
    row: list[int], x: dict[int, float], neighbors: dict[int, list[int]], step: float
) -> None:
    """Move a row's members toward the mean of their neighbors, preserving order and minimum distance.

    Isotonic regression of the desired positions, less each member's offset in a row without gaps, is the
    nearest such row in the least-squares sense.
    """
    near = [[x[other] for other in neighbors[member]] for member in row]
    desired = [sum(xs) / len(xs) if xs else x[member] for member, xs in zip(row, near, strict=True)]
    offsets = step * np.arange(len(row))
    placed = isotonic_regression(np.array(desired) - offsets).x + offsets
    x.update(zip(row, placed.tolist(), strict=True))
