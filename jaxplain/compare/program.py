"""One method, compiled for one classifier and size, and what it finds on one photo."""

import inspect
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.compare.measures import MEASURES, Evidence
from jaxplain.compare.methods import Method
from jaxplain.masks import Status
from jaxplain.metrics import (
    Confidence,
    Curves,
    confidence_on_explanation,
    insertion_deletion,
    layer_names,
    randomize,
)
from jaxplain.perturb import upsampling_matrix
from jaxplain.scores import class_score
from jaxplain.zoo import Classifier


class Explained(NamedTuple):
    """What a method says of one photo."""

    saliency: Array  # [h, w], at the method's own resolution, high = important
    status: Array  # int32 [], a `jaxplain.Status`
    evaluations: Array  # int32 [], images scored by the model; -1 where the method does not say


class Measured(NamedTuple):
    """What the compiled measures say of one map."""

    curves: Curves
    confidence: Confidence


class Program(NamedTuple):
    """A method compiled for a classifier; every photo goes through it."""

    run: Callable[..., Explained]
    compile_seconds: float


def takes(method: Method, argument: str) -> bool:
    """Does a method take a keyword argument, by name or among others?"""
    parameters = inspect.signature(method).parameters
    keywords = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return argument in parameters or keywords


def method_key(photo_key: Array, name: str) -> Array:
    """The random key of a method on a photo: its name decides, not its place in a list."""
    return jax.random.fold_in(photo_key, zlib.crc32(name.encode()))


def compile_method(method: Method, classifier: Classifier, size: int | None) -> Program:
    """Compile a method for a classifier; size is None for a method that takes none."""
    image = jax.ShapeDtypeStruct((*classifier.spec.size, 3), jnp.float32)
    target = jax.ShapeDtypeStruct((), jnp.int32)
    start = time.perf_counter()
    lowered = jax.jit(partial(explain_with, method, size)).lower(
        classifier, image, image, target, jax.random.key(0)
    )
    return Program(lowered.compile(), time.perf_counter() - start)


def explain_with(
    method: Method,
    size: int | None,
    classifier: Any,
    image: Array,
    baseline: Array,
    target: Array,
    key: Array,
) -> Explained:
    """One image [H, W, C] explained by a method; size is None for a method that takes none."""
    given: dict[str, Any] = {}
    if takes(method, "key"):
        given["key"] = key
    if size is not None:
        given["size"] = size
    return _read(method(class_score(classifier, target), image, baseline, **given))


def _read(found: Any) -> Explained:
    """The map, status and cost in whatever a method returns."""
    # A mask is at its own resolution; the saliency beside it was upsampled.
    shown = 1.0 - found.mask if hasattr(found, "mask") else getattr(found, "saliency", found)
    saliency = jnp.asarray(shown)
    if saliency.ndim != 2:
        raise ValueError(f"a method must return one map [h, w], got shape {saliency.shape}.")
    finite = jnp.where(jnp.all(jnp.isfinite(saliency)), Status.OK, Status.NOT_FINITE)
    status = jnp.where(finite == Status.OK, getattr(found, "status", Status.OK), finite)
    evaluations = jnp.asarray(getattr(found, "evaluations", -1), jnp.int32)
    return Explained(saliency.astype(jnp.float32), status.astype(jnp.int32), evaluations)


def forgetful(classifier: Any, image: Any, seed: int) -> Any:
    """The classifier with all parameters shuffled; of the image [H, W, C] only the shape counts."""
    first = layer_names(classifier, image)[-1]
    [copy] = randomize(classifier, image, key=jax.random.key(seed), layers=[first])
    return copy.classifier


def at_size(saliency: np.ndarray, size: int) -> np.ndarray:
    """A map [h, w] at the size that is measured, [size, size].

    A finer one is averaged over the cells, a coarser one interpolated with aligned corners.
    """
    rows, cols = (resizing_matrix(side, size) for side in saliency.shape)
    return np.asarray(rows @ saliency.astype(np.float64) @ cols.T, np.float32)


def resizing_matrix(side: int, size: int) -> np.ndarray:
    """What brings one axis of a map to the size that is measured: float64 [size, side]; see `at_size`."""
    if size >= side:
        return upsampling_matrix(side, size).astype(np.float64)
    edges = np.arange(size + 1) * side / size
    pixels = np.arange(side)
    shared = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(shared, 0.0) * size / side


@partial(jax.jit, static_argnames="steps")
def measure(
    classifier: Any, image: Array, baseline: Array, target: Array, saliency: Array, *, steps: int
) -> Measured:
    """Curves and confidence of one map [h, w], on the softmax probability."""
    score = class_score(classifier, target)
    return Measured(
        insertion_deletion(score, image, baseline, saliency, steps=steps),
        confidence_on_explanation(score, image, saliency, baseline),
    )


@partial(jax.jit, static_argnames="names")
def values(seen: Evidence, names: tuple[str, ...]) -> dict[str, Array]:
    """The measures of one map, by name."""
    return {name: MEASURES[name].of(seen) for name in names}
