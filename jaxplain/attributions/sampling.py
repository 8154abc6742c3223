"""RISE and occlusion: gradient-free methods that hide parts of the image and observe the score."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, scores
from jaxplain.attributions.gradients import AttributionDetails
from jaxplain.checks import Pair, as_image, as_key, as_number, as_pair, check_batch_size, check_positive_int
from jaxplain.explanation import Explanation, constant_unless, differ, finished
from jaxplain.perturb import as_baseline, blend

HIGHEST = jax.lax.Precision.HIGHEST  # the products are small; TPU's default would round to bfloat16

# ---------------------------------------------------------------------------------------------------------
# RISE


def rise(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    n_samples: int = 4000,
    grid: Pair = 7,
    probability: float | Array = 0.5,
) -> Explanation:
    """RISE: the mean of many random masks, each weighted by the score of the masked image.

    A mask is a coarse grid of zeros and ones, upsampled bilinearly and shifted at random (see `rise_masks`).
    The importance of a pixel is the sum of score times mask over all masks, divided by their number and by
    the probability that the pixel is kept. This estimates the mean score given that the pixel is visible.

    Masks are drawn from the key when needed (twice), so that they are never all in memory.

    Args:
      score: images [N, H, W, C] -> [N]; a probability by convention, see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], replaces hidden pixels; if None, zero in model space, as published (for normalized
        images, the mean color).
      key: random key for the masks; consumed.
      batch_size: number of images per model call; if None, chosen for the platform.
      n_samples: number of masks (static). The published values are 4,000 for VGG16 and 8,000 for ResNet50.
      grid: number of rows and of columns of the coarse grid (static).
      probability: probability that a grid cell is visible, above 0 and at most 1; may be traced.

    Returns:
      An `Explanation`: importance [H, W], the same as `details.attribution`, in units of the score. Its
      overall level is the mean score of the masked images, so only differences between pixels are meaningful.

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options. A NaN score is reported in the status instead.

    References:
      Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.ones((12, 12, 3))
      >>> score = lambda images: images[:, :4, :4].mean((1, 2, 3))
      >>> found = attributions.rise(score, image, key=jax.random.key(0), n_samples=200, grid=3, batch_size=50)
      >>> bool(found.importance[1, 1] > found.importance[10, 10])
      True
    """
    image = as_image(image)
    return _rise(
        scores.as_pytree(score),
        image,
        jnp.zeros_like(image) if baseline is None else as_baseline(baseline, image),
        as_key(key, "rise"),
        _checked_probability(probability),
        n_samples=check_positive_int(n_samples, "n_samples"),
        grid=as_pair(grid, "grid"),
        batch_size=check_batch_size(batch_size),
    )


def rise_masks(
    key: Array,
    shape: tuple[int, int],
    *,
    n_samples: int = 4000,
    grid: Pair = 7,
    probability: float | Array = 0.5,
) -> Array:
    """Return the masks that `rise` draws from a key: float32 [n_samples, H, W], where 1 keeps a pixel.

    Each mask starts as a grid of independent zeros and ones (1 with the given probability). The grid is
    upsampled bilinearly (aligned pixel centers, edge values extended) to a size one cell larger than the
    image in each direction, and cropped at a random offset of less than one cell. The expected value at each
    pixel is the given probability.

    `shape` is the number of rows and columns of the image (static); for the other arguments, see `rise`.

    Raises:
      ValueError, TypeError: invalid options.

    Example:
      >>> import jax
      >>> from jaxplain import attributions
      >>> masks = attributions.rise_masks(jax.random.key(0), (12, 12), n_samples=5, grid=3)
      >>> masks.shape, bool((masks >= 0).all() and (masks <= 1).all())
      ((5, 12, 12), True)
    """
    keys = _mask_keys(as_key(key, "rise_masks"), check_positive_int(n_samples, "n_samples"))
    draw = partial(
        _rise_mask, as_pair(shape, "shape"), as_pair(grid, "grid"), _checked_probability(probability)
    )
    return jax.vmap(draw)(keys)


def _checked_probability(probability: float | Array) -> Array:
    number = as_number(probability, "probability", 0.0, 1.0)
    if not isinstance(number, jax.core.Tracer) and float(number) == 0:
        raise ValueError("probability must be above 0: some part of the image must stay visible.")
    return number


class _RiseImage(NamedTuple):
    """Inputs shared by all masked images."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    probability: Array  # []


@partial(jax.jit, static_argnames=("n_samples", "grid", "batch_size"))
def _rise(
    score: Any,
    image: Array,
    baseline: Array,
    key: Array,
    probability: Array,
    *,
    n_samples: int,
    grid: tuple[int, int],
    batch_size: int | None,
) -> Explanation:
    shape = (image.shape[0], image.shape[1])
    keys = _mask_keys(key, n_samples)
    context = _RiseImage(image, baseline, probability)
    values = funnel.evaluate(score, partial(_render_masked, grid), (), context, keys, batch_size=batch_size)

    @jax.checkpoint  # draw the masks again in the backward pass instead of keeping them all
    def weighted(key: Array, value: Array) -> Array:
        return value * _rise_mask(shape, grid, probability, key)

    def add(total: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        return total + weighted(*drawn), None

    total, _ = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), (keys, values))
    importance = total / (n_samples * probability)
    details, status = AttributionDetails(importance), constant_unless(differ(values))
    return finished(importance, values, n_samples, details, status)


def _render_masked(grid: tuple[int, int], _: tuple, context: _RiseImage, key: Array) -> Array:
    shape = (context.image.shape[0], context.image.shape[1])
    return blend(context.image, context.baseline, _rise_mask(shape, grid, context.probability, key))


def _mask_keys(key: Array, n_samples: int) -> Array:
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(n_samples))


def _rise_mask(shape: tuple[int, int], grid: tuple[int, int], probability: Array, key: Array) -> Array:
    """Draw one random mask [H, W]; consumes the key."""
    cells_key, *shift_keys = jax.random.split(key, 3)
    cells = jax.random.bernoulli(cells_key, probability, grid).astype(jnp.float32)
    rows, cols = (_shifted_interpolation(*axis) for axis in zip(shape, grid, shift_keys, strict=True))
    return jnp.matmul(jnp.matmul(rows, cells, precision=HIGHEST), cols.T, precision=HIGHEST)


def _shifted_interpolation(size: int, cells: int, key: Array) -> Array:
    """Return the matrix that interpolates one axis at a random shift: [size, cells]; rows sum to 1."""
    pixels = -(-size // cells)  # pixels per cell
    shift = jax.random.randint(key, (), 0, pixels, jnp.int32)
    # Pixel centers within the upsampled mask of (cells + 1) * pixels, in cells from the first cell's center.
    places = ((jnp.arange(size, dtype=jnp.int32) + shift).astype(jnp.float32) + 0.5) * (
        cells / ((cells + 1) * pixels)
    ) - 0.5
    places = jnp.clip(places, 0.0, cells - 1.0)
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[:, None] - jnp.arange(cells)[None]))


# ---------------------------------------------------------------------------------------------------------
# Occlusion


def occlusion(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    window: Pair | None = None,
    stride: Pair | None = None,
) -> Explanation:
    """Occlusion: how much the score drops when a window hides part of the image.

    The window slides over the image with the given stride; at each position, the baseline replaces all
    channels of the pixels in the window. The importance of a pixel is the mean of `score(image) -
    score(occluded)` over the windows that cover it. The last window in each direction reaches the image's
    edge and is cut off there.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], replaces the pixels in the window; if None, the blurred image.
      key: ignored.
      batch_size: number of images per model call; if None, chosen for the platform.
      window: number of rows and of columns of the window, no larger than the image (static); if None, a
        seventh of the shorter side (32 pixels for 224).
      stride: step of the window, no larger than the window so that no pixel is skipped (static); if None,
        half the window.

    Returns:
      An `Explanation`: importance [H, W], the same as `details.attribution`, in units of the score; negative
      where hiding the pixel raises the score. `evaluations` is the number of windows + 1.

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options. A NaN score is reported in the status instead.

    References:
      Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.ones((4, 4, 3))
      >>> score = lambda images: images[:, 0, 0, 0]
      >>> found = attributions.occlusion(score, image, jnp.zeros((4, 4, 3)), window=2, stride=2)
      >>> found.importance[0].tolist(), int(found.evaluations)
      ([1.0, 1.0, 0.0, 0.0], 5)
    """
    image = as_image(image)
    sides = (image.shape[0], image.shape[1])
    size = as_pair(max(1, min(sides) // 7) if window is None else window, "window")
    step = (max(1, size[0] // 2), max(1, size[1] // 2)) if stride is None else as_pair(stride, "stride")
    if size[0] > sides[0] or size[1] > sides[1]:
        raise ValueError(f"window {size} is larger than the image {sides}.")
    if step[0] > size[0] or step[1] > size[1]:
        raise ValueError(f"stride {step} is larger than the window {size}: pixels would be skipped.")
    return _occlusion(
        scores.as_pytree(score),
        image,
        as_baseline(baseline, image),
        window=size,
        stride=step,
        batch_size=check_batch_size(batch_size),
    )


class _WindowCorner(NamedTuple):
    """The first row and column of a window."""

    row: Array  # int32
    col: Array  # int32


class _OccludedImage(NamedTuple):
    """Inputs shared by all occluded images."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]


@partial(jax.jit, static_argnames=("window", "stride", "batch_size"))
def _occlusion(
    score: Any,
    image: Array,
    baseline: Array,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int | None,
) -> Explanation:
    rows, cols = (_window_starts(*axis) for axis in zip(image.shape[:2], window, stride, strict=True))
    # The last window lies outside the image and hides no pixels.
    corners = _WindowCorner(
        jnp.asarray([*np.repeat(rows, len(cols)), image.shape[0]], jnp.int32),
        jnp.asarray([*np.tile(cols, len(rows)), image.shape[1]], jnp.int32),
    )
    render, context = partial(_render_occluded, window), _OccludedImage(image, baseline)
    values = funnel.evaluate(score, render, (), context, corners, batch_size=batch_size)
    drops = (values[-1] - values[:-1]).reshape(len(rows), len(cols))
    over_rows = jnp.asarray(_mean_over_windows(rows, window[0], image.shape[0]))
    over_cols = jnp.asarray(_mean_over_windows(cols, window[1], image.shape[1]))
    importance = jnp.matmul(jnp.matmul(over_rows, drops, precision=HIGHEST), over_cols.T, precision=HIGHEST)
    details, status = AttributionDetails(importance), constant_unless(differ(values))
    return finished(importance, values, len(rows) * len(cols) + 1, details, status)


def _window_starts(size: int, window: int, stride: int) -> np.ndarray:
    """Return the start of each window along one axis, up to the first window that reaches the end."""
    return stride * np.arange(-(-(size - window) // stride) + 1)


def _mean_over_windows(starts: np.ndarray, window: int, size: int) -> np.ndarray:
    """Return the matrix that averages over the windows covering each pixel: float32 [size, windows]."""
    pixels = np.arange(size)[:, None]
    inside = (pixels >= starts[None]) & (pixels < starts[None] + window)
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def _render_occluded(
    window: tuple[int, int], _: tuple, context: _OccludedImage, corner: _WindowCorner
) -> Array:
    row = jnp.arange(context.image.shape[0]) - corner.row
    col = jnp.arange(context.image.shape[1]) - corner.col
    in_rows, in_cols = (row >= 0) & (row < window[0]), (col >= 0) & (col < window[1])
    return jnp.where((in_rows[:, None] & in_cols[None])[..., None], context.baseline, context.image)
