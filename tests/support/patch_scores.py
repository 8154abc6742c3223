"""Scores of patch sets by table or by formula, on images as large as their grid: a pixel is a patch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx


class Table(NamedTuple):
    """Any function of the sets of a small grid."""

    values: jax.Array  # [2 ** P]

    def __call__(self, images):
        bits = images[..., 0].reshape(len(images), -1) > 0.5
        places = 2 ** jnp.arange(bits.shape[1])
        return self.values[jnp.sum(jnp.where(bits, places[None], 0), axis=1)]

    def of(self, s):
        return np.asarray(self.values)[sum(2**p for p in s)]


class Pairs(NamedTuple):
    """A function of the sets of any grid, in steps of a quarter so that ties are common."""

    single: jax.Array  # [P]
    pair: jax.Array  # [P, P]

    def __call__(self, images):
        bits = images[..., 0].reshape(len(images), -1)
        values = bits @ self.single + jnp.einsum("np,pq,nq->n", bits, self.pair, bits)
        return jnp.round(values * 4) / 4

    def of(self, s):
        bits = np.isin(np.arange(len(self.single)), list(s)).astype(np.float32)
        value = bits @ np.asarray(self.single) + bits @ np.asarray(self.pair) @ bits
        return np.round(np.float32(value) * 4) / 4


def random_table(seed, patches=9, levels=20):
    """Any scores, with ties; the whole image scores above zero."""
    values = np.random.default_rng(seed).integers(0, levels, 2**patches) / levels
    values[-1] = 0.5 + values[-1] / 2
    return Table(jnp.asarray(values, jnp.float32))


def monotone_table(seed, patches=9, levels=20):
    """Scores that never fall as patches are added."""
    values = np.random.default_rng(seed).integers(0, levels, 2**patches) / levels
    values = values ** (1 + seed % 7)
    for patch in range(patches):
        with_patch = np.flatnonzero(np.arange(2**patches) >> patch & 1)
        values[with_patch] = np.maximum(values[with_patch], values[with_patch ^ 2**patch])
    size = np.array([bin(n).count("1") for n in range(2**patches)])
    return Table(jnp.asarray(values * (size / patches) ** 0.5 + 0.01, jnp.float32))


def table_of(function, patches=4):
    """The table of a Python function of sets."""
    sets = (frozenset(p for p in range(patches) if n >> p & 1) for n in range(2**patches))
    return Table(jnp.asarray([function(s) for s in sets], jnp.float32))


def random_pairs(seed, patches):
    random = np.random.default_rng(seed)
    single = np.round(random.uniform(-0.2, 1, patches) * 8) / 8
    pair = np.where(random.random((patches, patches)) < 0.1, 0.5, 0.0)
    return Pairs(jnp.asarray(single, jnp.float32), jnp.asarray(pair, jnp.float32))


def scene_of(grid):
    """An image of ones and a baseline of zeros with one pixel per patch."""
    return jnp.ones((*grid, 1)), jnp.zeros((*grid, 1))


def search(score, grid, **options):
    return jx.sag.search(score, *scene_of(grid), grid=grid, **options)


def as_sets(result):
    rows = np.asarray(result.explanations)[np.asarray(result.valid)]
    return [frozenset(np.flatnonzero(row).tolist()) for row in rows]
