"""Subjects: images prepared for a method.

An image's key, baseline and target are chosen only here, so that the same photo, method and seed give the
same map in every command.
"""

import hashlib
import zlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.perturb import baseline as make_baseline
from jaxplain.scores import as_logits, probabilities

TOP = -1  # target value that means "the top prediction" in a compiled program


class Request(NamedTuple):
    """Input to a compiled program for one image; has a leading axis under vmap and sharding."""

    image: Any  # [H, W, C], uint8 pixels or float32 in model space
    target: Any  # int32 [], class index, or TOP for the top prediction
    words: Any  # uint32 [2], digest of the image; see `content_words`


class Subject(NamedTuple):
    """An image as the classifier sees it, ready for a method."""

    image: Array  # float32 [H, W, C], model space
    baseline: Any  # float32 [H, W, C], replacement for hidden pixels; None if not requested
    target: Array  # int32 [], the explained class
    probability: Array  # float32 [], the class's probability, or the score if there are no classes
    key: Array  # the image's random key for methods; see `method_key`


def content_words(image: np.ndarray) -> np.ndarray:
    """Return the words folded into an image's random key: uint32 [2] from the SHA-256 of values and shape."""
    array = np.ascontiguousarray(image)
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode() + array.tobytes()).digest()
    return np.frombuffer(digest[:8], "<u4").astype(np.uint32)


def request(image: np.ndarray, target: int | None = None) -> Request:
    """Return the request for an image: uint8 pixels as the classifier sees them, or floats in model space.

    Raises:
      ValueError, TypeError: the target is not a class index. Whether the classifier has that class is
        checked when it is called.
    """
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | np.integer)):
        raise TypeError(f"a target must be a class index (an int), got {target!r}.")
    if target is not None and target < 0:
        raise ValueError(f"no class {target}: classes are numbered from 0.")
    array = np.asarray(image)
    array = array if array.dtype == np.uint8 else array.astype(np.float32)
    return Request(array, np.int32(TOP if target is None else target), content_words(array))


def image_key(seed: Array | int, words: Array) -> Array:
    """Derive an image's random key from the seed and its content, independent of order, name and batch."""
    key = jax.random.key(jnp.asarray(seed, jnp.uint32))
    return jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1])


class SubjectKeys(NamedTuple):
    """The two random keys derived from an image's key."""

    baseline: Array  # key for a random baseline
    methods: Array  # key for methods, `Subject.key`


def subject_keys(seed: Array | int, words: Array) -> SubjectKeys:
    """Split an image's random key into one for its baseline and one for methods."""
    return SubjectKeys(*jax.random.split(image_key(seed, words)))


def method_key(key: Array, name: str) -> Array:
    """Return a method's random key for an image; it depends on the method's name, not its list position."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def make_subject(model: Any, seed: Array, asked: Request, *, baseline: str | None) -> Subject:
    """Prepare an image for a method; traced by JAX.

    Args:
      model: a classifier (images [N, H, W, C] -> logits [N, K]) or a score (images -> [N]).
      seed: random seed, uint32 [].
      asked: the image and its target.
      baseline: name of the baseline (static); see `jaxplain.baseline`. If None, no baseline is made.
    """
    normalize: Any = getattr(model, "normalize", None)
    image = normalize(asked.image) if asked.image.dtype == jnp.uint8 else asked.image
    keys = subject_keys(seed, asked.words)
    background = None
    if baseline is not None:
        background = make_baseline(baseline, image, normalize=normalize, key=keys.baseline)
    output = model(image[None])
    if getattr(output, "ndim", None) == 1:  # a score
        return Subject(image, background, asked.target, output[0].astype(jnp.float32), keys.methods)
    logits = as_logits(output, image[None])[0]
    target = jnp.where(asked.target == TOP, jnp.argmax(logits), asked.target).astype(jnp.int32)
    inside = (target >= 0) & (target < len(logits))
    probability = jnp.where(inside, probabilities(logits)[target], jnp.nan)
    return Subject(image, background, target, probability, keys.methods)
