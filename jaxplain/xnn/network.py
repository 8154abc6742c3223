"""Explanation networks, classifiers that compute some of their logits from x-features; and linear probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from jaxplain.checks import check_choice, check_finite, check_image_batch, check_positive_int
from jaxplain.scores import as_pytree
from jaxplain.xnn.evaluate import significant
from jaxplain.xnn.srae import SRAE

FeatureLayer = Literal["penultimate", "maps"]
FeatureQuantity = Literal["activation", "contribution"]
_CELLS = 2  # rows and columns of cells that maps are averaged over


class Trunk(nnx.Module):
    """The part of a zoo classifier up to a layer: images [N, H, W, 3] -> features [N, D], a callable pytree.

    Args:
      classifier: an object with `features` and `feature_maps`, such as a model from `jaxplain.zoo.load`.
      layer: "penultimate" (the input to the classifier's head) or "maps" (the output of the last convolution,
        averaged over a 2 x 2 grid of cells, so that features keep their approximate position and D is four
        times the number of maps).

    Example:
      >>> from jaxplain import zoo
      >>> trunk = Trunk(zoo.load("efficientnet-lite0"))
      >>> trunk(jnp.zeros((1, 224, 224, 3))).shape
      (1, 1280)
    """

    def __init__(self, classifier: Any, layer: FeatureLayer = "penultimate") -> None:
        check_choice(layer, get_args(FeatureLayer), "layer")
        self.classifier, self.layer = _as_attribute(classifier), layer

    def __call__(self, images: Array) -> Array:
        """Return the features: [N, H, W, 3] -> [N, D]."""
        check_image_batch(images, channels=3)
        if self.layer == "penultimate":
            return self.classifier.features(images)
        return _cell_means(self.classifier.feature_maps(images))


class ClassifierHead(nnx.Module):
    """The head of a zoo classifier: penultimate features [N, D] -> logits [N, C], a callable pytree."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = _as_attribute(classifier)

    def __call__(self, features: Array) -> Array:
        """Return the logits: [N, D] -> [N, C]."""
        return self.classifier.head(features)


def _as_attribute(classifier: Any) -> Any:
    """Mark a pytree that is not a Flax module as data, which nnx requires for attributes that hold arrays."""
    treedef = jax.tree_util.tree_structure(classifier)
    plain = isinstance(classifier, nnx.Module) or jax.tree_util.treedef_is_leaf(treedef)
    return classifier if plain else nnx.data(classifier)


def _cell_means(maps: Array) -> Array:
    """Average maps [N, h, w, d] over cells: [N, cells * cells * d]; a middle row is in both halves."""
    height, width = maps.shape[1:3]
    rows, cols = ((-(-side // _CELLS), side - -(-side // _CELLS)) for side in (height, width))
    cells = [
        maps[:, top : top + rows[0], left : left + cols[0]].mean((1, 2))
        for top in (0, rows[1])
        for left in (0, cols[1])
    ]
    return jnp.concatenate(cells, axis=1)


class ExplanationNetwork(nnx.Module):
    """A classifier in which an SRAE computes the logits of some classes: images -> logits, a callable pytree.

    It is itself a classifier, and each of its x-features is a score, so every method that explains a class
    also explains an x-feature.

    Args:
      trunk: callable pytree from images [N, H, W, C] to the layer's features [N, D]; see `Trunk`.
      head: callable pytree from features [N, D] to all logits [N, C]: a `Probe` or a `ClassifierHead`.
      srae: SRAE fitted to the trunk's features and to the logits of `targets`.
      targets: class indices of the SRAE's logits, in order; an int for a single class.

    Raises:
      TypeError: if `trunk` or `head` is not callable.
      ValueError: if the number of targets differs from the SRAE's number of classes, or a class occurs twice.

    References:
      Fuxin et al. From Heatmaps to Structural Explanations of Image Classifiers. Applied AI Letters 2021.

    Example:
      >>> from jaxplain.xnn import SRAEConfig
      >>> srae = SRAE(SRAEConfig(features=3, widths=(8,), n_features=2), rngs=nnx.Rngs(0))
      >>> head = Probe(jnp.eye(3), jnp.zeros(3))
      >>> network = ExplanationNetwork(lambda images: images.mean((1, 2)), head, srae, targets=1)
      >>> images = jnp.ones((4, 8, 8, 3))
      >>> network(images).shape, network.x_features(images).shape, network.feature_score(0)(images).shape
      ((4, 3), (4, 2), (4,))
    """

    def __init__(self, trunk: Any, head: Any, srae: SRAE, targets: int | Sequence[int]) -> None:
        self.trunk, self.head = nnx.data(as_pytree(trunk)), nnx.data(as_pytree(head))
        self.srae = srae
        self.targets = (int(targets),) if isinstance(targets, int) else tuple(map(int, targets))
        if len(self.targets) != srae.config.classes or len(set(self.targets)) != len(self.targets):
            raise ValueError(
                f"targets must be {srae.config.classes} different classes, one per logit of the SRAE, "
                f"got {self.targets}."
            )

    def x_features(self, images: Array) -> Array:
        """Return the non-negative x-features: images [N, H, W, C] -> [N, n]."""
        return self.srae.x_features(self.trunk(images))

    def contributions(self, images: Array, target: int | None = None) -> Array:
        """Return each x-feature's contribution to a logit (default: first target): [N, H, W, C] -> [N, n]."""
        return self.srae.contributions(self.trunk(images), self._column(target))

    def predict(self, images: Array) -> Array:
        """Predict the explained logits: [N, H, W, C] -> [N, K], in the order of `targets`."""
        return self.srae(self.trunk(images))

    def significant(self, images: Array, target: int | None = None) -> Array:
        """Return the fewest x-features that make up 90% of the positive contributions.

        Shapes: [N, H, W, C] -> bool [N, n].
        """
        return significant(self.contributions(images, target))

    def replace_logit(self, logits: Array, images: Array) -> Array:
        """Replace the explained logits in [N, C] with predictions for images [N, H, W, C]."""
        return jnp.asarray(logits).at[:, jnp.array(self.targets)].set(self.predict(images))

    def __call__(self, images: Array) -> Array:
        """Return all logits, computing explained logits from x-features: [N, H, W, C] -> [N, C]."""
        features = self.trunk(images)
        return self.head(features).at[:, jnp.array(self.targets)].set(self.srae(features))

    def feature_score(
        self,
        k: int | Array,
        *,
        of: FeatureQuantity = "activation",
        unit: float | Array = 1.0,
        target: int | None = None,
    ) -> "FeatureScore":
        """Return an x-feature as a score, for `igos_pp`, `sag.search` and every other method.

        Args:
          k: index of the x-feature, 0..n-1; may be traced, so `jax.vmap` over x-features works.
          of: "activation" of the x-feature, or its "contribution" to a class's logit.
          unit: value that corresponds to a score of 1. The mask methods' default coefficients assume scores
            from 0 to 1, so pass the value for the explained image.
          target: class of the logit; default: the first target.

        Raises:
          ValueError: if a concrete `k` is out of range, `of` is unknown, or the class is not explained.
        """
        check_choice(of, get_args(FeatureQuantity), "of")
        count = self.srae.config.n_features
        if not isinstance(k, jax.core.Tracer) and not 0 <= int(k) < count:
            raise ValueError(f"k must be in 0..{count - 1}, got {k}.")
        factor = self.srae.weights[:, self._column(target)][k] if of == "contribution" else jnp.float32(1)
        return FeatureScore(self.trunk, self.srae, jnp.asarray(k, jnp.int32), factor / unit)

    def _column(self, target: int | None) -> int:
        if target is not None and target not in self.targets:
            raise ValueError(f"class {target} is not explained; the targets are {self.targets}.")
        return 0 if target is None else self.targets.index(target)


@partial(jax.tree_util.register_dataclass, data_fields=["trunk", "srae", "k", "factor"], meta_fields=[])
@dataclass(frozen=True)
class FeatureScore:
    """The score of one x-feature; created by `ExplanationNetwork.feature_score`."""

    trunk: Any
    srae: SRAE
    k: Array  # int32 []
    factor: Array  # []

    def __call__(self, images: Array) -> Array:
        """Return the scores: images [N, H, W, C] -> [N]."""
        return jnp.take(self.srae.x_features(self.trunk(images)), self.k, axis=1) * self.factor


# ---------------------------------------------------------------------------------------------------------
# Linear probes


class Probe(NamedTuple):
    """A linear classifier on features, as a pytree: [N, D] -> logits [N, K]."""

    kernel: Array  # [D, K]
    bias: Array  # [K]

    def __call__(self, features: Array) -> Array:
        """Return the logits: [N, D] -> [N, K]."""
        return features @ self.kernel + self.bias[None]


def linear_probe(
    features: Array, labels: Array, classes: int, *, l2: Array | float = 1e-3, iterations: int = 100
) -> Probe:
    """Fit a softmax head on frozen features, for classes that the classifier was not trained on.

    Uses L-BFGS, starting from zero; the result is deterministic.

    Args:
      features: [N, D]; standardized internally, so that `l2` affects all of them equally.
      labels: int [N], from 0 to classes - 1; every class must occur.
      classes: number of classes, K.
      l2: weight of the kernel's squared norm (on standardized features) relative to the mean cross-entropy.
      iterations: number of L-BFGS iterations.

    Returns:
      A `Probe` for raw features.

    Raises:
      ValueError: if shapes do not match; for concrete arrays, also if features are not finite, a label is out
        of range, or a class has no examples.

    Example:
      >>> features = jnp.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]])
      >>> probe = linear_probe(features, jnp.array([0, 0, 1, 1]), 2)
      >>> probe(features).argmax(1).tolist()
      [0, 0, 1, 1]
    """
    check_positive_int(classes, "classes")
    check_positive_int(iterations, "iterations")
    _check_labels(features, labels, classes)
    return _fit_probe(jnp.asarray(features), jnp.asarray(labels), classes, l2, iterations)


def _check_labels(features: Array, labels: Array, classes: int) -> None:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise ValueError(f"features must be [N, D] and labels [N], got {features.shape} and {labels.shape}.")
    check_finite(features, "features")
    if isinstance(labels, jax.core.Tracer):
        return
    present = np.unique(labels)
    if present[0] < 0 or present[-1] >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, got {present[0]}..{present[-1]}.")
    if missing := sorted(set(range(classes)) - set(present.tolist())):
        raise ValueError(
            f"no example of class {', '.join(map(str, missing[:5]))}: every class needs at least one."
        )


@partial(jax.jit, static_argnums=(2, 4))
def _fit_probe(features: Array, labels: Array, classes: int, l2: Array | float, iterations: int) -> Probe:
    shift, spread = features.mean(0), features.std(0)
    scale = jnp.where(spread > 0, spread, 1)
    standardized = (features - shift[None]) / scale[None]
    optimizer = optax.lbfgs()

    def loss(probe: Probe) -> Array:
        error = optax.softmax_cross_entropy_with_integer_labels(probe(standardized), labels)
        return error.mean() + l2 * jnp.sum(probe.kernel**2)

    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Probe, optax.OptState], _: None) -> tuple[tuple[Probe, optax.OptState], None]:
        probe, state = carry
        value, grad = value_and_grad(probe, state=state)
        updates, state = optimizer.update(grad, state, probe, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(probe, updates), state), None

    start = Probe(*(jnp.zeros(shape, jnp.float32) for shape in ((features.shape[1], classes), (classes,))))
    (probe, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=iterations)
    kernel = probe.kernel / scale[:, None]
    return Probe(kernel, probe.bias - shift @ kernel)
