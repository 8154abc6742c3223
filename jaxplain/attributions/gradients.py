"""Gradients of the score in the image's pixels: plain, and times the input.

Every gradient is taken in a shift that is added to the image and is zero, so that the funnel's sum over many
images is the sum of their gradients.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.attributions.result import (
    Attribution,
    Reduce,
    checked_image,
    checked_reduction,
    make_result,
    reduce_channels,
)


def gradient(score: scores.Score, image: Array, *, reduce: Reduce = "abs_sum") -> Attribution:
    """The gradient of the score in the image: how fast the score changes with each value.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      reduce: how channels become a saliency (static); see `reduce_channels`.

    Returns:
      An `Attribution`: the gradient [H, W, C] in score per unit of model space, saliency [H, W], status.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit. A NaN score is no error but a
        `Status` in the result.

    References:
      Simonyan, Vedaldi, Zisserman. Deep Inside Convolutional Networks. ICLR workshop 2014 (with the maximum
      of the absolute values over channels, here reduce="abs_max").

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> corner = lambda images: (images[:, 0, 0] ** 2).sum(-1)
      >>> attributions.gradient(corner, jnp.ones((2, 2, 3))).saliency.tolist()
      [[6.0, 0.0], [0.0, 0.0]]
    """
    checked_reduction(reduce)
    return _plain(scores.as_pytree(score), checked_image(image), reduce=reduce, times_input=False)


def input_x_gradient(score: scores.Score, image: Array, *, reduce: Reduce = "abs_sum") -> Attribution:
    """The gradient times the image: the score's linear approximation, value by value.

    It measures from zero in model space (the mean colour, for a normalised image).

    Arguments, result, errors: see `gradient`; the attribution is in units of the score.

    References:
      Shrikumar, Greenside, Shcherbina, Kundaje. Not Just a Black Box. arXiv:1605.01713, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> corner = lambda images: images[:, 0, 0].sum(-1)
      >>> attributions.input_x_gradient(corner, jnp.full((2, 2, 3), 0.5)).saliency.tolist()
      [[1.5, 0.0], [0.0, 0.0]]
    """
    checked_reduction(reduce)
    return _plain(scores.as_pytree(score), checked_image(image), reduce=reduce, times_input=True)


@partial(jax.jit, static_argnames=("reduce", "times_input"))
def _plain(score: Any, image: Array, *, reduce: Reduce, times_input: bool) -> Attribution:
    once = jnp.ones(1)
    found = funnel.value_and_grad(score, _shifted, jnp.zeros_like(image), image, once, once)
    attribution = image * found.grads if times_input else found.grads
    return make_result(attribution, reduce_channels(attribution, reduce), found.values, 1)


def _shifted(shift: Array, image: Array, _: Array) -> Array:
    return image + shift
