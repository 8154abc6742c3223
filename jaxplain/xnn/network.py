"""The explanation network: a classifier with some of its logits computed through x-features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxplain.checks import check_choice, check_image_batch
from jaxplain.scores import as_pytree
from jaxplain.xnn.diagnose import significant
from jaxplain.xnn.srae import SRAE

Layer = Literal["penultimate", "maps"]
_CELLS = 2  # rows and columns of cells that maps are averaged in
ScoreOf = Literal["activation", "contribution"]


class Trunk(nnx.Module):
    """A zoo classifier up to a layer: images [N, H, W, 3] -> features [N, D], a callable pytree.

    Args:
      classifier: with `features` and `feature_maps`, such as `jaxplain.zoo.load` returns.
      layer: "penultimate", what the classifier's own head reads; or "maps", the last convolution's maps,
        averaged in 2 x 2 cells of the image, so that D is four times their number and a feature knows where.

    Example:
      >>> from jaxplain import zoo
      >>> trunk = Trunk(zoo.load("efficientnet-lite0"))
      >>> trunk(jnp.zeros((1, 224, 224, 3))).shape
      (1, 1280)
    """

    def __init__(self, classifier: Any, layer: Layer = "penultimate") -> None:
        check_choice(layer, get_args(Layer), "layer")
        self.classifier, self.layer = _held(classifier), layer

    def __call__(self, images: Array) -> Array:
        """Features: [N, H, W, 3] -> [N, D]."""
        check_image_batch(images, channels=3)
        if self.layer == "penultimate":
            return self.classifier.features(images)
        return _cell_means(self.classifier.feature_maps(images))


class Head(nnx.Module):
    """A zoo classifier from its penultimate features on: [N, D] -> logits [N, C], a callable pytree."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = _held(classifier)

    def __call__(self, features: Array) -> Array:
        """Logits: [N, D] -> [N, C]."""
        return self.classifier.head(features)


def _held(classifier: Any) -> Any:
    """As an attribute of a Flax module, which must be told of pytrees that are no modules."""
    treedef = jax.tree_util.tree_structure(classifier)
    plain = isinstance(classifier, nnx.Module) or jax.tree_util.treedef_is_leaf(treedef)
    return classifier if plain else nnx.data(classifier)


def _cell_means(maps: Array) -> Array:
    """Means of maps [N, h, w, d] over cells: [N, cells * cells * d]; a middle row belongs to both sides."""
    height, width = maps.shape[1:3]
    rows, cols = ((-(-side // _CELLS), side - -(-side // _CELLS)) for side in (height, width))
    cells = [
        maps[:, top : top + rows[0], left : left + cols[0]].mean((1, 2))
        for top in (0, rows[1])
        for left in (0, cols[1])
    ]
    return jnp.concatenate(cells, axis=1)


class ExplanationNetwork(nnx.Module):
    """A classifier in which an SRAE says the logits of some classes: images -> logits, a callable pytree.

    It is a classifier itself, and each of its x-features is a score: whatever explains a class explains an
    x-feature.

    Args:
      trunk: callable pytree from images [N, H, W, C] to the layer's features [N, D]; see `Trunk`.
      head: callable pytree from features [N, D] to all logits [N, C]: a `Probe`, or a `Head`.
      srae: fitted to those features and to the logits of `targets`.
      targets: class indices of the SRAE's logits, in its order; one index for a single class.

    Raises:
      TypeError: trunk or head cannot be called.
      ValueError: not as many targets as the SRAE explains classes, or a class twice.

    References:
      Fuxin et al. From Heatmaps to Structural Explanations of Image Classifiers. Applied AI Letters 2021.

    Example:
      >>> from jaxplain.xnn import Probe, SRAEConfig
      >>> srae = SRAE(SRAEConfig(features=3, widths=(8,), n_features=2), rngs=nnx.Rngs(0))
      >>> head = Probe(jnp.eye(3), jnp.zeros(3))
      >>> network = ExplanationNetwork(lambda images: images.mean((1, 2)), head, srae, targets=1)
      >>> images = jnp.ones((4, 8, 8, 3))
      >>> network(images).shape, network.x_features(images).shape, network.feature_score(0)(images).shape
      ((4, 3), (4, 2), (4,))
    """

    def __init__(
        self,
        trunk: Any,
        head: Any,
        srae: SRAE,
        targets: int | Sequence[int],
    ) -> None:
        self.trunk, self.head = nnx.data(as_pytree(trunk)), nnx.data(as_pytree(head))
        self.srae = srae
        self.targets = (int(targets),) if isinstance(targets, int) else tuple(map(int, targets))
        if len(self.targets) != srae.config.classes or len(set(self.targets)) != len(self.targets):
            raise ValueError(
                f"targets must be {srae.config.classes} different classes, one a logit of the SRAE, "
                f"got {self.targets}."
            )

    def x_features(self, images: Array) -> Array:
        """Images [N, H, W, C] -> x-features [N, n], at least 0."""
        return self.srae.x_features(self.trunk(images))

    def contributions(self, images: Array, target: int | None = None) -> Array:
        """What each x-feature adds to a class's logit: [N, H, W, C] -> [N, n]; None: the first target."""
        return self.srae.contributions(self.trunk(images), self._column(target))

    def predict(self, images: Array) -> Array:
        """The explained logits: [N, H, W, C] -> [N, K], in the order of `targets`."""
        return self.srae(self.trunk(images))

    def significant(self, images: Array, target: int | None = None) -> Array:
        """The fewest x-features with 90% of the positive contributions: [N, H, W, C] -> bool [N, n]."""
        return significant(self.contributions(images, target))

    def replace_logit(self, logits: Array, images: Array) -> Array:
        """All logits [N, C] of images [N, H, W, C] with the explained ones as the SRAE says them."""
        return jnp.asarray(logits).at[:, jnp.array(self.targets)].set(self.predict(images))

    def __call__(self, images: Array) -> Array:
        """All logits, the explained ones through the x-features: [N, H, W, C] -> [N, C]."""
        features = self.trunk(images)
        return self.head(features).at[:, jnp.array(self.targets)].set(self.srae(features))

    def feature_score(
        self,
        k: int | Array,
        *,
        of: ScoreOf = "activation",
        unit: float | Array = 1.0,
        target: int | None = None,
    ) -> "FeatureScore":
        """An x-feature as a score, for `igos_pp`, `sag.search` and everything else that explains scores.

        Args:
          k: which x-feature, 0..n-1; may be traced, so `jax.vmap` over x-features works.
          of: its "activation", or its "contribution" to a class's logit.
          unit: what counts as 1. Coefficients of the mask recipes are made for scores from 0 to 1: pass the
            value on the image that is explained.
          target: whose logit; None: the first target.

        Raises:
          ValueError: a concrete k out of range, an unknown `of`, a class that is not explained.
        """
        check_choice(of, get_args(ScoreOf), "of")
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
    """The score of one x-feature; made by `ExplanationNetwork.feature_score`."""

    trunk: Any
    srae: SRAE
    k: Array  # int32 []
    factor: Array  # []

    def __call__(self, images: Array) -> Array:
        """Images [N, H, W, C] -> scores [N]."""
        return jnp.take(self.srae.x_features(self.trunk(images)), self.k, axis=1) * self.factor
