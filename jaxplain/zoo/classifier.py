"""The base class for the zoo's classifiers: callable pytrees with an input space and class labels."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxplain.checks import check_image_batch
from jaxplain.images import ResizeMethod, center_crop, resize
from jaxplain.zoo.conv import per_channel
from jaxplain.zoo.layers import Slot, classes_of, load_slots


class InputSpec(NamedTuple):
    """A model's input space and how a photo is converted to it."""

    size: tuple[int, int]  # rows, columns
    mean: tuple[float, float, float]  # on the 0..255 scale, in RGB order
    scale: tuple[float, float, float]
    crop: float = 0.875  # side of the central square to keep, as a fraction of the shorter side
    method: ResizeMethod = "bicubic"
    bgr: bool = False  # the model's channels are blue, green, red


TORCHVISION = InputSpec(
    size=(224, 224), mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375), method="bilinear"
)
"""The input space of most weights that torchvision publishes."""


class ZooClassifier(nnx.Module):
    """Base class of the zoo's classifiers: images [N, H, W, 3] in model space -> logits [N, K].

    A classifier is a pytree (its parameters are the leaves) and passes through `jax.jit` as an argument.
    Its parts compose: `model(x) == model.head(model.pool(model.feature_maps(x)))`.

    Attributes:
      spec: input size and normalization.
      labels: the K class names.
      name: its name in `jaxplain.zoo.load`.
      recomputes: whether blocks keep only their inputs for the backward pass; see `rematerialized`.
      norm_epsilon: epsilon of every batch norm in the published weights.
    """

    spec: InputSpec
    labels: tuple[str, ...]
    name: str
    recomputes: bool = False
    norm_epsilon: ClassVar[float] = 0.0

    def __repr__(self) -> str:
        # nnx would print every weight.
        return f"{type(self).__name__}({self.name!r}, {len(self.labels)} classes, input {self.spec.size})"

    def feature_maps(self, images: Array) -> Array:
        """Return the activations of the last convolution: [N, H, W, 3] -> [N, h, w, d]."""
        raise NotImplementedError

    def pool(self, maps: Array) -> Array:
        """Return the penultimate features: [N, h, w, d] -> [N, D]."""
        return jnp.mean(maps, axis=(1, 2))

    def head(self, features: Array) -> Array:
        """Return the logits: [N, D] -> [N, K]."""
        raise NotImplementedError

    def slots(self) -> Iterable[Slot]:
        """Return every layer with the names of its weights in the published PyTorch state dict."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, np.ndarray], *, source: str = "the state dict") -> None:
        """Load the weights of a published PyTorch state dict; `source` names it in errors.

        Raises:
          WeightsError: if an entry is missing, unexpected, or has the wrong shape.
        """
        load_slots(self.slots(), state, epsilon=self.norm_epsilon, source=source)

    def count_classes(self, state: Mapping[str, np.ndarray]) -> int | None:
        """Return the number of classes of a PyTorch state dict; None if it has no such last layer."""
        return classes_of(self.slots(), state)

    def rematerialized(self) -> Self:
        """Return a classifier with the same parameters that keeps only the inputs of its blocks.

        The backward pass recomputes everything else; see `jaxplain.rematerialize`.
        """
        copy = jax.tree_util.tree_map(lambda leaf: leaf, self)
        copy.recomputes = True
        return copy

    def block(self, function: Callable[..., Array], *arguments: Any) -> Array:
        """Return `function(*arguments)`, one block of the network; its layers are among the arguments.

        Pass the same function object in every call: `jax.checkpoint` caches its trace by function object.
        """
        return jax.checkpoint(function)(*arguments) if self.recomputes else function(*arguments)

    def features(self, images: Array) -> Array:
        """Return the penultimate features: [N, H, W, 3] -> [N, D]."""
        return self.pool(self.feature_maps(images))

    def __call__(self, images: Array) -> Array:
        """Return the logits: [N, H, W, 3] -> [N, K]."""
        check_image_batch(images, channels=3)
        return self.head(self.features(images))

    def preprocess(self, rgb: np.ndarray) -> Array:
        """Apply the model's own preprocessing to one photo: center crop, resize, normalize.

        Args:
          rgb: uint8 [H, W, 3], any size; see `jaxplain.load_image`.

        Returns:
          float32 [h, w, 3] in model space.
        """
        return self.normalize(self.crop_and_resize(rgb))

    def crop_and_resize(self, rgb: np.ndarray) -> np.ndarray:
        """Return the part of the photo that the model sees: uint8 [H, W, 3] -> uint8 [h, w, 3]."""
        return resize(center_crop(rgb, self.spec.crop), self.spec.size, method=self.spec.method)

    def normalize(self, rgb: np.ndarray | Array) -> Array:
        """Convert pixels 0..255 in RGB order [..., 3] to model space, float32."""
        pixels = jnp.asarray(rgb, jnp.float32)
        mean, scale = (per_channel(jnp.array(values, jnp.float32), pixels.ndim) for values in self.spec[1:3])
        scaled = (pixels - mean) / scale
        return scaled[..., ::-1] if self.spec.bgr else scaled

    def denormalize(self, images: Array) -> Array:
        """Convert model space [..., 3] to pixels 0..255 in RGB order, float32: the inverse of `normalize`."""
        scaled = images[..., ::-1] if self.spec.bgr else images
        mean, scale = (per_channel(jnp.array(values, jnp.float32), scaled.ndim) for values in self.spec[1:3])
        return scaled * scale + mean


# ---------------------------------------------------------------------------------------------------------
# Class names

_SUGGESTIONS = 4
_MIN_SIMILARITY = 0.6  # of suggested names; 1 means equal


@cache
def imagenet_labels() -> tuple[str, ...]:
    """Return the 1000 ImageNet class names in the usual order; all are unique, two only by case."""
    text = resources.files("jaxplain.zoo").joinpath("imagenet_labels.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def as_labels(labels: Any) -> tuple[str, ...]:
    """Return class names as a tuple: from a sequence of names, or from a mapping of indices to names.

    Raises:
      TypeError: `labels` is a single string, or a name is not a string.
      ValueError: the indices of a mapping are not 0..K-1, or there is no name.

    Example:
      >>> as_labels({"1": "dog", "0": "cat"})
      ('cat', 'dog')
    """
    if isinstance(labels, str | bytes):
        raise TypeError(
            f"labels must be a sequence of class names, got the single string {labels!r}; to read a file, "
            "use jaxplain.zoo.read_labels(path)."
        )
    if isinstance(labels, Mapping):
        labels = _in_order(labels)
    names = tuple(labels)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"class names must be strings, got {wrong[0]!r}.")
    if not names:
        raise ValueError("labels must have at least one class name.")
    return names


def _in_order(names: Mapping[Any, Any]) -> list[Any]:
    """Return the values of a mapping from class indices, which may be strings of digits, in their order."""
    by_index = {int(key): name for key, name in names.items() if str(key).isdecimal()}
    if sorted(by_index) != list(range(len(names))):
        some = ", ".join(repr(key) for key in list(names)[:3])
        raise ValueError(f"the keys must be the class indices 0..{len(names) - 1}, got {some} ...")
    return [by_index[index] for index in range(len(names))]


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names from a file.

    Args:
      path: a text file with one name per line, or a JSON file: a list of names, an object from indices to
        names (or to lists that end with the name, as Keras' imagenet_class_index.json), or Hugging Face's
        config.json, which has such an object as "id2label".

    Raises:
      ValueError: the file cannot be read, or has none of these forms. The message names the path.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig").strip()
        if text[:1] not in ("{", "["):
            return as_labels(_lines(text))
        names = json.loads(text)
        names = names.get("id2label", names) if isinstance(names, dict) else names
        names = _in_order(names) if isinstance(names, dict) else names
        if not isinstance(names, list):
            raise TypeError(f"expected a list or an object, got {names!r}")
        return as_labels([name[-1] if name and isinstance(name, list) else name for name in names])
    except OSError as error:
        raise ValueError(f"labels file {os.fspath(path)} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RecursionError) as error:
        detail = str(error) or type(error).__name__
        raise ValueError(f"labels file {os.fspath(path)} has no list of class names: {detail}") from error


def _lines(text: str) -> list[str]:
    names = [line.strip() for line in text.splitlines()]
    if "" in names:
        raise ValueError(f"line {names.index('') + 1} is empty, which would shift the names after it")
    return names


def find_class(name_or_index: str | int, labels: Sequence[str]) -> int:
    """Return the index of a class.

    Args:
      name_or_index: class index (an int or a string of digits) or full class name, with spaces or
        underscores. Case is ignored unless it distinguishes two classes.
      labels: the class names.

    Raises:
      ValueError: if there is no such class (the message suggests similar names), the index is out of range,
        or the name is ambiguous.

    Example:
      >>> find_class("Indigo_Bunting", imagenet_labels())
      14
    """
    text = str(name_or_index).strip()
    if text.removeprefix("-").isdecimal():
        return _checked_index(int(text), len(labels))
    matches = [i for i, label in enumerate(labels) if _spaced(label) == _spaced(text)]
    if not matches:
        matches = [i for i, label in enumerate(labels) if _folded(label) == _folded(text)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ValueError(
            f"several classes are named {text!r}: {_listed(matches, labels)}; pass the index instead."
        )
    near = _nearest(text, labels)
    hint = (
        f"did you mean {_listed(near, labels)}?" if near else f"pass a name or an index below {len(labels)}."
    )
    raise ValueError(f"unknown class {text!r}: {hint}")


def _checked_index(index: int, classes: int) -> int:
    if not 0 <= index < classes:
        raise ValueError(f"class {index} is out of range: choose an index from 0 to {classes - 1}.")
    return index


def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _folded(name: str) -> str:
    return _spaced(name).casefold()


def _listed(indices: Sequence[int], labels: Sequence[str]) -> str:
    return ", ".join(f"{labels[i]!r} ({i})" for i in indices)


def _nearest(text: str, labels: Sequence[str]) -> list[int]:
    """Return the most similar classes, best first."""
    words = _folded(text).split()
    similarity = Counter({i: _similarity(words, _folded(label).split()) for i, label in enumerate(labels)})
    return [i for i, value in similarity.most_common(_SUGGESTIONS) if value >= _MIN_SIMILARITY]


def _similarity(words: Sequence[str], others: Sequence[str]) -> float:
    """Return how well the words of two names match, 0 to 1, so that "cat" is similar to "tiger cat" and
    "taby cat" to "tabby"."""
    if not words or not others:
        return 0.0
    ratios = [[SequenceMatcher(None, word, other).ratio() for other in others] for word in words]
    best = fmean(max(row) for row in ratios), fmean(max(column) for column in zip(*ratios, strict=True))
    return fmean(best)
