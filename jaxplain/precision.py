"""Less memory and less time for any model or score: lower precision, and activations computed again.

Both wrap what is explained, so every explanation takes them; masks, penalties, sums and softmax stay float32.
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
"""Functions of a classifier of the zoo, which a wrapper computes as it does the whole."""
KNOWN = ("labels", "spec", "name", "preprocess", "crop_and_resize", "normalize", "denormalize")
"""What a classifier of the zoo knows besides; a wrapper passes it on."""


class _Wrapper:
    """A callable pytree around a model; what the model has of `PARTS` and `KNOWN`, it has too."""

    model: Any

    def run(self, part: Callable[[Array], Any], values: Array) -> Any:
        """Compute the model, or a part of it, in the wrapper's way."""
        raise NotImplementedError

    def __call__(self, images: Array) -> Array:
        """What the model says: images [N, H, W, C] -> logits [N, K] or scores [N]."""
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
    """A model that computes in a dtype and returns float32; made by `lower_precision`."""

    model: Any  # its floats are of the dtype
    dtype: np.dtype

    def run(self, part: Callable[[Array], Any], values: Array) -> Any:
        """Cast, compute, cast to float32."""
        return _cast(part(_cast(values, self.dtype)), np.dtype(np.float32))


@partial(jax.tree_util.register_dataclass, data_fields=["model"], meta_fields=[])
@dataclass(frozen=True)
class Rematerialized(_Wrapper):
    """A model whose backward pass starts from its products and convolutions; made by `rematerialize`."""

    model: Any

    def run(self, part: Callable[[Array], Any], values: Array) -> Any:
        """Compute; everything but products and convolutions again in the backward pass."""
        # A function of its own a call: checkpoints remember by function, and this one closes over parameters.
        policy = jax.checkpoint_policies.dots_saveable
        return jax.checkpoint(lambda values: part(values), policy=policy)(values)


def lower_precision(model: Any, dtype: Any = jnp.bfloat16) -> Any:
    """A model or score that computes in bfloat16 or float16: half the memory, and made for accelerators.

    Parameters are cast once, here; images on the way in, logits or scores to float32 on the way out. Of a
    `ClassScore` only the classifier is wrapped: its softmax stays float32, as do masks and penalties.

    It costs quality. With bfloat16, on six photos and EfficientNet-Lite0 on a CPU, probabilities were off by
    .01 at most, but gradients by much more: ranks of iGOS++ masks correlated .90 with those of float32, ranks
    of gradient maps .82, and iGOS++'s deletion / insertion went from .064 / .739 to .070 / .710
    (benchmarks/precision.py). Measure with the float32 model. float16 has a finer mantissa but underflows:
    the gradient of a probability near 0 or 1 may come out as 0. On a CPU bfloat16 takes three times as long.

    Parameters that no leaf holds (closed over by a plain function) cannot be cast: such a model computes in
    float32 as before, from rounded images.

    Args:
      model: classifier or score, a callable; see `jaxplain.scores.as_pytree`.
      dtype: bfloat16, float16 or float32 (which changes nothing), or its name (static).

    Returns:
      A `ClassScore` for a `ClassScore`; otherwise a `LowPrecision`, a callable pytree with whatever the model
      has of a classifier of the zoo (labels, spec, preprocessing; `feature_maps`, `pool` and `head`).

    Raises:
      ValueError: another dtype.
      TypeError: the model cannot be called, or is a Keras model, which keeps to its own `dtype` policy.

    References:
      Micikevicius et al. Mixed Precision Training. ICLR 2018.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> colours = jax.tree_util.Partial(lambda kernel, images: images.mean((1, 2)) @ kernel, jnp.eye(3))
      >>> low = lower_precision(colours, "bfloat16")
      >>> low.model.args[0].dtype, low(jnp.ones((1, 4, 4, 3))).dtype
      (dtype(bfloat16), dtype('float32'))
    """
    wanted = _checked_dtype(dtype)
    if hasattr(model, "stateless_call"):
        raise TypeError(
            "a Keras model computes in the dtype of its own policy, whatever it is given: build it with "
            f"dtype={wanted.name!r} instead."
        )
    if isinstance(model, ClassScore):
        return replace(model, classifier=lower_precision(model.classifier, wanted))
    inner = model.model if isinstance(model, LowPrecision) else _callable_pytree(model)
    return LowPrecision(_cast(inner, wanted), wanted)


def rematerialize(model: Any) -> Any:
    """A model or score whose activations are computed again in the backward pass instead of being kept.

    Values and gradients are the same; the backward pass takes about a forward pass longer and needs less
    memory, so that an accelerator takes more images at a time. A classifier of the zoo, also one inside of a
    score or a wrapper, keeps only what goes into each of its blocks: of 224 x 224 pixels EfficientNet-Lite0
    7 MiB instead of 61, ResNet-50 22 instead of 47 (half of each in bfloat16). Of any other model all is kept
    that a matrix product or convolution returns, and nothing else, which saves less and may not lower the
    peak; for one with blocks, `jax.checkpoint` around each does better.

    Not on a CPU: XLA's CPU backend finds the two computations equal and makes them one again, so that it
    costs nothing there and saves nothing. Explanations without a backward pass (RISE, occlusion, beam search)
    gain nothing either.

    Args:
      model: classifier or score, a callable; see `jaxplain.scores.as_pytree`.

    Returns:
      The same kind of thing where a classifier of the zoo was found inside, or a `ClassScore` for a
      `ClassScore`; otherwise a `Rematerialized`, a callable pytree with what the model has of a classifier
      of the zoo.

    Raises:
      TypeError: the model cannot be called.

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
    """Is this a network that knows its blocks, as the zoo's do?"""
    return hasattr(type(node), "rematerialized")


def _callable_pytree(model: Any) -> Any:
    """The model itself where it is a pytree, with all that it has; see `as_pytree` for what is not."""
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
    """An array of floats in the dtype; everything else (whole numbers, keys, functions) as it is."""
    is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    floats = is_array and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, dtype) if floats else leaf
