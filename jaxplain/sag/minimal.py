"""From sufficient sets to minimal ones: patches are removed while what is left suffices."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.sag.memory import Memory, Scorer
from jaxplain.sag.patches import first_members


class Reduced(NamedTuple):
    """G sets after all removals."""

    sets: Array  # bool [G, P]
    scores: Array  # [G]
    minimal: Array  # bool [G]: every single removal was scored and found insufficient


class _State(NamedTuple):
    """The carry of the loop."""

    memory: Memory
    sets: Array  # bool [G, P]
    scores: Array  # [G]
    active: Array  # bool [G], still losing patches


def reduce_to_minimal(
    scorer: Scorer, memory: Memory, sets: Array, scores: Array, active: Array, enough: Array, largest: int
) -> tuple[Memory, Reduced]:
    """Reduce the active of G sufficient sets, all single removals of a round as one batch.

    In each round a set loses the patch whose removal keeps the highest score (ties: the patch of the lowest
    number), as long as that score is enough.

    Args:
      scorer: scores sets.
      memory: of the search.
      sets: bool [G, P], sufficient.
      scores: [G].
      active: bool [G], which sets to reduce; the others come back as they are, not minimal.
      enough: [], the least sufficient score.
      largest: no set has more patches (static).
    """

    def unfinished(state: _State) -> Array:
        return jnp.any(state.active) & ~state.memory.overdrawn

    def round_(state: _State) -> _State:
        return _remove_one(scorer, state, enough, largest)

    end = jax.lax.while_loop(unfinished, round_, _State(memory, sets, scores, active))
    return end.memory, Reduced(end.sets, end.scores, active & ~end.active)


def _remove_one(scorer: Scorer, state: _State, enough: Array, largest: int) -> _State:
    groups, patches = state.sets.shape
    members, exists = first_members(state.sets, largest)
    removed = jax.nn.one_hot(members, patches, dtype=bool)
    smaller = state.sets[:, None] & ~removed  # [G, K, P]
    wanted = exists & state.active[:, None]
    memory, found = scorer(state.memory, smaller.reshape(-1, patches), wanted.reshape(-1))
    scores = found.scores.reshape(groups, largest)
    kept = jnp.where(scores >= enough, scores, -jnp.inf)
    best = jnp.argmax(kept, axis=1)
    rows = jnp.arange(groups)
    loses = state.active & jnp.isfinite(kept[rows, best])
    return _State(
        memory=memory,
        sets=jnp.where(loses[:, None], smaller[rows, best], state.sets),
        scores=jnp.where(loses, scores[rows, best], state.scores),
        # A round that was not scored decides nothing: its sets stay active, so not minimal.
        active=jnp.where(memory.overdrawn, state.active, loses),
    )
