"""SqueezeNet 1.0 (Iandola et al., 2016): AlexNet-level accuracy with 5 MB of weights."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxplain.zoo.classifier import TORCHVISION, InputSpec, ZooClassifier
from jaxplain.zoo.conv import ceil_padding, max_pool
from jaxplain.zoo.layers import Conv, Slot

_CAFFE = InputSpec((227, 227), (123.0, 117.0, 104.0), (1.0,) * 3, crop=227 / 256, method="bilinear", bgr=True)

VARIANTS = {"squeezenet1_0": _CAFFE, "squeezenet1_0-torchvision": TORCHVISION}
"""The same network, trained twice with different inputs: by its authors in Caffe, and by torchvision."""

# Position in torchvision's sequence -> (squeezed width, half of the outputs); ReLUs and pools lie between.
_FIRES = {
    3: (16, 64),
    4: (16, 64),
    5: (32, 128),
    7: (32, 128),
    8: (48, 192),
    9: (48, 192),
    10: (64, 256),
    12: (64, 256),
}
_POOLS_BEFORE = (3, 7, 12)
_CHANNELS = 512


class Fire(nnx.Module):
    """Fire module: 1 x 1 squeeze, then parallel 1 x 1 and 3 x 3 expansions, each with ReLU."""

    def __init__(self, inputs: int, squeezed: int, half: int, *, rngs: nnx.Rngs):
        self.squeeze = Conv(inputs, squeezed, 1, rngs=rngs)
        self.expand1x1 = Conv(squeezed, half, 1, rngs=rngs)
        self.expand3x3 = Conv(squeezed, half, 3, padding=1, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Apply the module: [N, H, W, inputs] -> [N, H, W, 2 half]."""
        squeezed = jax.nn.relu(self.squeeze(images))
        return jax.nn.relu(jnp.concatenate([self.expand1x1(squeezed), self.expand3x3(squeezed)], axis=-1))


class SqueezeNet(ZooClassifier):
    """SqueezeNet 1.0; last fire module 13 x 13 x 512 at 227 pixels.

    It classifies every position and averages the results, so the logits depend on the complete maps: `pool`
    only flattens them, position by position, and `head` restores them. The weights are named as in
    torchvision.
    """

    def __init__(self, name: str, labels: tuple[str, ...], *, rngs: nnx.Rngs):
        self.name = name
        self.labels = labels
        self.spec = VARIANTS[name]
        self.stem = Conv(3, 96, 7, stride=2, rngs=rngs)
        inputs, fires = 96, []
        for squeezed, half in _FIRES.values():
            fires.append(Fire(inputs, squeezed, half, rngs=rngs))
            inputs = 2 * half
        self.fires = nnx.List(fires)
        self.classify = Conv(_CHANNELS, len(labels), 1, rngs=rngs)

    def feature_maps(self, images: Array) -> Array:
        """Return the activations of the last fire module: [N, H, W, 3] -> [N, h, w, 512]."""
        hidden = self.block(_relu_of, self.stem, images)
        for position, fire in zip(_FIRES, self.fires, strict=True):
            run = _pool_and_fire if position in _POOLS_BEFORE else Fire.__call__
            hidden = self.block(run, fire, hidden)
        return hidden

    def pool(self, maps: Array) -> Array:
        """Flatten, channels last: [N, h, w, 512] -> [N, h w 512]; 86,528 features at 227 pixels."""
        return maps.reshape(len(maps), -1)

    def head(self, features: Array) -> Array:
        """Return the mean over all positions of their rectified logits: [N, h w 512] -> [N, K]."""
        positions = features.reshape(len(features), -1, 1, _CHANNELS)  # the shape of the grid does not matter
        return jnp.mean(jax.nn.relu(self.classify(positions)), axis=(1, 2))

    def slots(self) -> Iterator[Slot]:
        """Return every layer with its name in PyTorch."""
        yield Slot(self.stem, "features.0")
        for position, fire in zip(_FIRES, self.fires, strict=True):
            yield Slot(fire.squeeze, f"features.{position}.squeeze")
            yield Slot(fire.expand1x1, f"features.{position}.expand1x1")
            yield Slot(fire.expand3x3, f"features.{position}.expand3x3")
        yield Slot(self.classify, "classifier.1")


def _relu_of(conv: Conv, images: Array) -> Array:
    return jax.nn.relu(conv(images))


def _pool_and_fire(fire: Fire, maps: Array) -> Array:
    return fire(_pool(maps))


def _pool(maps: Array) -> Array:
    """Return 3 x 3 maxima at every second position, including a partly filled last window."""
    padding = ceil_padding((maps.shape[1], maps.shape[2]), 3, 2)
    return max_pool(maps, 3, stride=2, padding=padding)
