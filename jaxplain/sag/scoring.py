"""Score patch sets, with a cache of all scores so far, so that no set is evaluated twice."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel
from jaxplain.sag.patches import Scene, find_rows, pack, places, show
from jaxplain.scores import Score

_BLOCK = 256  # cache rows compared at a time


class SetMemory(NamedTuple):
    """Cache of the sets scored so far: M rows, W words per set."""

    words: Array  # uint32 [M, W]
    scores: Array  # [M], NaN if a score was not finite
    used: Array  # int32 [], number of rows in use, equal to the model evaluations so far
    overdrawn: Array  # bool [], whether a batch exceeded the budget; it and later batches are not scored
    not_finite: Array  # bool [], whether any score was NaN or infinite


class SetScores(NamedTuple):
    """The scores of a batch of N sets."""

    words: Array  # uint32 [N, W], the packed sets
    scores: Array  # [N]; NaN if not wanted, not finite, or over budget
    first: Array  # bool [N], which sets are wanted and not equal to an earlier wanted set


def empty_memory(capacity: int, patches: int) -> SetMemory:
    """Return an empty cache for up to `capacity` sets (the evaluation budget) over `patches` patches."""
    words = pack(jnp.zeros(patches, bool)).shape[0]
    return SetMemory(
        words=jnp.zeros((capacity, words), jnp.uint32),
        scores=jnp.full(capacity, jnp.nan, jnp.float32),
        used=jnp.zeros((), jnp.int32),
        overdrawn=jnp.zeros((), bool),
        not_finite=jnp.zeros((), bool),
    )


def evaluate_sets(
    score: Score, scene: Scene, sets: Array, live: Array, grid: tuple[int, int], batch_size: int | None
) -> Array:
    """Score the live sets, and return NaN for the others: bool [N, P], bool [N] -> [N]."""
    render = partial(_render, grid)
    return funnel.evaluate(score, render, (), scene, sets, live=live, batch_size=batch_size)


def _render(grid: tuple[int, int], _: tuple, scene: Scene, patches: Array) -> Array:
    return show(scene, patches, grid)


def score_sets(
    score: Score,
    scene: Scene,
    memory: SetMemory,
    sets: Array,
    wanted: Array,
    *,
    grid: tuple[int, int],
    batch_size: int | None,
) -> tuple[SetMemory, SetScores]:
    """Score the wanted sets [N, P], without evaluating the model for cached or repeated sets.

    A batch that does not fit into the cache is not scored at all.
    """
    words = pack(sets)
    leader = find_rows(words, words, wanted)
    first = wanted & (leader == jnp.arange(len(leader)))
    known = _find(memory, words)
    new = first & (known < 0)
    fits = ~memory.overdrawn & (memory.used + jnp.sum(new) <= memory.words.shape[0])
    new = new & fits
    values = evaluate_sets(score, scene, sets, new, grid, batch_size)
    scores = jnp.where(known >= 0, memory.scores[known], jnp.where(jnp.isfinite(values), values, jnp.nan))
    scores = jnp.where(wanted & fits, scores[leader], jnp.nan)
    grown = _append(memory, words, scores, new)
    bad = memory.not_finite | jnp.any(new & ~jnp.isfinite(values))
    return grown._replace(overdrawn=~fits, not_finite=bad), SetScores(words, scores, first)


def _find(memory: SetMemory, words: Array) -> Array:
    """Return the cache row of each set, or -1 if the set is not cached: uint32 [N, W] -> int32 [N]."""
    capacity = memory.words.shape[0]
    block = min(_BLOCK, capacity)

    def step(number: Array, found_row: Array) -> Array:
        # The last block may overlap the previous block, which is harmless: a set occurs only once.
        start = jnp.minimum(number * block, capacity - block)
        rows = jax.lax.dynamic_slice_in_dim(memory.words, start, block)
        filled = start + jnp.arange(block) < memory.used
        row = find_rows(words, rows, filled)
        return jnp.where(row < block, start + row, found_row)

    blocks = jax.lax.div(memory.used + (block - 1), jnp.int32(block))
    return jax.lax.fori_loop(jnp.int32(0), blocks, step, jnp.full(words.shape[0], -1, jnp.int32))


def _append(memory: SetMemory, words: Array, scores: Array, new: Array) -> SetMemory:
    """Append the new rows to the cache, which must have room for them."""
    capacity = memory.words.shape[0]
    rows = jnp.where(new, memory.used + places(new), capacity)
    return memory._replace(
        words=memory.words.at[rows].set(words, mode="drop"),
        scores=memory.scores.at[rows].set(scores, mode="drop"),
        used=memory.used + jnp.sum(new, dtype=jnp.int32),
    )
