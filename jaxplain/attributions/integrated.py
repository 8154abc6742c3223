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
RULES = ("adaptive", *paths.RULES)


def integrated_gradients(
    score: scores.Score,
    image: Array,
    baseline: Array,
    *,
    n_steps: int = N_STEPS,
    rule: str = "adaptive",
    reduce: Reduce = "abs_sum",
    batch_size: int | None = None,
) -> Attribution:
    """Integrated gradients: the difference between two scores, shared out among the values that differ.

    The gradient is averaged on the straight path from the baseline to the image and multiplied by their
    difference. The attributions then sum to `score(image) - score(baseline)` up to the error of the
    quadrature, which the result's `error` measures relative to that difference (infinite or NaN if the two
    scores are equal). More steps make it smaller. With the 64 steps and the rule of the default it is about
    1% on photos and EfficientNet-Lite0, in the mean (several times that on a single photo): its gradient has
    kinks all along the path, and the error falls only about in proportion to the steps.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], where the path starts.
      n_steps: forward and backward passes (static).
      rule: "adaptive" scores n_steps / 2 images on the path first and takes more gradients where the
        score's slope changes, "gauss_legendre" is better for a smooth network, "midpoint" and "riemann"
        (right-hand sums) are even; see `jaxplain.paths` (static).
      reduce: how channels become a saliency (static); see `reduce_channels`.
      batch_size: images per model call; None chooses by platform.

    Returns:
      An `Attribution`: attribution [H, W, C] in units of the score, saliency [H, W], status, and the
      relative completeness error. `evaluations` is n_steps + 2, for the two ends are scored too; of the
      adaptive rule n_steps + n_steps // 2 + 1 (n_steps >= 4), the ends among them.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit. A NaN score is no error but a
        `Status` in the result.

    References:
      Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017.
      Bhat, Raychowdhury. Non-Uniform Interpolation in Integrated Gradients for Low-Latency Explainable-AI.
      ISCAS 2023 (nodes placed by scores).

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
    steps = check_positive_int(n_steps, "n_steps")
    return _integrated(
        scores.as_pytree(score),
        image,
        checked_baseline(baseline, image),
        _fixed(check_choice(rule, RULES, "rule"), steps),
        n_steps=steps,
        reduce=reduce,
        batch_size=batch_size,
    )


def _fixed(rule: str, n_steps: int) -> paths.Path | None:
    """The nodes of a rule; None for the one whose nodes only the scores tell."""
    return None if rule == "adaptive" else paths.RULES[rule](n_steps)


class _Ends(NamedTuple):
    """Of the straight path."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]


@partial(jax.jit, static_argnames=("n_steps", "reduce", "batch_size"))
def _integrated(
    score: Any,
    image: Array,
    baseline: Array,
    path: paths.Path | None,
    *,
    n_steps: int,
    reduce: Reduce,
    batch_size: int | None,
) -> Attribution:
    ends, shift = _Ends(image, baseline), jnp.zeros_like(image)
    places = paths.pilot(n_steps) if path is None else jnp.array([0.0, 1.0])
    scored = funnel.evaluate(score, _on_path, shift, ends, places, batch_size=batch_size)
    nodes, weights = paths.adaptive(scored, n_steps) if path is None else path
    found = funnel.value_and_grad(score, _on_path, shift, ends, nodes, weights, batch_size=batch_size)
    attribution = (image - baseline) * found.grads
    rise = scored[-1] - scored[0]
    error = jnp.abs(jnp.sum(attribution) - rise) / jnp.abs(rise)
    values = jnp.concatenate([found.values, scored])
    saliency = reduce_channels(attribution, reduce)
    return make_result(attribution, saliency, values, len(values), error)


def _on_path(shift: Array, ends: _Ends, share: Array) -> Array:
    # Written so that shares 0 and 1 are the ends to the last bit.
    return (1 - share) * ends.baseline + share * ends.image + shift
