"""Integrated gradients: the difference between two scores, shared out among the pixels.

Every gradient is taken in a shift that is added to the image and is zero, so that the funnel's sum over many
images is the sum of their gradients.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.attributions.result import (
    Attribution,
    Reduce,
    checked_baseline,
    checked_image,
    checked_reduction,
    make_result,
    reduce_channels,
)
from jaxplain.checks import check_choice, check_positive_int

N_STEPS = 64


def integrated_gradients(
    score: scores.Score,
    image: Array,
    baseline: Array,
    *,
    n_steps: int = N_STEPS,
    rule: str = "gauss_legendre",
    reduce: Reduce = "abs_sum",
    batch_size: int | None = None,
) -> Attribution:
    """Integrated gradients: the difference between two scores, shared out among the values that differ.

    The gradient is averaged on the straight path from the baseline to the image and multiplied by their
    difference. The attributions then sum to `score(image) - score(baseline)` up to the error of the
    quadrature, which the result's `error` measures relative to that difference (infinite or NaN if the two
    scores are equal). More steps make it smaller; a path across many kinks of a network with ReLUs may need
    hundreds.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], where the path starts.
      n_steps: forward and backward passes (static).
      rule: "gauss_legendre", "midpoint" or "riemann" (right-hand sums), see `jaxplain.paths` (static).
      reduce: how channels become a saliency (static); see `reduce_channels`.
      batch_size: images per model call; None chooses by platform.

    Returns:
      An `Attribution`: attribution [H, W, C] in units of the score, saliency [H, W], status, and the
      relative completeness error. `evaluations` is n_steps + 2, for the two ends are scored too.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit. A NaN score is no error but a
        `Status` in the result.

    References:
      Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.zeros((4, 4, 3)).at[1, 2].set(1.0)
      >>> score = lambda images: (images ** 2).sum((1, 2, 3))
      >>> found = attributions.integrated_gradients(score, image, jnp.zeros((4, 4, 3)))
      >>> round(float(found.saliency[1, 2]), 3), bool(found.error < 1e-5)
      (3.0, True)
    """
    checked_reduction(reduce)
    image = checked_image(image)
    return _integrated(
        scores.as_pytree(score),
        image,
        checked_baseline(baseline, image),
        paths.RULES[check_choice(rule, paths.RULES, "rule")](check_positive_int(n_steps, "n_steps")),
        reduce=reduce,
        batch_size=batch_size,
    )


class _Ends(NamedTuple):
    """Of the straight path."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]


@partial(jax.jit, static_argnames=("reduce", "batch_size"))
def _integrated(
    score: Any, image: Array, baseline: Array, path: paths.Path, *, reduce: Reduce, batch_size: int | None
) -> Attribution:
    ends, shift = _Ends(image, baseline), jnp.zeros_like(image)
    found = funnel.value_and_grad(
        score, _on_path, shift, ends, path.nodes, path.weights, batch_size=batch_size
    )
    first, last = funnel.evaluate(score, _on_path, shift, ends, jnp.array([0.0, 1.0]), batch_size=batch_size)
    attribution = (image - baseline) * found.grads
    rise = last - first
    error = jnp.abs(jnp.sum(attribution) - rise) / jnp.abs(rise)
    values = jnp.concatenate([found.values, jnp.stack([first, last])])
    saliency = reduce_channels(attribution, reduce)
    return make_result(attribution, saliency, values, path.nodes.shape[0] + 2, error)


def _on_path(shift: Array, ends: _Ends, share: Array) -> Array:
    # Written so that shares 0 and 1 are the ends to the last bit.
    return (1 - share) * ends.baseline + share * ends.image + shift
