"""Class activation maps: the last convolution's feature maps, weighted by their effect on the class."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.attributions.gradients import AttributionDetails
from jaxplain.checks import as_image, check_choice
from jaxplain.explanation import Explanation, constant_unless, finished

MapWeighting = Callable[[Array, Array], Array]
"""`weighting(maps [h, w, d], gradient [h, w, d]) -> weights [d]`."""


class MapClassifier(Protocol):
    """A classifier split at its last convolution: its logits are `head(pool(feature_maps(images)))`.

    All classifiers in the zoo have these methods; any pytree or plain object can define them.
    """

    def __call__(self, images: Array, /) -> Array:
        """Map images [N, H, W, C] to logits [N, K]."""
        ...

    def feature_maps(self, images: Array, /) -> Array:
        """Compute the activations of the last convolution: [N, H, W, C] -> [N, h, w, d]."""
        ...

    def pool(self, maps: Array, /) -> Array:
        """Map the last convolution's activations to penultimate features: [N, h, w, d] -> [N, D]."""
        ...

    def head(self, features: Array, /) -> Array:
        """Map penultimate features to logits: [N, D] -> [N, K]."""
        ...


def check_map_score(score: Any, method: str) -> None:
    """Check that `score` is a class score for a `MapClassifier`.

    Raises:
      TypeError: not a class score, or a classifier without feature_maps, pool and head.
    """
    if not isinstance(score, scores.ClassScore):
        raise TypeError(
            f"{method} uses feature maps and needs a class score, jaxplain.class_score(classifier, target); "
            f"got {type(score).__name__}. Methods such as rise accept any score."
        )
    model = scores.from_pytree(score.classifier)
    missing = [name for name in ("feature_maps", "pool", "head") if not callable(getattr(model, name, None))]
    if missing:
        raise TypeError(
            f"{method} needs a classifier with feature_maps, pool and head, such as the models in "
            f"jaxplain.zoo; {type(model).__name__} has no {' and no '.join(missing)}. Add them, "
            "or use a method that needs only a score, such as rise."
        )


def feature_maps(model: MapClassifier, image: Array) -> Array:
    """Return the feature maps of one image: [H, W, C] -> [1, h, w, d].

    Raises:
      ValueError: the classifier's `feature_maps` returns an array of the wrong shape.
    """
    maps = model.feature_maps(image[None])
    if maps.ndim != 4 or maps.shape[0] != 1:
        raise ValueError(f"feature_maps must map [1, H, W, C] to [1, h, w, d], got shape {maps.shape}.")
    return maps


def logits_of_maps(model: MapClassifier, maps: Array) -> Array:
    """Compute the logits from feature maps: [N, h, w, d] -> [N, K]."""
    return model.head(model.pool(maps))


def grad_cam(
    score: scores.ClassScore,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    kind: scores.ScoreKind | None = "logit",
) -> Explanation:
    """Grad-CAM: feature maps weighted by the mean gradient of the class score with respect to each map.

    Requires one forward pass, and a backward pass through the pooling and the head only. Under `jax.vmap`
    over images, the forward pass processes all of them at once.

    Args:
      score: a class score from `class_score`. Its classifier must have `feature_maps`, `pool` and `head`,
        like all classifiers in the zoo; see `MapClassifier`.
      image: [H, W, C], model space.
      baseline: ignored.
      key: ignored.
      batch_size: ignored; the model sees one image.
      kind: the kind of class score to differentiate (static), overriding the kind of `score`; see
        `class_score`. If None, the kind of `score`. The logit is the usual choice, because a confident
        softmax has almost no gradient.

    Returns:
      An `Explanation`: importance [h, w] is the positive part of the weighted sum of the maps, at their own
      resolution and not normalized (zero everywhere if no map raises the score); `details.attribution` is the
      weighted sum [h, w], in units of score times map activation.

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options, a score that is not a class score, or a
        classifier without the three methods. A NaN logit, or a traced target out of range, is reported in the
        status instead.

    References:
      Selvaraju, Cogswell, Das, Vedantam, Parikh, Batra. Grad-CAM. ICCV 2017.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> class Corner:  # one feature map, the red channel; it raises the logit of class 1
      ...     def feature_maps(self, images): return images[..., :1]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features * jnp.array([[-1.0, 1.0]])
      ...     def __call__(self, images): return self.head(self.pool(self.feature_maps(images)))
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(1.0)
      >>> jx.attributions.grad_cam(jx.class_score(Corner(), 1), image).importance[0].tolist()
      [0.0625, 0.0, 0.0, 0.0]
    """
    return _checked_cam(_mean_slope, score, image, kind)


def grad_cam_pp(
    score: scores.ClassScore,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    kind: scores.ScoreKind | None = "logit",
) -> Explanation:
    """Grad-CAM++: like Grad-CAM, but weights each map by a weighted sum of its positive gradients.

    If g is the gradient of the class logit with respect to the maps A, the weight of map k is the sum over
    positions of `alpha * max(g, 0)`, where `alpha = g^2 / (2 g^2 + sum(A_k) g^3)` (0 where g is 0). This is
    the paper's closed form for the score exp(logit) and piecewise linear layers above the maps, without the
    factor exp(logit), which is common to all maps. Its derivation does not hold for a `kind` other than
    "logit".

    For the arguments, result and errors, see `grad_cam`.

    References:
      Chattopadhay, Sarkar, Howlader, Balasubramanian. Grad-CAM++. WACV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> class Corner:
      ...     def feature_maps(self, images): return images[..., :1]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features * jnp.array([[-1.0, 1.0]])
      ...     def __call__(self, images): return self.head(self.pool(self.feature_maps(images)))
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(1.0)
      >>> found = jx.attributions.grad_cam_pp(jx.class_score(Corner(), 1), image)
      >>> found.importance.shape, bool(found.importance[0, 0] > 0)
      ((4, 4), True)
    """
    return _checked_cam(_plus_plus, score, image, kind)


def _mean_slope(maps: Array, gradient: Array) -> Array:
    return jnp.mean(gradient, axis=(0, 1))


def _plus_plus(maps: Array, gradient: Array) -> Array:
    # g^2 cancels, which avoids underflow in float32.
    denominator = 2.0 + jnp.sum(maps, axis=(0, 1), keepdims=True) * gradient
    # If g is 0, so is max(g, 0). The denominator can be 0 only for maps with a negative sum.
    alpha = jnp.where(denominator == 0, 0.0, 1.0 / jnp.where(denominator == 0, 1.0, denominator))
    return jnp.sum(alpha * jax.nn.relu(gradient), axis=(0, 1))


def _checked_cam(
    weighting: MapWeighting, score: scores.ClassScore, image: Array, kind: scores.ScoreKind | None
) -> Explanation:
    check_map_score(score, "Grad-CAM")
    wanted = score.kind if kind is None else check_choice(kind, scores.KINDS, "score kind")
    return _cam(scores.as_pytree(score), as_image(image), weighting=weighting, kind=wanted)


@partial(jax.jit, static_argnames=("weighting", "kind"))
def _cam(score: Any, image: Array, *, weighting: MapWeighting, kind: str) -> Explanation:
    score = scores.from_pytree(score)
    model = scores.from_pytree(score.classifier)
    maps = feature_maps(model, image)
    map_score = scores.ClassScore(partial(logits_of_maps, model), score.target, kind)
    value, grads = jax.value_and_grad(lambda maps: map_score(maps)[0])(maps)
    weights = weighting(maps[0], grads[0])
    attribution = jnp.sum(maps[0] * weights[None, None], axis=-1).astype(jnp.float32)
    checked = jnp.append(attribution, value)  # the positive part alone would hide minus infinity
    status = constant_unless(jnp.any(grads != 0))
    return finished(jax.nn.relu(attribution), checked, 1, AttributionDetails(attribution), status)
