"""Class activation maps: the last convolution's maps, weighted by what the class score makes of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.attributions.parts import Head, MapClassifier, Maps, check_parts
from jaxplain.attributions.result import Attribution, checked_image, make_result
from jaxplain.perturb import upsample

Weighting = Callable[[Array, Array], Array]
"""`weighting(maps [h, w, d], gradient [h, w, d]) -> weights [d]`."""


def grad_cam(
    classifier: MapClassifier,
    image: Array,
    target: int | Array | None = None,
    *,
    kind: scores.ScoreKind = "logit",
) -> Attribution:
    """Grad-CAM: the feature maps weighted by the mean gradient of the class score in each, then ReLU.

    One forward pass, and a backward pass through the pooling and the head only. Under `jax.vmap` over images
    the forward pass sees all of them at once.

    Args:
      classifier: has `feature_maps`, `pool` and `head`, as every classifier of the zoo; see `MapClassifier`.
      image: [H, W, C], model space.
      target: class index, may be traced; None takes the top prediction.
      kind: which score of the class is differentiated (static); see `class_score`. A confident softmax has
        next to no gradient, so the logit is the rule.

    Returns:
      An `Attribution`: the weighted sum of the maps [h, w] before the ReLU, in units of the score times the
      maps' size; `saliency` [H, W] is its positive part, upsampled bilinearly with aligned corners, not
      normalised. It is zero throughout where no map speaks for the class.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit, a classifier without the three parts.
        A NaN logit (or a traced target that is no class) is no error but a `Status` in the result.

    References:
      Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra. Grad-CAM. ICCV 2017.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> class Corner:  # one map, the image's red; class 1 likes it
      ...     def feature_maps(self, images): return images[..., :1]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features * jnp.array([[-1.0, 1.0]])
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(1.0)
      >>> attributions.grad_cam(Corner(), image, target=1).saliency[0].tolist()
      [0.0625, 0.0, 0.0, 0.0]
    """
    return _run(_mean_gradient, classifier, image, target, kind)


def grad_cam_pp(
    classifier: MapClassifier,
    image: Array,
    target: int | Array | None = None,
    *,
    kind: scores.ScoreKind = "logit",
) -> Attribution:
    """Grad-CAM++: like Grad-CAM, with a weighted mean of the positive gradients in each map.

    With the gradient g of the class logit in the maps A, the weight of map k is the sum over positions of
    `alpha * max(g, 0)`, where `alpha = g^2 / (2 g^2 + sum(A_k) g^3)` (0 where g is 0). This is the paper's
    closed form for the score exp(logit) and layers above the maps that are piecewise linear, without its
    factor exp(logit), which is the same for all maps.

    Arguments, result, errors: see `grad_cam`. Another `kind` than "logit" leaves the derivation's ground.

    References:
      Chattopadhay, Sarkar, Howlader, Balasubramanian. Grad-CAM++. WACV 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> class Corner:
      ...     def feature_maps(self, images): return images[..., :1]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features * jnp.array([[-1.0, 1.0]])
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(1.0)
      >>> found = attributions.grad_cam_pp(Corner(), image)
      >>> found.attribution.shape, bool(found.saliency[0, 0] > 0)
      ((4, 4), True)
    """
    return _run(_plus_plus, classifier, image, target, kind)


def _mean_gradient(maps: Array, gradient: Array) -> Array:
    return jnp.mean(gradient, axis=(0, 1))


def _plus_plus(maps: Array, gradient: Array) -> Array:
    # g^2 cancels, which keeps it from vanishing in float32.
    below = 2.0 + jnp.sum(maps, axis=(0, 1), keepdims=True) * gradient
    # Where g is 0 so is max(g, 0). The denominator can be 0 only for maps with negative sums.
    alpha = jnp.where(below == 0, 0.0, 1.0 / jnp.where(below == 0, 1.0, below))
    return jnp.sum(alpha * jax.nn.relu(gradient), axis=(0, 1))


def _run(
    weighting: Weighting, classifier: Any, image: Array, target: int | Array | None, kind: scores.ScoreKind
) -> Attribution:
    check_parts(classifier, "Grad-CAM")
    score = scores.class_score(Head(classifier), 0 if target is None else target, kind)
    maps = scores.as_pytree(Maps(classifier))
    return _cam(maps, score, checked_image(image), weighting=weighting, top=target is None)


@partial(jax.jit, static_argnames=("weighting", "top"))
def _cam(
    feature_maps: Any, score: scores.ClassScore, image: Array, *, weighting: Weighting, top: bool
) -> Attribution:
    maps = feature_maps(image[None])
    if maps.ndim != 4 or maps.shape[0] != 1:
        raise ValueError(f"feature_maps must map [1, H, W, C] to [1, h, w, d], got shape {maps.shape}.")
    if top:
        score = replace(score, target=scores.top_class(score.classifier, maps[0]))
    value, grads = jax.value_and_grad(lambda maps: score(maps)[0])(maps)
    weights = weighting(maps[0], grads[0])
    attribution = jnp.sum(maps[0] * weights[None, None], axis=-1).astype(jnp.float32)
    saliency = upsample(jax.nn.relu(attribution), (image.shape[0], image.shape[1]))
    return make_result(attribution, saliency, value, 1)
