"""Evaluate fitted SRAEs on unseen images, and choose the number of x-features."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.checks import check_positive_int
from jaxplain.xnn.fit import LOGIT_STD, FitResult, fit
from jaxplain.xnn.losses import dominance_loss, is_dead, pull_away_loss
from jaxplain.xnn.srae import SRAE

COVERED = 0.9  # fraction of the positive contributions that the significant x-features cover
RECONSTRUCTED = 0.5  # R^2 above which a feature counts as reconstructed


class Diagnosis(NamedTuple):
    """Metrics of an SRAE for one class; `MEASURES` gives their formulas and preferred directions."""

    rmse: Array  # []
    r2: Array  # []
    agreement: Array  # [], NaN unless `diagnose` was given all logits
    pull_away: Array  # []
    correlation: Array  # []
    reconstructed: Array  # []
    significant: Array  # []
    dominance: Array  # []
    locality: Array  # [], NaN unless `diagnose` was given importance maps
    dead: Array  # int32 []


class Formula(NamedTuple):
    """Definition of a metric. In formulas, i indexes images, k and j x-features, and d features."""

    better: str  # "high", "low", or "few" if neither extreme is good
    formula: str


MEASURES: dict[str, Formula] = {
    "rmse": Formula("low", "sqrt(mean_i (predicted_i - logit_i)^2), in units of the logit"),
    "r2": Formula("high", "1 - mean_i (predicted_i - logit_i)^2 / variance of the logit; at most 1"),
    "agreement": Formula("high", "fraction of images whose top class is the same with the predicted logit"),
    "pull_away": Formula("low", "mean_{k != j} cos(c_k, c_j)^2 of contributions c_k over images; 0 to 1"),
    "correlation": Formula("low", "mean_{k != j} correlation(c_k, c_j)^2 over images; 0 to 1"),
    "reconstructed": Formula("high", "fraction of features d with 1 - mean_i error_id^2 / variance_d > 0.5"),
    "significant": Formula("few", "mean_i of the fewest x-features with 90% of the positive contributions"),
    "dominance": Formula("low", "sum_ik c_ik^2 / sum_i (sum_k |c_ik|)^2: 1/n if all equal, 1 if only one"),
    "locality": Formula("low", "mean entropy of importance over 7 x 7 cells / log 49; 0 for a single cell"),
    "dead": Formula("low", "number of x-features whose mean |c_k| is below 1% of the average"),
}


class DiagnosisRow(NamedTuple):
    """A row in the table of metrics."""

    name: str
    value: float
    better: str
    formula: str


def table(diagnosis: Diagnosis) -> Iterator[DiagnosisRow]:
    """Iterate over the metrics, with their names, values, preferred directions and formulas.

    Example:
      >>> empty = Diagnosis(*(jnp.zeros(()),) * len(Diagnosis._fields))
      >>> next(iter(table(empty)))[:3]
      ('rmse', 0.0, 'low')
    """
    for name, value in diagnosis._asdict().items():
        yield DiagnosisRow(name, float(value), *MEASURES[name])


@jax.jit
def diagnose(
    srae: SRAE,
    features: Array,
    logits: Array,
    target: int = 0,
    *,
    every_logit: Array | None = None,
    label: int | Array | None = None,
    importance: Array | None = None,
) -> Diagnosis:
    """Compute metrics of an SRAE from features [N, D] and the explained logits, [N] or [N, K].

    Args:
      srae: the fitted network.
      features: [N, D], preferably from held-out images.
      logits: logits of the class, [N], or of all explained classes, [N, K].
      target: index of the class among the explained classes.
      every_logit: logits of all of the classifier's classes, [N, C], to compute `agreement`.
      label: index of the explained class among the C classes; required with `every_logit`.
      importance: importance maps of x-features, [M, H, W], to compute `locality`.

    Returns:
      A `Diagnosis`; metrics are NaN if undefined (for example, a constant logit has no R^2). See `table`.

    Raises:
      ValueError: if only one of `every_logit` and `label` is given, or shapes do not match.

    Example:
      >>> from flax import nnx
      >>> from jaxplain.xnn.srae import SRAEConfig
      >>> srae = SRAE(SRAEConfig(features=8, widths=(4,), n_features=2), rngs=nnx.Rngs(0))
      >>> diagnose(srae, jnp.ones((3, 8)), jnp.arange(3.0)).significant.shape
      ()
    """
    truth = logits if logits.ndim == 1 else logits[:, target]
    standardized = srae.standardize(features)
    outputs = srae.forward(standardized)
    contributions = outputs.x_features * srae.weights[:, target][None]
    predicted = contributions.sum(1) + srae.bias[target]
    feature_error = jnp.mean((outputs.reconstruction - standardized) ** 2, axis=0)
    logit_error = jnp.mean((predicted - truth) ** 2)
    return Diagnosis(
        rmse=jnp.sqrt(logit_error),
        r2=1 - logit_error / jnp.var(truth),
        agreement=_agreement(every_logit, label, predicted),
        pull_away=pull_away_loss(contributions.T),
        correlation=_correlation(contributions),
        reconstructed=jnp.mean(1 - feature_error / jnp.var(standardized, axis=0) > RECONSTRUCTED),
        significant=significant(contributions).sum(1).mean(),
        dominance=dominance_loss(contributions),
        locality=jnp.float32(jnp.nan) if importance is None else locality(importance).mean(),
        dead=jnp.sum(is_dead(contributions[:, :, None])).astype(jnp.int32),
    )


def _agreement(every_logit: Array | None, label: int | Array | None, predicted: Array) -> Array:
    if (every_logit is None) != (label is None):
        raise ValueError(
            "every_logit (all logits) and label (the index of the explained class) must be passed together."
        )
    if every_logit is None:
        return jnp.float32(jnp.nan)
    replaced = replace_logit(every_logit, label, predicted)
    return jnp.mean(jnp.argmax(every_logit, axis=1) == jnp.argmax(replaced, axis=1))


def _correlation(contributions: Array) -> Array:
    """Return the mean squared correlation between different columns of [N, n]; 0 if a column is constant."""
    count = contributions.shape[1]
    if count < 2:
        return jnp.zeros((), jnp.float32)
    centered = contributions - contributions.mean(0, keepdims=True)
    norms = jnp.linalg.norm(centered, axis=0, keepdims=True)
    directions = centered / jnp.where(norms > 0, norms, 1)
    squares = (directions.T @ directions) ** 2
    return jnp.sum(jnp.where(jnp.eye(count, dtype=bool), 0, squares)) / (count * (count - 1))


def significant(contributions: Array) -> Array:
    """Return the fewest x-features that make up 90% of positive contributions: [N, n] -> bool [N, n].

    Example:
      >>> significant(jnp.array([[6.0, 3.5, 0.5, -4.0]])).tolist()
      [[True, True, False, False]]
    """
    positive = jnp.maximum(contributions, 0)
    order = jnp.argsort(-positive, axis=1)
    sizes = jnp.take_along_axis(positive, order, axis=1)
    before = jnp.cumsum(sizes, axis=1) - sizes  # sum of all larger contributions
    needed = (before < COVERED * sizes.sum(1, keepdims=True)) & (sizes > 0)
    return jnp.zeros_like(needed).at[jnp.arange(len(order))[:, None], order].set(needed)


def locality(importance: Array, cells: int = 7) -> Array:
    """Return the spread of importance, its entropy over cells / log(cells^2): [M, H, W] -> [M].

    The value is 0 if all importance lies in one cell, 1 if it is uniform, and NaN if a map has no positive
    importance. Negative importance counts as 0.

    Raises:
      ValueError: if `importance` is not [M, H, W], or has fewer than `cells` rows or columns.

    Example:
      >>> locality(jnp.ones((1, 14, 14))).round(3).tolist()
      [1.0]
    """
    if importance.ndim != 3 or min(importance.shape[1:]) < cells:
        raise ValueError(
            f"importance must be [M, H, W] with H and W at least {cells}, got shape {importance.shape}."
        )
    height, width = importance.shape[1:]
    rows, cols = (jnp.arange(side) * cells // side for side in (height, width))
    sums = jnp.zeros((len(importance), cells, cells), jnp.float32)
    sums = sums.at[:, rows[:, None], cols[None, :]].add(jnp.maximum(importance, 0))
    shares = sums / sums.sum((1, 2), keepdims=True)
    return -jnp.sum(jax.scipy.special.xlogy(shares, shares), axis=(1, 2)) / jnp.log(cells**2)


def recall_and_precision(logits: Array, labels: Array, target: int) -> tuple[Array, Array]:
    """Return a class's recall and precision: logits [N, K], labels int [N] -> [], [].

    Example:
      >>> recall, precision = recall_and_precision(jnp.eye(3), jnp.array([0, 1, 1]), 1)
      >>> float(recall), float(precision)
      (0.5, 1.0)
    """
    predicted, actual = jnp.argmax(logits, axis=1) == target, labels == target
    correct = jnp.sum(predicted & actual)
    return correct / jnp.sum(actual), correct / jnp.sum(predicted)


def replace_logit(logits: Array, target: int | Array | None, predicted: Array) -> Array:
    """Replace one class's logits, in [N, K], with predictions [N]."""
    return jnp.asarray(logits).at[:, target].set(predicted)


# ---------------------------------------------------------------------------------------------------------
# The number of x-features


class Selection(NamedTuple):
    """Fits with different numbers of x-features, and the best number."""

    n_features: int  # the number with the lowest criterion
    criteria: dict[int, float]  # criterion for each number tried; NaN if the fit is not finite
    fits: dict[int, FitResult]

    @property
    def best(self) -> FitResult:
        """The fit with the selected number of x-features."""
        return self.fits[self.n_features]


def criterion(
    fitted: FitResult, features: Array, *, p0: float = 1.0, p1: float = 1.0, p2: float = 0.0
) -> Array:
    """Return the criterion that `select_n_features` minimizes, a scalar.

    It is sum_k (mean_i E_ik w_k)^2 + p0 * loss + p1 * n - p2 * (number of positive x-features), where loss is
    the best epoch's validation loss. Contributions are in standard deviations of the logit, so that
    p0, p1 and p2 are comparable across models. Terms are averaged over classes.

    Args:
      fitted: result of `fit`.
      features: features over which contributions are averaged, [N, D].
      p0: weight of the loss.
      p1: cost per x-feature.
      p2: reward per x-feature with a positive mean contribution.
    """
    srae = fitted.srae
    deviation = srae.logit_scale[...][None] * LOGIT_STD
    means = srae.x_features(features).mean(0)[:, None] * srae.weights / deviation  # [n, K]
    loss = fitted.validation.total[fitted.best_epoch]
    squares = jnp.mean(jnp.sum(means**2, axis=0))
    positive = jnp.mean(jnp.sum(means > 0, axis=0))
    return squares + p0 * loss + p1 * means.shape[0] - p2 * positive


def select_n_features(
    features: Array,
    logits: Array,
    *,
    key: Array,
    candidates: Iterable[int] = (2, 3, 4, 5, 6, 7, 8),
    p0: float = 1.0,
    p1: float = 1.0,
    p2: float = 0.0,
    **options: Any,
) -> Selection:
    """Choose the number of x-features that minimizes the published criterion; see `criterion`.

    Each number leads to different shapes and is compiled separately.

    Args:
      features: [N, D], as in `fit`.
      logits: [N] or [N, K].
      key: random key, used for every fit.
      candidates: numbers of x-features to try.
      p0: weight of the loss.
      p1: cost per x-feature.
      p2: reward per x-feature with a positive mean contribution.
      **options: options for `fit`.

    Raises:
      ValueError: if there are no candidates, `fit` rejects a candidate, or no fit is finite.

    Example:
      >>> import jax
      >>> features = jax.nn.relu(jax.random.normal(jax.random.key(0), (64, 12)))
      >>> options = {"widths": (8,), "epochs": 2, "candidates": (2,)}
      >>> selection = select_n_features(features, features[:, 0], key=jax.random.key(1), **options)
      >>> selection.n_features, selection.best.srae(features).shape
      (2, (64, 1))
    """
    sizes = sorted({check_positive_int(n, "candidates") for n in candidates})
    if not sizes:
        raise ValueError("candidates must contain at least one number of x-features.")
    fits = {n: fit(features, logits, key=key, n_features=n, **options) for n in sizes}
    weights = {"p0": p0, "p1": p1, "p2": p2}
    criteria = {n: float(criterion(fitted, features, **weights)) for n, fitted in fits.items()}
    finite = [n for n in sizes if jnp.isfinite(criteria[n])]
    if not finite:
        raise ValueError("none of the fits is finite; check their status.")
    return Selection(min(finite, key=criteria.__getitem__), criteria, fits)
