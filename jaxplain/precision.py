"""Lower precision and rematerialization, to reduce the memory and time of any model or score.

Both wrap the model or score, so they work with every method. Masks, penalties, sums and softmax stay float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.scores import ClassScore, as_pytree

PyTree = Any

DTYPES = ("bfloat16", "float16", "float32")
PARTS = ("features", "feature_maps", "pool", "head")
"""Methods of a zoo classifier to which a wrapper applies its modification."""
KNOWN = ("labels", "spec", "name", "preprocess", "crop_and_resize", "normalize", "denormalize")
"""Other attributes of a zoo classifier; a wrapper forwards them."""


class _Wrapper:
    """A callable pytree that wraps a model and has the same `PARTS` and `KNOWN` attributes as the model."""

    model: Any

    def run(self, part: Callable[[Array], Any], values: Array) -> Any:
        """Evaluate the model, or a part of it, with the wrapper's modification."""
        raise NotImplementedError

    def __call__(self, images: Array) -> Array:
        """Map images [N, H, W, C] to logits [N, K] or scores [N]."""
        return self.run(self.model, images)

    def __getattr__(self, name: str) -> Any:
        if name in PARTS:
            return partial(self.run, getattr(self.model, name))
        if name in KNOWN:
            return getattr(self.model, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@partial(jax.tree_util.register_dataclass, data_fields=["model"], meta_fields=["dtype"])
@dataclass(frozen=True)
class LowPrecision(_Wrapper):
    """A model that computes in a given dtype and returns float32; created by `lower_precision`."""

    model: Any  # its float arrays have this dtype
    dtype: np.dtype

    def run(self, part: Callable[[Array], Any], values: Array) -> Any:
        """Cast the input to the dtype, evaluate, and cast the result back to float32."""
        return _cast(part(_cast(values, self.dtype)), np.dtype(np.float32))


@partial(jax.tree_util.register_dataclass, data_fields=["model"], meta_fields=[])
@dataclass(frozen=True)
class Rematerialized(_Wrapper):
    """A model that saves only matrix products for its backward pass; created by `rematerialize`."""

    model: Any

    def run(self, part: Callable[[Array], Any], values: Array) -> Any:
        """Evaluate; the backward pass recomputes everything except matrix products and convolutions."""
        # Create a new function for each call: checkpoints are cached by function, and this one closes over
        # parameters.
        policy = jax.checkpoint_policies.dots_saveable
        return jax.checkpoint(lambda values: part(values), policy=policy)(values)


def lower_precision(model: Any, dtype: Any = jnp.bfloat16) -> Any:
    """Return a model or score that computes in bfloat16 or float16, to halve its memory on accelerators.

    Parameters are cast once, when this function is called; images are cast on input, and logits or scores are
    cast back to float32 on output. In a `ClassScore`, only the classifier is wrapped; softmax, masks and
    penalties stay float32.

    Explanations degrade. With bfloat16, on six photos with EfficientNet-Lite0 on a CPU, probabilities were
    off by at most .01, but gradients by much more: the rank correlation with float32 was .90 for iGOS++ masks
    and .82 for gradient maps, and the deletion / insertion AUC of iGOS++ went from .064 / .739 to .070 / .710
    (benchmarks/precision.py). Compute metrics with the float32 model. float16 has a finer mantissa but
    underflows: the gradient of a probability near 0 or 1 can become 0. On a CPU, bfloat16 takes three times
    as long as float32.

    Parameters that are not leaves (for example, closed over by a plain function) cannot be cast; such a model
    still computes in float32, but from rounded images.

    Args:
      model: callable classifier or score; see `jaxplain.scores.as_pytree`.
      dtype: bfloat16, float16 or float32 (no change), as a dtype or its name (static).

    Returns:
      A `ClassScore` if given one; otherwise a `LowPrecision`, a callable pytree that keeps those attributes
      of a zoo classifier that the model has (labels, spec, preprocessing, `feature_maps`, `pool` and `head`).

    Raises:
      ValueError: unsupported dtype.
      TypeError: the model is not callable, or is a Keras model (which has its own `dtype` policy).

    References:
      Micikevicius et al. Mixed Precision Training. ICLR 2018.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> colors = jax.tree_util.Partial(lambda kernel, images: images.mean((1, 2)) @ kernel, jnp.eye(3))
      >>> low = lower_precision(colors, "bfloat16")
      >>> low.model.args[0].dtype, low(jnp.ones((1, 4, 4, 3))).dtype
      (dtype(bfloat16), dtype('float32'))
    """
    wanted = _checked_dtype(dtype)
    if hasattr(model, "stateless_call"):
        raise TypeError(
            "a Keras model computes in the dtype of its own policy, regardless of the input: build the model "
            f"with dtype={wanted.name!r} instead."
        )
    if isinstance(model, ClassScore):
        return replace(model, classifier=lower_precision(model.classifier, wanted))
    inner = model.model if isinstance(model, LowPrecision) else _callable_pytree(model)
    return LowPrecision(_cast(inner, wanted), wanted)


def rematerialize(model: Any) -> Any:
    """Return a model or score that recomputes its activations in the backward pass instead of saving them.

    Values and gradients do not change. The backward pass costs about one additional forward pass but needs
    less memory, so more images fit on an accelerator at a time. A zoo classifier, including one inside a
    score or a wrapper, keeps only the inputs of its blocks: for an image of 224 x 224 pixels,
    EfficientNet-Lite0 keeps 7 MiB instead of 61, and ResNet-50 keeps 22 MiB instead of 47 (half as much in
    bfloat16). Any other model keeps only the results of matrix products and convolutions, which saves less
    and may not lower the peak; if it has blocks, `jax.checkpoint` around each block is better.

    Rematerialization has no cost and no benefit on a CPU: XLA's CPU backend recognizes that the two
    computations are equal and merges them again. Explanations without a backward pass (RISE, occlusion, beam
    search) do not benefit either.

    Args:
      model: callable classifier or score; see `jaxplain.scores.as_pytree`.

    Returns:
      An object of the same type as the model if the model is a `ClassScore` or is or contains a zoo
      classifier; otherwise a `Rematerialized`, a callable pytree that keeps those attributes of a zoo
      classifier that the model has.

    Raises:
      TypeError: the model is not callable.

    References:
      Chen, Xu, Zhang, Guestrin. Training Deep Nets with Sublinear Memory Cost. arXiv:1604.06174, 2016.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> wave = lambda images: jnp.sin(images).mean((1, 2, 3))
      >>> images = jnp.zeros((1, 4, 4, 3))
      >>> bool((jax.grad(lambda x: rematerialize(wave)(x)[0])(images) == 1 / 48).all())
      True
    """
    model = _callable_pytree(model)
    nodes, treedef = jax.tree_util.tree_flatten(model, is_leaf=_has_blocks)
    if any(_has_blocks(node) for node in nodes):
        nodes = [node.rematerialized() if _has_blocks(node) else node for node in nodes]
        return jax.tree_util.tree_unflatten(treedef, nodes)
    if isinstance(model, ClassScore):
        return replace(model, classifier=rematerialize(model.classifier))
    return model if isinstance(model, Rematerialized) else Rematerialized(model)


def _has_blocks(node: Any) -> bool:
    """Return whether a node is a network with blocks that can be recomputed, such as a zoo classifier."""
    return hasattr(type(node), "rematerialized")


def _callable_pytree(model: Any) -> Any:
    """Return the model unchanged, with all its attributes, if it is a pytree; otherwise apply `as_pytree`."""
    alone = jax.tree_util.treedef_is_leaf(jax.tree_util.tree_structure(model))
    return as_pytree(model) if alone or not callable(model) else model


def _checked_dtype(dtype: Any) -> np.dtype:
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if dtype is None or name not in DTYPES:
        raise ValueError(f"dtype must be bfloat16, float16 or float32, got {dtype!r}.")
    return jnp.dtype(name)


def _cast(tree: PyTree, dtype: np.dtype) -> PyTree:
    return jax.tree_util.tree_map(partial(_cast_leaf, dtype=dtype), tree)


def _cast_leaf(leaf: Any, dtype: np.dtype) -> Any:
    """Cast a floating-point array; return anything else (integers, keys, functions) unchanged."""
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    floats = is_array and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, dtype) if floats else leaf
