"""Confidence: how much of the score remains if only the parts that a map marks as important are shown?

All metrics in this module reward maps that mark nearly everything as important: interpret them together with
deletion and insertion, or with `gini`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import as_image, check_map, check_same_shape
from jaxplain.perturb import as_baseline, blend, upsample


class Confidence(NamedTuple):
    """Scores of an image and of the same image masked by its map."""

    before: Array  # [], score of the image
    after: Array  # [], score of the masked image; NaN if the map is constant


class _ShownImage(NamedTuple):
    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    kept: Array  # [H, W], 0 to 1


def average_drop(before: Array, after: Array) -> Array:
    """Compute the mean percentage of the score lost if only the explanation is shown; low is good.

    `100 * mean_i( max(0, Y_i - O_i) / Y_i )`, where Y are the scores of the whole images and O those of the
    images masked by their maps. The result is 0 if no score falls and 100 if all fall to 0.

    Args:
      before: [N], Y, the scores of the whole images; probabilities by convention.
      after: [N], O, the scores of the masked images.

    Returns:
      float32 []; NaN if any Y is not above 0 (where the formula is undefined) or any value is NaN.

    Raises:
      TypeError, ValueError: not floating-point arrays of the same shape, or empty.

    References:
      Chattopadhay et al. Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> float(jx.metrics.average_drop(jnp.array([0.5, 0.8]), jnp.array([0.25, 0.9])))
      25.0
    """
    check_same_shape(before, after, ("before", "after"))
    return _average_drop(before, after)


@jax.jit
def _average_drop(before: Array, after: Array) -> Array:
    whole, masked = before.astype(jnp.float32), after.astype(jnp.float32)
    return 100 * jnp.mean(jnp.where(whole > 0, jnp.maximum(0.0, whole - masked) / whole, jnp.nan))


def increase_in_confidence(before: Array, after: Array) -> Array:
    """Compute the percentage of images whose explanation alone scores higher than the image; high is good.

    `100 * mean_i( O_i > Y_i )`, where Y are the scores of the whole images and O those of the images
    masked by their maps. An equal score does not count as an increase.

    Args:
      before: [N], Y, the scores of the whole images.
      after: [N], O, the scores of the masked images.

    Returns:
      float32 [], 0 to 100; NaN if any value is NaN.

    Raises:
      TypeError, ValueError: not floating-point arrays of the same shape, or empty.

    References:
      Chattopadhay et al. Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> float(jx.metrics.increase_in_confidence(jnp.array([0.5, 0.8]), jnp.array([0.25, 0.9])))
      50.0
    """
    check_same_shape(before, after, ("before", "after"))
    return _increase(before, after)


@jax.jit
def _increase(before: Array, after: Array) -> Array:
    unknown = jnp.isnan(before) | jnp.isnan(after)
    return 100 * jnp.mean(jnp.where(unknown, jnp.nan, (after > before).astype(jnp.float32)))


def confidence_on_explanation(
    score: scores.Score,
    image: Array,
    baseline: Array | None,
    importance: Array,
    *,
    batch_size: int | None = None,
) -> Confidence:
    """Score an image whole and masked by its map: the inputs of `average_drop`.

    The map is upsampled to the image's size (bilinear, aligned corners) and scaled to 0..1 by its own minimum
    and maximum, `m = (S - min S) / (max S - min S)`; the masked image is
    `image * m + baseline * (1 - m)`.

    Args:
      score: images [N, H, W, C] -> [N]; softmax probability by convention.
      image: [H, W, C], model space.
      baseline: [H, W, C]; if None, the blurred image. For the published version, `image * m`, use a baseline
        of zeros: `constant_baseline(image)`.
      importance: [h, w], high = important, no larger than the image.
      batch_size: number of images per model call; if None, chosen for the platform.

    Raises:
      ValueError, TypeError: invalid shapes or dtypes. The map's values are not checked, so that in
        a batch of maps a NaN affects only its own row instead of raising an error.

    References:
      Chattopadhay et al. Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> score = lambda images: images.mean((1, 2, 3))
      >>> image, importance = jnp.ones((4, 4, 3)), jnp.zeros((4, 4)).at[:2].set(7.0)
      >>> found = jx.metrics.confidence_on_explanation(score, image, 0 * image, importance)
      >>> float(found.before), float(found.after)
      (1.0, 0.5)
    """
    image = as_image(image)
    baseline = as_baseline(baseline, image)
    check_map(importance, image.shape, finite=False)
    return _confidence(scores.as_pytree(score), image, baseline, importance, batch_size=batch_size)


@partial(jax.jit, static_argnames="batch_size")
def _confidence(
    score: scores.Score, image: Array, baseline: Array, importance: Array, *, batch_size: int | None
) -> Confidence:
    full = upsample(jnp.asarray(importance, jnp.float32), (image.shape[0], image.shape[1]))
    lowest = jnp.min(full)
    spread = jnp.max(full) - lowest
    kept = jnp.where(spread > 0, (full - lowest) / spread, 0.0)
    context = _ShownImage(image, baseline, kept)
    whole = jnp.array([True, False])
    before, after = funnel.evaluate(score, _draw, (), context, whole, batch_size=batch_size)
    return Confidence(before, jnp.where(spread > 0, after, jnp.nan))


def _draw(_: tuple, context: _ShownImage, whole: Array) -> Array:
    return jnp.where(whole, context.image, blend(context.image, context.baseline, context.kept))
