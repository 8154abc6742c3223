"""Reduction of sufficient sets to minimal ones: remove patches while the remaining set is sufficient."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain.sag import patches


class Group(NamedTuple):
    """G sufficient sets that are reduced together."""

    sets: Array  # bool [G, P]
    scores: Array  # [G]
    member: Array  # bool [G], which rows hold a set
    active: Array  # bool [G], which sets may still lose patches

    @property
    def minimal(self) -> Array:
        """Which sets are minimal, bool [G]: every single removal was scored and is insufficient."""
        return self.member & ~self.active


def removals(group: Group, max_size: int) -> tuple[Array, Array]:
    """Return all single removals from the group's sets of at most `max_size` patches, as one batch.

    Returns the smaller sets, bool [G * max_size, P], and which of them to score, bool [G * max_size].
    """
    smaller, exists = patches.removals(group.sets, max_size)
    wanted = exists & group.active[:, None]
    return smaller.reshape(-1, smaller.shape[-1]), wanted.reshape(-1)


def remove_best(group: Group, smaller: Array, scores: Array, sufficient_score: Array) -> Group:
    """Remove from each active set the patch whose removal leaves the highest score, if that is sufficient.

    Ties go to the lower patch index. A set that cannot lose any patch is no longer active.

    Args:
      group: the sets before the removal.
      smaller: bool [G * max_size, P], from `removals`.
      scores: [G * max_size], scores of these sets.
      sufficient_score: [], the lowest sufficient score.
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
