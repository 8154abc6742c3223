"""Integrated gradients: a score difference distributed over the pixels."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.attributions.gradients import REDUCTIONS, Reduce, reduce_channels
from jaxplain.checks import as_image, check_batch_size, check_choice, check_positive_int
from jaxplain.explanation import Explanation, constant_unless, differ, finished
from jaxplain.perturb import as_baseline

RULES = ("adaptive", *paths.RULES)


class IntegratedDetails(NamedTuple):
    """The attribution from integrated gradients, and its quadrature error."""

    attribution: Array  # [H, W, C], signed, in units of the score
    completeness_error: Array  # [], |sum of attributions - score difference| / |score difference|


def integrated_gradients(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    n_steps: int = 64,
    rule: str = "adaptive",
    reduce: Reduce = "abs_sum",
) -> Explanation:
    """Integrated gradients: the score difference between image and baseline, distributed over the pixels.

    The gradient is averaged along the straight path from the baseline to the image and multiplied by the
    difference between the two. The attributions then sum to `score(image) - score(baseline)`, up to a
    quadrature error. `details.completeness_error` is this error relative to the score difference (infinite or
    NaN if the two scores are equal). More steps reduce the error. With the default rule and 64 steps, the
    error on photos with EfficientNet-Lite0 is about 1% on average, and several times that for some photos:
    the gradient has kinks all along the path, so the error is only about inversely proportional to the number
    of steps.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], where the path starts; if None, the blurred image.
      key: ignored.
      batch_size: number of images per model call; if None, chosen for the platform.
      n_steps: number of gradient evaluations (static).
      rule: quadrature rule (static). "adaptive" first scores n_steps / 2 images along the path and places
        more nodes where the slope of the score changes; "gauss_legendre" is better for smooth networks;
        "midpoint" and "riemann" (right-hand sum) use equidistant nodes. See `jaxplain.paths`. Derivatives of
        the result treat the nodes as fixed.
      reduce: how to reduce channels to one importance value (static); see `reduce_channels`.

    Returns:
      An `Explanation`: importance [H, W]; `details` is an `IntegratedDetails`. `evaluations` is n_steps + 2,
      because both ends are also scored, or n_steps + n_steps // 2 + 1 for the adaptive rule with
      n_steps >= 4, including both ends.

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options. A NaN score is reported in the status instead.

    References:
      Sundararajan, Taly, Yan. Axiomatic Attribution for Deep Networks. ICML 2017.
      Bhat, Raychowdhury. Non-Uniform Interpolation in Integrated Gradients for Low-Latency Explainable-AI.
      ISCAS 2023 (uses scores to place the nodes).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.zeros((4, 4, 3)).at[1, 2].set(1.0)
      >>> score = lambda images: (images ** 2).sum((1, 2, 3))
      >>> found = attributions.integrated_gradients(score, image, jnp.zeros((4, 4, 3)))
      >>> round(float(found.importance[1, 2]), 3), bool(found.details.completeness_error < 1e-5)
      (3.0, True)
    """
    check_choice(reduce, REDUCTIONS, "reduction")
    image = as_image(image)
    steps = check_positive_int(n_steps, "n_steps")
    adaptive = check_choice(rule, RULES, "rule") == "adaptive"
    return _integrated(
        scores.as_pytree(score),
        image,
        as_baseline(baseline, image),
        None if adaptive else paths.RULES[rule](steps),
        n_steps=steps,
        reduce=reduce,
        batch_size=check_batch_size(batch_size),
    )


class _PathEnds(NamedTuple):
    """The straight path between two images."""

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
) -> Explanation:
    """Integrate along a path; if `path` is None, use an adaptive path, whose nodes depend on the scores."""
    ends, shift = _PathEnds(image, baseline), jnp.zeros_like(image)
    positions = paths.pilot(n_steps) if path is None else jnp.array([0.0, 1.0], jnp.float32)
    scored = funnel.evaluate(score, _point_on_path, shift, ends, positions, batch_size=batch_size)
    # Derivatives of the result treat the nodes as fixed: with few nodes, the derivative of the quadrature
    # error with respect to them can be several times that of the integral, and it costs a backward pass.
    nodes, weights = paths.adaptive(jax.lax.stop_gradient(scored), n_steps) if path is None else path
    evaluated = funnel.value_and_grad(
        score, _point_on_path, shift, ends, nodes, weights, batch_size=batch_size
    )
    attribution = (image - baseline) * evaluated.grads
    difference = scored[-1] - scored[0]
    error = jnp.abs(jnp.sum(attribution) - difference) / jnp.abs(difference)
    values = jnp.concatenate([evaluated.values, scored])
    details = IntegratedDetails(attribution, error)
    importance, status = reduce_channels(attribution, reduce), constant_unless(differ(values))
    return finished(importance, values, len(values), details, status)


def _point_on_path(shift: Array, ends: _PathEnds, share: Array) -> Array:
    # In this form, shares of 0 and 1 reproduce the ends exactly.
    return (1 - share) * ends.baseline + share * ends.image + shift
