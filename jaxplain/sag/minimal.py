"""Reduce sufficient sets to minimal sets, by removing patches for as long as the rest is sufficient."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain.sag import patches


class Group(NamedTuple):
    """A group of G sufficient sets that are reduced together."""

    sets: Array  # bool [G, P]
    scores: Array  # [G]
    member: Array  # bool [G], which rows are in use
    active: Array  # bool [G], which sets may still be reduced

    @property
    def minimal(self) -> Array:
        """Which sets are minimal, bool [G]: all single-patch removals were scored and are insufficient."""
        return self.member & ~self.active


def removals(group: Group, max_size: int) -> tuple[Array, Array]:
    """Return all single-patch removals from the group's sets (of at most `max_size` patches) as one batch.

    Returns the smaller sets, bool [G * max_size, P], and which of them to score, bool [G * max_size].
    """
    smaller, exists = patches.removals(group.sets, max_size)
    wanted = exists & group.active[:, None]
    return smaller.reshape(-1, smaller.shape[-1]), wanted.reshape(-1)


def remove_best(group: Group, smaller: Array, scores: Array, sufficient_score: Array) -> Group:
    """Remove the patch that leaves the highest score from each active set, if that score is sufficient.

    Ties go to the lower patch index. A set from which no patch can be removed becomes inactive.

    Args:
      group: the sets before the removal.
      smaller: sets from `removals`, bool [G * max_size, P].
      scores: scores of these sets, [G * max_size].
      sufficient_score: lowest score that is sufficient, a scalar.
    """
    groups, patch_count = group.sets.shape
    smaller, scores = smaller.reshape(groups, -1, patch_count), scores.reshape(groups, -1)
    count = scores.shape[1]
    retained = jnp.where(scores >= sufficient_score, scores, -jnp.inf)
    best = jnp.max(retained, axis=1)
    positions = jnp.arange(count)[None]
    chosen = positions == jnp.min(jnp.where(retained == best[:, None], positions, count), axis=1)[:, None]
    loses = group.active & jnp.isfinite(best)
    return group._replace(
        sets=jnp.where(loses[:, None], jnp.any(smaller & chosen[:, :, None], axis=1), group.sets),
        scores=jnp.where(loses, best, group.scores),
        active=loses,
    )
