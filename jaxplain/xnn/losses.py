"""The parts of an explanation network's loss, each a pure function. Lower is better.

In shapes N is a number of images, D of features, n of x-features, K of classes.
"""

import jax.numpy as jnp
from jax import Array

DEAD = 0.01  # of the mean x-feature's contributions, below which one counts as dead
_EPSILON = 1e-8  # keeps the direction of a vector of zeros defined


def faithfulness_loss(predicted: Array, logits: Array) -> Array:
    """Mean squared error of the predicted logits: [N, K], [N, K] -> [].

    Example:
      >>> float(faithfulness_loss(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]])))
      2.0
    """
    _same_shape(predicted, logits, "predicted logits")
    return jnp.mean((predicted - logits) ** 2)


def sparse_reconstruction_loss(reconstruction: Array, features: Array, q: Array | float = 100.0) -> Array:
    """mean_k log(1 + q mean_i (Zhat_ik - Z_ik)^2) over features k, images i: [N, D], [N, D] -> [].

    The logarithm flattens where the error is large: a few features are reconstructed well, most let go.

    Args:
      reconstruction: [N, D].
      features: [N, D].
      q: at 0 nothing counts; for small q it tends to q times the mean squared error.

    Example:
      >>> float(sparse_reconstruction_loss(jnp.ones((3, 2)), jnp.ones((3, 2))))
      0.0
    """
    _same_shape(reconstruction, features, "reconstruction")
    return jnp.mean(jnp.log1p(q * jnp.mean((reconstruction - features) ** 2, axis=0)))


def pull_away_loss(vectors: Array) -> Array:
    """Mean squared cosine of different rows: [r, m] -> []; 0 for orthogonal rows, 1 for parallel ones.

    Rows are the contributions of x-features (`contributions.T`, the paper's orthogonality) or of images
    (`contributions`). One row has no other: 0.

    Example:
      >>> float(pull_away_loss(jnp.array([[1.0, 0.0], [0.0, 2.0]])).round(4))
      0.0
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be [r, m], got {vectors.shape}.")
    rows = vectors.shape[0]
    if rows < 2:
        return jnp.zeros((), vectors.dtype)
    shifted = vectors + _EPSILON
    # The root of a sum of squares has no derivative at 0; the floor keeps it finite.
    lengths = jnp.sqrt(jnp.maximum(jnp.sum(shifted**2, axis=1, keepdims=True), _EPSILON**2))
    directions = shifted / lengths
    # sum_ij cos_ij^2 through whichever Gram matrix is smaller.
    small = directions @ directions.T if rows <= vectors.shape[1] else directions.T @ directions
    return (jnp.sum(small**2) - rows) / (rows * (rows - 1))


def dominance_loss(contributions: Array) -> Array:
    """How few x-features the contributions come from: [N, n] -> [], 1/n where all count alike, 1 for one.

    sum_ik C_ik^2 / sum_i (sum_k |C_ik|)^2. Not in the paper, whose training leaves the matter to retries: a
    faithful network of a single x-feature is a minimum of its loss.

    Example:
      >>> float(dominance_loss(jnp.array([[1.0, 1.0], [2.0, 2.0]])))
      0.5
    """
    if contributions.ndim != 2:
        raise ValueError(f"contributions must be [N, n], got {contributions.shape}.")
    # Unlike that of `abs`, this derivative reaches x-features that are 0.
    sizes = jnp.where(contributions >= 0, contributions, -contributions)
    whole = jnp.sum(jnp.sum(sizes, axis=1) ** 2)
    return jnp.sum(contributions**2) / jnp.maximum(whole, _EPSILON)


def is_dead(contributions: Array) -> Array:
    """X-features that add next to nothing, below 1% of an equal share: [N, n, K] -> bool [n].

    Example:
      >>> is_dead(jnp.array([[[5.0], [3.0], [0.001]]])).tolist()
      [False, False, True]
    """
    sizes = jnp.mean(jnp.abs(contributions), axis=0)  # [n, K]
    shares = sizes / jnp.maximum(jnp.mean(sizes, axis=0), _EPSILON)
    return jnp.max(shares, axis=1) < DEAD


def _same_shape(one: Array, other: Array, name: str) -> None:
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(
            f"{name} {one.shape} must have the same two axes as what they stand for, {other.shape}."
        )
