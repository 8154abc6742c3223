"""Deletion and insertion: does the score fall and rise with the pixels that a heatmap calls important?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import check_image, check_positive_int
from jaxplain.perturb import blend, upsample


class Curves(NamedTuple):
    """Deletion and insertion curves of one image; T points."""

    fraction: Array  # [T], share of cells removed or restored, 0 to 1
    deletion: Array  # [T], scores as the most important cells are replaced by the baseline
    insertion: Array  # [T], scores as they are restored on the baseline
    deletion_area: Array  # [], low is good
    insertion_area: Array  # [], high is good


class _Point(NamedTuple):
    removed: Array  # int32, number of cells
    insertion: Array  # bool


def insertion_deletion(
    score: scores.Score,
    image: Array,
    baseline: Array,
    saliency: Array,
    *,
    steps: int = 50,
    batch_size: int | None = None,
) -> Curves:
    """Deletion and insertion curves of a heatmap and the areas under them.

    The cells of the map are ranked (ties: the first in reading order counts as more important).
    `max(1, n // steps)` of its n cells at a time are replaced by the baseline (deletion) or restored on it
    (insertion), most important first, always including none and all. The binary cell mask is upsampled
    bilinearly with aligned corners. The areas are trapezoids over the true fractions. A map of mask
    resolution (`1 - heatmap.mask`) is evaluated at its own resolution, a map of image resolution
    (`heatmap.saliency`) pixel by pixel.

    Args:
      score: images [N, H, W, C] -> [N]; softmax probability by convention.
      image: [H, W, C], model space.
      baseline: [H, W, C]; the blurred image by convention.
      saliency: [h, w], high = important, any resolution up to the image's.
      steps: about how many points (static).
      batch_size: images per model call; None chooses by platform.

    Raises:
      ValueError, TypeError: shapes or dtypes that do not fit, NaN in a concrete map.

    References:
      Petsiuk, Das, Saenko. RISE. BMVC 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((8, 8, 3)).at[:4].set(1.0)
      >>> score = lambda images: images[:, :4].mean((1, 2, 3))
      >>> saliency = jnp.zeros((8, 8)).at[:4].set(1.0)
      >>> curves = jx.insertion_deletion(score, image, jnp.zeros((8, 8, 3)), saliency)
      >>> round(float(curves.deletion_area), 2), round(float(curves.insertion_area), 2)
      (0.25, 0.75)
    """
    check_image(image)
    check_image(baseline, "baseline")
    if baseline.shape != image.shape:
        raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    check_map(saliency, image)
    steps = check_positive_int(steps, "steps")
    return _curves(scores.as_pytree(score), image, baseline, saliency, steps=steps, batch_size=batch_size)


def check_map(saliency: Array, image: Array) -> None:
    """A heatmap [h, w] for an image [H, W, C]: two axes, no finer than the image, no NaN."""
    shape: tuple[int, ...] = getattr(saliency, "shape", ())
    if len(shape) != 2 or 0 in shape or shape[0] > image.shape[0] or shape[1] > image.shape[1]:
        raise ValueError(
            f"saliency must be one map [h, w] of at most the image's {image.shape[:2]}, got shape {shape}."
        )
    check_image(saliency[..., None], "saliency")


@partial(jax.jit, static_argnames=("steps", "batch_size"))
def _curves(
    score: scores.Score, image: Array, baseline: Array, saliency: Array, *, steps: int, batch_size: int | None
) -> Curves:
    cells = saliency.size
    counts = jnp.array([*range(0, cells, max(1, cells // steps)), cells], jnp.int32)  # [T]
    order = jnp.argsort(-saliency.reshape(-1), stable=True)
    rank = jnp.zeros(cells, jnp.int32).at[order].set(jnp.arange(cells, dtype=jnp.int32))
    points = _Point(jnp.tile(counts, 2), jnp.arange(2 * len(counts)) >= len(counts))
    context = (image, baseline, rank.reshape(saliency.shape))
    values = funnel.evaluate(score, _draw, (), context, points, batch_size=batch_size)
    deletion, insertion = values.reshape(2, -1)
    fraction = counts / cells
    areas = (jnp.trapezoid(curve, fraction) for curve in (deletion, insertion))
    return Curves(fraction, deletion, insertion, *areas)


def _draw(_: tuple, context: tuple[Array, Array, Array], point: _Point) -> Array:
    image, baseline, rank = context
    first = rank < point.removed
    kept = jnp.where(point.insertion, first, ~first).astype(image.dtype)
    return blend(image, baseline, upsample(kept, (image.shape[0], image.shape[1])))
