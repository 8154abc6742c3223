"""Patches and sets of them: how they are numbered, shown, packed and told apart.

A grid of rows x cols patches covers the image, numbered 0..P-1 in reading order. A *patch set* is bool [P],
True where the patch is shown and the baseline hides the rest. In shapes N is a number of sets and W the words
of a packed one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.checks import check_image, check_positive_int
from jaxplain.perturb import blend, upsample

WORD = 32  # bits of a packed word


class Scene(NamedTuple):
    """What patch sets are shown on."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]


def grid_shape(grid: int | tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of a grid from one number or both.

    Raises:
      ValueError, TypeError: not one or two whole numbers of at least 1.
    """
    sides = tuple(grid) if isinstance(grid, tuple | list) else (grid, grid)
    if len(sides) != 2:
        raise ValueError(f"grid must be one whole number or (rows, columns), got {grid!r}.")
    return check_positive_int(sides[0], "grid"), check_positive_int(sides[1], "grid")


def check_scene(image: Array, baseline: Array, grid: tuple[int, int]) -> None:
    """Refuse an image and baseline that do not fit each other or the grid.

    Raises:
      ValueError, TypeError: says what was expected and what came.
    """
    check_image(image)
    check_image(baseline, "baseline")
    if baseline.shape != image.shape:
        raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    if grid[0] > image.shape[0] or grid[1] > image.shape[1]:
        raise ValueError(
            f"a grid of {grid[0]} x {grid[1]} patches is finer than the image of "
            f"{image.shape[0]} x {image.shape[1]} pixels; choose at most that."
        )


def show(scene: Scene, patches: Array, grid: tuple[int, int]) -> Array:
    """The image where its patches are shown and the baseline elsewhere: bool [P] -> [H, W, C].

    The set's indicator is upsampled bilinearly with aligned corners, so a patch is centred on its lattice
    point, fades out to its neighbours' and, on the border, is half as wide.
    """
    image, baseline = scene
    mask = upsample(patches.reshape(grid).astype(image.dtype), (image.shape[0], image.shape[1]))
    return blend(image, baseline, mask)


def pack(sets: Array) -> Array:
    """Sets as bits of words, patch 0 the highest: bool [..., P] -> uint32 [..., W].

    Words compare as the sets do in lexicographic order.
    """
    count = sets.shape[-1]
    words = -(-count // WORD)
    padded = jnp.pad(sets, [(0, 0)] * (sets.ndim - 1) + [(0, words * WORD - count)])
    bits = padded.reshape(*sets.shape[:-1], words, WORD).astype(jnp.uint32)
    shifts = jnp.arange(WORD - 1, -1, -1, dtype=jnp.uint32)
    places = shifts.reshape((1,) * (bits.ndim - 1) + (WORD,))
    return jnp.sum(bits << places, axis=-1, dtype=jnp.uint32)


def leaders(words: Array, wanted: Array) -> Array:
    """For each wanted set the first wanted one that equals it: uint32 [N, W], bool [N] -> int32 [N].

    Sets that are not wanted lead themselves. Exact: packed sets are sorted and compared whole.
    """
    count = words.shape[0]
    rows = jnp.arange(count, dtype=jnp.int32)
    *keys, order = jax.lax.sort((~wanted, *words.T, rows), num_keys=1 + words.shape[1], is_stable=True)
    differs = jnp.stack([key[1:] != key[:-1] for key in keys]).any(axis=0)
    starts = jnp.concatenate([jnp.ones(1, bool), differs | keys[0][1:]])
    first = jax.lax.cummax(jnp.where(starts, rows, 0))
    return jnp.zeros(count, jnp.int32).at[order].set(order[first])


def best_first(scores: Array, words: Array, eligible: Array) -> Array:
    """Order of sets, the eligible before the rest: by falling score, ties to the set with earlier patches.

    Scores [N], uint32 [N, W], bool [N] -> int32 [N] row numbers.
    """
    rows = jnp.arange(scores.shape[0], dtype=jnp.int32)
    keys = (~eligible, -scores, *(~words).T)
    return jax.lax.sort((*keys, rows), num_keys=len(keys), is_stable=True)[-1]


def first_members(sets: Array, count: int) -> tuple[Array, Array]:
    """The first `count` patches of each set: bool [N, P] -> numbers int32 [N, count], which of them exist."""
    exists, members = jax.lax.top_k(sets.astype(jnp.int8), count)
    return members.astype(jnp.int32), exists > 0
