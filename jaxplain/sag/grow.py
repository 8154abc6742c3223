"""Growing an attention graph: how the score falls as patches are removed from explanations."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import check_positive_int
from jaxplain.sag.attention_graph import AttentionGraph, Edge, Node, PatchSet
from jaxplain.sag.patches import Scene, check_scene, show
from jaxplain.sag.sets import SufficientSets

_CHUNK = 64  # sets scored by one call of the compiled program, whatever their number
Scores = dict[PatchSet, float]


def graph(
    score: scores.Score,
    image: Array,
    baseline: Array,
    roots: SufficientSets,
    *,
    expand_above: float = 0.4,
    max_children: int | None = None,
    max_nodes: int = 1000,
    batch_size: int | None = None,
) -> AttentionGraph:
    """The attention graph below explanations: what remains convincing when patches are taken away.

    A node is expanded while its score is above `expand_above` of the image's: its children lack one patch
    each. All new nodes of a level are scored as one batch. Runs on the host around one compiled program for
    all graphs of an image size and a grid.

    Args:
      score: images [N, H, W, C] -> [N], as for `search`.
      image: [H, W, C], model space.
      baseline: [H, W, C].
      roots: what `search` or `diverse_subset` returned for them.
      expand_above: share of the image's score.
      max_children: keep only so many children of each node, those of largest drop; None keeps all.
      max_nodes: at which the graph ends, `truncated`.
      batch_size: images per model call; None chooses by platform.

    Raises:
      ValueError, TypeError: shapes or options that do not fit, several images' roots, or a score of the image
        that is not above zero.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, hidden = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: (images[:, 7, 7, 0] + images[:, 0, 7, 0]) / 2
      >>> roots = jx.sag.search(corners, image, hidden, grid=2, beam_width=8)
      >>> found = jx.sag.graph(corners, image, hidden, roots)
      >>> found.logic_form(), [round(node.relative, 2) for node in found.nodes]
      ('(P1 & P3)', [1.0, 0.5, 0.5, 0.0])
    """
    check_scene(image, baseline, roots.grid)
    if roots.sets.ndim != 2:
        raise ValueError(f"roots must be of one image, sets [R, P], got {roots.sets.shape}.")
    if not 0 <= expand_above <= 1:
        raise ValueError(f"expand_above must be in [0, 1], got {expand_above}.")
    if max_children is not None:
        check_positive_int(max_children, "max_children")
    check_positive_int(max_nodes, "max_nodes")
    image_score = float(roots.image_score)
    if len(roots) and not image_score > 0:
        raise ValueError(
            f"the score of the image must be above zero, got {image_score}; choose another target, or "
            'kind="probability".'
        )
    chunk = partial(
        _score_chunk,
        scores.as_pytree(score),
        Scene(image, baseline),
        grid=roots.grid,
        batch_size=batch_size,
    )
    limits = _Limits(expand_above * image_score, max_children, max_nodes)
    grown = _grow(partial(_score_all, chunk, roots.sets.shape[1]), _root_scores(roots), limits)
    return _assemble(grown, roots, expand_above, max_children)


def _root_scores(roots: SufficientSets) -> Scores:
    valid = np.asarray(roots.valid)
    sets, values = np.asarray(roots.sets)[valid], np.asarray(roots.scores)[valid]
    return {
        frozenset(np.flatnonzero(s).tolist()): float(value) for s, value in zip(sets, values, strict=True)
    }


@dataclass(frozen=True)
class _Limits:
    """Where a graph ends."""

    expand_above: float  # score
    max_children: int | None
    max_nodes: int


@dataclass
class _Grown:
    """A graph under construction."""

    scores: Scores  # of its nodes
    parents: list[tuple[PatchSet, int]]  # edges: the set, the patch that is removed
    truncated: bool = False


def _grow(score_all: Callable[[list[PatchSet]], Scores], roots: Scores, limits: _Limits) -> _Grown:
    """From the largest sets down, a size at a time."""
    grown = _Grown(dict(roots), [])
    known = dict(roots)  # also of children that are not kept
    for size in range(max(map(len, roots), default=0), 0, -1):
        wide = [s for s, value in grown.scores.items() if len(s) == size and value > limits.expand_above]
        missing = {s - {patch} for s in wide for patch in s} - known.keys()
        if len(grown.scores) + len(missing) > limits.max_nodes:
            grown.truncated = True
            break
        known |= score_all(sorted(missing, key=sorted))
        for s in wide:
            for patch in _kept(s, known, limits.max_children):
                grown.parents.append((s, patch))
                grown.scores[s - {patch}] = known[s - {patch}]
    return grown


def _kept(s: PatchSet, known: Scores, max_children: int | None) -> list[int]:
    """Patches whose removal makes a child, largest drop first."""
    return sorted(s, key=lambda patch: (_or_last(known[s - {patch}]), patch))[:max_children]


def _or_last(value: float) -> float:
    """NaN has no order; here it comes last."""
    return math.inf if math.isnan(value) else value


def _score_all(chunk: Callable[[Array, Array], Array], patches: int, sets: list[PatchSet]) -> Scores:
    """Scores of sets, `_CHUNK` at a time through the compiled program."""
    found: Scores = {}
    for start in range(0, len(sets), _CHUNK):
        part = sets[start : start + _CHUNK]
        rows = np.zeros((_CHUNK, patches), bool)
        for row, s in zip(rows, part, strict=False):
            row[list(s)] = True
        values = np.asarray(chunk(jnp.asarray(rows), jnp.arange(_CHUNK) < len(part)))
        found |= zip(part, (float(v) if np.isfinite(v) else math.nan for v in values), strict=False)
    return found


@partial(jax.jit, static_argnames=("grid", "batch_size"))
def _score_chunk(
    score: scores.Score,
    scene: Scene,
    sets: Array,
    live: Array,
    *,
    grid: tuple[int, int],
    batch_size: int | None,
) -> Array:
    def draw(_: tuple, scene: Scene, patches: Array) -> Array:
        return show(scene, patches, grid)

    return funnel.evaluate(score, draw, (), scene, sets, live=live, batch_size=batch_size)


def _assemble(
    grown: _Grown, roots: SufficientSets, expand_above: float, max_children: int | None
) -> AttentionGraph:
    image_score, explanations = float(roots.image_score), _root_scores(roots)
    largest = max(map(len, explanations), default=0)
    ordered = sorted(
        grown.scores.items(), key=lambda item: (-len(item[0]), _or_last(-item[1]), sorted(item[0]))
    )
    position = {s: at for at, (s, _) in enumerate(ordered)}
    nodes = tuple(
        Node(tuple(sorted(s)), value, value / image_score, largest - len(s), s in explanations)
        for s, value in ordered
    )
    return AttentionGraph(
        grid=roots.grid,
        image_score=image_score,
        baseline_score=float(roots.baseline_score),
        threshold=float(roots.threshold),
        expand_above=expand_above,
        nodes=nodes,
        edges=tuple(_edges(grown, position)),
        truncated=grown.truncated,
        max_children=max_children,
    )


def _edges(grown: _Grown, position: dict[PatchSet, int]) -> Iterator[Edge]:
    for s, patch in sorted(grown.parents, key=lambda edge: (position[edge[0]], edge[1])):
        child = s - {patch}
        yield Edge(position[s], position[child], patch, grown.scores[s] - grown.scores[child])
