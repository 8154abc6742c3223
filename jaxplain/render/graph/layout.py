"""Where the nodes of an attention graph are drawn: one row a level, few crossing edges."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from itertools import pairwise
from typing import Literal, NamedTuple

from jaxplain.sag import AttentionGraph

Engine = Literal["auto", "dot", "plain"]
_SWEEPS = 8  # down and up again; more change little in graphs of this size
_TIMEOUT = 20.0  # seconds that Graphviz may take
_POINTS = 72.0  # a Graphviz inch


class Layout(NamedTuple):
    """Centres of the nodes, from the top left corner, and the room that all take."""

    centers: tuple[tuple[float, float], ...]  # of each node, (x, y) in pixels
    width: float
    height: float
    engine: str  # "dot" or "plain"


def layout(
    graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float], engine: Engine = "auto"
) -> Layout:
    """Place the nodes of a graph, a level a row.

    Args:
        graph: to be drawn.
        node: ``(width, height)`` of a node in pixels.
        gap: ``(between nodes, between rows)`` in pixels, at least.
        engine: "dot" for Graphviz, "plain" for our own layered layout (barycentres), "auto" for the first
            where its program is installed and works.

    Returns:
        A `Layout`; the same for the same graph.

    Raises:
        RuntimeError: "dot" is asked for and is not installed or fails.
        ValueError: unknown engine.

    Example:
        >>> from jaxplain.sag import Node
        >>> one = AttentionGraph((1, 1), 1.0, 0.0, 0.9, 0.4, (Node((0,), 1.0, 1.0, 0, True),), ())
        >>> layout(one, (100, 80), (20, 40), "plain").centers
        ((50.0, 40.0),)
    """
    if engine not in ("auto", "dot", "plain"):
        raise ValueError(f"engine must be 'auto', 'dot' or 'plain', got {engine!r}")
    if engine == "dot" and shutil.which("dot") is None:
        raise RuntimeError("Graphviz's program dot is not installed; install graphviz or take engine='plain'")
    if graph.nodes and engine != "plain" and shutil.which("dot"):
        try:
            return _by_graphviz(graph, node, gap)
        except (subprocess.SubprocessError, OSError, ValueError) as error:
            if engine == "dot":
                raise RuntimeError(f"Graphviz's program dot failed: {error}") from error
    return _plain(graph, node, gap)


# ---------------------------------------------------------------------------------------------------------
# Graphviz


def _by_graphviz(graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float]) -> Layout:
    """Positions from `dot -Tplain`, whose units are inches from the bottom left corner."""
    # Through the package the program could not be stopped where it takes too long.
    done = subprocess.run(
        ["dot", "-Tplain"],
        input=_source(graph, node, gap),
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    width, height = (float(side) * _POINTS for side in lines[0][2:4])
    at = {
        line[1]: (float(line[2]) * _POINTS, float(line[3]) * _POINTS) for line in lines if line[0] == "node"
    }
    if len(at) != len(graph.nodes):
        raise ValueError(f"{len(at)} of {len(graph.nodes)} nodes were placed")
    centers = tuple((at[f"n{n}"][0], height - at[f"n{n}"][1]) for n in range(len(graph.nodes)))
    return Layout(centers, width, height, "dot")


def _source(graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float]) -> str:
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
    for upper, lower in pairwise(levels):  # a level without edges stays in its row
        drawing.edge(f"n{upper[0]}", f"n{lower[0]}", style="invis", weight="0")
    for edge in graph.edges:
        drawing.edge(f"n{edge.parent}", f"n{edge.child}")
    return str(drawing.source)


# ---------------------------------------------------------------------------------------------------------
# Our own


def _plain(graph: AttentionGraph, node: tuple[float, float], gap: tuple[float, float]) -> Layout:
    """Rows in the order of barycentres; each node as near its neighbours' mean as the row allows."""
    levels = _ordered(graph)
    near = _neighbours(graph)
    step = node[0] + gap[0]
    x = {member: at * step for row in levels for at, member in enumerate(row)}
    for sweep in range(_SWEEPS):
        for row in levels if sweep % 2 else reversed(levels):
            _pull(row, x, near, step)
    left = min(x.values(), default=0.0)
    centers = tuple(
        (x[at] - left + node[0] / 2, one.level * (node[1] + gap[1]) + node[1] / 2)
        for at, one in enumerate(graph.nodes)
    )
    width = max((place[0] for place in centers), default=0.0) + node[0] / 2
    height = max((place[1] for place in centers), default=0.0) + node[1] / 2
    return Layout(centers, width, height, "plain")


def _levels(graph: AttentionGraph) -> list[list[int]]:
    rows: dict[int, list[int]] = defaultdict(list)
    for at, node in enumerate(graph.nodes):
        rows[node.level].append(at)
    return [rows[level] for level in sorted(rows)]


def _neighbours(graph: AttentionGraph) -> dict[int, list[int]]:
    near: dict[int, list[int]] = defaultdict(list)
    for edge in graph.edges:
        near[edge.parent].append(edge.child)
        near[edge.child].append(edge.parent)
    return near


def _ordered(graph: AttentionGraph) -> list[list[int]]:
    """Members of each level from left to right: the order of fewest crossings among those of the sweeps."""
    levels, near = _levels(graph), _neighbours(graph)
    best, fewest = levels, _crossings(levels, graph)
    for sweep in range(_SWEEPS):
        levels = _sweep(levels, graph, near, down=sweep % 2 == 0)
        if (count := _crossings(levels, graph)) < fewest:
            best, fewest = levels, count
    return best


def _sweep(
    levels: list[list[int]], graph: AttentionGraph, near: dict[int, list[int]], down: bool
) -> list[list[int]]:
    """Each level in the order of its members' barycentres in the level before it."""
    place = {member: at for row in levels for at, member in enumerate(row)}
    result = list(levels)

    def barycentre(member: int) -> tuple[float, int]:
        side = graph.nodes[member].level + (-1 if down else 1)
        seen = [place[other] for other in near[member] if graph.nodes[other].level == side]
        return (sum(seen) / len(seen) if seen else place[member]), place[member]

    for number in range(len(levels)) if down else reversed(range(len(levels))):
        result[number] = sorted(levels[number], key=barycentre)
        place |= {member: at for at, member in enumerate(result[number])}
    return result


def _crossings(levels: list[list[int]], graph: AttentionGraph) -> int:
    place = {member: at for row in levels for at, member in enumerate(row)}
    by_level: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for edge in graph.edges:
        by_level[graph.nodes[edge.parent].level].append((place[edge.parent], place[edge.child]))
    return sum(
        (one[0] - two[0]) * (one[1] - two[1]) < 0
        for edges in by_level.values()
        for at, one in enumerate(edges)
        for two in edges[:at]
    )


def _pull(row: list[int], x: dict[int, float], near: dict[int, list[int]], step: float) -> None:
    """Move the members of a row towards their neighbours, keeping order and distance.

    Members that would overlap form blocks; a block stands where its members' wishes balance.
    """
    blocks: list[list[float]] = []  # sum of the wishes of its members less their offset, number of members
    for member in row:
        seen = [x[other] for other in near[member]]
        blocks.append([sum(seen) / len(seen) if seen else x[member], 1])
        while len(blocks) > 1 and _start(blocks[-1]) < _start(blocks[-2]) + step * blocks[-2][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total - count * step * blocks[-1][1]
            blocks[-1][1] += count
    members = iter(row)
    for block in blocks:
        for offset in range(int(block[1])):
            x[next(members)] = _start(block) + offset * step


def _start(block: list[float]) -> float:
    return block[0] / block[1]
