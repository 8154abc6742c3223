"""Loss terms of an explanation network, as pure functions, and their weighted sum.

In shapes, N is the number of images, D the number of features, n the number of x-features, and K the number
of classes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.xnn.srae import SRAEOutputs

DEAD = 0.01  # fraction of the mean x-feature's contribution below which an x-feature is dead
_EPSILON = 1e-8  # keeps the direction of a zero vector defined


def faithfulness_loss(predicted: Array, logits: Array) -> Array:
    """Return the mean squared error of the predicted logits: [N, K], [N, K] -> [].

    Example:
      >>> float(faithfulness_loss(jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [1.0]])))
      2.0
    """
    _check_same_axes(predicted, logits, "predicted logits")
    return jnp.mean((predicted - logits) ** 2)


def sparse_reconstruction_loss(reconstruction: Array, features: Array, q: Array | float = 100.0) -> Array:
    """Return the sparse reconstruction loss: [N, D], [N, D] -> [].

    It is mean_k log(1 + q mean_i (Zhat_ik - Z_ik)^2) over features k and images i. The logarithm flattens
    large errors, so a few features are reconstructed well and most are not.

    Args:
      reconstruction: [N, D].
      features: [N, D].
      q: scale of the errors. For small q, the loss approaches q times the mean squared error.

    Example:
      >>> float(sparse_reconstruction_loss(jnp.ones((3, 2)), jnp.ones((3, 2))))
      0.0
    """
    _check_same_axes(reconstruction, features, "reconstruction")
    return jnp.mean(jnp.log1p(q * jnp.mean((reconstruction - features) ** 2, axis=0)))


def pull_away_loss(vectors: Array) -> Array:
    """Return the mean squared cosine between different rows, 0 if orthogonal, 1 if parallel: [r, m] -> [].

    Rows are the contributions of x-features (`contributions.T`, the paper's orthogonality) or of images
    (`contributions`). For a single row, the loss is 0.

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
    # The square root of a sum of squares has no derivative at 0; the floor avoids this.
    norms = jnp.sqrt(jnp.maximum(jnp.sum(shifted**2, axis=1, keepdims=True), _EPSILON**2))
    directions = shifted / norms
    # sum_ij cos_ij^2 from the smaller of the two Gram matrices.
    gram = directions @ directions.T if rows <= vectors.shape[1] else directions.T @ directions
    return (jnp.sum(gram**2) - rows) / (rows * (rows - 1))


def dominance_loss(contributions: Array) -> Array:
    """Return how concentrated contributions are on few x-features: [N, n] -> [].

    The value, sum_ik C_ik^2 / sum_i (sum_k |C_ik|)^2, ranges from 1/n (all equal) to 1 (only one x-feature).
    This term is not in the paper, which relies on retries instead, because a faithful network with a single
    active x-feature minimizes the paper's loss.

    Example:
      >>> float(dominance_loss(jnp.array([[1.0, 1.0], [2.0, 2.0]])))
      0.5
    """
    if contributions.ndim != 2:
        raise ValueError(f"contributions must be [N, n], got {contributions.shape}.")
    # Unlike the derivative of `abs`, this one is not 0 at 0.
    sizes = jnp.where(contributions >= 0, contributions, -contributions)
    total = jnp.sum(jnp.sum(sizes, axis=1) ** 2)
    return jnp.sum(contributions**2) / jnp.maximum(total, _EPSILON)


def is_dead(contributions: Array) -> Array:
    """Return which x-features contribute less than 1% of an equal share to each class.

    Shapes: [N, n, K] -> bool [n].

    Example:
      >>> is_dead(jnp.array([[[5.0], [3.0], [0.001]]])).tolist()
      [False, False, True]
    """
    sizes = jnp.mean(jnp.abs(contributions), axis=0)  # [n, K]
    shares = sizes / jnp.maximum(jnp.mean(sizes, axis=0, keepdims=True), _EPSILON)
    return jnp.max(shares, axis=1) < DEAD


def _check_same_axes(one: Array, other: Array, name: str) -> None:
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(
            f"{name} {one.shape} must have 2 axes and the shape of the values to approximate, {other.shape}."
        )


# ---------------------------------------------------------------------------------------------------------
# The weighted sum


class TrainingData(NamedTuple):
    """Standardized features and logits."""

    features: Array  # [N, D]
    logits: Array  # [N, K]


class LossWeights(NamedTuple):
    """The weight of each term of the loss."""

    faithfulness: Array  # []
    reconstruction: Array  # []
    pull_away: Array  # []
    dominance: Array  # []


class LossTerms(NamedTuple):
    """The loss and its unweighted terms."""

    total: Array  # [], the weighted sum
    faithfulness: Array  # []
    reconstruction: Array  # []
    pull_away: Array  # [], summed over classes
    dominance: Array  # [], summed over classes


def loss_terms(
    outputs: SRAEOutputs, kernel: Array, data: TrainingData, weights: LossWeights, q: Array, over: str
) -> LossTerms:
    """Compute the loss of a batch.

    Args:
      outputs: outputs of the SRAE for the batch.
      kernel: kernel of the SRAE's head, [n, K].
      data: the batch.
      weights: weights of the terms.
      q: scale of the errors; see `sparse_reconstruction_loss`.
      over: rows in the pull-away loss, "x-features" or "images".
    """
    contributions = outputs.x_features[:, :, None] * kernel[None]  # [N, n, K]
    vectors = contributions.transpose(2, 1, 0) if over == "x-features" else contributions.transpose(2, 0, 1)
    faithfulness = faithfulness_loss(outputs.logits, data.logits)
    reconstruction = sparse_reconstruction_loss(outputs.reconstruction, data.features, q)
    pull_away = jnp.sum(jax.vmap(pull_away_loss)(vectors))
    dominance = jnp.sum(jax.vmap(dominance_loss)(contributions.transpose(2, 0, 1)))
    total = (
        weights.faithfulness * faithfulness
        + weights.reconstruction * reconstruction
        + weights.pull_away * pull_away
        + weights.dominance * dominance
    )
    return LossTerms(total, faithfulness, reconstruction, pull_away, dominance)
