"""Comparative counterfactuals: what a graph says of the image with other patches hidden.

The paper asked people which of two occluded versions of an image scores higher, given an explanation. Here
the graph answers by itself.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from jaxplain.sag.attention_graph import AttentionGraph, Node


class Support(NamedTuple):
    """What a graph says of a set of shown patches. As tuples they compare as the graph ranks the sets."""

    best: float  # share of the image's score that the best of the roots keeps
    mean: float  # mean over the roots; decides where `best` is equal


def support(graph: AttentionGraph, shown: Iterable[int]) -> Support:
    """How convincing the image should be with only these patches shown, read from the graph.

    A root keeps what the graph measured for those of its patches that are shown. Where it did not measure
    that, each missing patch takes the share that it takes from the root by itself. Nothing keeps less than
    the baseline.

    Args:
      graph: of the image.
      shown: patch numbers.

    Returns:
      Shares of the image's score.

    Example:
      >>> from jaxplain.sag import Edge, Node
      >>> nodes = (Node((1, 2), 0.9, 0.9, 0, True), Node((1,), 0.6, 0.6, 1, False))
      >>> graph = AttentionGraph((2, 2), 1.0, 0.1, 0.9, 0.4, nodes, (Edge(0, 1, 2, 0.3),))
      >>> support(graph, [1, 2, 3]).best, support(graph, [0, 1]).best, support(graph, [3]).best
      (0.9, 0.6, 0.1)
    """
    visible = frozenset(shown)
    floor = graph.baseline_score / graph.image_score
    kept = [max(floor, _kept(graph, root, visible)) for root in graph.roots]
    return Support(max(kept), sum(kept) / len(kept)) if kept else Support(floor, floor)


def _kept(graph: AttentionGraph, root: Node, visible: frozenset[int]) -> float:
    """Share of the image's score that a root keeps."""
    measured = graph.find(visible.intersection(root.patches))
    if measured is not None and not math.isnan(measured.relative):
        return measured.relative
    missing = set(root.patches) - visible
    return math.prod((_left(graph, root, patch) for patch in missing), start=root.relative)


def _left(graph: AttentionGraph, root: Node, patch: int) -> float:
    """What is left of a root without one patch, as a share of the root; 0 where the graph does not say."""
    child = graph.find(set(root.patches) - {patch})
    left = 0.0 if child is None else child.relative / root.relative
    return min(1.0, max(0.0, left))


def which_scores_higher(graph: AttentionGraph, first: Iterable[int], second: Iterable[int]) -> int:
    """Which of two sets of shown patches the graph expects to score higher; see `support`.

    Returns:
      1 for the first, -1 for the second, 0 where the graph cannot tell.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021 (the user study).
    """
    one, two = support(graph, first), support(graph, second)
    return (one > two) - (one < two)
