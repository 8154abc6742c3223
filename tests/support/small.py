"""A small classifier of every kind of layer that the zoo has, and a picture that it recognises."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxplain as jx
from jaxplain.zoo import InputSpec, ZooClassifier
from jaxplain.zoo.conv import max_pool
from jaxplain.zoo.efficientnet import MBConvBlock, relu6
from jaxplain.zoo.layers import Conv, Linear

SIDE = 16
LABELS = ("ant", "bee", "cat", "dog", "elk")


def stem(conv, images):
    return max_pool(relu6(conv(images)), 3, stride=1, padding=((1, 1), (1, 1)))


class Small(ZooClassifier):
    """Few input channels, max pool, depthwise of both strides, a dense 3 x 3: what platforms differ in."""

    def __init__(self, *, rngs):
        self.name, self.labels = "small", LABELS
        self.spec = InputSpec((SIDE, SIDE), mean=(127.5,) * 3, scale=(64.0,) * 3, crop=1.0)
        self.stem = Conv(3, 8, 3, stride=2, padding="same", rngs=rngs)
        self.blocks = nnx.List(
            [MBConvBlock(8, 8, 3, 1, 1, rngs=rngs), MBConvBlock(8, 12, 3, 2, 1, rngs=rngs)]
        )
        self.last = Conv(12, 16, 3, padding=1, rngs=rngs)
        self.classify = Linear(16, len(LABELS), rngs=rngs)

    def feature_maps(self, images):
        hidden = self.block(stem, self.stem, images)
        for block in self.blocks:
            hidden = self.block(MBConvBlock.__call__, block, hidden)
        return relu6(self.last(hidden))

    def head(self, features):
        return self.classify(features)


class Scene(NamedTuple):
    """Something to explain: the image scores above the baseline."""

    model: Small
    image: jax.Array  # [16, 16, 3]
    baseline: jax.Array  # [16, 16, 3]
    target: int

    @property
    def score(self):
        return jx.class_score(self.model, self.target)


def scene() -> Scene:
    model = jax.jit(lambda: Small(rngs=nnx.Rngs(0)))()
    image = jnp.asarray(np.random.default_rng(0).standard_normal((SIDE, SIDE, 3)), jnp.float32)
    baseline = jx.blur_baseline(image, kernel=5)
    whole, hidden = jax.nn.softmax(jax.jit(lambda model, x: model(x))(model, jnp.stack([image, baseline])))
    return Scene(model, image, baseline, int(jnp.argmax(whole - hidden)))
