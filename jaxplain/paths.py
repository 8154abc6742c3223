"""Integration along the path between two images: nodes, weights, and noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

EVEN = 0.2  # fraction of an adaptive path's nodes spread evenly over the intervals between pilot scores


class Path(NamedTuple):
    """A quadrature rule on (0, 1]: the integral of f is approximately sum(weights * f(nodes))."""

    nodes: Array  # float32 [S], ascending
    weights: Array  # float32 [S], summing to 1


def riemann(steps: int) -> Path:
    """Right-hand Riemann sum with nodes s/S, s = 1..S; the rule published with I-GOS and iGOS++."""
    return _equal_weights(np.arange(1, steps + 1) / steps)


def midpoint(steps: int) -> Path:
    """Midpoint rule with nodes (s - 1/2)/S, s = 1..S."""
    return _equal_weights((np.arange(steps) + 0.5) / steps)


def gauss_legendre(steps: int) -> Path:
    """Gauss-Legendre rule; exact for polynomials up to degree 2S - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return Path(jnp.asarray((nodes + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32))


def pilot(steps: int) -> Array:
    """Return the positions at which `adaptive` needs scores: float32 [P + 1], from 0 to 1.

    P is half the number of nodes (at least 2). The positions are denser near 0, because most of the score's
    change is there: on a path from a baseline without contrast, the network saturates early.
    """
    return jnp.asarray(np.linspace(0, 1, max(2, steps // 2) + 1) ** 2, jnp.float32)


def adaptive(scores: Array, steps: int) -> Path:
    """Midpoint rule on unequal cells, which are narrower where pilot scores show that the gradient changes.

    The gradient of a ReLU network has so many kinks along a path that it resembles a random walk more than a
    polynomial. For a random walk with local roughness r, the error of the midpoint rule is smallest if the
    density of nodes is proportional to r^(2/3). Changes in slope between the scores show where r is large.

    Args:
      scores: [P + 1], the scores at the positions `pilot(steps)`.
      steps: number of nodes (static).

    Returns:
      A `Path` whose nodes are the centers of the cells and whose weights are their widths; both may be
      traced. The rule is exact for polynomials up to degree 1, regardless of the scores, which only
      determine where the nodes lie; the integral is not fitted to them.

    References:
      Bhat, Raychowdhury. Non-Uniform Interpolation in Integrated Gradients for Low-Latency Explainable-AI.
      ISCAS 2023, for the idea of using scores to place the nodes; the placement rule here is our own.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import paths
      >>> score = lambda places: jax.nn.sigmoid(40 * (places - 0.2))
      >>> nodes, weights = paths.adaptive(score(paths.pilot(32)), 32)
      >>> int(((nodes > 0.1) & (nodes < 0.3)).sum()) > 12  # an even rule has six there
      True
    """
    scores, bounds = jnp.asarray(scores, jnp.float32), pilot(steps)
    widths = jnp.diff(bounds)
    kinks = jnp.abs(jnp.diff(jnp.diff(scores) / widths))  # [P - 1], change in slope at the inner bounds
    # In a random walk, a kink grows with the square root of the length.
    kinks = kinks / jnp.sqrt((widths[1:] + widths[:-1]) / 2)
    kinks = jnp.maximum(jnp.pad(kinks, (1, 0)), jnp.pad(kinks, (0, 1)))  # [P], the larger of the two ends
    spread = jnp.pad(kinks, 1, mode="edge")
    rough = (spread[:-2] + 2 * spread[1:-1] + spread[2:]) / 4
    power = jnp.where(rough == 0, 1.0, rough) ** (2 / 3)  # the derivative at 0 is infinite
    shares = jnp.where(rough == 0, 0.0, power) * widths
    total = jnp.sum(shares)
    even = jnp.full(shares.shape, 1 / len(shares), jnp.float32)
    # Every interval gets some nodes, in case the scores miss something; without kinks, all get equally many.
    shares = jnp.where(total > 0, (1 - EVEN) * shares / jnp.where(total > 0, total, 1.0) + EVEN * even, even)
    heights = jnp.concatenate([jnp.zeros(1, jnp.float32), jnp.cumsum(shares)])
    edges = jnp.interp(jnp.linspace(0, 1, steps + 1, dtype=jnp.float32), heights / heights[-1], bounds)
    return Path((edges[:-1] + edges[1:]) / 2, jnp.diff(edges))


def _equal_weights(nodes: np.ndarray) -> Path:
    return Path(jnp.asarray(nodes, jnp.float32), jnp.full(len(nodes), 1.0 / len(nodes), jnp.float32))


RULES: dict[str, Callable[[int], Path]] = {
    "riemann": riemann,
    "midpoint": midpoint,
    "gauss_legendre": gauss_legendre,
}


def add_noise(image: Array, key: Array, std: Array) -> Array:
    """Add Gaussian noise with standard deviation `std` (model space) to an image; consumes the key."""
    return image + std * jax.random.normal(key, image.shape, image.dtype)
