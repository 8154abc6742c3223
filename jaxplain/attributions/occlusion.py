"""Occlusion: how far the score falls when a window hides part of the image. No gradients needed."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, scores
from jaxplain.attributions.result import (
    Attribution,
    Pair,
    checked_baseline,
    checked_image,
    checked_pair,
    make_result,
)

WINDOW = 32


def occlusion(
    score: scores.Score,
    image: Array,
    baseline: Array,
    *,
    window: Pair = WINDOW,
    stride: Pair | None = None,
    batch_size: int | None = None,
) -> Attribution:
    """Occlusion: how far the score falls when a window hides part of the image.

    The window moves over the image by the stride; in each place the baseline replaces all channels of the
    pixels under it. A pixel's value is the mean of `score(image) - score(hidden)` over the windows that cover
    it. The last window in each direction reaches the image's edge and is cut off there.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], what the window shows.
      window: rows and columns of the window, at most the image's (static).
      stride: how far it moves, at most the window, so that no pixel is left out (static); None is half the
        window.
      batch_size: images per model call; None chooses by platform.

    Returns:
      An `Attribution`: attribution and saliency are the same map [H, W] in units of the score, negative where
      hiding raises the score. `evaluations` is the number of windows + 1.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit. A NaN score is no error but a
        `Status` in the result.

    References:
      Zeiler, Fergus. Visualizing and Understanding Convolutional Networks. ECCV 2014.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.ones((4, 4, 3))
      >>> score = lambda images: images[:, 0, 0, 0]
      >>> found = attributions.occlusion(score, image, jnp.zeros((4, 4, 3)), window=2, stride=2)
      >>> found.saliency[0].tolist(), int(found.evaluations)
      ([1.0, 1.0, 0.0, 0.0], 5)
    """
    image = checked_image(image)
    baseline = checked_baseline(baseline, image)
    size = checked_pair(window, "window")
    step = (max(1, size[0] // 2), max(1, size[1] // 2)) if stride is None else checked_pair(stride, "stride")
    if size[0] > image.shape[0] or size[1] > image.shape[1]:
        raise ValueError(f"window {size} is larger than the image {image.shape[:2]}.")
    if step[0] > size[0] or step[1] > size[1]:
        raise ValueError(f"stride {step} is larger than the window {size}: pixels would be left out.")
    return _occlusion(
        scores.as_pytree(score), image, baseline, window=size, stride=step, batch_size=batch_size
    )


class _Place(NamedTuple):
    """Of a window: its first row and column."""

    row: Array  # int32
    col: Array  # int32


@partial(jax.jit, static_argnames=("window", "stride", "batch_size"))
def _occlusion(
    score: Any,
    image: Array,
    baseline: Array,
    *,
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int | None,
) -> Attribution:
    rows, cols = (_places(*axis) for axis in zip(image.shape[:2], window, stride, strict=True))
    # The last window lies outside and hides nothing.
    places = _Place(
        jnp.asarray([*np.repeat(rows, len(cols)), image.shape[0]], jnp.int32),
        jnp.asarray([*np.tile(cols, len(rows)), image.shape[1]], jnp.int32),
    )
    draw = partial(_draw_hidden, window)
    values = funnel.evaluate(score, draw, (), (image, baseline), places, batch_size=batch_size)
    drops = (values[-1] - values[:-1]).reshape(len(rows), len(cols))
    over_rows = jnp.asarray(_covered(rows, window[0], image.shape[0]))
    over_cols = jnp.asarray(_covered(cols, window[1], image.shape[1]))
    precision = jax.lax.Precision.HIGHEST
    saliency = jnp.matmul(jnp.matmul(over_rows, drops, precision=precision), over_cols.T, precision=precision)
    return make_result(saliency, saliency, values, len(rows) * len(cols) + 1)


def _places(size: int, window: int, stride: int) -> np.ndarray:
    """Where windows begin along one axis, up to the first that reaches its end."""
    return stride * np.arange(-(-(size - window) // stride) + 1)


def _covered(places: np.ndarray, window: int, size: int) -> np.ndarray:
    """Which windows cover a pixel, as the weights of a mean: float32 [size, windows]."""
    pixels = np.arange(size)[:, None]
    inside = (pixels >= places[None]) & (pixels < places[None] + window)
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def _draw_hidden(window: tuple[int, int], _: tuple, context: tuple[Array, Array], place: _Place) -> Array:
    image, baseline = context
    row, col = jnp.arange(image.shape[0]) - place.row, jnp.arange(image.shape[1]) - place.col
    over_rows, over_cols = (row >= 0) & (row < window[0]), (col >= 0) & (col < window[1])
    return jnp.where((over_rows[:, None] & over_cols[None])[..., None], baseline, image)
