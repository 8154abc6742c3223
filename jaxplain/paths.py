"""Integration along the path between two images: nodes, weights, noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


class Path(NamedTuple):
    """A quadrature rule on (0, 1]: the integral of f is about sum(weights * f(nodes)). Both float32."""

    nodes: Array  # [S], ascending
    weights: Array  # [S], summing to 1


def riemann(steps: int) -> Path:
    """Right-hand Riemann sum: nodes s/S, s = 1..S. The published rule of I-GOS and iGOS++."""
    return _equal_weights(np.arange(1, steps + 1) / steps)


def midpoint(steps: int) -> Path:
    """Midpoint rule: nodes (s - 1/2)/S."""
    return _equal_weights((np.arange(steps) + 0.5) / steps)


def gauss_legendre(steps: int) -> Path:
    """Gauss-Legendre rule: exact for polynomials of degree 2S - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return Path(jnp.asarray((nodes + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32))


def _equal_weights(nodes: np.ndarray) -> Path:
    return Path(jnp.asarray(nodes, jnp.float32), jnp.full(len(nodes), 1.0 / len(nodes), jnp.float32))


RULES: dict[str, Callable[[int], Path]] = {
    "riemann": riemann,
    "midpoint": midpoint,
    "gauss_legendre": gauss_legendre,
}


def add_noise(image: Array, key: Array, std: Array) -> Array:
    """The image plus fresh Gaussian noise of standard deviation `std` in model space. Consumes the key."""
    return image + std * jax.random.normal(key, image.shape, image.dtype)
