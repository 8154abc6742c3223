"""RISE: the mean of random masks, weighted by the score of what they leave visible. No gradients needed."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.attributions.result import (
    Attribution,
    Pair,
    checked_baseline,
    checked_image,
    checked_key,
    checked_number,
    checked_pair,
    make_result,
)
from jaxplain.checks import check_positive_int
from jaxplain.perturb import blend

N_MASKS = 4000
GRID = 7


def rise(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array,
    n_masks: int = N_MASKS,
    grid: Pair = GRID,
    probability: float | Array = 0.5,
    batch_size: int | None = None,
) -> Attribution:
    """RISE: the mean of many random masks, each weighted by the score of what it leaves visible.

    A mask is a coarse grid of zeros and ones, enlarged bilinearly and shifted at random (see `rise_masks`).
    The importance of a pixel is the sum of score times mask over the masks, divided by their number and by
    the probability that the pixel is kept: an estimate of the mean score given that the pixel is visible.

    Masks are drawn from the key when they are needed (twice) and never held together.

    Args:
      score: images [N, H, W, C] -> [N]; the probability by convention, see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], what shows where a mask hides; None is zero in model space, as published (the mean
        colour, for a normalised image).
      key: draws the masks; consumed.
      n_masks: how many (static). The published numbers are 4,000 for VGG16 and 8,000 for ResNet50.
      grid: rows and columns of the coarse grid (static).
      probability: that a cell of the grid keeps what it covers, above 0 and at most 1; may be traced.
      batch_size: images per model call; None chooses by platform.

    Returns:
      An `Attribution`: attribution and saliency are the same map [H, W], in units of the score. Its level is
      the mean score of the masked images, so only differences between pixels mean anything.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit. A NaN score is no error but a
        `Status` in the result.

    References:
      Petsiuk, Das, Saenko. RISE: Randomized Input Sampling for Explanation of Black-box Models. BMVC 2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.ones((12, 12, 3))
      >>> score = lambda images: images[:, :4, :4].mean((1, 2, 3))
      >>> found = attributions.rise(score, image, key=jax.random.key(0), n_masks=200, grid=3, batch_size=50)
      >>> bool(found.saliency[1, 1] > found.saliency[10, 10])
      True
    """
    image = checked_image(image)
    hidden = jnp.zeros_like(image) if baseline is None else checked_baseline(baseline, image)
    return _rise(
        scores.as_pytree(score),
        image,
        hidden,
        checked_key(key, "rise"),
        _probability(probability),
        n_masks=check_positive_int(n_masks, "n_masks"),
        grid=checked_pair(grid, "grid"),
        batch_size=batch_size,
    )


def rise_masks(
    key: Array,
    shape: tuple[int, int],
    *,
    n_masks: int = N_MASKS,
    grid: Pair = GRID,
    probability: float | Array = 0.5,
) -> Array:
    """The masks that `rise` draws from a key: float32 [n_masks, H, W] in [0, 1], 1 keeps a pixel.

    Each is a grid of independent zeros and ones (one with the given probability), enlarged bilinearly (pixel
    centres aligned, edges continued) to one cell more than covers the image in each direction, and cropped at
    a random shift of less than a cell. The mean at every pixel is the probability.

    Arguments: see `rise`; shape: rows and columns of the image (static).

    Raises:
      ValueError, TypeError: options that do not fit.

    Example:
      >>> import jax
      >>> from jaxplain import attributions
      >>> masks = attributions.rise_masks(jax.random.key(0), (12, 12), n_masks=5, grid=3)
      >>> masks.shape, bool((masks >= 0).all() and (masks <= 1).all())
      ((5, 12, 12), True)
    """
    keys = _mask_keys(checked_key(key, "rise_masks"), check_positive_int(n_masks, "n_masks"))
    draw = partial(_mask, checked_pair(shape, "shape"), checked_pair(grid, "grid"), _probability(probability))
    return jax.vmap(draw)(keys)


def _probability(probability: float | Array) -> Array:
    number = checked_number(probability, "probability", 0.0, 1.0)
    if not isinstance(number, jax.core.Tracer) and float(number) == 0:
        raise ValueError("probability must be above 0: some part of the image must stay visible.")
    return number


class _Masked(NamedTuple):
    """What all masked images share."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    probability: Array  # []


@partial(jax.jit, static_argnames=("n_masks", "grid", "batch_size"))
def _rise(
    score: Any,
    image: Array,
    baseline: Array,
    key: Array,
    probability: Array,
    *,
    n_masks: int,
    grid: tuple[int, int],
    batch_size: int | None,
) -> Attribution:
    shape = (image.shape[0], image.shape[1])
    keys = _mask_keys(key, n_masks)
    context = _Masked(image, baseline, probability)
    values = funnel.evaluate(score, partial(_draw_masked, grid), (), context, keys, batch_size=batch_size)

    def add(total: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        key, value = drawn
        return total + value * _mask(shape, grid, probability, key), None

    total, _ = jax.lax.scan(add, jnp.zeros(shape), (keys, values))
    saliency = total / (n_masks * probability)
    return make_result(saliency, saliency, values, n_masks)


def _draw_masked(grid: tuple[int, int], _: tuple, context: _Masked, key: Array) -> Array:
    shape = (context.image.shape[0], context.image.shape[1])
    return blend(context.image, context.baseline, _mask(shape, grid, context.probability, key))


def _mask_keys(key: Array, n_masks: int) -> Array:
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(n_masks))


def _mask(shape: tuple[int, int], grid: tuple[int, int], probability: Array, key: Array) -> Array:
    """One random mask [H, W]. Consumes the key."""
    cells_key, *shift_keys = jax.random.split(key, 3)
    cells = jax.random.bernoulli(cells_key, probability, grid).astype(jnp.float32)
    rows, cols = (_shifted_interpolation(*axis) for axis in zip(shape, grid, shift_keys, strict=True))
    precision = jax.lax.Precision.HIGHEST  # two tiny products
    return jnp.matmul(jnp.matmul(rows, cells, precision=precision), cols.T, precision=precision)


def _shifted_interpolation(size: int, cells: int, key: Array) -> Array:
    """From the cells of one axis to its pixels, at a random shift: [size, cells], rows summing to 1."""
    pixels = -(-size // cells)  # a cell
    shift = jax.random.randint(key, (), 0, pixels)
    # Pixel centres in the enlarged mask of (cells + 1) * pixels, in cells, from the first cell's centre.
    places = (jnp.arange(size) + shift + 0.5) * (cells / ((cells + 1) * pixels)) - 0.5
    places = jnp.clip(places, 0.0, cells - 1.0)
    return jnp.maximum(0.0, 1.0 - jnp.abs(places[:, None] - jnp.arange(cells)[None]))
