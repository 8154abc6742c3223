"""What a fitted SRAE is worth, in numbers, on images it has not seen."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain.xnn.losses import dominance_loss, pull_away_loss
from jaxplain.xnn.srae import SRAE

COVERED = 0.9  # of the positive contributions, which the significant x-features reach
REBUILT = 0.5  # R^2 above which a feature counts as reconstructed


class Diagnosis(NamedTuple):
    """Numbers of one class; all but `significant` are 0..1 or errors."""

    rmse: Array  # [], of the logit, in its units; low is good
    r2: Array  # [], 1 - squared error / variance of the logit; 1 is best
    pull_away: Array  # [], mean squared cosine of x-features' contributions; low is orthogonal
    correlation: Array  # [], mean squared off-diagonal correlation of contributions; low is orthogonal
    reconstructed: Array  # [], share of the input features with R^2 > 0.5
    significant: Array  # [], significant x-features an image, mean; few is sparse, 1 is dominated by one
    dominance: Array  # [], sum of squared contributions / squared sums; 1/n where all count alike, 1 for one
    dead: Array  # int32 [], x-features that are active on no image


def significant(contributions: Array) -> Array:
    """The smallest set of x-features whose positive contributions reach 90% of their sum: bool [N, n].

    Args:
      contributions: [N, n].

    Example:
      >>> significant(jnp.array([[6.0, 3.5, 0.5, -4.0]])).tolist()
      [[True, True, False, False]]
    """
    positive = jnp.maximum(contributions, 0)
    order = jnp.argsort(-positive, axis=1)
    sizes = jnp.take_along_axis(positive, order, axis=1)
    before = jnp.cumsum(sizes, axis=1) - sizes  # of the larger ones
    needed = (before < COVERED * sizes.sum(1, keepdims=True)) & (sizes > 0)
    return jnp.zeros_like(needed).at[jnp.arange(len(order))[:, None], order].set(needed)


def diagnose(srae: SRAE, features: Array, logits: Array, target: int = 0) -> Diagnosis:
    """Measure an SRAE on features [N, D] and the logits [N] or [N, K] that it explains.

    Args:
      srae: the fitted network.
      features: [N, D], at best of images it was not fitted to.
      logits: [N] of the class, or [N, K] of all explained ones.
      target: which of the explained classes.

    Returns:
      A `Diagnosis`; NaN where a formula has no value (a constant logit has no R^2).

    Example:
      >>> from flax import nnx
      >>> from jaxplain.xnn.srae import SRAEConfig
      >>> srae = SRAE(SRAEConfig(features=8, widths=(4,), n_features=2), rngs=nnx.Rngs(0))
      >>> diagnose(srae, jnp.ones((3, 8)), jnp.arange(3.0)).significant.shape
      ()
    """
    truth = logits if logits.ndim == 1 else logits[:, target]
    standardized = srae.standardize(features)
    reading = srae.read(standardized)
    contributions = reading.x_features * srae.weights[:, target]
    error = contributions.sum(1) + srae.bias[target] - truth
    lost = jnp.mean((reading.reconstruction - standardized) ** 2, axis=0)
    return Diagnosis(
        rmse=jnp.sqrt(jnp.mean(error**2)),
        r2=1 - jnp.mean(error**2) / jnp.var(truth),
        pull_away=pull_away_loss(contributions.T),
        correlation=_correlation(contributions),
        reconstructed=jnp.mean(1 - lost / jnp.var(standardized, axis=0) > REBUILT),
        significant=significant(contributions).sum(1).mean(),
        dominance=dominance_loss(contributions),
        dead=jnp.sum(reading.x_features.max(0) <= 0).astype(jnp.int32),
    )


def _correlation(contributions: Array) -> Array:
    """Mean squared correlation of different columns [N, n]; a constant one correlates with none."""
    count = contributions.shape[1]
    if count < 2:
        return jnp.zeros(())
    centred = contributions - contributions.mean(0)
    lengths = jnp.linalg.norm(centred, axis=0)
    directions = centred / jnp.where(lengths > 0, lengths, 1)
    squares = (directions.T @ directions) ** 2
    return jnp.sum(jnp.where(jnp.eye(count, dtype=bool), 0, squares)) / (count * (count - 1))


def recall_and_precision(logits: Array, labels: Array, target: int) -> tuple[Array, Array]:
    """Of a class: share of its images that are named so, and share of those named so that are its own.

    Example:
      >>> recall, precision = recall_and_precision(jnp.eye(3), jnp.array([0, 1, 1]), 1)
      >>> float(recall), float(precision)
      (0.5, 1.0)
    """
    named, own = jnp.argmax(logits, axis=1) == target, labels == target
    right = jnp.sum(named & own)
    return right / jnp.sum(own), right / jnp.sum(named)


def replace_logit(logits: Array, target: int, predicted: Array) -> Array:
    """All logits [N, K] with one class's replaced by a prediction [N]."""
    return jnp.asarray(logits).at[:, target].set(predicted)
