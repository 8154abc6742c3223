"""Excitation backprop: which activations win the class's probability, all the way down."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.attributions import mass
from jaxplain.attributions.parts import Head, MapClassifier, Maps, check_parts
from jaxplain.attributions.result import Attribution, checked_image, make_result
from jaxplain.checks import check_choice
from jaxplain.perturb import upsample

Layer = Literal["maps", "image"]


def excitation_backprop(
    classifier: MapClassifier,
    image: Array,
    target: int | Array | None = None,
    *,
    layer: Layer = "maps",
    contrastive: bool = False,
) -> Attribution:
    """Excitation backprop: the marginal winning probability of every place in a layer.

    A probability of 1 starts at the class's logit and is handed down: each neuron gives its share to those
    that excite it, in proportion to activation times positive weight; see `jaxplain.attributions.mass` for
    the rules. Works for the networks of the zoo, and for any of the operations that they are made of.

    Args:
      classifier: has `feature_maps`, `pool` and `head`, as every classifier of the zoo; see `MapClassifier`.
      image: [H, W, C], model space.
      target: class index, may be traced; None takes the top prediction.
      layer: where it ends: "maps", the last convolution (coarse and clean, as the paper shows coarse layers),
        or "image", the pixels (static). For layers between see `excitation`.
      contrastive: minus the probability of "not this class", whose top weights are negated (static): c-MWP,
        which tells apart classes that the plain version does not. Each of the two is brought to sum 1 first.

    Returns:
      An `Attribution`: the probability [h, w] (of "image" [H, W]), summed over channels, at most 1 in all;
      what is missing was lost where nothing excites. Contrastive ones are signed. `saliency` [H, W] is its
      positive part, upsampled bilinearly with aligned corners.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit, a classifier without the three parts.
      NotImplementedError: the network has an operation without a rule; names it. A NaN logit is no error but
        a `Status` in the result.

    References:
      Zhang, Bargal, Lin, Brandt, Shen, Sclaroff. Top-down Neural Attention by Excitation Backprop. IJCV 2018.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> class Corner:  # one map, the image's red; class 1 likes it
      ...     def feature_maps(self, images): return images[..., :1]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features @ jnp.array([[-1.0, 1.0]])
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(3.0).at[1, 1].set(1.0)
      >>> found = attributions.excitation_backprop(Corner(), image, target=1)
      >>> found.attribution[0, 0].tolist(), found.attribution[1, 1].tolist()
      (0.75, 0.25)
    """
    check_choice(layer, get_args(Layer), "layer")
    check_parts(classifier, "excitation backprop")
    score = scores.class_score(Head(classifier), 0 if target is None else target, "logit")
    maps = scores.as_pytree(Maps(classifier))
    image = checked_image(image)
    return _excitation(maps, score, image, layer=layer, contrastive=contrastive, top=target is None)


def excitation(
    function: Callable[[Array], Array], activations: Array, target: int | Array, *, contrastive: bool = False
) -> Array:
    """Excitation backprop through any part of a network, down to where it is cut.

    Args:
      function: from the activations of a layer to logits [K], of operations that have a rule (see
        `jaxplain.attributions.mass`).
      activations: of the layer, any shape.
      target: class index, may be traced.
      contrastive: see `excitation_backprop` (static).

    Returns:
      The probability of every activation, of their shape.

    Raises:
      NotImplementedError: an operation has no rule; names it.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain.attributions import excitation
      >>> weights = jnp.array([[1.0, 0.0], [3.0, 0.0], [-5.0, 1.0]])
      >>> excitation(lambda x: x @ weights, jnp.ones(3), 0).tolist()
      [0.25, 0.75, 0.0]
    """
    tape, start, output = mass.record(function, activations)
    if output.place is None or start.place is None:
        return jnp.zeros(activations.shape)
    winner = (jnp.arange(output.value.shape[-1]) == target).astype(jnp.float32)

    def handed(negate_top: bool) -> Array:
        found = tape.hand_back(winner, output.place, start.place, negate_top=negate_top)  # type: ignore[arg-type]
        return jnp.zeros(activations.shape) if found is None else jnp.abs(found)

    if not contrastive:
        return handed(False)
    return _normalised(handed(False)) - _normalised(handed(True))


def _normalised(found: Array) -> Array:
    total = jnp.sum(found)
    return jnp.where(total > 0, found / jnp.where(total > 0, total, 1.0), 0.0)


@partial(jax.jit, static_argnames=("layer", "contrastive", "top"))
def _excitation(
    feature_maps: Any,
    score: scores.ClassScore,
    image: Array,
    *,
    layer: Layer,
    contrastive: bool,
    top: bool,
) -> Attribution:
    maps, head = feature_maps(image[None]), score.classifier
    logits = head(maps)[0]
    target = jnp.argmax(logits).astype(jnp.int32) if top else score.target
    value = replace(score, target=target)(maps)  # NaN where the target is no class
    if layer == "maps":
        cut, start = head, maps
    else:
        cut, start = lambda images: head(feature_maps(images)), image[None]
    found = excitation(lambda activations: cut(activations)[0], start, target, contrastive=contrastive)[0]
    attribution = jnp.sum(found, axis=-1).astype(jnp.float32)
    saliency = upsample(jax.nn.relu(attribution), (image.shape[0], image.shape[1]))
    return make_result(attribution, saliency, value, 1)
