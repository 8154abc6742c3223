"""Explanations of many images in numbers, so that two classifiers can be compared.

A classifier that needs many parts at once is *compositional*: its explanations lose score a little at a time,
so they have many sub-explanations. One that any of many parts convinces is *disjunctive*: it has many
explanations and few sub-explanations.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxplain.sag.attention_graph import AttentionGraph
from jaxplain.sag.diverse import diverse_subset
from jaxplain.sag.sets import Status, SufficientSets

OVERLAPS = (0, 1, 2)  # patches that two explanations may share
LEVELS = (0.8, 0.7, 0.6, 0.5)  # shares of the image's score


@dataclass(frozen=True)
class Summary:
    """The explanations of one image in numbers."""

    status: str
    patches: int  # of the grid
    sizes: tuple[int, ...]  # of the minimal sufficient explanations (MSEs), ascending
    diverse: tuple[int, ...]  # largest number of MSEs that share at most 0, 1, 2 patches
    sub_explanations: tuple[int, ...] | None  # sets below the MSEs above .8, .7, .6, .5; None: not counted
    exact: bool = True  # the diverse subsets are proved largest
    complete: bool = True  # the graph was not cut, so all sub-explanations are counted

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> "Summary":
        """Read what `to_dict` wrote.

        Raises:
          ValueError: it is something else.
        """
        try:
            subs = read["sub_explanations"]
            counts = {"sizes": tuple(read["sizes"]), "diverse": tuple(read["diverse"])}
            return cls(**(dict(read) | counts | {"sub_explanations": None if subs is None else tuple(subs)}))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not the summary of an image's explanations: {error}") from error


@dataclass(frozen=True)
class Statistics:
    """The explanations of N images in numbers; P patches a grid. Means are over all N."""

    images: int  # N
    explained: np.ndarray  # [P + 1], share of images with an MSE of at most k = 0..P patches
    mses: float  # mean number of MSEs found
    sizes: np.ndarray  # int [P + 1], how many MSEs have k patches
    diverse: tuple[float, ...]  # mean number of MSEs that share at most 0, 1, 2 patches
    sub_explanations: tuple[float, ...]  # mean number above .8, .7, .6, .5; NaN where none were counted
    statuses: dict[str, int]  # how the searches ended
    incomplete: int  # images whose counts are lower bounds: a graph was cut or time ran out

    @property
    def mean_size(self) -> float:
        """Patches of an MSE, mean over all MSEs of all images; NaN where there are none."""
        total = int(self.sizes.sum())
        return float(self.sizes @ np.arange(len(self.sizes)) / total) if total else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        means = {name: [_or_none(v) for v in getattr(self, name)] for name in ("diverse", "sub_explanations")}
        arrays = {"explained": self.explained.tolist(), "sizes": self.sizes.tolist()}
        return asdict(self) | arrays | means | {"mean_size": _or_none(self.mean_size)}


def summarize(roots: SufficientSets, graph: AttentionGraph | None = None) -> Summary:
    """The explanations of one image in numbers.

    Args:
      roots: what `search` returned.
      graph: below those of them whose sub-explanations are counted (all sets of the graph that are no MSEs);
        expanded above a share of at most .5, or the counts are too low. None counts none.

    Raises:
      ValueError: a graph that was expanded too little.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, hidden = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: (images[:, 7, 7, 0] + 2 * images[:, 0, 7, 0]) / 3
      >>> roots = jx.sag.search(corners, image, hidden, grid=2, beam_width=8)
      >>> summary = jx.sag.summarize(roots, jx.sag.graph(corners, image, hidden, roots))
      >>> summary.sizes, summary.diverse, summary.sub_explanations
      ((2,), (1, 1, 1), (0, 0, 1, 1))
    """
    valid = np.asarray(roots.valid)
    subsets = [diverse_subset(roots, overlap) for overlap in OVERLAPS]
    return Summary(
        status=Status(int(roots.status)).name.lower(),
        patches=roots.sets.shape[-1],
        sizes=tuple(sorted(np.asarray(roots.sizes)[valid].tolist())),
        diverse=tuple(int(subset.chosen.sum()) for subset in subsets),
        sub_explanations=None if graph is None else _sub_explanations(graph),
        exact=all(subset.exact for subset in subsets),
        complete=graph is None or not (graph.truncated or graph.max_children is not None),
    )


def _sub_explanations(graph: AttentionGraph) -> tuple[int, ...]:
    if graph.expand_above > min(LEVELS):
        raise ValueError(
            f"sub-explanations above {min(LEVELS)} need a graph expanded above at most that, "
            f"got {graph.expand_above}."
        )
    relative = [node.relative for node in graph.nodes if not node.is_root]
    return tuple(sum(value > level for value in relative) for level in LEVELS)


def statistics(summaries: Iterable[Summary]) -> Statistics:
    """Explanations of many images in numbers.

    Args:
      summaries: one an image, all of one grid; see `summarize`.

    Raises:
      ValueError: no summaries, or of different grids.

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
    if len(grids) != 1:
        raise ValueError(
            "statistics need at least one image, got none."
            if not images
            else f"statistics need images of one grid, got {sorted(grids)} patches; take one grid for all."
        )
    patches = grids.pop()
    smallest = np.array([min(image.sizes, default=patches + 1) for image in images])
    sizes = [size for image in images for size in image.sizes]
    counted = [image.sub_explanations for image in images if image.sub_explanations is not None]
    return Statistics(
        images=len(images),
        explained=(smallest[:, None] <= np.arange(patches + 1)).mean(axis=0),
        mses=len(sizes) / len(images),
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
