"""What every classifier of the zoo is: a callable pytree that knows its input space and its labels."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxplain.checks import check_image_batch
from jaxplain.images import ResizeMethod, center_crop, resize


class InputSpec(NamedTuple):
    """A model's own input space and the way a photo gets there."""

    size: tuple[int, int]  # rows, columns
    mean: tuple[float, float, float]  # of 0..255, in RGB order
    scale: tuple[float, float, float]
    crop: float = 0.875  # side of the central square kept, as a share of the shorter side
    method: ResizeMethod = "bicubic"
    bgr: bool = False  # the model's channels are blue, green, red


TORCHVISION = InputSpec(
    size=(224, 224), mean=(123.675, 116.28, 103.53), scale=(58.395, 57.12, 57.375), method="bilinear"
)
"""The input space of most weights that torchvision publishes."""


class Classifier(nnx.Module):
    """Base of the zoo's classifiers: images [N, H, W, 3] in model space -> logits [N, K].

    A classifier is a pytree (its parameters are the leaves) and passes through `jax.jit` as an argument.
    Its parts compose: `model(x) == model.head(model.pool(model.feature_maps(x)))`.

    Attributes:
      spec: input size and normalisation.
      labels: the K class names.
      name: the name under which `jaxplain.zoo.load` knows it.
      recomputes: blocks keep nothing for the backward pass but what goes into them; see `rematerialized`.
    """

    spec: InputSpec
    labels: tuple[str, ...]
    name: str
    recomputes: bool = False

    def __repr__(self) -> str:
        # nnx would print every weight.
        return f"{type(self).__name__}({self.name!r}, {len(self.labels)} classes, input {self.spec.size})"

    def feature_maps(self, images: Array) -> Array:
        """Activations of the last convolution: [N, H, W, 3] -> [N, h, w, d]."""
        raise NotImplementedError

    def pool(self, maps: Array) -> Array:
        """From the last convolution to the penultimate features: [N, h, w, d] -> [N, D]."""
        return jnp.mean(maps, axis=(1, 2))

    def head(self, features: Array) -> Array:
        """From penultimate features to logits: [N, D] -> [N, K]."""
        raise NotImplementedError

    def load_state_dict(self, state: Mapping[str, np.ndarray], *, source: str = "the state dict") -> None:
        """Take the weights of a PyTorch state dict; `source` names it in errors.

        Raises:
          WeightsError: an entry is missing, misshapen or unexpected.
        """
        raise NotImplementedError

    def rematerialized(self) -> Self:
        """The same classifier, sharing its parameters, that computes each block's activations again in the
        backward pass instead of keeping them; see `jaxplain.rematerialize`."""
        copy = jax.tree_util.tree_map(lambda leaf: leaf, self)
        copy.recomputes = True
        return copy

    def block(self, function: Callable[..., Array], *arguments: Any) -> Array:
        """`function(*arguments)`, one block of the network; its layers are among the arguments.

        The function is the same object in every call: checkpoints remember what they have traced by it.
        """
        return jax.checkpoint(function)(*arguments) if self.recomputes else function(*arguments)

    def features(self, images: Array) -> Array:
        """Penultimate features: [N, H, W, 3] -> [N, D]."""
        return self.pool(self.feature_maps(images))

    def __call__(self, images: Array) -> Array:
        """Logits: [N, H, W, 3] -> [N, K]."""
        check_image_batch(images, channels=3)
        return self.head(self.features(images))

    def preprocess(self, rgb: np.ndarray) -> Array:
        """The model's own preprocessing of one photo: centre crop, resize, normalise.

        Args:
          rgb: uint8 [H, W, 3], any size; see `jaxplain.load_image`.

        Returns:
          float32 [h, w, 3] in model space.
        """
        return self.normalize(self.crop_and_resize(rgb))

    def crop_and_resize(self, rgb: np.ndarray) -> np.ndarray:
        """The part of the photo that the model sees: uint8 [H, W, 3] -> uint8 [h, w, 3]."""
        return resize(center_crop(rgb, self.spec.crop), self.spec.size, method=self.spec.method)

    def normalize(self, rgb: np.ndarray | Array) -> Array:
        """Pixels 0..255 in RGB order [..., 3] -> model space, float32."""
        pixels = jnp.asarray(rgb, jnp.float32)
        scaled = (pixels - jnp.array(self.spec.mean)) / jnp.array(self.spec.scale)
        return scaled[..., ::-1] if self.spec.bgr else scaled

    def denormalize(self, images: Array) -> Array:
        """Model space [..., 3] -> pixels 0..255 in RGB order, float32: the inverse of `normalize`."""
        scaled = images[..., ::-1] if self.spec.bgr else images
        return scaled * jnp.array(self.spec.scale) + jnp.array(self.spec.mean)
