"""Two small networks, an image and the NumPy arithmetic that tests of the attributions compare with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KEY = jax.random.key(3)
SHAPE = (6, 8, 3)  # not square


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IMAGE, BASELINE = normal(0, *SHAPE), normal(1, *SHAPE)


class Net(NamedTuple):
    """Softmax over a network with one hidden layer, cut at maps [3, 4, 2] as Grad-CAM wants it."""

    mix: jax.Array  # [3, 2], channels of an image -> maps
    first: jax.Array  # [24, 5]
    second: jax.Array  # [5, 4]

    def feature_maps(self, images):
        rows, cols = images.shape[1] // 2, images.shape[2] // 2
        cells = images.reshape(len(images), rows, 2, cols, 2, 3).mean((2, 4))
        return jax.nn.relu(cells @ self.mix)

    def pool(self, maps):
        return maps.reshape(len(maps), -1)

    def head(self, features):
        return jnp.tanh(features @ self.first) @ self.second

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


NET = Net(*map(jnp.asarray, (normal(2, 3, 2), normal(3, 24, 5) / 2, normal(4, 5, 4))))
TARGET = 1


class Smooth(NamedTuple):
    """The probability of a class of a smooth network; its gradient is written out in `slope`."""

    first: np.ndarray  # [144, 5]
    second: np.ndarray  # [5, 4]

    def __call__(self, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ self.first)
        return jax.nn.softmax(hidden @ self.second)[:, TARGET]


SMOOTH = Smooth(normal(5, 144, 5) / 12, normal(6, 5, 4))


def value(image):
    """One image's score in NumPy, float64."""
    hidden = np.tanh(np.asarray(image, np.float64).ravel() @ SMOOTH.first)
    powers = np.exp(hidden @ SMOOTH.second)
    return (powers / powers.sum())[TARGET]


def slope(image):
    """Its gradient [H, W, C], by hand."""
    hidden = np.tanh(np.asarray(image, np.float64).ravel() @ SMOOTH.first)
    powers = np.exp(hidden @ SMOOTH.second)
    shares = powers / powers.sum()
    at_logits = shares[TARGET] * (np.eye(4)[TARGET] - shares)
    at_hidden = (SMOOTH.second @ at_logits) * (1 - hidden**2)
    return (SMOOTH.first @ at_hidden).reshape(image.shape)


def close(found, expected, tolerance=2e-6):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance)
