"""Attention graphs made by hand, and a photo for them."""

import math
from dataclasses import replace

import numpy as np

from jaxplain.sag import AttentionGraph, Edge, Node

GRID = (3, 3)


def attention_graph(*sets, explanations=(0,), shares=None, grid=GRID):
    """A graph of these patch sets, with an edge wherever one is another without a patch."""
    largest = max(map(len, sets), default=0)
    order = sorted(range(len(sets)), key=lambda index: largest - len(sets[index]))
    values = [0.9 - 0.2 * (largest - len(s)) for s in sets] if shares is None else shares
    nodes = tuple(
        Node(
            patches=tuple(sorted(sets[index])),
            score=0.5 * values[index],
            relative=values[index],
            level=largest - len(sets[index]),
            is_explanation=index in explanations,
        )
        for index in order
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
        explanations=(0, 1), shares=[0.95, 0.92, 0.6, 0.5, 0.3, 0.1, 0.05, 0.02],
    )  # fmt: skip


def of_no_patch():
    """The baseline alone suffices."""
    return attention_graph(set(), shares=[0.95])


def with_nan():
    """A set whose score is not finite."""
    return attention_graph({3, 4}, {3}, {4}, shares=[0.95, math.nan, 0.3])


def empty():
    return attention_graph(explanations=())


def pictures(height=60, width=80, seed=0):
    """A photo and a baseline: uint8 [H, W, 3], coarse enough to survive JPEG."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (5, 4, 3), np.uint8)
    pixels = np.kron(blocks, np.ones((height // 5, width // 4, 1), np.uint8))
    return pixels, np.full((height, width, 3), 40, np.uint8)
