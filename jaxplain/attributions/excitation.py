"""Excitation backprop: the evidence for a class, traced back through the network to its source."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.attributions.cam import check_map_score, feature_maps, logits_of_maps
from jaxplain.attributions.excitation_rules import Recording, record
from jaxplain.attributions.gradients import AttributionDetails
from jaxplain.checks import as_image, check_choice
from jaxplain.explanation import Explanation, constant_unless, finished

ExcitationLayer = Literal["maps", "image"]


def excitation_backprop(
    score: scores.ClassScore,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    layer: ExcitationLayer = "maps",
    contrastive: bool = False,
) -> Explanation:
    """Excitation backprop: the marginal winning probability of each position in a layer.

    A probability of 1 is assigned to the class logit and propagated down: each neuron distributes its share
    among the neurons that excite it, in proportion to activation times positive weight. The rules are listed
    in `jaxplain.attributions.excitation_rules`; they cover the networks in the zoo and any other network
    built from the same operations.

    Args:
      score: a class score from `class_score`. Its classifier must have `feature_maps`, `pool` and `head`,
        like all classifiers in the zoo; see `MapClassifier`. The kind of score does not matter.
      image: [H, W, C], model space.
      baseline: ignored.
      key: ignored.
      batch_size: ignored; the model sees one image.
      layer: where the propagation ends (static): "maps", the last convolution (coarse but clean; the paper
        shows coarse layers), or "image", the pixels. For layers in between, see `winning_probabilities`.
      contrastive: whether to subtract the probability for "not this class", obtained by negating the weights
        of the top layer (static). This is the paper's c-MWP, which distinguishes classes that the plain
        version does not. Both probabilities are first normalized to sum to 1.

    Returns:
      An `Explanation`: importance [h, w] ([H, W] for "image") is the positive part of
      `details.attribution`, the probability summed over channels. The sum is at most 1: probability is lost
      at neurons that no input excites. With `contrastive`, the attribution is signed.

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options, a score that is not a class score, or a
        classifier without the three methods.
      NotImplementedError: the network has an operation without a rule; the message names it. A NaN logit is
        reported in the status instead.

    References:
      Zhang, Bargal, Lin, Brandt, Shen, Sclaroff. Top-down Neural Attention by Excitation Backprop. IJCV 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> class Corner:  # one feature map, the red channel; it raises the logit of class 1
      ...     def feature_maps(self, images): return images[..., :1]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features @ jnp.array([[-1.0, 1.0]])
      ...     def __call__(self, images): return self.head(self.pool(self.feature_maps(images)))
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(3.0).at[1, 1].set(1.0)
      >>> found = jx.attributions.excitation_backprop(jx.class_score(Corner(), 1), image)
      >>> found.importance[0, 0].tolist(), found.importance[1, 1].tolist()
      (0.75, 0.25)
    """
    check_choice(layer, get_args(ExcitationLayer), "layer")
    check_map_score(score, "excitation backprop")
    return _excitation(scores.as_pytree(score), as_image(image), layer=layer, contrastive=contrastive)


def contrastive_excitation_backprop(
    score: scores.ClassScore,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    layer: ExcitationLayer = "maps",
) -> Explanation:
    """Contrastive excitation backprop (c-MWP): evidence for the class minus evidence against it.

    Equivalent to `excitation_backprop(..., contrastive=True)`; see there for the arguments, result, errors
    and reference.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> class Corner:  # two feature maps: red raises the logit of class 0, green lowers it
      ...     def feature_maps(self, images): return images[..., :2]
      ...     def pool(self, maps): return maps.mean((1, 2))
      ...     def head(self, features): return features @ jnp.array([[1.0, 0.0], [-1.0, 0.0]])
      ...     def __call__(self, images): return self.head(self.pool(self.feature_maps(images)))
      >>> image = jnp.zeros((2, 2, 3)).at[0, 0, 0].set(1.0).at[1, 1, 1].set(1.0)
      >>> found = jx.attributions.contrastive_excitation_backprop(jx.class_score(Corner(), 0), image)
      >>> found.details.attribution.tolist(), found.importance.tolist()
      ([[1.0, 0.0], [0.0, -1.0]], [[1.0, 0.0], [0.0, 0.0]])
    """
    return excitation_backprop(score, image, layer=layer, contrastive=True)


def winning_probabilities(
    function: Callable[[Array], Array], activations: Array, target: int | Array, *, contrastive: bool = False
) -> Array:
    """Apply excitation backprop through the upper part of a network, down to a given layer.

    Args:
      function: maps the activations of a layer to logits [K]; every operation in it must have a rule (see
        `jaxplain.attributions.excitation_rules`).
      activations: the activations of the layer, of any shape.
      target: class index; may be traced.
      contrastive: see `excitation_backprop` (static).

    Returns:
      The probability of each activation, in the same shape as `activations`.

    Raises:
      NotImplementedError: an operation has no rule; the message names it.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain.attributions import winning_probabilities
      >>> weights = jnp.array([[1.0, 0.0], [3.0, 0.0], [-5.0, 1.0]])
      >>> winning_probabilities(lambda x: x @ weights, jnp.ones(3), 0).tolist()
      [0.25, 0.75, 0.0]
    """
    return _probabilities(record(function, activations), target, contrastive)


def _probabilities(recording: Recording, target: int | Array, contrastive: bool) -> Array:
    logits = recording.output.value
    winner = (jnp.arange(logits.shape[-1]) == target).astype(jnp.float32)

    def propagated(negate_top: bool) -> Array:
        return jnp.abs(recording.pass_down(winner, negate_top=negate_top))

    if not contrastive:
        return propagated(False)
    return _normalized(propagated(False)) - _normalized(propagated(True))


def _normalized(probabilities: Array) -> Array:
    total = jnp.sum(probabilities)
    return jnp.where(total > 0, probabilities / jnp.where(total > 0, total, 1.0), 0.0)


@partial(jax.jit, static_argnames=("layer", "contrastive"))
def _excitation(score: Any, image: Array, *, layer: ExcitationLayer, contrastive: bool) -> Explanation:
    score = scores.from_pytree(score)
    model = scores.from_pytree(score.classifier)
    if layer == "maps":
        recording = record(lambda maps: logits_of_maps(model, maps[None])[0], feature_maps(model, image)[0])
    else:
        recording = record(lambda image: logits_of_maps(model, feature_maps(model, image))[0], image)
    attribution = jnp.sum(_probabilities(recording, score.target, contrastive), axis=-1).astype(jnp.float32)
    logits = recording.output.value[None]
    # NaN if the target is out of range.
    logit = scores.ClassScore(lambda _: logits, score.target, "logit")(image[None])
    checked = jnp.append(attribution, logit)
    status = constant_unless(jnp.any(attribution != 0))
    return finished(jax.nn.relu(attribution), checked, 1, AttributionDetails(attribution), status)
