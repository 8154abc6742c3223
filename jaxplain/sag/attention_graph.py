"""Attention graphs as data: nodes, edges, and the forms in which they leave the program."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

FORMAT = "jaxplain attention graph 1"  # of the JSON

PatchSet = frozenset[int]


@dataclass(frozen=True)
class Node:
    """A patch set of the graph."""

    patches: tuple[int, ...]  # ascending, numbered in reading order from 0
    score: float  # NaN where the model's was not finite
    relative: float  # score / score of the image
    level: int  # 0 for the largest roots; one more for each patch less
    is_root: bool  # a minimal sufficient explanation


@dataclass(frozen=True)
class Edge:
    """From a set to the same without one patch."""

    parent: int  # position in `nodes`
    child: int
    patch: int  # the one removed
    drop: float  # score of the parent less that of the child


@dataclass(frozen=True)
class AttentionGraph:
    """A structured attention graph: roots are explanations, every edge removes a patch.

    Equal sets are one node, so the graph is acyclic and no tree. It lives on the host and holds no pixels.
    """

    grid: tuple[int, int]  # rows, columns of patches
    image_score: float
    baseline_score: float
    threshold: float  # share of the image's score that suffices
    expand_above: float  # share above which a node's children were looked at
    nodes: tuple[Node, ...]  # by level, within it by falling score
    edges: tuple[Edge, ...]
    truncated: bool = False  # max_nodes was reached: below, the graph is not complete
    max_children: int | None = None  # children kept of each node; None: all
    _positions: Mapping[PatchSet, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the nodes by their patches."""
        positions = {frozenset(node.patches): at for at, node in enumerate(self.nodes)}
        object.__setattr__(self, "_positions", positions)

    @property
    def roots(self) -> tuple[Node, ...]:
        """The minimal sufficient explanations, in the order of the nodes."""
        return tuple(node for node in self.nodes if node.is_root)

    def find(self, patches: Iterable[int]) -> Node | None:
        """The node of a patch set, or None where it was not computed."""
        at = self._positions.get(frozenset(patches))
        return None if at is None else self.nodes[at]

    def pruned(self, max_children: int) -> "AttentionGraph":
        """The same graph with at most so many children a node, of largest drop: what a drawing shows."""
        kept: dict[int, list[Edge]] = {}
        for edge in sorted(self.edges, key=lambda edge: (math.isnan(edge.drop), -edge.drop)):
            if len(siblings := kept.setdefault(edge.parent, [])) < max_children:
                siblings.append(edge)
        reached = {at for at, node in enumerate(self.nodes) if node.is_root}
        for at in range(len(self.nodes)):  # by level, so parents come first
            if at in reached:
                reached.update(edge.child for edge in kept.get(at, ()))
        new = {old: at for at, old in enumerate(sorted(reached))}
        edges = (
            replace(edge, parent=new[at], child=new[edge.child])
            for at in new
            for edge in sorted(kept.get(at, ()), key=lambda edge: edge.patch)
        )
        nodes = tuple(self.nodes[old] for old in new)
        return replace(self, nodes=nodes, edges=tuple(edges), max_children=max_children)

    def logic_form(self) -> str:
        """The roots as a disjunction of conjunctions, such as "(P16 & P17 & P24) | (P9 & P10)".

        "true" where the baseline alone suffices, "false" where there is no root.
        """
        if any(not root.patches for root in self.roots):
            return "true"
        terms = [" & ".join(f"P{patch}" for patch in root.patches) for root in self.roots]
        return " | ".join(f"({term})" for term in terms) if terms else "false"

    def to_json(self) -> str:
        """The whole graph as JSON text; `from_json` reads it back."""
        content = {key: value for key, value in asdict(self).items() if not key.startswith("_")}
        return json.dumps({"format": FORMAT, **_without_nan(content)}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "AttentionGraph":
        """Read what `to_json` wrote.

        Raises:
          ValueError: not the JSON of a graph.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT:
                raise ValueError("unknown format")
            content["grid"] = tuple(content["grid"])
            for name in ("image_score", "baseline_score"):
                content[name] = _with_nan(content[name])
            content["nodes"] = tuple(map(_node, content["nodes"]))
            content["edges"] = tuple(map(_edge, content["edges"]))
            return cls(**content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is not the JSON of an attention graph: {error}") from error

    def to_dot(self) -> str:
        """The graph in Graphviz's language: relative scores in the nodes, removed patches on the edges."""
        import graphviz

        drawing = graphviz.Digraph("sag", node_attr={"shape": "box", "style": "rounded"})
        for at, node in enumerate(self.nodes):
            shown = " ".join(f"P{patch}" for patch in node.patches) or "no patch"
            thick = {"penwidth": "2.5"} if node.is_root else {}
            drawing.node(f"n{at}", f"{node.relative:.0%}\n{shown}", **thick)
        for edge in self.edges:
            width = f"{1 + 5 * max(0.0, edge.drop / self.image_score):.2f}"
            drawing.edge(f"n{edge.parent}", f"n{edge.child}", label=f"-P{edge.patch}", penwidth=width)
        return str(drawing.source)

    def to_networkx(self) -> Any:
        """A `networkx.DiGraph`: nodes are tuples of patches, with the fields of `Node` and `Edge`.

        Raises:
          ImportError: networkx is not installed.
        """
        import networkx

        result = networkx.DiGraph(
            grid=self.grid, image_score=self.image_score, baseline_score=self.baseline_score
        )
        for node in self.nodes:
            result.add_node(
                node.patches, score=node.score, relative=node.relative, level=node.level, is_root=node.is_root
            )
        for edge in self.edges:
            parent, child = self.nodes[edge.parent], self.nodes[edge.child]
            result.add_edge(parent.patches, child.patches, patch=edge.patch, drop=edge.drop)
        return result


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _node(read: dict[str, Any]) -> Node:
    numbers = {"score": _with_nan(read["score"]), "relative": _with_nan(read["relative"])}
    return Node(**(read | numbers | {"patches": tuple(read["patches"])}))


def _edge(read: dict[str, Any]) -> Edge:
    return Edge(**(read | {"drop": _with_nan(read["drop"])}))
