"""Attention graphs made by hand, and a photo for them."""

import math
from dataclasses import replace

import numpy as np

from jaxplain.sag import AttentionGraph, Edge, Node

GRID = (3, 3)


def attention_graph(*sets, roots=(0,), shares=None, grid=GRID):
    """A graph of these patch sets, with an edge wherever one is another without a patch."""
    largest = max(map(len, sets), default=0)
    order = sorted(range(len(sets)), key=lambda at: largest - len(sets[at]))
    values = [0.9 - 0.2 * (largest - len(s)) for s in sets] if shares is None else shares
    nodes = tuple(
        Node(tuple(sorted(sets[at])), 0.5 * values[at], values[at], largest - len(sets[at]), at in roots)
        for at in order
    )
    edges = tuple(
        Edge(a, b, *(set(one.patches) - set(two.patches)), drop=one.score - two.score)
        for a, one in enumerate(nodes)
        for b, two in enumerate(nodes)
        if len(one.patches) == len(two.patches) + 1 and set(two.patches) < set(one.patches)
    )
    return AttentionGraph(grid, 0.5, 0.01, 0.9, 0.4, nodes, edges)


def replace_edges(graph, edges):
    return replace(graph, edges=tuple(edges))


def usual():
    """Two explanations of three levels that share a sub-explanation."""
    return attention_graph(
        {0, 1, 4}, {1, 4, 8}, {0, 1}, {1, 4}, {4, 8}, {0, 4}, {1}, {4},
        roots=(0, 1), shares=[0.95, 0.92, 0.6, 0.5, 0.3, 0.1, 0.05, 0.02],
    )  # fmt: skip


def of_no_patch():
    """The baseline alone suffices."""
    return attention_graph(set(), shares=[0.95])


def with_nan():
    """A set whose score is not finite."""
    return attention_graph({3, 4}, {3}, {4}, shares=[0.95, math.nan, 0.3])


def empty():
    return attention_graph(roots=())


def pictures(height=60, width=80, seed=0):
    """A photo and what hides it: uint8 [H, W, 3], coarse enough to survive JPEG."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (5, 4, 3), np.uint8)
    rgb = np.kron(blocks, np.ones((height // 5, width // 4, 1), np.uint8))
    return rgb, np.full((height, width, 3), 40, np.uint8)
