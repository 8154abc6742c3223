"""Scores and classifiers: the functions to explain.

A *score* is a callable pytree `images [N, H, W, C] -> [N]`; a *classifier* is a callable pytree
`images -> logits [N, K]`. Every explanation is a pure function of a score.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import check_choice, check_target

ScoreKind = Literal["probability", "logit", "log_probability", "margin"]
KINDS: tuple[str, ...] = get_args(ScoreKind)


class Score(Protocol):
    """A callable pytree that maps each image to one number, the quantity to explain."""

    def __call__(self, images: Array, /) -> Array:
        """Map images [N, H, W, C] to scores [N], each image independently of the others."""
        ...


class Classifier(Protocol):
    """A callable pytree that maps images to class logits."""

    def __call__(self, images: Array, /) -> Array:
        """Map images [N, H, W, C] to logits [N, K], each image independently of the others."""
        ...


@partial(jax.tree_util.register_dataclass, data_fields=["classifier", "target"], meta_fields=["kind"])
@dataclass(frozen=True)
class ClassScore:
    """A classifier's score for one class; created by `class_score`."""

    classifier: Any
    target: Array  # int32 []
    kind: str = field(default="probability")

    def __call__(self, images: Array) -> Array:
        """Map images [N, H, W, C] to scores [N]; NaN if the target is out of range."""
        logits = self.classifier(images)
        if logits.ndim != 2 or logits.shape[0] != images.shape[0]:
            raise ValueError(
                f"a classifier must map images {images.shape} to logits [{images.shape[0]}, K], "
                f"got shape {logits.shape}."
            )
        return _pick(_scored(logits, self.target, self.kind), self.target)


def class_score(classifier: Classifier, target: int | Array, kind: ScoreKind = "probability") -> ClassScore:
    """Return a function that scores images for one class of a classifier.

    Args:
      classifier: any callable that maps images [N, H, W, C] to logits [N, K]: a model from the zoo, a plain
        function, or a Flax, Equinox or Keras 3 model on the JAX backend (see `as_pytree`).
      target: class index in 0..K-1, an int or an int32 scalar; may be traced (so `jax.vmap` over targets
        works). A target out of range gives NaN scores; if the classifier has `labels`, a concrete target
        out of range raises an error instead.
      kind: "probability" (softmax), "logit", "log_probability", or "margin" (the class's logit minus the
        largest other logit).

    Raises:
      ValueError: unknown kind, or target out of range.
      TypeError: the target is not an integer, or the classifier is not callable.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> score = jx.class_score(lambda images: images.mean((1, 2)), target=2)
      >>> score(jnp.zeros((4, 8, 8, 3))).shape
      (4,)
    """
    check_choice(kind, KINDS, "score kind")
    index = jnp.asarray(target) if isinstance(target, int | np.number | np.ndarray | Array) else None
    if index is None or index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"target must be a single class index (an int), got {_in_short(target)}.")
    labels = getattr(classifier, "labels", None)
    if labels is not None and not isinstance(index, jax.core.Tracer):
        check_target(int(index), len(labels))
    return ClassScore(as_pytree(classifier), index.astype(jnp.int32), kind)


def _in_short(target: Any) -> str:
    """Describe an array by its shape, because the repr of an image would fill the screen."""
    if getattr(target, "ndim", 0):
        return f"an array of shape {target.shape}; for several classes use jax.vmap"
    return repr(target)


def top_class(classifier: Classifier, image: Array) -> Array:
    """Return the index of the class with the largest logit for an image [H, W, C], as int32 []."""
    return jnp.argmax(classifier(image[None])[0]).astype(jnp.int32)


def _scored(logits: Array, target: Array, kind: str) -> Array:
    if kind == "probability":
        return jax.nn.softmax(logits)
    if kind == "log_probability":
        return jax.nn.log_softmax(logits)
    if kind == "margin":
        others = jnp.where((jnp.arange(logits.shape[1]) == target)[None], -jnp.inf, logits)
        return logits - jnp.max(others, axis=1, keepdims=True)
    return logits


def _pick(values: Array, target: Array) -> Array:
    column = jnp.broadcast_to(target, (values.shape[0], 1))
    inside = (target >= 0) & (target < values.shape[1])
    picked = jnp.take_along_axis(values, jnp.where(inside, column, 0), axis=1)[:, 0]
    return jnp.where(inside, picked, jnp.nan)


def as_pytree(model: Any) -> Any:
    """Convert a model to a callable pytree with only array leaves, to pass it to compiled functions.

    - A pytree with only array leaves (Flax nnx modules, `jax.tree_util.Partial`, scores) is returned as is.
    - If a pytree also has other leaves (such as the functions in Equinox modules), those become static.
    - A Keras 3 model on the JAX backend becomes its `stateless_call`, with its variables as leaves.
    - Any other callable (a plain function) becomes static: arrays that it closes over are compiled in as
      constants, and each new function object triggers a recompilation.

    The result supports only calls; `from_pytree` recovers the model with its other methods.

    Raises:
      TypeError: the model is not callable.
    """
    if not callable(model):
        raise TypeError(f"a score or classifier must be callable, got {type(model).__name__}.")
    if hasattr(model, "stateless_call"):
        return _from_keras(model)
    leaves, treedef = jax.tree_util.tree_flatten(model)
    if jax.tree_util.treedef_is_leaf(treedef):
        return jax.tree_util.Partial(model)
    dynamic = tuple(leaf if _is_array(leaf) else None for leaf in leaves)
    if all(leaf is not None for leaf in dynamic):
        return model
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    return jax.tree_util.Partial(_Recombined(treedef, static), dynamic)


def from_pytree(adapted: Any) -> Any:
    """Undo `as_pytree`: return the original model with all its methods.

    Its leaves may have been replaced by traced arrays in the meantime. Any other model is returned unchanged.

    Example:
      >>> class Model:
      ...     def __call__(self, images): return images.mean((1, 2))
      ...     def feature_maps(self, images): return images
      >>> adapted = as_pytree(Model())
      >>> hasattr(adapted, "feature_maps"), hasattr(from_pytree(adapted), "feature_maps")
      (False, True)
    """
    if not isinstance(adapted, jax.tree_util.Partial) or adapted.keywords:
        return adapted
    if isinstance(adapted.func, _KerasCall):
        return adapted.func.model
    if isinstance(adapted.func, _Recombined):
        return adapted.func.restore(*adapted.args)
    return adapted if adapted.args else adapted.func


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


# The static parts are dataclasses because partials and closures compare by identity, so that wrapping the
# same model twice would compile it twice.


@dataclass(frozen=True)
class _Recombined:
    """The static half of a pytree that also has non-array leaves."""

    treedef: Any
    static: tuple  # one entry per leaf; None for arrays

    def restore(self, dynamic: tuple) -> Any:
        """Return the pytree with its array leaves filled in."""
        leaves = [fixed if leaf is None else leaf for leaf, fixed in zip(dynamic, self.static, strict=True)]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)

    def __call__(self, dynamic: tuple, images: Array) -> Array:
        return self.restore(dynamic)(images)


@dataclass(frozen=True)
class _KerasCall:
    """A Keras model without its variables."""

    model: Any

    def __call__(self, trainable: list, frozen: list, images: Array) -> Array:
        return self.model.stateless_call(trainable, frozen, images, training=False)[0]


def _from_keras(model: Any) -> jax.tree_util.Partial:
    trainable = [variable.value for variable in model.trainable_variables]
    frozen = [variable.value for variable in model.non_trainable_variables]
    return jax.tree_util.Partial(_KerasCall(model), trainable, frozen)
