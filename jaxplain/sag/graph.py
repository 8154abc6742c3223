"""Structured attention graphs: how the score falls as patches are removed from explanations."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import as_grid, as_image, as_number, check_batch_size, check_positive_int
from jaxplain.perturb import as_baseline
from jaxplain.sag import scoring
from jaxplain.sag.patches import Scene
from jaxplain.sag.search import SearchResult
from jaxplain.scores import Score, as_pytree

FORMAT = "jaxplain attention graph 2"  # format of the JSON
_FORMAT_1 = "jaxplain attention graph 1"  # `Node.is_explanation` was named `is_root`
_CHUNK = 64  # sets per call to the compiled program; smaller batches are padded

PatchSet = frozenset[int]
_Scores = dict[PatchSet, float]


@dataclass(frozen=True)
class Node:
    """A node of the graph: a set of patches."""

    patches: tuple[int, ...]  # zero-based indices in row-major order, ascending
    score: float  # NaN if the model's score was not finite
    relative: float  # fraction of the image's score
    level: int  # number of patches in the largest explanation minus number of patches in this set
    is_explanation: bool  # whether the set is a minimal sufficient explanation


@dataclass(frozen=True)
class Edge:
    """An edge from a patch set to the same set with one patch removed."""

    parent: int  # index into `nodes`
    child: int  # index into `nodes`
    patch: int  # the patch removed
    drop: float  # the parent's score minus the child's


@dataclass(frozen=True)
class AttentionGraph:
    """A structured attention graph, which starts from explanations and removes one patch per edge.

    Equal sets share a node, so the graph is acyclic but not a tree. It is plain host data, without pixels.
    """

    grid: tuple[int, int]  # rows and columns of patches
    image_score: float
    baseline_score: float
    threshold: float  # fraction of the image's score that is sufficient
    expand_above: float  # nodes above this fraction of the image's score have children
    nodes: tuple[Node, ...]  # sorted by level, then by descending score
    edges: tuple[Edge, ...]
    truncated: bool = False  # whether max_nodes was reached, so that the lower levels are missing
    max_children: int | None = None  # number of children retained per node; None if all are retained
    _positions: Mapping[PatchSet, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the nodes by their patches."""
        positions = {frozenset(node.patches): index for index, node in enumerate(self.nodes)}
        object.__setattr__(self, "_positions", positions)

    @property
    def explanations(self) -> tuple[Node, ...]:
        """The minimal sufficient explanations, in the same order as in `nodes`."""
        return tuple(node for node in self.nodes if node.is_explanation)

    def find(self, patches: Iterable[int]) -> Node | None:
        """Return the node for a patch set, or None if the set is not in the graph."""
        index = self._positions.get(frozenset(patches))
        return None if index is None else self.nodes[index]

    def pruned(self, max_children: int) -> "AttentionGraph":
        """Return a graph that retains at most `max_children` children per node, with the largest drops."""
        retained: dict[int, list[Edge]] = {}  # by parent
        for edge in sorted(self.edges, key=lambda edge: (math.isnan(edge.drop), -edge.drop)):
            if len(siblings := retained.setdefault(edge.parent, [])) < max_children:
                siblings.append(edge)
        reached = {index for index, node in enumerate(self.nodes) if node.is_explanation}
        for index in range(len(self.nodes)):  # by level, so parents come first
            if index in reached:
                reached.update(edge.child for edge in retained.get(index, ()))
        new_index = {old: new for new, old in enumerate(sorted(reached))}
        edges = (
            replace(edge, parent=new_index[old], child=new_index[edge.child])
            for old in new_index
            for edge in sorted(retained.get(old, ()), key=lambda edge: edge.patch)
        )
        nodes = tuple(self.nodes[old] for old in new_index)
        return replace(self, nodes=nodes, edges=tuple(edges), max_children=max_children)

    def logic_form(self) -> str:
        """Return the explanations as a logical formula, such as "(P16 & P17 & P24) | (P9 & P10)".

        The formula is in disjunctive normal form. It is "true" if the baseline alone is sufficient, and
        "false" if there are no explanations.
        """
        if any(not node.patches for node in self.explanations):
            return "true"
        terms = [" & ".join(f"P{patch}" for patch in node.patches) for node in self.explanations]
        return " | ".join(f"({term})" for term in terms) if terms else "false"

    def to_json(self) -> str:
        """Return the graph as JSON text, for `from_json`."""
        content = {key: value for key, value in asdict(self).items() if not key.startswith("_")}
        return json.dumps({"format": FORMAT, **_without_nan(content)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "AttentionGraph":
        """Restore a graph from the output of `to_json`, including format 1 from jaxplain 0.1.

        Raises:
          ValueError: if `text` is not the JSON of an attention graph.
        """
        try:
            content = json.loads(text)
            if (written := content.pop("format")) not in (FORMAT, _FORMAT_1):
                raise ValueError(f"unknown format {written!r}, expected {FORMAT!r}")
            content["grid"] = tuple(content["grid"])
            for name in ("image_score", "baseline_score"):
                content[name] = _with_nan(content[name])
            content["nodes"] = tuple(map(_read_node, content["nodes"]))
            content["edges"] = tuple(map(_read_edge, content["edges"]))
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a valid attention graph in JSON format: {error}") from error

    def to_dot(self) -> str:
        """Return the graph in Graphviz's DOT language, labeled with relative scores and removed patches."""
        import graphviz

        drawing = graphviz.Digraph("sag", node_attr={"shape": "box", "style": "rounded"})
        for index, node in enumerate(self.nodes):
            shown = " ".join(f"P{patch}" for patch in node.patches) or "no patch"
            thick = {"penwidth": "2.5"} if node.is_explanation else {}
            drawing.node(f"n{index}", f"{node.relative:.0%}\n{shown}", **thick)
        for edge in self.edges:
            width = f"{1 + 5 * max(0.0, edge.drop / self.image_score):.2f}"
            drawing.edge(f"n{edge.parent}", f"n{edge.child}", label=f"-P{edge.patch}", penwidth=width)
        return str(drawing.source)

    def to_networkx(self) -> Any:
        """Return the graph as a `networkx.DiGraph`.

        Nodes are tuples of patches; attributes are the fields of `Node` and `Edge`.

        Raises:
          ImportError: if networkx is not installed.
        """
        import networkx

        result = networkx.DiGraph(
            grid=self.grid, image_score=self.image_score, baseline_score=self.baseline_score
        )
        for node in self.nodes:
            result.add_node(
                node.patches,
                score=node.score,
                relative=node.relative,
                level=node.level,
                is_explanation=node.is_explanation,
            )
        for edge in self.edges:
            parent, child = self.nodes[edge.parent], self.nodes[edge.child]
            result.add_edge(parent.patches, child.patches, patch=edge.patch, drop=edge.drop)
        return result


def _without_nan(value: Any) -> Any:
    """Replace non-finite numbers, which JSON cannot represent, with None."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _read_node(read: dict[str, Any]) -> Node:
    renamed = {"is_explanation" if name == "is_root" else name: value for name, value in read.items()}
    numbers = {"score": _with_nan(read["score"]), "relative": _with_nan(read["relative"])}
    return Node(**(renamed | numbers | {"patches": tuple(read["patches"])}))


def _read_edge(read: dict[str, Any]) -> Edge:
    return Edge(**(read | {"drop": _with_nan(read["drop"])}))


# ---------------------------------------------------------------------------------------------------------
# Building a graph


def graph(
    score: Score,
    image: Array,
    baseline: Array | None,
    result: SearchResult,
    *,
    batch_size: int | None = None,
    expand_above: float = 0.4,
    max_children: int | None = None,
    max_nodes: int = 1000,
) -> AttentionGraph:
    """Build the attention graph of an image, which shows how the score falls as patches are removed.

    The graph starts from the image's explanations. A node whose score exceeds `expand_above` times the
    image's score is expanded: each child lacks one of its patches. All new nodes in a level are scored as one
    batch. The graph is built on the host around one compiled program, which is reused for all images of the
    same size and grid.

    Args:
      score: the explained score, images [N, H, W, C] -> [N], as in `search`.
      image: [H, W, C], in model space.
      baseline: [H, W, C]; default: the blurred image.
      result: search result for this image, from `search` or `diverse_subset(...).result`.
      batch_size: images per model call; default: chosen for the platform.
      expand_above: fraction of the image's score, 0 to 1, above which a node is expanded.
      max_children: maximum number of children to retain per node, with the largest drops; default: all.
      max_nodes: maximum number of nodes; a larger graph is cut off and marked as `truncated`.

    Raises:
      TypeError, ValueError: if shapes or options are invalid, `result` contains several images, or the
        image's score is not above zero.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, black = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: (images[:, 7, 7, 0] + images[:, 0, 7, 0]) / 2
      >>> result = jx.sag.search(corners, image, black, grid=2, beam_width=8)
      >>> graph = jx.sag.graph(corners, image, black, result)
      >>> graph.logic_form(), [round(node.relative, 2) for node in graph.nodes]
      ('(P1 & P3)', [1.0, 0.5, 0.5, 0.0])
    """
    check_single(result)
    image = as_image(image)
    as_grid(result.grid, image.shape)
    fraction, image_score = float(as_number(expand_above, "expand_above", 0, 1)), float(result.image_score)
    if len(result) and not image_score > 0:
        raise ValueError(
            f"the image's score must be above zero, got {image_score}; choose another target, or "
            'kind="probability".'
        )
    chunk = partial(
        _score_chunk,
        as_pytree(score),
        Scene(image, as_baseline(baseline, image)),
        grid=result.grid,
        batch_size=check_batch_size(batch_size),
    )
    limits = _GraphLimits(
        expand_above=fraction * image_score,
        max_children=None if max_children is None else check_positive_int(max_children, "max_children"),
        max_nodes=check_positive_int(max_nodes, "max_nodes"),
    )
    explanations = _explanation_scores(result)
    grown = _grow(partial(_score_all, chunk, result.explanations.shape[1]), explanations, limits)
    nodes, edges = _nodes_and_edges(grown, explanations, image_score)
    return AttentionGraph(
        grid=result.grid,
        image_score=image_score,
        baseline_score=float(result.baseline_score),
        threshold=float(result.threshold),
        expand_above=fraction,
        nodes=nodes,
        edges=edges,
        truncated=grown.truncated,
        max_children=max_children,
    )


def check_single(result: SearchResult) -> None:
    """Check that a search result is for a single image.

    Raises:
      ValueError: if `result` contains several images.
    """
    if result.explanations.ndim != 2:
        raise ValueError(
            f"result must be for one image, with explanations [R, P], got shape {result.explanations.shape}; "
            "select one with jax.tree_util.tree_map(lambda leaf: leaf[0], result)."
        )


def _explanation_scores(result: SearchResult) -> _Scores:
    scores = np.asarray(result.scores)
    rows = np.flatnonzero(np.asarray(result.valid)).tolist()
    return {frozenset(result.patches(row)): float(scores[row]) for row in rows}


@dataclass(frozen=True)
class _GraphLimits:
    """Limits on the size of a graph."""

    expand_above: float  # a score
    max_children: int | None
    max_nodes: int


@dataclass
class _GrowingGraph:
    """A graph under construction."""

    scores: _Scores  # the nodes and their scores
    removed: list[tuple[PatchSet, int]]  # the edges: parent and removed patch
    truncated: bool = False


def _grow(
    score_all: Callable[[list[PatchSet]], _Scores], explanations: _Scores, limits: _GraphLimits
) -> _GrowingGraph:
    """Expand nodes one set size at a time, starting with the largest sets."""
    grown = _GrowingGraph(dict(explanations), [])
    known = dict(explanations)  # includes children that are not retained
    for size in range(max(map(len, explanations), default=0), 0, -1):
        parents = [s for s, value in grown.scores.items() if len(s) == size and value > limits.expand_above]
        missing = {s - {patch} for s in parents for patch in s} - known.keys()
        if len(grown.scores) + len(missing) > limits.max_nodes:
            grown.truncated = True
            break
        known |= score_all(sorted(missing, key=sorted))
        for s in parents:
            for patch in _by_drop(s, known)[: limits.max_children]:
                grown.removed.append((s, patch))
                grown.scores[s - {patch}] = known[s - {patch}]
    return grown


def _by_drop(s: PatchSet, known: _Scores) -> list[int]:
    """Sort the patches of a set by how much the score drops when they are removed, largest drop first."""
    return sorted(s, key=lambda patch: (_nan_last(known[s - {patch}]), patch))


def _nan_last(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _score_all(chunk: Callable[[Array, Array], Array], patches: int, sets: list[PatchSet]) -> _Scores:
    """Score sets with the compiled program, `_CHUNK` sets at a time."""
    scores: _Scores = {}
    for start in range(0, len(sets), _CHUNK):
        part = sets[start : start + _CHUNK]
        rows = np.zeros((_CHUNK, patches), bool)
        for row, s in zip(rows, part, strict=False):
            row[list(s)] = True
        values = np.asarray(chunk(jnp.asarray(rows), jnp.arange(_CHUNK) < len(part)))
        scores |= zip(part, (float(v) if np.isfinite(v) else math.nan for v in values), strict=False)
    return scores


@partial(jax.jit, static_argnames=("grid", "batch_size"))
def _score_chunk(
    score: Score, scene: Scene, sets: Array, live: Array, *, grid: tuple[int, int], batch_size: int | None
) -> Array:
    return scoring.evaluate_sets(score, scene, sets, live, grid, batch_size)


def _nodes_and_edges(
    grown: _GrowingGraph, explanations: _Scores, image_score: float
) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
    largest = max(map(len, explanations), default=0)
    ordered = sorted(
        grown.scores.items(), key=lambda item: (-len(item[0]), _nan_last(-item[1]), sorted(item[0]))
    )
    position = {s: index for index, (s, _) in enumerate(ordered)}
    nodes = tuple(
        Node(tuple(sorted(s)), value, value / image_score, largest - len(s), s in explanations)
        for s, value in ordered
    )
    return nodes, tuple(_edges(grown, position))


def _edges(grown: _GrowingGraph, position: Mapping[PatchSet, int]) -> Iterator[Edge]:
    for s, patch in sorted(grown.removed, key=lambda edge: (position[edge[0]], edge[1])):
        child = s - {patch}
        yield Edge(position[s], position[child], patch, grown.scores[s] - grown.scores[child])
