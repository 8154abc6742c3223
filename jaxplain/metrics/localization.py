"""Localization: does a map point at the annotated object?

A low value does not prove that a map is wrong: if the classifier uses other regions, a faithful map shows
those regions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import check_map
from jaxplain.perturb import upsample

_TOLERANCE_SHARE = 15 / 224  # of the mask's longer side


def pointing_game(importance: Array, mask: Array, tolerance: float | Array | None = None) -> Array:
    """Return 1 if the map's maximum lies within `tolerance` pixels of the object, 0 otherwise.

    A hit means that the Euclidean distance from the maximum to the object's nearest pixel is at most
    `tolerance`. If there are several maxima, the first in reading order counts, as in `insertion_deletion`.
    The accuracy on a dataset is the `jnp.nanmean` of the results (over all images, or first over the images
    of each class and then over the classes); high is good.

    Args:
      importance: [h, w], high = important; a map coarser than the mask is upsampled to the mask's size
        (bilinear, aligned corners).
      mask: bool [H, W], True on the object (or on all objects of the class).
      tolerance: distance in pixels of the mask; may be traced. If None, 15/224 of the mask's longer side: 15
        pixels, the published value, at 224.

    Returns:
      float32 []: 1 for a hit, 0 for a miss; NaN if the mask is empty or the map contains NaN.

    Raises:
      TypeError, ValueError: `importance` is not a floating-point map or is finer than the mask, or `mask` is
        not boolean.

    References:
      Zhang et al. Top-down Neural Attention by Excitation Backprop. IJCV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> importance = jnp.zeros((8, 8)).at[2, 3].set(1.0)
      >>> mask = jx.metrics.box_mask((4, 3, 8, 8), (8, 8))
      >>> [float(jx.metrics.pointing_game(importance, mask, tolerance)) for tolerance in (0, 1, 2)]
      [0.0, 0.0, 1.0]
    """
    _check_map_and_mask(importance, mask)
    default = _TOLERANCE_SHARE * max(mask.shape)
    return _pointing_game(importance, mask, default if tolerance is None else tolerance)


@jax.jit
def _pointing_game(importance: Array, mask: Array, tolerance: Array) -> Array:
    full = _at_mask_size(importance, mask)
    rows, cols = mask.shape
    top = jnp.argmax(full)
    squared = (jnp.arange(rows) - top // cols)[:, None] ** 2 + (jnp.arange(cols) - top % cols)[None, :] ** 2
    nearest = jnp.sqrt(jnp.min(jnp.where(mask, squared.astype(jnp.float32), jnp.inf)))
    known = jnp.any(mask) & ~jnp.any(jnp.isnan(full))
    return jnp.where(known, (nearest <= tolerance).astype(jnp.float32), jnp.nan)


def energy_pointing_game(importance: Array, mask: Array) -> Array:
    """Return the fraction of a map's total positive importance that lies on the object.

    `sum over the object of max(S, 0) / sum of max(S, 0)`; high is good, and an uninformative map scores the
    object's share of the image area. Negative values count as 0.

    Args:
      importance: [h, w], high = important; a map coarser than the mask is upsampled to the mask's size
        (bilinear, aligned corners).
      mask: bool [H, W], True on the object.

    Returns:
      float32 [], 0 to 1; NaN if the mask is empty, or the map has no positive values or contains NaN.

    Raises:
      TypeError, ValueError: `importance` is not a floating-point map or is finer than the mask, or `mask` is
        not boolean.

    References:
      Wang et al. Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks. CVPR
      Workshops 2020.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> mask = jx.metrics.box_mask((0, 0, 4, 2), (4, 4))
      >>> float(jx.metrics.energy_pointing_game(jnp.ones((4, 4)), mask))
      0.5
    """
    _check_map_and_mask(importance, mask)
    return _positive_share(importance, mask)


@jax.jit
def _positive_share(importance: Array, mask: Array) -> Array:
    positive = jnp.maximum(_at_mask_size(importance, mask), 0.0)
    positive = positive / jnp.max(positive)
    share = jnp.sum(jnp.where(mask, positive, 0.0)) / jnp.sum(positive)
    return jnp.where(jnp.any(mask), share, jnp.nan)


def box_mask(box: Any, shape: tuple[int, int]) -> Array:
    """Convert a box to a mask: bool [H, W], True where `top <= row < bottom` and `left <= column < right`.

    Rows and columns are counted from 0; bottom and right are exclusive. (Pascal VOC counts from 1, with
    inclusive bounds: pass `(ymin - 1, xmin - 1, ymax, xmax)`.) Parts of the box outside the image are cut
    off. For several boxes: `jax.vmap(lambda box: box_mask(box, shape))(boxes).any(0)`.

    Args:
      box: (top, left, bottom, right), in pixels of `shape`; numbers or an array [4], which may be traced.
      shape: (H, W) of the mask (static).

    Raises:
      ValueError: the box is not four numbers, the shape is not two positive integers, or a concrete box
        contains NaN or has bottom <= top or right <= left. A traced box of this kind gives an empty mask.

    Example:
      >>> import jaxplain as jx
      >>> jx.metrics.box_mask((0, 1, 2, 3), (2, 4)).astype(int).tolist()
      [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    traced = isinstance(box, jax.core.Tracer)
    sides = box if traced else np.asarray(box)
    if sides.shape != (4,) or not jnp.issubdtype(sides.dtype, jnp.number):
        raise ValueError(f"box must be four numbers (top, left, bottom, right), got {box!r}.")
    if len(shape) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in shape):
        raise ValueError(f"shape must be (rows, columns) of the mask, got {shape!r}.")
    if not traced and not (sides[0] < sides[2] and sides[1] < sides[3]):
        raise ValueError(f"box (top, left, bottom, right) must not be empty, got {sides.tolist()}.")
    top, left, bottom, right = (sides[side] for side in range(4))
    rows, cols = jnp.arange(shape[0]), jnp.arange(shape[1])
    return ((rows >= top) & (rows < bottom))[:, None] & ((cols >= left) & (cols < right))[None, :]


def _check_map_and_mask(importance: Any, mask: Any) -> None:
    dtype = getattr(mask, "dtype", None)
    if dtype is None or dtype != jnp.bool_:
        got = type(mask).__name__ if dtype is None else str(dtype)
        raise TypeError(f"mask must be an array of booleans, True on the object, got {got}.")
    if mask.ndim != 2 or 0 in mask.shape:
        raise ValueError(f"mask must have shape [H, W], got {mask.shape}.")
    check_map(importance, mask.shape, finite=False, owner="mask")


def _at_mask_size(importance: Array, mask: Array) -> Array:
    return upsample(importance.astype(jnp.float32), (mask.shape[0], mask.shape[1]))
