"""Deletion and insertion curves: does the score depend on the pixels that the map marks as important?"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import as_image, check_floats, check_map, check_positive_int, check_same_shape
from jaxplain.perturb import as_baseline, blend, upsample


class Curves(NamedTuple):
    """Deletion and insertion curves of one image, with T points each."""

    fraction: Array  # [T], fraction of cells removed or restored, 0 to 1
    deletion: Array  # [T], scores as the most important cells are replaced by the baseline
    insertion: Array  # [T], scores as the most important cells are restored over the baseline
    deletion_auc: Array  # [], area under the deletion curve; low is good
    insertion_auc: Array  # [], area under the insertion curve; high is good


class _CurvePoint(NamedTuple):
    n_cells: Array  # int32 [], number of cells removed or restored
    insertion: Array  # bool [], whether the point is on the insertion curve


class _RankedImage(NamedTuple):
    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    rank: Array  # int32 [h, w], 0 for the most important cell


def insertion_deletion(
    score: scores.Score,
    image: Array,
    baseline: Array | None,
    importance: Array,
    *,
    n_steps: int = 50,
    batch_size: int | None = None,
) -> Curves:
    """Compute the deletion and insertion curves for a map, and the areas under them.

    The n cells of the map are ranked by importance (ties in reading order). Starting with the most important,
    `max(1, n // n_steps)` cells at a time are replaced by the baseline (deletion) or restored over it
    (insertion); both curves start with no cells and end with all of them. The binary mask of cells is
    upsampled bilinearly with aligned corners. The areas are computed with the trapezoidal rule. The map is
    evaluated at its own resolution: `explanation.importance` cell by cell, a map of the image's size pixel by
    pixel.

    Both curves are differentiable with respect to the image, the baseline and the score's parameters; the
    ranking has no gradient.

    Args:
      score: images [N, H, W, C] -> [N]; softmax probability by convention.
      image: [H, W, C], model space.
      baseline: [H, W, C]; if None (the convention), the blurred image.
      importance: [h, w], high = important, no larger than the image.
      n_steps: approximate number of points per curve (static).
      batch_size: number of images per model call; if None, chosen for the platform.

    Raises:
      ValueError, TypeError: invalid shapes or dtypes, or NaN or infinite values in a concrete map.

    References:
      Petsiuk, Das, Saenko. RISE. BMVC 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.zeros((8, 8, 3)).at[:4].set(1.0)
      >>> score = lambda images: images[:, :4].mean((1, 2, 3))
      >>> importance = jnp.zeros((8, 8)).at[:4].set(1.0)
      >>> curves = jx.insertion_deletion(score, image, jnp.zeros((8, 8, 3)), importance)
      >>> round(float(curves.deletion_auc), 2), round(float(curves.insertion_auc), 2)
      (0.25, 0.75)
    """
    image = as_image(image)
    baseline = as_baseline(baseline, image)
    check_map(importance, image.shape)
    n_steps = check_positive_int(n_steps, "n_steps")
    return _curves(
        scores.as_pytree(score), image, baseline, importance, n_steps=n_steps, batch_size=batch_size
    )


@partial(jax.jit, static_argnames=("n_steps", "batch_size"))
def _curves(
    score: scores.Score,
    image: Array,
    baseline: Array,
    importance: Array,
    *,
    n_steps: int,
    batch_size: int | None,
) -> Curves:
    # Values known at trace time are computed with NumPy, so that they need not be compiled.
    cells = importance.size
    counts = np.array([*range(0, cells, max(1, cells // n_steps)), cells], np.int32)  # [T]
    fraction = (counts / cells).astype(np.float32)
    on_insertion = np.arange(2 * len(counts)) >= len(counts)
    points = _CurvePoint(jnp.asarray(np.tile(counts, 2)), jnp.asarray(on_insertion))
    context = _RankedImage(image, baseline, _ranks(importance))
    values = funnel.evaluate(score, _draw, (), context, points, batch_size=batch_size)
    deletion, insertion = curves = values.reshape(2, -1)
    areas = jnp.sum((curves[:, 1:] + curves[:, :-1]) * (np.diff(fraction) / 2)[None], axis=1)
    return Curves(jnp.asarray(fraction), deletion, insertion, areas[0], areas[1])


def _ranks(importance: Array) -> Array:
    """Return each cell's rank in descending order of importance, ties in reading order: int32 [h, w]."""
    order = jnp.argsort(-importance.reshape(-1), stable=True)
    # Invert the permutation by sorting it: a scatter takes longer to compile.
    return jnp.argsort(order).reshape(importance.shape)


def _draw(_: tuple, context: _RankedImage, point: _CurvePoint) -> Array:
    important = context.rank < point.n_cells
    kept = (important == point.insertion).astype(context.image.dtype)
    return blend(
        context.image, context.baseline, upsample(kept, (context.image.shape[0], context.image.shape[1]))
    )


def adversarial_rise(fraction: Array, insertion: Array) -> Array:
    """Return the fraction of cells at which an insertion curve first reaches half of its final value.

    Low is good: with a faithful map, restoring a few pixels recovers the class. An adversarial map, which
    gets a good deletion AUC from a few scattered pixels that destroy the score but do not produce it,
    recovers the score only when nearly everything is restored. The result is a point on the curve, without
    interpolation.

    Args:
      fraction: [T], ascending from 0 to 1, such as `Curves.fraction`.
      insertion: [T], non-negative scores (usually probabilities), such as `Curves.insertion`.

    Returns:
      float32 [], one of the fractions; NaN if the final value is not above 0 or any value is NaN.

    Raises:
      TypeError, ValueError: not two floating-point arrays of the same length.

    References:
      Our own summary of the insertion curve from Petsiuk, Das, Saenko. RISE. BMVC 2018. Khorram, Lawson,
      Fuxin. iGOS++. ACM CHIL 2021 show that deletion alone rewards adversarial maps.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> fraction = jnp.linspace(0.0, 1.0, 5)
      >>> float(jx.metrics.adversarial_rise(fraction, jnp.array([0.0, 0.1, 0.5, 0.7, 0.8])))
      0.5
    """
    for array, name in ((fraction, "fraction"), (insertion, "insertion")):
        check_floats(array, name, 1, "[T]")
    check_same_shape(fraction, insertion, ("fraction", "insertion"))
    return _rise(fraction, insertion)


@jax.jit
def _rise(fraction: Array, insertion: Array) -> Array:
    curve = insertion.astype(jnp.float32)
    first = fraction.astype(jnp.float32)[jnp.argmax(curve >= curve[-1] / 2)]
    known = (curve[-1] > 0) & ~jnp.any(jnp.isnan(curve))
    return jnp.where(known, first, jnp.nan)
