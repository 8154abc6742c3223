"""Sets of patches: numbering, rendering, packing into words, and ordering.

A grid of rows x cols patches covers the image; they are numbered 0..P-1 in row-major order. A *patch set* is
a bool array [P]: True if the patch is shown, False if the baseline replaces it. In shapes, N is the number of
sets and W the number of 32-bit words per packed set.
"""

from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.perturb import blend, upsample

WORD = 32  # bits per packed word


class Scene(NamedTuple):
    """The image shown in a set's patches, and the baseline shown elsewhere."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]


def show(scene: Scene, patches: Array, grid: tuple[int, int]) -> Array:
    """Render a patch set as an image, with the baseline outside its patches: bool [P] -> [H, W, C].

    The set's indicator is upsampled bilinearly with aligned corners, so each patch is centered on its grid
    point and fades out toward the neighboring points; patches on the border are half as wide.
    """
    image, baseline = scene
    mask = upsample(patches.reshape(grid).astype(image.dtype), (image.shape[0], image.shape[1]))
    return blend(image, baseline, mask)


def successors(sets: Array, proposal: Array, candidates: int) -> tuple[Array, Array]:
    """Extend each set by each of its best unused patches.

    Args:
      sets: bool [N, P].
      proposal: priority of each patch, [P], highest first; ties go to the lower patch index.
      candidates: number of extensions per set (static).

    Returns:
      The larger sets, bool [N * candidates, P], and which of them exist, because a set may have fewer than
      `candidates` unused patches.
    """
    patches = sets.shape[1]
    _, chosen = jax.lax.top_k(jnp.where(sets, -jnp.inf, proposal[None]), candidates)  # [N, candidates]
    unused = ~jnp.take_along_axis(sets, chosen, axis=1)
    larger = sets[:, None] | jax.nn.one_hot(chosen, patches, dtype=bool)
    return larger.reshape(-1, patches), unused.reshape(-1)


def removals(sets: Array, count: int) -> tuple[Array, Array]:
    """Return each set without its 1st, 2nd, ..., `count`-th patch, and which of the results exist.

    Shapes: bool [N, P] -> bool [N, count, P], bool [N, count].
    """
    exists, members = jax.lax.top_k(sets.astype(jnp.float32), count)  # equal values in ascending order
    stays = members[:, :, None] != jnp.arange(sets.shape[1])[None, None]
    return sets[:, None] & stays, exists > 0


def pack(sets: Array) -> Array:
    """Pack sets into 32-bit words, with patch 0 in the highest bit: bool [..., P] -> uint32 [..., W].

    Packed sets sort in the lexicographic order of the sets.
    """
    count = sets.shape[-1]
    words = -(-count // WORD)
    padded = jnp.pad(sets, [(0, 0)] * (sets.ndim - 1) + [(0, words * WORD - count)])
    bits = padded.reshape(*sets.shape[:-1], words, WORD).astype(jnp.uint32)
    shifts = jnp.arange(WORD - 1, -1, -1, dtype=jnp.uint32)
    shifts = shifts.reshape((1,) * (bits.ndim - 1) + (WORD,))
    return jnp.sum(bits << shifts, axis=-1, dtype=jnp.uint32)


def contains_any(words: Array, others: Array, filled: Array) -> Array:
    """Return which packed sets contain any filled row: uint32 [N, W], [R, W], bool [R] -> bool [N]."""
    pairs = zip(words.T, others.T, strict=True)
    inside = ((~word[:, None] & other[None]) == 0 for word, other in pairs)
    return jnp.any(reduce(jnp.logical_and, inside, filled[None]), axis=1)


def find_rows(words: Array, rows: Array, filled: Array) -> Array:
    """Return, for each packed set, the index of the first filled row equal to it, or R if there is none.

    Shapes: uint32 [N, W], [R, W], bool [R] -> int32 [N].
    """
    pairs = zip(words.T, rows.T, strict=True)
    equal = reduce(jnp.logical_and, (word[:, None] == row[None] for word, row in pairs), filled[None])
    count = rows.shape[0]
    return jnp.min(jnp.where(equal, jnp.arange(count, dtype=jnp.int32)[None], count), axis=1)


def places(flags: Array) -> Array:
    """Return the number of flagged rows before each row: bool [N] -> int32 [N].

    A sum over pairs of rows compiles twice as fast as `jnp.cumsum`, and N is small.
    """
    rows = jnp.arange(len(flags))
    earlier = flags[None] & (rows[None] < rows[:, None])
    return jnp.sum(earlier, axis=1, dtype=jnp.int32)


def best_first(groups: Array, scores: Array, words: Array) -> Array:
    """Sort sets by ascending group, then by descending score, then with earlier patches first.

    Shapes: int32 [N], float [N], uint32 [N, W] -> int32 [N], the row indices.
    """
    rows = jnp.arange(scores.shape[0], dtype=jnp.int32)
    keys = (groups, -scores, *(~words).T)
    return jax.lax.sort((*keys, rows), num_keys=len(keys), is_stable=True)[-1]
