"""ResNet-18 and ResNet-50 (He et al., CVPR 2016); the latter is "v1.5", with the stride in the 3 x 3."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
from flax import nnx
from jax import Array

from jaxplain.zoo.classifier import TORCHVISION, ZooClassifier
from jaxplain.zoo.conv import max_pool
from jaxplain.zoo.layers import Conv, Linear, Slot

_WIDTHS = (64, 128, 256, 512)
_BOTTLENECK_GROWTH = 4  # a bottleneck's outputs per unit of width


class _ResNetVariant(NamedTuple):
    repeats: tuple[int, int, int, int]
    bottleneck: bool


VARIANTS = {
    "resnet18": _ResNetVariant((2, 2, 2, 2), bottleneck=False),
    "resnet50": _ResNetVariant((3, 4, 6, 3), bottleneck=True),
}


class _ConvShape(NamedTuple):
    outputs: int
    side: int
    stride: int


class ResidualBlock(nnx.Module):
    """Residual block: convolutions with ReLU in between, plus the input, then ReLU.

    If the shape changes, the input passes through a strided 1 x 1 convolution first.
    """

    def __init__(self, inputs: int, shapes: tuple[_ConvShape, ...], *, rngs: nnx.Rngs):
        outputs, stride = shapes[-1].outputs, max(shape.stride for shape in shapes)
        widths = (inputs, *(shape.outputs for shape in shapes))
        self.convs = nnx.List(
            [
                Conv(width, *shape[:2], stride=shape.stride, padding=shape.side // 2, rngs=rngs)
                for width, shape in zip(widths, shapes, strict=False)
            ]
        )
        reshaped = stride > 1 or inputs != outputs
        self.shortcut = Conv(inputs, outputs, 1, stride=stride, rngs=rngs) if reshaped else None

    def __call__(self, images: Array) -> Array:
        """Apply the block: [N, H, W, inputs] -> [N, H', W', outputs]."""
        hidden = images
        for conv in self.convs[:-1]:
            hidden = jax.nn.relu(conv(hidden))
        shortcut = images if self.shortcut is None else self.shortcut(images)
        return jax.nn.relu(self.convs[-1](hidden) + shortcut)


class ResNet(ZooClassifier):
    """ResNet: 512 penultimate features (ResNet-18) or 2048 (ResNet-50), last convolution 7 x 7.

    The weights are named as in torchvision.
    """

    norm_epsilon = 1e-5

    def __init__(self, name: str, labels: tuple[str, ...], *, rngs: nnx.Rngs):
        variant = VARIANTS[name]
        self.name = name
        self.labels = labels
        self.spec = TORCHVISION
        self.stem = Conv(3, _WIDTHS[0], 7, stride=2, padding=3, rngs=rngs)
        inputs, blocks = _WIDTHS[0], []
        for shapes in _block_shapes(variant):
            blocks.append(ResidualBlock(inputs, shapes, rngs=rngs))
            inputs = shapes[-1].outputs
        self.blocks = nnx.List(blocks)
        self.classify = Linear(inputs, len(labels), rngs=rngs)

    def feature_maps(self, images: Array) -> Array:
        """Return the activations of the last block: [N, H, W, 3] -> [N, H/32, W/32, 512 or 2048]."""
        hidden = self.block(_stem, self.stem, images)
        for block in self.blocks:
            hidden = self.block(ResidualBlock.__call__, block, hidden)
        return hidden

    def head(self, features: Array) -> Array:
        """Return the logits: [N, 512 or 2048] -> [N, K]."""
        return self.classify(features)

    def slots(self) -> Iterator[Slot]:
        """Return every layer with its name in PyTorch."""
        yield Slot(self.stem, "conv1", "bn1")
        for prefix, block in zip(_block_names(VARIANTS[self.name]), self.blocks, strict=True):
            for number, conv in enumerate(block.convs, start=1):
                yield Slot(conv, f"{prefix}.conv{number}", f"{prefix}.bn{number}")
            if block.shortcut is not None:
                yield Slot(block.shortcut, f"{prefix}.downsample.0", f"{prefix}.downsample.1")
        yield Slot(self.classify, "fc")


def _stem(conv: Conv, images: Array) -> Array:
    """Apply convolution, ReLU and max pool: [N, H, W, 3] -> [N, H/4, W/4, 64]."""
    return max_pool(jax.nn.relu(conv(images)), 3, stride=2, padding=((1, 1), (1, 1)))


def _block_shapes(variant: _ResNetVariant) -> Iterator[tuple[_ConvShape, ...]]:
    """Yield each block's convolutions; every stage except the first starts by halving the resolution."""
    for stage, (width, repeats) in enumerate(zip(_WIDTHS, variant.repeats, strict=True)):
        for repeat in range(repeats):
            stride = 2 if stage > 0 and repeat == 0 else 1
            if variant.bottleneck:
                wide = width * _BOTTLENECK_GROWTH
                yield _ConvShape(width, 1, 1), _ConvShape(width, 3, stride), _ConvShape(wide, 1, 1)
            else:
                yield _ConvShape(width, 3, stride), _ConvShape(width, 3, 1)


def _block_names(variant: _ResNetVariant) -> Iterator[str]:
    for stage, repeats in enumerate(variant.repeats, start=1):
        for repeat in range(repeats):
            yield f"layer{stage}.{repeat}"
