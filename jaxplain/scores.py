"""Scores and classifiers: what is explained.

A *score* is a callable pytree `images [N, H, W, C] -> [N]`; a *classifier* one `images -> logits [N, K]`.
Every explanation is a pure function of a score.
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
    """What is explained: a callable pytree from images to one number each."""

    def __call__(self, images: Array, /) -> Array:
        """Images [N, H, W, C] -> scores [N]; rows must not influence each other."""
        ...


class Classifier(Protocol):
    """A callable pytree from images to class logits."""

    def __call__(self, images: Array, /) -> Array:
        """Images [N, H, W, C] -> logits [N, K]; rows must not influence each other."""
        ...


@partial(jax.tree_util.register_dataclass, data_fields=["classifier", "target"], meta_fields=["kind"])
@dataclass(frozen=True)
class ClassScore:
    """The score of one class; made by `class_score`."""

    classifier: Any
    target: Array  # int32 []
    kind: str = field(default="probability")

    def __call__(self, images: Array) -> Array:
        """Images [N, H, W, C] -> scores [N]; NaN where the target is not a class."""
        logits = self.classifier(images)
        if logits.ndim != 2 or logits.shape[0] != images.shape[0]:
            raise ValueError(
                f"a classifier must map images {images.shape} to logits [{images.shape[0]}, K], "
                f"got shape {logits.shape}."
            )
        return _pick(_scored(logits, self.target, self.kind), self.target)


def class_score(classifier: Classifier, target: int | Array, kind: ScoreKind = "probability") -> ClassScore:
    """Make the score of one class of a classifier.

    Args:
      classifier: anything callable from images [N, H, W, C] to logits [N, K]: a model of the zoo, a plain
        function, a Flax, Equinox or Keras-3-on-JAX model (see `as_pytree`).
      target: class index in 0..K-1, an int or an int32 scalar that may be traced (so `jax.vmap` over
        targets works). An index outside gives a NaN score under jit; a concrete one is refused when
        the classifier has `labels`.
      kind: "probability" (softmax), "logit", "log_probability", or "margin" (its logit minus the largest
        other one).

    Raises:
      ValueError: unknown kind, or a target out of range.
      TypeError: the target is not a whole number, or the classifier cannot be called.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> score = jx.class_score(lambda images: images.mean((1, 2)), target=2)
      >>> score(jnp.zeros((4, 8, 8, 3))).shape
      (4,)
    """
    check_choice(kind, KINDS, "score kind")
    index = jnp.asarray(target) if isinstance(target, int | np.number | np.ndarray | Array) else None
    if index is None or index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"target must be one class index (an int), got {_in_short(target)}.")
    labels = getattr(classifier, "labels", None)
    if labels is not None and not isinstance(index, jax.core.Tracer):
        check_target(int(index), len(labels))
    return ClassScore(as_pytree(classifier), index.astype(jnp.int32), kind)


def _in_short(target: Any) -> str:
    """Describe an array by its shape: an image in the target's place would fill the screen."""
    if getattr(target, "ndim", 0):
        return f"an array of shape {target.shape}; for several classes use jax.vmap"
    return repr(target)


def top_class(classifier: Classifier, image: Array) -> Array:
    """Return the index of the class with the largest logit for one image [H, W, C]: int32 []."""
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
    """Return a callable pytree whose leaves are arrays, so that it can be an argument of a compiled function.

    - a pytree with array leaves only (Flax nnx modules, `jax.tree_util.Partial`, scores): itself;
    - a pytree with other leaves among them (Equinox modules hold functions): those become static;
    - a Keras 3 model on the JAX backend: its `stateless_call` with its variables as leaves;
    - any other callable (a plain function): static; arrays that it closes over are compiled in as
      constants, and every new function object means a new compilation.

    Raises:
      TypeError: the model cannot be called.
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


def unwrap(model: Any) -> Any:
    """Return the model that `as_pytree` wrapped, and any other model as it is."""
    function = getattr(model, "func", None) if isinstance(model, jax.tree_util.Partial) else None
    if isinstance(function, _KerasCall):
        return function.model
    if isinstance(function, _Recombined):
        return function.restore(*model.args)
    return model


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


# The static parts are dataclasses, not partials or closures, because those compare by identity: the same
# model wrapped twice would compile twice.


@dataclass(frozen=True)
class _Recombined:
    """The static half of a pytree that has leaves other than arrays."""

    treedef: Any
    static: tuple  # one entry per leaf; None where it is an array

    def restore(self, dynamic: tuple) -> Any:
        """Return the whole pytree."""
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
