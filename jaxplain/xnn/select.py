"""How many x-features: the published criterion over fits of several sizes."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxplain.checks import check_positive_int
from jaxplain.xnn.fit import SPREAD, FitResult, fit


class Selection(NamedTuple):
    """Fits of several sizes and which of them is best."""

    n_features: int  # the number of x-features whose criterion is the lowest
    criteria: dict[int, float]  # for every number tried; NaN where the fit is not finite
    fits: dict[int, FitResult]

    @property
    def best(self) -> FitResult:
        """The fit of the selected size."""
        return self.fits[self.n_features]


def criterion(
    found: FitResult, features: Array, *, p0: float = 1.0, p1: float = 1.0, p2: float = 0.0
) -> Array:
    """sum_k (mean_i E_ik w_k)^2 + p0 * loss + p1 * n - p2 * (number of positive x-features); low is good.

    The loss is that of the best epoch on the images held out of the fit. Contributions are in deviations of
    the logit, so that p0, p1 and p2 mean the same on every model; of several classes, the mean counts.

    Args:
      found: of `fit`.
      features: [N, D] over which contributions are averaged.
      p0: weight of the loss.
      p1: price of an x-feature.
      p2: reward for an x-feature that speaks for the class on average.

    Returns:
      [].
    """
    srae = found.srae
    deviation = srae.logit_scale[...] * SPREAD
    means = srae.x_features(features).mean(0)[:, None] * srae.weights / deviation  # [n, K]
    loss = found.validation.total[found.best_epoch]
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
    """Fit SRAEs of several sizes and take the one with the lowest published criterion; see `criterion`.

    Every size has its own shapes and is compiled once.

    Args:
      features: [N, D], as `fit` takes them.
      logits: [N] or [N, K].
      key: used for every size.
      candidates: numbers of x-features to try.
      p0: weight of the loss.
      p1: price of an x-feature.
      p2: reward for an x-feature that speaks for the class on average.
      **options: of `fit`.

    Raises:
      ValueError: no candidate, one that `fit` refuses, or no fit that is finite.

    Example:
      >>> import jax
      >>> features = jax.nn.relu(jax.random.normal(jax.random.key(0), (64, 12)))
      >>> small = {"widths": (8,), "epochs": 2, "pretrain_epochs": 1}
      >>> key, small = jax.random.key(1), small | {"candidates": (2, 3)}
      >>> found = select_n_features(features, features[:, 0], key=key, **small)
      >>> found.n_features in (2, 3), sorted(found.criteria)
      (True, [2, 3])
    """
    sizes = sorted({check_positive_int(n, "candidates") for n in candidates})
    if not sizes:
        raise ValueError("candidates must name at least one number of x-features.")
    fits = {n: fit(features, logits, key=key, n_features=n, **options) for n in sizes}
    weights = {"p0": p0, "p1": p1, "p2": p2}
    criteria = {n: float(criterion(found, features, **weights)) for n, found in fits.items()}
    finite = [n for n in sizes if jnp.isfinite(criteria[n])]
    if not finite:
        raise ValueError("none of the fits is finite; look at their status.")
    return Selection(min(finite, key=criteria.__getitem__), criteria, fits)
