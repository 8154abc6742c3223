"""Comparative counterfactuals: what a graph says of the image with other patches hidden.

The paper asked people which of two occluded versions of an image scores higher, given an explanation. Here
the graph answers by itself.
"""

from collections.abc import Iterable
from typing import NamedTuple

from jaxplain.sag.attention_graph import AttentionGraph, Node


class Support(NamedTuple):
    """What a graph says of a set of shown patches; compares as the graph ranks sets."""

    best: float  # share of the image's score, of the best set of the graph that is wholly shown
    mean: float  # the same from below each root alone, mean over roots: decides where `best` is equal


def support(graph: AttentionGraph, shown: Iterable[int]) -> Support:
    """How convincing the image is with only these patches shown, read from the graph.

    Args:
      graph: of the image.
      shown: patch numbers.

    Returns:
      Shares of the image's score. The baseline's where no set of the graph is wholly shown.

    Example:
      >>> from jaxplain.sag import Edge, Node
      >>> nodes = (Node((1, 2), 0.9, 0.9, 0, True), Node((1,), 0.5, 0.5, 1, False))
      >>> graph = AttentionGraph((2, 2), 1.0, 0.1, 0.9, 0.4, nodes, (Edge(0, 1, 2, 0.4),))
      >>> support(graph, [1, 2, 3]).best, support(graph, [0, 1]).best, support(graph, [3]).best
      (0.9, 0.5, 0.1)
    """
    visible = frozenset(shown)
    floor = graph.baseline_score / graph.image_score
    standing = [node for node in graph.nodes if visible.issuperset(node.patches) and node.relative > floor]
    roots = [_best(standing, frozenset(root.patches), floor) for root in graph.roots]
    mean = sum(roots) / len(roots) if roots else floor
    return Support(max((node.relative for node in standing), default=floor), mean)


def _best(standing: list[Node], root: frozenset[int], floor: float) -> float:
    return max((node.relative for node in standing if root.issuperset(node.patches)), default=floor)


def which_scores_higher(graph: AttentionGraph, first: Iterable[int], second: Iterable[int]) -> int:
    """Which of two sets of shown patches the graph expects to score higher.

    Returns:
      1 for the first, -1 for the second, 0 where the graph cannot tell.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021 (the user study).
    """
    one, two = support(graph, first), support(graph, second)
    return (one > two) - (one < two)
