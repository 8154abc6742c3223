"""Integration along the path between two images: nodes, weights, noise."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

EVEN = 0.2  # fraction of an adaptive path's nodes that are spread evenly over the intervals between scores


class Path(NamedTuple):
    """A quadrature rule on (0, 1]: the integral of f is about sum(weights * f(nodes)). Both float32."""

    nodes: Array  # [S], ascending
    weights: Array  # [S], summing to 1


def riemann(steps: int) -> Path:
    """Right-hand Riemann sum: nodes s/S, s = 1..S; the published rule of I-GOS and iGOS++."""
    return _equal_weights(np.arange(1, steps + 1) / steps)


def midpoint(steps: int) -> Path:
    """Midpoint rule: nodes (s - 1/2)/S."""
    return _equal_weights((np.arange(steps) + 0.5) / steps)


def gauss_legendre(steps: int) -> Path:
    """Gauss-Legendre rule: exact for polynomials of degree 2S - 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return Path(jnp.asarray((nodes + 1) / 2, jnp.float32), jnp.asarray(weights / 2, jnp.float32))


def pilot(steps: int) -> Array:
    """Return the positions where `adaptive` needs scores to place its nodes: float32 [P + 1], from 0 to 1.

    P is half the number of nodes (at least 2). The positions are denser near 0: on a path that starts at a
    baseline without contrast the network soon saturates, so most of the score's change is there.
    """
    return jnp.asarray(np.linspace(0, 1, max(2, steps // 2) + 1) ** 2, jnp.float32)


def adaptive(scores: Array, steps: int) -> Path:
    """Midpoint rule on unequal cells, narrower where a few scores on the path show that the gradient changes.

    The gradient of a ReLU network has so many kinks along a path that it resembles a random walk more than a
    polynomial. For a walk of local roughness r the error of the midpoint rule is smallest if the density of
    nodes is proportional to r^(2/3); changes of slope between the scores show where r is large.

    Args:
      scores: [P + 1], at the positions `pilot(steps)`.
      steps: number of nodes (static).

    Returns:
      A `Path` whose nodes are its cells' centers and whose weights are their widths, both traced. It is
      exact for polynomials of degree 1, regardless of the scores, which only determine where the nodes lie;
      the integral is not fitted to them.

    References:
      Bhat, Raychowdhury. Non-Uniform Interpolation in Integrated Gradients for Low-Latency Explainable-AI.
      ISCAS 2023, for the idea of placing nodes by scores; the placement rule here is our own.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import paths
      >>> score = lambda places: jax.nn.sigmoid(40 * (places - 0.2))
      >>> nodes, weights = paths.adaptive(score(paths.pilot(32)), 32)
      >>> int(((nodes > 0.1) & (nodes < 0.3)).sum()) > 12  # an even rule has six there
      True
    """
    bounds = pilot(steps)
    widths = jnp.diff(bounds)
    kinks = jnp.abs(jnp.diff(jnp.diff(scores) / widths))  # [P - 1], change of slope at the inner bounds
    # In a random walk a kink grows as the square root of the length.
    kinks = kinks / jnp.sqrt((widths[1:] + widths[:-1]) / 2)
    kinks = jnp.maximum(jnp.pad(kinks, (1, 0)), jnp.pad(kinks, (0, 1)))  # [P], the larger of both ends
    spread = jnp.pad(kinks, 1, mode="edge")
    rough = (spread[:-2] + 2 * spread[1:-1] + spread[2:]) / 4
    power = jnp.where(rough == 0, 1.0, rough) ** (2 / 3)  # the derivative at 0 is infinite
    shares = jnp.where(rough == 0, 0.0, power) * widths
    total = jnp.sum(shares)
    even = jnp.full(shares.shape, 1 / len(shares))
    # Every interval gets some nodes, in case the scores missed something; without kinks, all get the same.
    shares = jnp.where(total > 0, (1 - EVEN) * shares / jnp.where(total > 0, total, 1.0) + EVEN * even, even)
    heights = jnp.concatenate([jnp.zeros(1), jnp.cumsum(shares)])
    edges = jnp.interp(jnp.linspace(0, 1, steps + 1), heights / heights[-1], bounds)
    return Path((edges[:-1] + edges[1:]) / 2, jnp.diff(edges))


def _equal_weights(nodes: np.ndarray) -> Path:
    return Path(jnp.asarray(nodes, jnp.float32), jnp.full(len(nodes), 1.0 / len(nodes), jnp.float32))


RULES: dict[str, Callable[[int], Path]] = {
    "riemann": riemann,
    "midpoint": midpoint,
    "gauss_legendre": gauss_legendre,
}


def add_noise(image: Array, key: Array, std: Array) -> Array:
    """Add fresh Gaussian noise of standard deviation `std` (model space) to an image; consumes the key."""
    return image + std * jax.random.normal(key, image.shape, image.dtype)
