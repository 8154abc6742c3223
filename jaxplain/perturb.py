"""Baselines, resizing and blending: how a mask becomes an image.

A mask is 1 where the pixel is kept and 0 where the baseline replaces it. h, w are the mask's rows and
columns, H, W the image's.
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
    """Return bilinear interpolation with aligned corners as a matrix: float32 [size_out, size_in].

    Sample positions are `linspace(0, size_in - 1, size_out)`, so the first and last samples are the
    corners themselves; `jax.image.resize` aligns pixel centres instead.
    """
    positions = np.linspace(0.0, size_in - 1.0, size_out)
    distance = np.abs(positions[:, None] - np.arange(size_in)[None, :])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def upsample(mask: Array, shape: tuple[int, int]) -> Array:
    """Upsample bilinearly with aligned corners: [h, w] -> [H, W]; the identity where shapes agree."""
    if mask.shape == tuple(shape):
        return mask
    rows, cols = upsampling_matrix(mask.shape[0], shape[0]), upsampling_matrix(mask.shape[1], shape[1])
    precision = jax.lax.Precision.HIGHEST  # two tiny products; TPU's default would round the mask to bfloat16
    return jnp.matmul(jnp.matmul(rows, mask, precision=precision), cols.T, precision=precision)


def resizing_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Matrix that resizes one axis of a map: float32 [size_out, size_in]; see `resize_map`."""
    if size_out >= size_in:
        return upsampling_matrix(size_in, size_out)
    edges = np.arange(size_out + 1) * size_in / size_out
    pixels = np.arange(size_in)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(shared, 0.0) * size_out / size_in).astype(np.float32)


def resize_map(importance: Array, shape: tuple[int, int]) -> Array:
    """Resize a map: a coarser size averages over its cells, a finer one interpolates with aligned corners.

    [h, w] -> [H, W]; the identity where shapes agree.
    """
    if importance.shape == tuple(shape):
        return importance
    rows, cols = (resizing_matrix(*sides) for sides in zip(importance.shape, shape, strict=True))
    precision = jax.lax.Precision.HIGHEST
    return jnp.matmul(jnp.matmul(rows, importance, precision=precision), cols.T, precision=precision)


def blend(image: Array, baseline: Array, mask: Array) -> Array:
    """Return `image * mask + baseline * (1 - mask)`: images [H, W, C], mask [H, W]."""
    return baseline + mask[..., None] * (image - baseline)


def blur_baseline(image: Array, kernel: int | None = None, sigma: float | None = None) -> Array:
    """Return the image, blurred until nothing is recognisable: [H, W, C] -> [H, W, C].

    A Gaussian of `kernel` taps and standard deviation `sigma`, borders reflected without repeating the edge
    pixel. Default kernel: 51, from 500 px on (the longer side) 151, from 800 px on 201; sigma = kernel - 1.
    Published with I-GOS (Qi, Khorram, Fuxin, AAAI 2020). Blurring commutes with a model's per-channel
    normalisation, so it is done in model space; the published program rounds to 8 bits between the two.

    Raises:
      ValueError: the image is not [H, W, C], the kernel is not odd, or sigma not above 0.
    """
    check_image(image)
    longer = max(image.shape[0], image.shape[1])
    taps = (51 if longer < 500 else 151 if longer < 800 else 201) if kernel is None else kernel
    if check_positive_int(taps, "blur kernel") % 2 == 0:
        raise ValueError(f"blur kernel must be odd, got {taps}.")
    width = float(max(1, taps - 1) if sigma is None else sigma)
    if not width > 0:
        raise ValueError(f"blur sigma must be above 0, got {sigma}.")
    rows, cols = (_blur_matrix(size, taps, width) for size in image.shape[:2])
    return jnp.einsum("hi,ijc,wj->hwc", rows, image, cols, precision=jax.lax.Precision.HIGHEST)


@lru_cache(maxsize=64)
def _blur_matrix(size: int, taps: int, sigma: float) -> np.ndarray:
    """Return Gaussian blur along one axis with reflected borders as a matrix: float32 [size, size]."""
    radius = taps // 2
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    source = np.pad(np.arange(size), radius, mode="reflect" if size > 1 else "edge")
    matrix = np.zeros((size, size))
    for tap, weight in enumerate(kernel / kernel.sum()):
        np.add.at(matrix, (np.arange(size), source[tap : tap + size]), weight)
    return matrix.astype(np.float32)


def mean_baseline(image: Array) -> Array:
    """Return the image's mean colour in every pixel: [H, W, C] -> [H, W, C]."""
    check_image(image)
    return jnp.broadcast_to(jnp.mean(image, axis=(0, 1)), image.shape)


def constant_baseline(image: Array, value: float | Array = 0.0) -> Array:
    """Return the same value in every pixel, a number or one per channel [C], in model space."""
    check_image(image)
    return jnp.broadcast_to(jnp.asarray(value, image.dtype), image.shape)


def noise_baseline(image: Array, key: Array, low: float | Array = 0.0, high: float | Array = 1.0) -> Array:
    """Return uniform random pixels between `low` and `high` (numbers or [C], model space); consumes the key."""
    check_image(image)
    low, high = (jnp.broadcast_to(jnp.asarray(bound, image.dtype), image.shape) for bound in (low, high))
    return low + (high - low) * jax.random.uniform(key, image.shape, image.dtype)


def baseline(
    kind: str,
    image: Array,
    *,
    normalize: Callable[[Array], Array] | None = None,
    key: Array | None = None,
) -> Array:
    """Return a baseline by name, in the image's own (model) space: [H, W, C] -> [H, W, C].

    Args:
      kind: "blur"; "black" or "white" (pixel value 0 or 255 before normalisation); "mean" (the image's mean
        colour); "zero" (0 in model space); "noise" (uniform pixels).
      image: [H, W, C].
      normalize: pixels 0..255 -> model space, as `Classifier.normalize`; "black", "white", "noise" need it.
      key: for "noise"; consumed.

    Raises:
      ValueError: unknown kind, or `normalize` or `key` missing where the kind needs it.
    """
    check_choice(kind, BASELINES, "baseline")
    check_image(image)
    if kind == "blur":
        return blur_baseline(image)
    if kind == "mean":
        return mean_baseline(image)
    if kind == "zero":
        return constant_baseline(image)
    if normalize is None:
        raise ValueError(f"baseline {kind!r} is a pixel value: pass normalize=model.normalize.")
    channels = image.shape[-1]
    black, white = normalize(jnp.zeros(channels)), normalize(jnp.full(channels, 255.0))
    if kind == "noise":
        if key is None:
            raise ValueError("baseline 'noise' is random: pass key=jax.random.key(...).")
        return noise_baseline(image, key, black, white)
    return constant_baseline(image, black if kind == "black" else white)


def as_baseline(baseline: Array | None, image: Array) -> Array:
    """Return a checked baseline for an image [H, W, C] as float32; None is the blurred image.

    Raises:
      ValueError, TypeError: not an image, or of another shape.
    """
    if baseline is None:
        return blur_baseline(image)
    baseline = as_image(baseline, "baseline")
    if baseline.shape != image.shape:
        raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    return baseline


def as_baselines(baseline: Array | None, image: Array) -> Array:
    """Return checked baselines [K, H, W, C] for an image, from one or several; None is the blurred image.

    Raises:
      ValueError, TypeError: not an image, or of another shape.
    """
    if baseline is None:
        return blur_baseline(image)[None]
    rank = getattr(baseline, "ndim", 0)
    if rank not in (3, 4) or baseline.shape[-3:] != image.shape or 0 in baseline.shape:
        raise ValueError(
            f"baseline must be {image.shape} like the image, or K of them [K, H, W, C]; "
            f"got shape {getattr(baseline, 'shape', type(baseline).__name__)}."
        )
    check_image(baseline.reshape(-1, *image.shape[1:]), "baseline")
    baseline = jnp.asarray(baseline, jnp.float32)
    return baseline if rank == 4 else baseline[None]
