"""Scores and classifiers: the functions to explain.

A *score* is a callable pytree `images [N, H, W, C] -> [N]`; a *classifier* is a callable pytree
`images -> logits [N, K]`. Every explanation is a pure function of a score.
"""

import warnings
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import as_image, check_choice, check_target

ScoreKind = Literal["probability", "logit", "log_probability", "margin", "sigmoid"]
KINDS: tuple[str, ...] = get_args(ScoreKind)
_BATCH_TOLERANCE = 0.05  # of the logits' range: above bfloat16's rounding, below what batch statistics do
_SUM_TOLERANCE = 1e-3
COMPARING_KINDS = ("probability", "log_probability", "margin")  # compare a class's logit with the others


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
        logits = as_logits(self.classifier(images), images)
        return _pick(_scored(logits, self.target, self.kind), self.target)


def class_score(classifier: Classifier, target: int | Array, kind: ScoreKind = "probability") -> ClassScore:
    """Return a function that scores images for one class of a classifier.

    Args:
      classifier: any callable that maps images [N, H, W, C] to logits [N, K], or to a dict or object with
        these as `logits`: a model from the zoo, a plain function, or a Flax, Equinox or Keras 3 model on the
        JAX backend (see `as_pytree`). For PyTorch, see `from_torch`.
      target: class index in 0..K-1, an int or an int32 scalar; may be traced (so `jax.vmap` over targets
        works). A target out of range gives NaN scores; if the classifier has `labels`, a concrete target
        out of range raises an error instead.
      kind: "probability" (softmax), "logit", "log_probability", "margin" (the class's logit minus the
        largest other logit), or "sigmoid" (the class's logit through a sigmoid, regardless of the others: for
        multi-label classifiers, and for binary classifiers with a single logit).

    Raises:
      ValueError: unknown kind, or target out of range. When called: the classifier does not return logits
        [N, K], or returns a single logit (K = 1) although the kind compares classes.
      TypeError: the target is not an integer, or the classifier is not callable. When called: the classifier
        returns something other than an array of floats.

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
    """Return the index of the class with the largest logit for an image [H, W, C], as int32 [].

    Outside of compiled functions, it also checks the classifier on a second image; see `warn_of_traps`.

    Raises:
      ValueError, TypeError: `image` is not [H, W, C], or the classifier does not return logits [1, K].
    """
    image = as_image(image)
    logits = as_logits(classifier(image[None]), image[None])[0]
    if not isinstance(logits, jax.core.Tracer):
        warn_of_traps(classifier, image, logits)
    return jnp.argmax(logits).astype(jnp.int32)


def warn_of_traps(classifier: Classifier, image: Array, logits: Array) -> None:
    """Warn if a classifier seems to be in training mode, or to return probabilities instead of logits.

    Args:
      classifier: any classifier; called once more, with an image of zeros beside.
      image: [H, W, C], model space.
      logits: [K], what the classifier returned for the image alone.

    Warns:
      UserWarning: the image's logits change with the other image of the batch, or the logits of both images
        are probabilities (non-negative, with a sum of 1).
    """
    both = jnp.stack([image, jnp.zeros_like(image)])  # a copy would have the same batch statistics
    pair = np.asarray(as_logits(classifier(both), both))
    if np.max(np.abs(pair[0] - logits)) > _BATCH_TOLERANCE * max(float(np.ptp(logits)), 1e-6):
        warnings.warn(
            "the logits of an image change with the other images of its batch, or from call to call, so that "
            "maps would depend on the batch size: put the model into evaluation mode (Flax nnx and PyTorch: "
            "model.eval(); Equinox: eqx.nn.inference_mode(model)).",
            stacklevel=3,
        )
    if pair.shape[1] > 1 and np.all(pair >= 0) and np.allclose(pair.sum(1), 1, atol=_SUM_TOLERANCE):
        warnings.warn(
            "the classifier seems to return probabilities, not logits, so that the softmax is taken twice: "
            "leave its last softmax off, or explain their logarithms, jnp.log(model(images)).",
            stacklevel=3,
        )


def as_logits(output: Any, images: Array) -> Array:
    """Return the output of a classifier for images [N, H, W, C] as logits, float32 [N, K].

    Raises:
      ValueError: the output is not [N, K].
      TypeError: the output is neither an array of floats nor a dict or object with such an array as `logits`.

    Example:
      >>> import jax.numpy as jnp
      >>> as_logits({"logits": jnp.zeros((4, 10), jnp.bfloat16)}, jnp.zeros((4, 8, 8, 3))).dtype.name
      'float32'
    """
    logits: Any = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", output)
    if not _is_array(logits):
        raise TypeError(
            f"a classifier must return logits [N, K], got {_structure(output)}. Select them in a wrapper: "
            "jax.tree_util.Partial(lambda model, images: model(images)[0], model)."
        )
    if logits.ndim != 2 or logits.shape[0] != images.shape[0]:
        raise ValueError(
            f"a classifier must map images {images.shape} to logits [{images.shape[0]}, K], "
            f"got shape {logits.shape}.{_shape_hint(logits.shape, images.shape[0])}"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"a classifier must return logits as floats, got {logits.dtype}.")
    return jnp.asarray(logits, jnp.float32)


def _structure(output: Any) -> str:
    """Describe an output that is not an array."""
    if isinstance(output, dict):
        return f"a dict with the keys {', '.join(map(repr, output))}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"


def _shape_hint(shape: tuple[int, ...], n_images: int) -> str:
    if shape == (n_images,):
        return " One number per image is a score: pass the model to the method itself, without class_score."
    if len(shape) == 4:
        return " Maps need a score that reduces them, such as their mean over an object."
    return ""


def probabilities(logits: Array) -> Array:
    """Return the probabilities of classes [..., K]: a softmax, or for a single logit its sigmoid."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def kind_of_probability(classifier: Any) -> ScoreKind:
    """Return the kind of score that gives `probabilities`: "sigmoid" for a classifier with one label."""
    return "sigmoid" if len(getattr(classifier, "labels", ())) == 1 else "probability"


def _scored(logits: Array, target: Array, kind: str) -> Array:
    if kind in COMPARING_KINDS and logits.shape[1] == 1:
        raise ValueError(
            f'kind="{kind}" compares a class with others, but the classifier returns a single logit per '
            'image. Use kind="sigmoid" for its probability, or kind="logit".'
        )
    if kind == "sigmoid":
        return jax.nn.sigmoid(logits)
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
    - A PyTorch module is refused; see `jaxplain.from_torch`.
    - Any other callable (a plain function) becomes static: arrays that it closes over are compiled in as
      constants, and each new function object triggers a recompilation.

    Models that training changes in place (Flax nnx, Keras, PyTorch) are followed: each call uses the weights
    that the model has then. Models that training replaces (linen's variables, Equinox) are snapshots.

    The result supports only calls; `from_pytree` recovers the model with its other methods.

    Raises:
      TypeError: the model is not callable, or is a PyTorch module.
    """
    if not callable(model):
        raise TypeError(f"a score or classifier must be callable, got {type(model).__name__}.")
    if any(base.__module__.startswith("torch.nn.") for base in type(model).__mro__):
        raise TypeError(
            f"{type(model).__name__} is a PyTorch module, which JAX cannot call: pass "
            "jaxplain.from_torch(module.eval()) instead."
        )
    if hasattr(model, "stateless_call"):
        return _KerasModel(model)
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
    if isinstance(adapted, _KerasModel):
        return adapted.model
    if not isinstance(adapted, jax.tree_util.Partial) or adapted.keywords:
        return adapted
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


@jax.tree_util.register_pytree_node_class
class _KerasModel:
    """A Keras model as a pytree of its variables' values: the present ones whenever it is flattened."""

    def __init__(self, model: Any, values: tuple | None = None) -> None:
        self.model, self.values = model, values

    def tree_flatten(self) -> tuple[tuple, Any]:
        """Return (trainable values, frozen values) and the model."""
        values = _keras_values(self.model) if self.values is None else self.values
        return values, self.model

    @classmethod
    def tree_unflatten(cls, model: Any, values: Any) -> "_KerasModel":
        return cls(model, tuple(values))

    def __call__(self, images: Array) -> Any:
        values = _keras_values(self.model) if self.values is None else self.values
        return self.model.stateless_call(*values, images, training=False)[0]


def _keras_values(model: Any) -> tuple[list, list]:
    groups = model.trainable_variables, model.non_trainable_variables
    trainable, frozen = ([variable.value for variable in variables] for variables in groups)
    return trainable, frozen
