"""VGG-19 without batch norm (Simonyan and Zisserman, ICLR 2015), the network of the I-GOS paper."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxplain.zoo.classifier import TORCHVISION, ZooClassifier
from jaxplain.zoo.conv import max_pool
from jaxplain.zoo.layers import Conv, Linear, Slot

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # width, convolutions; a max pool ends each
_GRID = 7  # side of the maps expected by the linear layers
_HIDDEN = 4096


class VGG19(ZooClassifier):
    """VGG-19: 4096 penultimate features (after their ReLU), last convolution 14 x 14 x 512.

    The weights are named as in torchvision.
    """

    def __init__(self, name: str, labels: tuple[str, ...], *, rngs: nnx.Rngs):
        self.name = name
        self.labels = labels
        self.spec = TORCHVISION
        inputs, stages = 3, []
        for width, convs in _STAGES:
            widths = (inputs, *(width,) * (convs - 1))
            stages.append(nnx.List([Conv(before, width, 3, padding=1, rngs=rngs) for before in widths]))
            inputs = width
        self.stages = nnx.List(stages)
        self.hidden1 = Linear(_GRID * _GRID * inputs, _HIDDEN, rngs=rngs)
        self.hidden2 = Linear(_HIDDEN, _HIDDEN, rngs=rngs)
        self.classify = Linear(_HIDDEN, len(labels), rngs=rngs)

    def feature_maps(self, images: Array) -> Array:
        """Return the activations of the last convolution: [N, H, W, 3] -> [N, H/16, W/16, 512]."""
        hidden = images
        for number, stage in enumerate(self.stages):
            hidden = self.block(_pool_and_stage if number else _stage, stage, hidden)
        return hidden

    def pool(self, maps: Array) -> Array:
        """Apply the last max pool and the two hidden layers: [N, h, w, 512] -> [N, 4096]."""
        pooled = _average_to_grid(max_pool(maps, 2, stride=2), _GRID)
        flat = pooled.transpose(0, 3, 1, 2).reshape(len(maps), -1)  # the order of PyTorch's weights
        return jax.nn.relu(self.hidden2(jax.nn.relu(self.hidden1(flat))))

    def head(self, features: Array) -> Array:
        """Return the logits: [N, 4096] -> [N, K]."""
        return self.classify(features)

    def slots(self) -> Iterator[Slot]:
        """Return every layer with its name in PyTorch."""
        position = 0  # in torchvision's sequence of convolutions, ReLUs and pools
        for stage in self.stages:
            for conv in stage:
                yield Slot(conv, f"features.{position}")
                position += 2
            position += 1
        yield Slot(self.hidden1, "classifier.0")
        yield Slot(self.hidden2, "classifier.3")
        yield Slot(self.classify, "classifier.6")


def _stage(convs: nnx.List, maps: Array) -> Array:
    """Apply convolutions, each with ReLU: [N, H, W, C] -> [N, H, W, D]."""
    for conv in convs:
        maps = jax.nn.relu(conv(maps))
    return maps


def _pool_and_stage(convs: nnx.List, maps: Array) -> Array:
    return _stage(convs, max_pool(maps, 2, stride=2))


def _average_to_grid(maps: Array, side: int) -> Array:
    """Average over a side x side grid of overlapping cells: [N, h, w, C] -> [N, side, side, C].

    This is PyTorch's adaptive average pooling; at the training size it is the identity.
    """
    height, width = maps.shape[1:3]
    if (height, width) == (side, side):
        return maps
    rows, cols = (jnp.asarray(_cells(size, side), maps.dtype) for size in (height, width))
    return jnp.einsum("ih,nhwc,jw->nijc", rows, maps, cols)


def _cells(size: int, count: int) -> np.ndarray:
    """Return a matrix whose row i averages `size` positions over cell i.

    The cell is [floor(i size / count), ceil((i + 1) size / count)).
    """
    cell, position = np.arange(count)[:, None], np.arange(size)
    inside = (position >= cell * size // count) & (position < -(-(cell + 1) * size // count))
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
