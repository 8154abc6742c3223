"""Analysis of explanations: diverse subsets, statistics over images, and counterfactuals."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxplain.checks import check_int_from
from jaxplain.explanation import Status
from jaxplain.sag.graph import AttentionGraph, Node, check_single
from jaxplain.sag.search import SearchResult

OVERLAPS = (0, 1, 2)  # maximum numbers of patches that two explanations may share
LEVELS = (0.8, 0.7, 0.6, 0.5)  # fractions of the image's score

# ---------------------------------------------------------------------------------------------------------
# Diverse subsets


class DiverseSubset(NamedTuple):
    """Explanations that pairwise share at most `max_overlap` patches."""

    result: SearchResult  # the input, with only the chosen rows marked as valid
    chosen: np.ndarray  # bool [R]
    exact: bool  # whether the subset is proved optimal; False if the time limit was reached first


def diverse_subset(result: SearchResult, max_overlap: int = 1, *, time_limit: float = 20.0) -> DiverseSubset:
    """Choose the largest set of explanations that pairwise share at most `max_overlap` patches.

    If several sets are equally large, the one with the highest total score is chosen. The problem is solved
    exactly, as an integer linear program (HiGHS, through SciPy) with one constraint for each combination of
    `max_overlap + 1` shared patches: at most one explanation that contains all of them may be chosen. Runs on
    the host.

    Args:
      result: search result for one image, from `search`.
      max_overlap: maximum number of patches that two explanations may share; 0, 1 or 2 in the paper.
      time_limit: time limit in seconds; once reached, the best subset so far is returned, with `exact` False.

    Raises:
      TypeError, ValueError: if `result` contains several images, or `max_overlap` is not a non-negative
        integer.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, black = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: jnp.maximum(images[:, 0, 0, 0], images[:, 7, 7, 0] * images[:, 0, 7, 0])
      >>> result = jx.sag.search(corners, image, black, grid=2, beam_width=8)
      >>> len(jx.sag.diverse_subset(result, max_overlap=0).result)
      2
    """
    check_single(result)
    overlap = check_int_from(0, max_overlap, "max_overlap")
    rows = np.flatnonzero(np.asarray(result.valid))
    conflicts = _conflicts(np.asarray(result.explanations)[rows], overlap)
    picked, exact = _largest_compatible(conflicts, np.asarray(result.scores)[rows], time_limit)
    chosen = np.zeros(len(result.valid), bool)
    chosen[rows[picked]] = True
    return DiverseSubset(replace(result, valid=jnp.asarray(chosen)), chosen, exact)


def _conflicts(sets: np.ndarray, max_overlap: int) -> list[tuple[int, ...]]:
    """Return groups of sets that share `max_overlap + 1` patches, so that only one per group can be chosen.

    Pairwise constraints on the sets [R, P] would suffice, but group constraints are easier to solve.
    """
    overlap = sets.astype(int) @ sets.T.astype(int)
    shared = {
        tuple(np.flatnonzero(sets[first] & sets[second])[: max_overlap + 1])
        for first, second in combinations(range(len(sets)), 2)
        if overlap[first, second] > max_overlap
    }
    return sorted({tuple(np.flatnonzero(sets[:, list(patches)].all(axis=1)).tolist()) for patches in shared})


def _largest_compatible(
    groups: list[tuple[int, ...]], scores: np.ndarray, time_limit: float
) -> tuple[np.ndarray, bool]:
    """Return the indices of the chosen sets and whether the choice is proved optimal."""
    count = len(scores)
    if not groups:
        return np.arange(count), True
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes a third of a second to import

    rows = np.zeros((len(groups), count))
    for row, group in zip(rows, groups, strict=True):
        row[list(group)] = 1
    at_most_one = LinearConstraint(rows, ub=1)
    # The scores are scaled to sum to less than 1, so they only break ties between subsets of equal size.
    values = np.where(np.isfinite(scores), scores, 0.0)
    tie_break = (values - values.min()) / max(np.ptp(values), 1e-12) / (2 * count)
    solution = milp(
        -(1 + tie_break),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=at_most_one,
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    if solution.x is None:
        return np.array([int(np.argmax(values))]), False
    return np.flatnonzero(solution.x > 0.5), solution.status == 0


# ---------------------------------------------------------------------------------------------------------
# Statistics over images


@dataclass(frozen=True)
class Summary:
    """Explanation counts for one image."""

    status: str
    patches: int  # in the grid
    sizes: tuple[int, ...]  # patches per explanation, ascending
    diverse: tuple[int, ...]  # maximum number of explanations that pairwise share at most 0, 1, 2 patches
    sub_explanations: (
        tuple[int, ...] | None
    )  # number of subsets above .8, .7, .6, .5 of the image's score; None if not counted
    exact: bool = True  # whether the diverse subsets are proved optimal
    complete: bool = True  # whether all sub-explanations are counted (graph not truncated or pruned)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as JSON-compatible types, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> "Summary":
        """Restore a summary from the output of `to_dict`.

        Raises:
          ValueError: if `read` is not an output of `to_dict`.
        """
        try:
            subs = read["sub_explanations"]
            counts = {"sizes": tuple(read["sizes"]), "diverse": tuple(read["diverse"])}
            return cls(**(dict(read) | counts | {"sub_explanations": None if subs is None else tuple(subs)}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a valid summary of an image's explanations: {error}") from error


@dataclass(frozen=True)
class Statistics:
    """Explanation statistics over N images with P patches each; means are over all N images.

    They can be used to compare classifiers. A *compositional* classifier needs many parts at once: its score
    falls gradually as patches are removed, so there are many sub-explanations. For a *disjunctive*
    classifier, any one of several parts is sufficient: there are many explanations but few sub-explanations.
    """

    images: int  # N
    explained: np.ndarray  # [P + 1], fraction of images with an explanation of at most k = 0..P patches
    explanations: float  # mean number of explanations found
    sizes: np.ndarray  # int [P + 1], number of explanations with k patches
    diverse: tuple[float, ...]  # mean number of explanations that pairwise share at most 0, 1, 2 patches
    sub_explanations: tuple[float, ...]  # mean number above .8, .7, .6, .5; NaN if never counted
    statuses: dict[str, int]  # number of images per search status
    incomplete: int  # number of images whose counts are lower bounds (incomplete graph or time limit)

    @property
    def mean_size(self) -> float:
        """Mean number of patches per explanation, over all images; NaN if there are no explanations."""
        total = int(self.sizes.sum())
        return float(self.sizes @ np.arange(len(self.sizes)) / total) if total else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics as JSON-compatible types, with NaN replaced by None."""
        means = {name: [_or_none(v) for v in getattr(self, name)] for name in ("diverse", "sub_explanations")}
        arrays = {"explained": self.explained.tolist(), "sizes": self.sizes.tolist()}
        return asdict(self) | arrays | means | {"mean_size": _or_none(self.mean_size)}


def summarize(result: SearchResult, graph: AttentionGraph | None = None) -> Summary:
    """Count the explanations and sub-explanations of one image.

    Args:
      result: search result for one image, from `search`.
      graph: attention graph of the explanations; its other nodes are counted as sub-explanations. Its
        `expand_above` must be at most .5; otherwise, the counts would be too low. If None, sub-explanations
        are not counted.

    Raises:
      ValueError: if the graph's `expand_above` is too large, or `result` contains several images.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, black = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: (images[:, 7, 7, 0] + 2 * images[:, 0, 7, 0]) / 3
      >>> result = jx.sag.search(corners, image, black, grid=2, beam_width=8)
      >>> summary = jx.sag.summarize(result, jx.sag.graph(corners, image, black, result))
      >>> summary.sizes, summary.diverse, summary.sub_explanations
      ((2,), (1, 1, 1), (0, 0, 1, 1))
    """
    subsets = [diverse_subset(result, overlap) for overlap in OVERLAPS]
    return Summary(
        status=Status(int(result.status)).name.lower(),
        patches=result.explanations.shape[-1],
        sizes=tuple(sorted(np.asarray(result.sizes)[np.asarray(result.valid)].tolist())),
        diverse=tuple(int(subset.chosen.sum()) for subset in subsets),
        sub_explanations=None if graph is None else _sub_explanations(graph),
        exact=all(subset.exact for subset in subsets),
        complete=graph is None or not (graph.truncated or graph.max_children is not None),
    )


def _sub_explanations(graph: AttentionGraph) -> tuple[int, ...]:
    if graph.expand_above > min(LEVELS):
        raise ValueError(
            f"counting sub-explanations requires a graph with expand_above at most {min(LEVELS)}, "
            f"got {graph.expand_above}."
        )
    relative = [node.relative for node in graph.nodes if not node.is_explanation]
    return tuple(sum(value > level for value in relative) for level in LEVELS)


def statistics(summaries: Iterable[Summary]) -> Statistics:
    """Compute statistics over the summaries of many images.

    Args:
      summaries: one summary per image, all with the same grid; see `summarize`.

    Raises:
      ValueError: if there are no summaries, or their grids differ.

    References:
      Jiang, Khorram, Fuxin. Comparing the Decision-Making Mechanisms by Transformers and CNNs via Explanation
      Methods. CVPR 2024.

    Example:
      >>> one = Summary("ok", 4, sizes=(1, 2), diverse=(2, 2, 2), sub_explanations=(1, 1, 1, 1))
      >>> two = Summary("none_found", 4, sizes=(), diverse=(0, 0, 0), sub_explanations=(0, 0, 0, 0))
      >>> statistics([one, two]).explained.tolist()
      [0.0, 0.5, 0.5, 0.5, 0.5]
    """
    images = list(summaries)
    grids = {image.patches for image in images}
    if not images:
        raise ValueError("statistics require at least one image, got none.")
    if len(grids) > 1:
        raise ValueError(f"all images must have the same grid, got grids of {sorted(grids)} patches.")
    patches = grids.pop()
    smallest = np.array([min(image.sizes, default=patches + 1) for image in images])
    sizes = [size for image in images for size in image.sizes]
    counted = [image.sub_explanations for image in images if image.sub_explanations is not None]
    return Statistics(
        images=len(images),
        explained=(smallest[:, None] <= np.arange(patches + 1)).mean(axis=0),
        explanations=len(sizes) / len(images),
        sizes=np.bincount(sizes, minlength=patches + 1),
        diverse=_means([image.diverse for image in images], len(OVERLAPS)),
        sub_explanations=_means(counted, len(LEVELS)),
        statuses=dict(Counter(image.status for image in images)),
        incomplete=sum(not (image.exact and image.complete) for image in images),
    )


def _means(rows: list[tuple[int, ...]], columns: int) -> tuple[float, ...]:
    return tuple(np.mean(rows, axis=0).tolist()) if rows else (float("nan"),) * columns


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


# ---------------------------------------------------------------------------------------------------------
# Counterfactuals. In the paper's user study, participants were given an explanation and asked which of two
# occluded versions of an image scores higher. Here, the answer is computed from the graph.


class Support(NamedTuple):
    """Estimated score of an image if only some patches are shown; supports are compared as tuples."""

    best: float  # fraction of the image's score retained by the best explanation
    mean: float  # mean over the explanations; breaks ties in `best`


def support(graph: AttentionGraph, shown: Iterable[int]) -> Support:
    """Estimate the fraction of the image's score that remains if only these patches are shown.

    The estimate uses only the graph. Each explanation retains the score recorded for its visible patches. If
    the graph does not contain that set, each missing patch reduces the explanation's score by the factor
    measured when that patch alone is removed. No explanation retains less than the baseline's score.

    Args:
      graph: the image's attention graph.
      shown: indices of the shown patches.

    Returns:
      Fractions of the image's score.

    Example:
      >>> from jaxplain.sag import Edge, Node
      >>> nodes = (Node((1, 2), 0.9, 0.9, 0, True), Node((1,), 0.6, 0.6, 1, False))
      >>> graph = AttentionGraph((2, 2), 1.0, 0.1, 0.9, 0.4, nodes, (Edge(0, 1, 2, 0.3),))
      >>> support(graph, [1, 2, 3]).best, support(graph, [0, 1]).best, support(graph, [3]).best
      (0.9, 0.6, 0.1)
    """
    visible = frozenset(shown)
    floor = graph.baseline_score / graph.image_score
    retained = [max(floor, _retained(graph, node, visible)) for node in graph.explanations]
    return Support(max(retained), sum(retained) / len(retained)) if retained else Support(floor, floor)


def _retained(graph: AttentionGraph, explanation: Node, visible: frozenset[int]) -> float:
    """Return the fraction of the image's score that an explanation's visible patches retain."""
    measured = graph.find(visible.intersection(explanation.patches))
    if measured is not None and not math.isnan(measured.relative):
        return measured.relative
    missing = set(explanation.patches) - visible
    factors = (_without(graph, explanation, patch) for patch in missing)
    return math.prod(factors, start=explanation.relative)


def _without(graph: AttentionGraph, explanation: Node, patch: int) -> float:
    """Return the fraction of an explanation's score that remains without a patch, or 0 if not measured."""
    child = graph.find(set(explanation.patches) - {patch})
    left = 0.0 if child is None else child.relative / explanation.relative
    return min(1.0, max(0.0, left))


def which_scores_higher(graph: AttentionGraph, first: Iterable[int], second: Iterable[int]) -> int:
    """Predict from the graph which of two sets of shown patches scores higher; see `support`.

    Returns:
      1 for the first, -1 for the second, or 0 if the graph does not distinguish between them.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021 (the user study).
    """
    one, two = support(graph, first), support(graph, second)
    return (one > two) - (one < two)
