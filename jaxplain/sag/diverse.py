"""The largest subset of explanations that hardly overlap."""

from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxplain.sag.sets import SufficientSets


class DiverseSubset(NamedTuple):
    """Explanations of which no two share more than the allowed patches."""

    roots: SufficientSets  # as given, valid only where chosen
    chosen: np.ndarray  # bool [R]
    exact: bool  # proved to be the largest subset, of highest total score; False: time ran out first


def diverse_subset(roots: SufficientSets, max_overlap: int = 1, *, time_limit: float = 20.0) -> DiverseSubset:
    """The largest set of explanations with at most `max_overlap` patches in common between any two.

    Among the largest, one of the highest total score. Exact, as a linear program over whole numbers (HiGHS,
    through SciPy): for any `max_overlap + 1` patches, at most one of the explanations that contain them all.
    Runs on the host.

    Args:
      roots: what `search` returned for one image.
      max_overlap: patches that two explanations may share; 0, 1 or 2 in the paper.
      time_limit: seconds after which the best subset found so far is returned, marked as not exact.

    Raises:
      ValueError: roots of several images, a negative overlap.

    References:
      Shitole, Li, Kahng, Tadepalli, Fern. One Explanation is Not Enough. NeurIPS 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image, hidden = jnp.ones((8, 8, 3)), jnp.zeros((8, 8, 3))
      >>> corners = lambda images: jnp.maximum(images[:, 0, 0, 0], images[:, 7, 7, 0] * images[:, 0, 7, 0])
      >>> found = jx.sag.search(corners, image, hidden, grid=2, beam_width=8)
      >>> len(jx.sag.diverse_subset(found, max_overlap=0).roots)
      2
    """
    if roots.sets.ndim != 2:
        raise ValueError(f"roots must be of one image, sets [R, P], got {roots.sets.shape}.")
    if isinstance(max_overlap, bool) or int(max_overlap) != max_overlap or max_overlap < 0:
        raise ValueError(f"max_overlap must be a whole number of at least 0, got {max_overlap!r}.")
    rows = np.flatnonzero(np.asarray(roots.valid))
    conflicts = _conflicts(np.asarray(roots.sets)[rows], int(max_overlap))
    picked, exact = _solve(conflicts, np.asarray(roots.scores)[rows], time_limit)
    chosen = np.zeros(len(roots.valid), bool)
    chosen[rows[picked]] = True
    return DiverseSubset(replace(roots, valid=jnp.asarray(chosen)), chosen, exact)


def _conflicts(sets: np.ndarray, max_overlap: int) -> list[tuple[int, ...]]:
    """Groups of sets [R, P] of which at most one can be chosen: those that share `max_overlap + 1` patches.

    Pairs alone would do, but a whole group in one constraint makes the program easy.
    """
    overlap = sets.astype(int) @ sets.T.astype(int)
    shared = {
        tuple(np.flatnonzero(sets[one] & sets[two])[: max_overlap + 1])
        for one, two in combinations(range(len(sets)), 2)
        if overlap[one, two] > max_overlap
    }
    return sorted({tuple(np.flatnonzero(sets[:, list(patches)].all(axis=1)).tolist()) for patches in shared})


def _solve(groups: list[tuple[int, ...]], scores: np.ndarray, time_limit: float) -> tuple[np.ndarray, bool]:
    """Numbers of the chosen, and whether they are proved best."""
    count = len(scores)
    if not groups:
        return np.arange(count), True
    from scipy.optimize import Bounds, LinearConstraint, milp  # takes a third of a second to import

    rows = np.zeros((len(groups), count))
    for row, group in zip(rows, groups, strict=True):
        row[list(group)] = 1
    at_most_one = LinearConstraint(rows, ub=1)
    # Scaled to less than one altogether, the scores decide only among the largest subsets.
    values = np.where(np.isfinite(scores), scores, 0.0)
    tie_break = (values - values.min()) / max(np.ptp(values), 1e-12) / (2 * count)
    found = milp(
        -(1 + tie_break),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=at_most_one,
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    if found.x is None:
        return np.array([int(np.argmax(values))]), False
    return np.flatnonzero(found.x > 0.5), found.status == 0
