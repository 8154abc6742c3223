"""What keeps a mask small and smooth. All are means, so that they do not depend on resolution by themselves.

A mask [h, w] is 1 where the pixel is kept. H, W, C are the image's rows, columns and channels.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain.perturb import upsample


def magnitude(values: Array) -> Array:
    """|x| with derivative 0 at x = 0, where JAX's own is 1.

    Every mask starts at exactly 1, where the penalty |1 - m| has its kink. A derivative of 1 there pulls
    every cell down at the very first step; the published programs' (PyTorch's) is 0. With the fixed step of
    1000 this alone moved iGOS++ from deletion .25 to .44 on one photo.
    """
    return values * jnp.sign(values)


def l1(mask: Array) -> Array:
    """Mean distance from the empty mask, `mean(|1 - m|)`, with subgradient 0 at 1."""
    return jnp.mean(magnitude(1.0 - mask))


def total_variation(mask: Array, power: float = 2.0) -> Array:
    """Sum over both axes of the mean neighbour difference to a power: `mean |m[i+1] - m[i]|^b`."""
    return sum_of_means(*(_power(d, power) for d in _differences(mask)))


class EdgeWeights(NamedTuple):
    """How little the image changes between neighbours: near 1 in flat regions, near 0 across edges."""

    rows: Array  # [H - 1, W]
    cols: Array  # [H, W - 1]


def edge_weights(image: Array, sigma: float | Array = 0.01) -> EdgeWeights:
    """`exp(-d^2 / sigma)`, d^2 the mean over channels of the squared neighbour difference of [H, W, C].

    The authors' program takes mean-then-square on one axis and square-exp-then-mean on the other; this is
    the one symmetric form.
    """
    return EdgeWeights(*(jnp.exp(-jnp.mean(d**2, axis=-1) / sigma) for d in _differences(image)))


def bilateral_total_variation(mask: Array, edges: EdgeWeights, power: float = 2.0) -> Array:
    """Half the total variation of the mask, half that of its upsampling weighted down across image edges.

    BTV of iGOS++ (Khorram, Lawson, Fuxin, CHIL 2021).
    """
    shape = edges.rows.shape[0] + 1, edges.rows.shape[1]
    rows, cols = (_power(d, power) for d in _differences(upsample(mask, shape)))
    return 0.5 * (total_variation(mask, power) + sum_of_means(edges.rows * rows, edges.cols * cols))


def _differences(array: Array) -> tuple[Array, Array]:
    return jnp.diff(array, axis=0), jnp.diff(array, axis=1)


def _power(differences: Array, power: float) -> Array:
    return differences**2 if power == 2 else magnitude(differences) ** power


def sum_of_means(rows: Array, cols: Array) -> Array:
    """Sum of the two means; an axis of length 1 has no neighbours and counts 0, not NaN."""
    means = [jnp.mean(d) if d.size else jnp.zeros(()) for d in (rows, cols)]
    return means[0] + means[1]
