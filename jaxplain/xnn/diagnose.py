"""What a fitted SRAE is worth, in numbers, on images it has not seen."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.xnn.losses import dominance_loss, is_dead, pull_away_loss
from jaxplain.xnn.srae import SRAE

COVERED = 0.9  # of the positive contributions, which the significant x-features reach
REBUILT = 0.5  # R^2 above which a feature counts as reconstructed


class Diagnosis(NamedTuple):
    """Numbers of one class; `MEASURES` says how each is made and which way is good."""

    rmse: Array  # []
    r2: Array  # []
    agreement: Array  # [], NaN where `diagnose` was not given all logits
    pull_away: Array  # []
    correlation: Array  # []
    reconstructed: Array  # []
    significant: Array  # []
    dominance: Array  # []
    locality: Array  # [], NaN where `diagnose` was not given heatmaps
    dead: Array  # int32 []


class Measure(NamedTuple):
    """What a number of a `Diagnosis` is: i stands for images, k and j for x-features, d for features."""

    better: str  # "high", "low", or "few", where neither end is good
    formula: str


MEASURES: dict[str, Measure] = {
    "rmse": Measure("low", "sqrt(mean_i (predicted_i - logit_i)^2), in units of the logit"),
    "r2": Measure("high", "1 - mean_i (predicted_i - logit_i)^2 / variance of the logit; at most 1"),
    "agreement": Measure("high", "share of images whose top class is the same with the predicted logit"),
    "pull_away": Measure("low", "mean_{k != j} cos(c_k, c_j)^2 of contributions c_k over images; 0 to 1"),
    "correlation": Measure("low", "mean_{k != j} correlation(c_k, c_j)^2 over images; 0 to 1"),
    "reconstructed": Measure("high", "share of features d with 1 - mean_i error_id^2 / variance_d > 0.5"),
    "significant": Measure("few", "mean_i of the fewest x-features with 90% of the positive contributions"),
    "dominance": Measure("low", "sum_ik c_ik^2 / sum_i (sum_k |c_ik|)^2: 1/n if all count alike, 1 for one"),
    "locality": Measure("low", "mean entropy of a heatmap's mass over 7 x 7 cells / log 49; 0 is one cell"),
    "dead": Measure("low", "x-features whose mean |c_k| is below 1% of the mean x-feature's"),
}


class Row(NamedTuple):
    """A row of the table of measures."""

    name: str
    value: float
    better: str
    formula: str


def table(diagnosis: Diagnosis) -> Iterator[Row]:
    """The measures with their names, directions and formulas, one row each.

    Example:
      >>> empty = Diagnosis(*(jnp.zeros(()),) * len(Diagnosis._fields))
      >>> next(iter(table(empty)))[:3]
      ('rmse', 0.0, 'low')
    """
    for name, value in diagnosis._asdict().items():
        yield Row(name, float(value), *MEASURES[name])


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


def diagnose(
    srae: SRAE,
    features: Array,
    logits: Array,
    target: int = 0,
    *,
    every_logit: Array | None = None,
    label: int | Array | None = None,
    saliency: Array | None = None,
) -> Diagnosis:
    """Measure an SRAE on features [N, D] and the logits [N] or [N, K] that it explains.

    Args:
      srae: the fitted network.
      features: [N, D], at best of images it was not fitted to.
      logits: [N] of the class, or [N, K] of all explained ones.
      target: which of the explained classes.
      every_logit: [N, C] of all classes of the classifier, for `agreement`.
      label: which of those C classes is explained; goes with `every_logit`.
      saliency: [M, H, W], heatmaps of x-features, for `locality`.

    Returns:
      A `Diagnosis`; NaN where a formula has no value (a constant logit has no R^2). `table` explains it.

    Raises:
      ValueError: only one of `every_logit` and `label`, or shapes that do not fit.

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
    predicted = contributions.sum(1) + srae.bias[target]
    lost = jnp.mean((reading.reconstruction - standardized) ** 2, axis=0)
    error = jnp.mean((predicted - truth) ** 2)
    return Diagnosis(
        rmse=jnp.sqrt(error),
        r2=1 - error / jnp.var(truth),
        agreement=_agreement(every_logit, label, predicted),
        pull_away=pull_away_loss(contributions.T),
        correlation=_correlation(contributions),
        reconstructed=jnp.mean(1 - lost / jnp.var(standardized, axis=0) > REBUILT),
        significant=significant(contributions).sum(1).mean(),
        dominance=dominance_loss(contributions),
        locality=jnp.float32(jnp.nan) if saliency is None else locality(saliency).mean(),
        dead=jnp.sum(is_dead(contributions[:, :, None])).astype(jnp.int32),
    )


def locality(saliency: Array, cells: int = 7) -> Array:
    """How widely heatmaps spread: entropy of their mass over cells / log(cells^2): [M, H, W] -> [M].

    0 where all mass lies in one cell, 1 where it is even; NaN for a map without mass. What is negative counts
    as 0.

    Raises:
      ValueError: not [M, H, W], or maps smaller than the cells.

    Example:
      >>> locality(jnp.ones((1, 14, 14))).round(3).tolist()
      [1.0]
    """
    if saliency.ndim != 3 or min(saliency.shape[1:]) < cells:
        raise ValueError(f"saliency must be [M, H, W], H and W at least {cells}, got {saliency.shape}.")
    height, width = saliency.shape[1:]
    rows, cols = (jnp.arange(side) * cells // side for side in (height, width))
    sums = jnp.zeros((len(saliency), cells, cells))
    sums = sums.at[:, rows[:, None], cols[None, :]].add(jnp.maximum(saliency, 0))
    shares = sums / sums.sum((1, 2), keepdims=True)
    return -jnp.sum(jax.scipy.special.xlogy(shares, shares), axis=(1, 2)) / jnp.log(cells**2)


def _agreement(every_logit: Array | None, label: int | Array | None, predicted: Array) -> Array:
    if (every_logit is None) != (label is None):
        raise ValueError("every_logit and label go together: all logits, and which of them is explained.")
    if every_logit is None:
        return jnp.float32(jnp.nan)
    replaced = jnp.asarray(every_logit).at[:, label].set(predicted)
    return jnp.mean(jnp.argmax(every_logit, axis=1) == jnp.argmax(replaced, axis=1))


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
