"""Meaningful perturbation, the method that I-GOS improves on: the engine without a path."""

from dataclasses import replace
from typing import Unpack

from jax import Array

from jaxplain import scores
from jaxplain.masks.engine import Heatmap
from jaxplain.masks.recipes import IGOS
from jaxplain.masks.run import run_recipe
from jaxplain.masks.settings import Options

MEANINGFUL = replace(IGOS, power=3.0)


def meaningful_perturbation(
    score: scores.Score, image: Array, baseline: Array, **options: Unpack[Options]
) -> Heatmap:
    """Meaningful perturbation ("Mask"): the smallest smooth mask whose removal destroys the score.

    Minimises `f(phi(m)) + l1 * mean|1 - m| + l2 * TV(m)`, with the power 3 in TV, by 300 steps of Adam
    (rate 0.1) and a projection on [0, 1]: I-GOS with the masked image itself in place of the path to it. The
    weights are l1 = 0.01, l2 = 0.2. They belong to penalties that are means over the mask's cells, as here;
    the paper writes sums.

    The result is the best mask seen. Losses come with the gradients, so nothing else is evaluated.

    `jitter=4` (off by default; needs a `key`) shifts the picture under the mask by up to 4 pixels at random
    in each iteration, as the paper does against masks that fit single pixels; the losses are then noisy.

    Arguments, result, errors: see `igos`.

    References:
      Fong, Vedaldi. Interpretable Explanations of Black Boxes by Meaningful Perturbation. ICCV 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import masks
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> found = masks.meaningful_perturbation(score, image, jnp.zeros((16, 16, 3)), size=8)
      >>> found.mask.shape, bool(found.saliency[6, 6] > 0.5 > found.saliency[14, 14])
      ((8, 8), True)
    """
    return run_recipe(MEANINGFUL, "meaningful perturbation", score, image, baseline, options)
