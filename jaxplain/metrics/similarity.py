"""Similarity of two maps: rank correlation and structural similarity."""

from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import check_floats, check_same_shape
from jaxplain.perturb import resize_map

_WINDOW, _SIGMA = 11, 1.5  # Gaussian window for the structural similarity


class Similarity(NamedTuple):
    """Similarity of two maps, where 1 = identical. All values are NaN if either map is constant."""

    rank: Array  # [], Spearman's correlation of the values
    absolute_rank: Array  # [], Spearman's correlation of the absolute values
    ssim: Array  # [], structural similarity, each map scaled to 0..1; NaN for images smaller than 11 pixels


def rank_correlation(first: Array, second: Array) -> Array:
    """Compute Spearman's rank correlation of two maps, from -1 to 1 (1 for identical rankings).

    This is the Pearson correlation of the ranks; tied values get their average rank.

    Args:
      first: array of any shape.
      second: array of the same shape.

    Returns:
      float32 []; NaN if either map is constant or contains NaN.

    Raises:
      TypeError, ValueError: not floating-point arrays of the same shape, or empty.

    References:
      Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018 (uses this metric).

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> importance = jnp.arange(6.0).reshape(2, 3)
      >>> round(float(jx.metrics.rank_correlation(importance, -(importance**3))), 3)
      -1.0
    """
    check_same_shape(first, second, ("first", "second"))
    return _rank_correlation(first, second)


@jax.jit
def _rank_correlation(first: Array, second: Array) -> Array:
    x, y = _centered_ranks(first), _centered_ranks(second)
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x**2) * jnp.sum(y**2))


def _centered_ranks(values: Array) -> Array:
    """Return average ranks, centered at 0 and divided by n so that their sums fit float32: [n]."""
    ranks = jax.scipy.stats.rankdata(values.reshape(-1), method="average")
    return (ranks.astype(jnp.float32) - (values.size + 1) / 2) / values.size


def ssim(first: Array, second: Array, data_range: float | Array | None = None) -> Array:
    """Compute the structural similarity of two maps (at most 1, for identical maps).

    This is the mean of `(2 m1 m2 + c1) (2 s12 + c2) / ((m1^2 + m2^2 + c1) (s1^2 + s2^2 + c2))` over all
    positions of an 11 x 11 Gaussian window (sigma 1.5) inside the map. Here m1 and m2 are the weighted means
    in the window, s1^2, s2^2 and s12 the variances and covariance, c1 = (0.01 R)^2, c2 = (0.03 R)^2, and R is
    the data range.

    Args:
      first: [H, W], at least 11 x 11.
      second: [H, W], the same shape.
      data_range: R; may be traced. If None, max - min over both maps together.

    Returns:
      float32 []; NaN if either map contains NaN or the data range is 0.

    Raises:
      TypeError, ValueError: not floating-point maps of the same shape, or smaller than 11 x 11.

    References:
      Wang, Bovik, Sheikh, Simoncelli. Image Quality Assessment: From Error Visibility to Structural
      Similarity. IEEE Transactions on Image Processing 2004.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> importance = jnp.arange(256.0).reshape(16, 16)
      >>> round(float(jx.metrics.ssim(importance, importance)), 3)
      1.0
    """
    for array, name in ((first, "first"), (second, "second")):
        check_floats(array, name, 2, "[H, W]")
    check_same_shape(first, second, ("first", "second"))
    if min(first.shape) < _WINDOW:
        raise ValueError(f"maps must be at least {_WINDOW} x {_WINDOW} for ssim, got shape {first.shape}.")
    return _ssim(jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32), data_range)


@jax.jit
def _ssim(first: Array, second: Array, data_range: Array | None) -> Array:
    if data_range is None:
        both = jnp.stack([first, second])
        data_range = jnp.max(both) - jnp.min(both)
    luminance, contrast = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # Center at the overall means to limit cancellation in the differences of squares.
    means = jnp.mean(first), jnp.mean(second)
    x, y = first - means[0], second - means[1]
    m1, m2 = _windowed(x), _windowed(y)
    v1, v2 = _windowed(x**2) - m1**2, _windowed(y**2) - m2**2
    covariance = _windowed(x * y) - m1 * m2
    m1, m2 = m1 + means[0], m2 + means[1]
    above = (2 * m1 * m2 + luminance) * (2 * covariance + contrast)
    below = (m1**2 + m2**2 + luminance) * (v1 + v2 + contrast)
    return jnp.where(data_range > 0, jnp.mean(above / below), jnp.nan)


def _windowed(values: Array) -> Array:
    """Return the weighted means in all windows that fit: [H, W] -> [H - 10, W - 10]."""
    rows, cols = (_window_matrix(size) for size in values.shape)
    precision = jax.lax.Precision.HIGHEST
    return jnp.matmul(jnp.matmul(rows, values, precision=precision), cols.T, precision=precision)


@lru_cache(maxsize=64)
def _window_matrix(size: int) -> np.ndarray:
    """Return the matrix whose row i weights the values i..i + 10: float32 [size - 10, size]."""
    weights = np.exp(-((np.arange(_WINDOW) - _WINDOW // 2) ** 2) / (2 * _SIGMA**2))
    matrix = np.zeros((size - _WINDOW + 1, size))
    for row in range(len(matrix)):
        matrix[row, row : row + _WINDOW] = weights / weights.sum()
    return matrix.astype(np.float32)


def compare_maps(first: Array, second: Array, image_size: tuple[int, int]) -> Similarity:
    """Compute all similarities between two maps [h, w] of the same image.

    Args:
      first: [h, w].
      second: [h, w], the same shape.
      image_size: (H, W); for the structural similarity, the maps are upsampled to this size, as displayed.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> importance = jnp.arange(16.0).reshape(4, 4)
      >>> found = jx.metrics.compare_maps(importance, 2 * importance - 7, (16, 16))
      >>> [round(float(value), 2) for value in found]
      [1.0, 0.88, 1.0]
    """
    return _compare(jnp.asarray(first), jnp.asarray(second), image_size=tuple(image_size))


@partial(jax.jit, static_argnames="image_size")
def _compare(first: Array, second: Array, *, image_size: tuple[int, int]) -> Similarity:
    return Similarity(
        rank_correlation(first, second),
        rank_correlation(jnp.abs(first), jnp.abs(second)),
        _displayed_ssim(first, second, image_size),
    )


def _displayed_ssim(first: Array, second: Array, image_size: tuple[int, int]) -> Array:
    """Return the structural similarity of maps as displayed: at least at image resolution, scaled to 0..1."""
    shape = (max(first.shape[0], image_size[0]), max(first.shape[1], image_size[1]))
    if min(shape) < _WINDOW:
        return jnp.full((), jnp.nan, jnp.float32)
    displayed = []
    for importance in (first, second):
        full = resize_map(jnp.asarray(importance, jnp.float32), shape)
        displayed.append((full - jnp.min(full)) / (jnp.max(full) - jnp.min(full)))  # NaN for a constant map
    return ssim(displayed[0], displayed[1], 1.0)
