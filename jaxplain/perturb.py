"""Baselines, resizing and blending: turn a mask into a perturbed image.

A mask is 1 where a pixel is kept and 0 where the baseline replaces it. A mask has h rows and w columns; an
image has H rows and W columns.
"""

from collections.abc import Callable
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import as_image, check_choice, check_image, check_positive_int

BASELINES = ("blur", "black", "white", "mean", "zero", "noise")


@lru_cache(maxsize=64)
def upsampling_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Return the bilinear interpolation matrix with aligned corners: float32 [size_out, size_in].

    The sample positions are `linspace(0, size_in - 1, size_out)`, so that the first and last samples coincide
    with the corners; `jax.image.resize` aligns pixel centers instead.
    """
    positions = np.linspace(0.0, size_in - 1.0, size_out)
    distance = np.abs(positions[:, None] - np.arange(size_in)[None, :])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def upsample(mask: Array, shape: tuple[int, int]) -> Array:
    """Upsample a mask bilinearly with aligned corners: [h, w] -> [H, W]. No-op if the shapes are equal."""
    if mask.shape == tuple(shape):
        return mask
    rows, cols = upsampling_matrix(mask.shape[0], shape[0]), upsampling_matrix(mask.shape[1], shape[1])
    precision = jax.lax.Precision.HIGHEST  # the products are small; TPU's default would round to bfloat16
    return jnp.matmul(jnp.matmul(rows, mask, precision=precision), cols.T, precision=precision)


def resizing_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Return the matrix that resizes one axis of a map: float32 [size_out, size_in]; see `resize_map`."""
    if size_out >= size_in:
        return upsampling_matrix(size_in, size_out)
    edges = np.arange(size_out + 1) * size_in / size_out
    pixels = np.arange(size_in)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(shared, 0.0) * size_out / size_in).astype(np.float32)


def resize_map(importance: Array, shape: tuple[int, int]) -> Array:
    """Resize a map: [h, w] -> [H, W].

    Each axis is downsampled by averaging over cells, or upsampled bilinearly with aligned corners. No-op if
    the shapes are equal.
    """
    if importance.shape == tuple(shape):
        return importance
    rows, cols = (resizing_matrix(*sides) for sides in zip(importance.shape, shape, strict=True))
    precision = jax.lax.Precision.HIGHEST
    return jnp.matmul(jnp.matmul(rows, importance, precision=precision), cols.T, precision=precision)


def blend(image: Array, baseline: Array, mask: Array) -> Array:
    """Return `image * mask + baseline * (1 - mask)` for image and baseline [H, W, C] and mask [H, W]."""
    return baseline + mask[..., None] * (image - baseline)


def blur_baseline(image: Array, kernel: int | None = None, sigma: float | None = None) -> Array:
    """Return the image [H, W, C] blurred beyond recognition.

    The blur is Gaussian with `kernel` taps and standard deviation `sigma`; the borders are reflected without
    repeating the edge pixel. The default kernel has 51 taps, as published with I-GOS, if the longer side is
    at most 224 pixels. Beyond that, it grows with the longer side, so that objects are blurred equally in
    larger images. (The published code uses 51 taps below 500 pixels, 151 below 800, and 201 otherwise.) The
    default sigma is kernel - 1. The image can be blurred in model space because blurring commutes with
    per-channel normalization. The published code blurs pixels and rounds them to 8 bits before normalizing.

    Raises:
      ValueError: the image is not [H, W, C], the kernel is not odd, or sigma is not above 0.
      TypeError: the image is not floating point, or the kernel is not an integer.

    References:
      Qi, Khorram, Fuxin. Visualizing Deep Networks by Optimizing with Integrated Gradients. AAAI 2020.
    """
    image = as_image(image)
    taps = default_blur_kernel(image.shape) if kernel is None else kernel
    if check_positive_int(taps, "blur kernel") % 2 == 0:
        raise ValueError(f"blur kernel must be odd, got {taps}.")
    width = float(max(1, taps - 1) if sigma is None else sigma)
    if not width > 0:
        raise ValueError(f"blur sigma must be above 0, got {sigma}.")
    rows, cols = (_blur_matrix(size, taps, width) for size in image.shape[:2])
    return jnp.einsum("hi,ijc,wj->hwc", rows, image, cols, precision=jax.lax.Precision.HIGHEST)


def default_blur_kernel(shape: tuple[int, ...]) -> int:
    """Return the number of taps that `blur_baseline` uses for an image [H, W, C]: odd, at least 51."""
    return max(51, 2 * round((51 / 224 * max(shape[:2]) - 1) / 2) + 1)


@lru_cache(maxsize=64)
def _blur_matrix(size: int, taps: int, sigma: float) -> np.ndarray:
    """Return the Gaussian blur matrix for one axis with reflected borders: float32 [size, size]."""
    radius = taps // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    source = np.pad(np.arange(size), radius, mode="reflect" if size > 1 else "edge")
    matrix = np.zeros((size, size))
    for tap, weight in enumerate(kernel / kernel.sum()):
        np.add.at(matrix, (np.arange(size), source[tap : tap + size]), weight)
    return matrix.astype(np.float32)


def mean_baseline(image: Array) -> Array:
    """Return an image [H, W, C] filled with the mean color of `image`."""
    image = as_image(image)
    return jnp.broadcast_to(jnp.mean(image, axis=(0, 1)), image.shape)


def constant_baseline(image: Array, value: float | Array = 0.0) -> Array:
    """Return an image filled with `value` (model space), a scalar or one number per channel [C]."""
    image = as_image(image)
    return jnp.broadcast_to(jnp.asarray(value, image.dtype), image.shape)


def noise_baseline(image: Array, key: Array, low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
    """Return an image of uniform noise in [low, high).

    The bounds are in model space, scalars or one number per channel [C]. Consumes the key.
    """
    image = as_image(image)
    low, high = (jnp.broadcast_to(jnp.asarray(bound, image.dtype), image.shape) for bound in (low, high))
    return low + (high - low) * jax.random.uniform(key, image.shape, image.dtype)


def baseline(
    kind: str,
    image: Array,
    *,
    normalize: Callable[[Array], Array] | None = None,
    key: Array | None = None,
) -> Array:
    """Create a baseline of a given kind for an image, in model space: [H, W, C] -> [H, W, C].

    Args:
      kind: "blur"; "black" or "white" (pixel value 0 or 255 before normalization); "mean" (the image's mean
        color); "zero" (0 in model space); "noise" (uniform random pixels).
      image: [H, W, C], model space.
      normalize: function that maps pixel values 0..255 to model space, such as `normalize` of a zoo
        classifier; required for "black", "white" and "noise".
      key: random key; consumed. Required for "noise".

    Raises:
      ValueError: unknown kind, or a required `normalize` or `key` is missing.
      TypeError: the image is not floating point.
    """
    check_choice(kind, BASELINES, "baseline")
    image = as_image(image)
    if kind == "blur":
        return blur_baseline(image)
    if kind == "mean":
        return mean_baseline(image)
    if kind == "zero":
        return constant_baseline(image)
    if normalize is None:
        raise ValueError(f"baseline {kind!r} is defined in pixel values: pass normalize=model.normalize.")
    channels = image.shape[-1]
    black, white = (normalize(jnp.full(channels, value, jnp.float32)) for value in (0.0, 255.0))
    if kind == "noise":
        if key is None:
            raise ValueError("baseline 'noise' is random: pass key=jax.random.key(...).")
        return noise_baseline(image, key, black, white)
    return constant_baseline(image, black if kind == "black" else white)


def as_baseline(baseline: Array | None, image: Array) -> Array:
    """Return the baseline for an image [H, W, C] as float32; if `baseline` is None, blur the image.

    Raises:
      ValueError, TypeError: the baseline is not an image, or its shape differs from the image's.
    """
    if baseline is None:
        return blur_baseline(image)
    baseline = as_image(baseline, "baseline")
    if baseline.shape != image.shape:
        raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    return baseline


def as_baselines(baseline: Array | None, image: Array) -> Array:
    """Return one or several baselines for an image as [K, H, W, C]; if `baseline` is None, blur the image.

    Raises:
      ValueError, TypeError: the baselines are not images, or their shape differs from the image's.
    """
    if baseline is None:
        return blur_baseline(image)[None]
    rank = getattr(baseline, "ndim", 0)
    if rank not in (3, 4) or baseline.shape[-3:] != image.shape or 0 in baseline.shape:
        raise ValueError(
            f"baseline must have the image's shape {image.shape}, or be K baselines [K, H, W, C]; "
            f"got shape {getattr(baseline, 'shape', type(baseline).__name__)}."
        )
    check_image(baseline.reshape(-1, *image.shape[1:]), "baseline")
    baseline = jnp.asarray(baseline, jnp.float32)
    return baseline if rank == 4 else baseline[None]
