"""Every set that a search has scored, so that none goes through the model twice."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel
from jaxplain.sag.patches import Scene, leaders, pack, show
from jaxplain.scores import Score

_BLOCK = 256  # rows of the memory that are compared at a time


class Memory(NamedTuple):
    """The sets scored so far: M rows, W words a set."""

    words: Array  # uint32 [M, W]
    scores: Array  # [M], NaN where a score was not finite
    used: Array  # int32 [], rows in use: model evaluations so far
    overdrawn: Array  # bool [], a batch did not fit and was not scored; nor is any after it
    not_finite: Array  # bool [], some score was NaN or infinite


class Scored(NamedTuple):
    """What `Scorer` returns for N sets."""

    scores: Array  # [N]; NaN where not wanted, not finite, or out of budget
    first: Array  # bool [N], wanted and not the same as an earlier wanted one


Scorer = Callable[[Memory, Array, Array], tuple[Memory, Scored]]
"""`scorer(memory, sets, wanted)` scores the wanted of N sets, those that are new through the model."""


def empty(capacity: int, patches: int) -> Memory:
    """Room for `capacity` sets of `patches` patches: the budget of model evaluations."""
    words = pack(jnp.zeros(patches, bool)).shape[0]
    nothing = jnp.zeros((), bool)
    return Memory(
        words=jnp.zeros((capacity, words), jnp.uint32),
        scores=jnp.full(capacity, jnp.nan, jnp.float32),
        used=jnp.zeros((), jnp.int32),
        overdrawn=nothing,
        not_finite=nothing,
    )


def scorer(score: Score, scene: Scene, grid: tuple[int, int], batch_size: int | None) -> Scorer:
    """Scores sets as one flat batch, those that are neither known nor repeated."""
    return partial(_score_sets, score, scene, grid, batch_size)


def _score_sets(
    score: Score,
    scene: Scene,
    grid: tuple[int, int],
    batch_size: int | None,
    memory: Memory,
    sets: Array,
    wanted: Array,
) -> tuple[Memory, Scored]:
    words = pack(sets)
    leader = leaders(words, wanted)
    first = wanted & (leader == jnp.arange(len(leader)))
    known = _find(memory, words)
    new = first & (known < 0)
    fits = ~memory.overdrawn & (memory.used + jnp.sum(new) <= memory.words.shape[0])
    new = new & fits

    def draw(_: tuple, scene: Scene, patches: Array) -> Array:
        return show(scene, patches, grid)

    values = funnel.evaluate(score, draw, (), scene, sets, live=new, batch_size=batch_size)
    scores = jnp.where(known >= 0, memory.scores[known], jnp.where(jnp.isfinite(values), values, jnp.nan))
    scores = jnp.where(wanted & fits, scores[leader], jnp.nan)
    grown = _append(memory, words, scores, new)
    bad = memory.not_finite | jnp.any(new & ~jnp.isfinite(values))
    return grown._replace(overdrawn=~fits, not_finite=bad), Scored(scores, first)


def _find(memory: Memory, words: Array) -> Array:
    """Row of each set in the memory, -1 where it is not there: uint32 [N, W] -> int32 [N]."""
    capacity = memory.words.shape[0]
    block = min(_BLOCK, capacity)

    def step(number: Array, found: Array) -> Array:
        # The last block may reach back over rows that were seen already: a set is there only once.
        start = jnp.minimum(number * block, capacity - block)
        rows = jax.lax.dynamic_slice_in_dim(memory.words, start, block)
        filled = start + jnp.arange(block) < memory.used
        same = (words[:, None, :] == rows[None]).all(axis=-1) & filled[None]
        return jnp.where(same.any(axis=1), start + jnp.argmax(same, axis=1).astype(jnp.int32), found)

    blocks = (memory.used + block - 1) // block
    return jax.lax.fori_loop(0, blocks, step, jnp.full(words.shape[0], -1, jnp.int32))


def _append(memory: Memory, words: Array, scores: Array, new: Array) -> Memory:
    """The memory with the new rows at its end; there is room for them."""
    capacity = memory.words.shape[0]
    at = jnp.where(new, memory.used + jnp.cumsum(new) - 1, capacity)
    return memory._replace(
        words=memory.words.at[at].set(words, mode="drop"),
        scores=memory.scores.at[at].set(scores, mode="drop"),
        used=memory.used + jnp.sum(new, dtype=jnp.int32),
    )
