"""Confidence: what is left of the score when only what a heatmap calls important is shown?

All three measures of the family reward maps that show nearly everything: read them beside deletion and
insertion, or beside `gini`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import check_image
from jaxplain.metrics.maps import at_size, check_pair
from jaxplain.perturb import blend


class Confidence(NamedTuple):
    """Scores of one image, whole and seen through its heatmap."""

    before: Array  # [], score of the image
    after: Array  # [], score of what the heatmap keeps of it; NaN for a map that is the same everywhere


class _Context(NamedTuple):
    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    kept: Array  # [H, W], 0 to 1


def average_drop(before: Array, after: Array) -> Array:
    """How many percent of the score are lost on average when only the explanation is shown; low is good.

    `100 * mean_i( max(0, Y_i - O_i) / Y_i )`, Y the scores of the whole images and O those of the images
    seen through their heatmaps. 0 where no score falls, 100 where all vanish.

    Args:
      before: [N], Y; probabilities by convention.
      after: [N], O.

    Returns:
      float32 []; NaN where any Y is not above 0 (the formula has no meaning there) or anything is NaN.

    Raises:
      TypeError, ValueError: not arrays of floats of one shape, or empty.

    References:
      Chattopadhay et al. Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> float(jx.metrics.average_drop(jnp.array([0.5, 0.8]), jnp.array([0.25, 0.9])))
      25.0
    """
    check_pair(before, after, ("before", "after"))
    whole, shown = jnp.asarray(before, jnp.float32), jnp.asarray(after, jnp.float32)
    return 100 * jnp.mean(jnp.where(whole > 0, jnp.maximum(0.0, whole - shown) / whole, jnp.nan))


def increase_in_confidence(before: Array, after: Array) -> Array:
    """In how many percent of the images the explanation alone scores higher than the whole; high is good.

    `100 * mean_i( O_i > Y_i )`, Y the scores of the whole images and O those of the images seen through
    their heatmaps. An equal score is no increase.

    Args:
      before: [N], Y.
      after: [N], O.

    Returns:
      float32 [], 0 to 100; NaN where anything is NaN.

    Raises:
      TypeError, ValueError: not arrays of floats of one shape, or empty.

    References:
      Chattopadhay et al. Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> float(jx.metrics.increase_in_confidence(jnp.array([0.5, 0.8]), jnp.array([0.25, 0.9])))
      50.0
    """
    check_pair(before, after, ("before", "after"))
    unknown = jnp.isnan(before) | jnp.isnan(after)
    return 100 * jnp.mean(jnp.where(unknown, jnp.nan, (jnp.asarray(after) > before).astype(jnp.float32)))


def confidence_on_explanation(
    score: scores.Score,
    image: Array,
    saliency: Array,
    baseline: Array | None = None,
    *,
    batch_size: int | None = None,
) -> Confidence:
    """The score of an image and of what its heatmap keeps of it: what `average_drop` is computed from.

    The map is upsampled to the image (bilinear, aligned corners) and brought to 0..1 by its own minimum and
    maximum, `m = (S - min S) / (max S - min S)`; shown is `image * m + baseline * (1 - m)`, which without
    a baseline is the published product `image * m` in the model's own input space.

    Args:
      score: images [N, H, W, C] -> [N]; softmax probability by convention.
      image: [H, W, C], model space.
      saliency: [h, w], high = important, any resolution up to the image's.
      baseline: [H, W, C]; None is 0 everywhere.
      batch_size: images per model call; None chooses by platform.

    Raises:
      ValueError, TypeError: shapes or dtypes that do not fit.

    References:
      Chattopadhay et al. Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> score = lambda images: images.mean((1, 2, 3))
      >>> saliency = jnp.zeros((4, 4)).at[:2].set(7.0)
      >>> found = jx.metrics.confidence_on_explanation(score, jnp.ones((4, 4, 3)), saliency)
      >>> float(found.before), float(found.after)
      (1.0, 0.5)
    """
    check_image(image)
    if baseline is not None:
        check_image(baseline, "baseline")
        if baseline.shape != image.shape:
            raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    full = at_size(saliency, (image.shape[0], image.shape[1]), "image")
    behind = jnp.zeros_like(image) if baseline is None else baseline
    return _confidence(scores.as_pytree(score), image, full, behind, batch_size=batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _confidence(
    score: scores.Score, image: Array, saliency: Array, baseline: Array, *, batch_size: int | None
) -> Confidence:
    lowest = jnp.min(saliency)
    spread = jnp.max(saliency) - lowest
    kept = (saliency - lowest) / spread
    whole = jnp.array([True, False])
    context = _Context(image, baseline, jnp.where(spread > 0, kept, 0.0).astype(image.dtype))
    before, after = funnel.evaluate(score, _draw, (), context, whole, batch_size=batch_size)
    return Confidence(before, jnp.where(spread > 0, after, jnp.nan))


def _draw(_: tuple, context: _Context, whole: Array) -> Array:
    return jnp.where(whole, context.image, blend(context.image, context.baseline, context.kept))
