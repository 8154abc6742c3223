"""Two small networks, an image and the NumPy arithmetic that tests of the attributions compare with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain as jx
from jaxplain import attributions

KEY = jax.random.key(3)
SHAPE = (6, 8, 3)  # not square
TARGET = 1


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


IMAGE, BASELINE = normal(0, *SHAPE), normal(1, *SHAPE)


class MapNet(NamedTuple):
    """Logits of a network with one hidden layer, cut at feature maps [3, 4, 2] as Grad-CAM requires."""

    mix: jax.Array  # [3, 2], channels of an image -> maps
    first: jax.Array  # [24, 5]
    second: jax.Array  # [5, 4]

    def feature_maps(self, images):
        rows, cols = images.shape[1] // 2, images.shape[2] // 2
        cells = images.reshape(len(images), rows, 2, cols, 2, 3).mean((2, 4))
        return self.activation(cells @ self.mix)

    def activation(self, values):
        return jax.nn.relu(values)

    def pool(self, maps):
        return maps.reshape(len(maps), -1)

    def head(self, features):
        return jnp.tanh(features @ self.first) @ self.second

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


NET = MapNet(*map(jnp.asarray, (normal(2, 3, 2), normal(3, 24, 5) / 2, normal(4, 5, 4))))


class SmoothScore(NamedTuple):
    """The probability of a class of a smooth network; `slope` is its gradient written out."""

    first: np.ndarray  # [144, 5]
    second: np.ndarray  # [5, 4]

    def __call__(self, images):
        hidden = jnp.tanh(images.reshape(len(images), -1) @ self.first)
        return jax.nn.softmax(hidden @ self.second)[:, TARGET]


SMOOTH = SmoothScore(normal(5, 144, 5) / 12, normal(6, 5, 4))


def value(image):
    """Return one image's score in NumPy, float64."""
    hidden = np.tanh(np.asarray(image, np.float64).ravel() @ SMOOTH.first)
    powers = np.exp(hidden @ SMOOTH.second)
    return (powers / powers.sum())[TARGET]


def slope(image):
    """Return the gradient of `value` [H, W, C], derived by hand."""
    hidden = np.tanh(np.asarray(image, np.float64).ravel() @ SMOOTH.first)
    powers = np.exp(hidden @ SMOOTH.second)
    shares = powers / powers.sum()
    at_logits = shares[TARGET] * (np.eye(4)[TARGET] - shares)
    at_hidden = (SMOOTH.second @ at_logits) * (1 - hidden**2)
    return (SMOOTH.first @ at_hidden).reshape(image.shape)


def close(found, expected, tolerance=2e-6):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance)


METHODS = {
    "gradient": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 6},
    "smooth_grad": {"n_samples": 7},
    "var_grad": {"n_samples": 7},
    "grad_cam": {},
    "grad_cam_pp": {},
    "excitation_backprop": {},
    "contrastive_excitation_backprop": {},
    "rise": {"n_samples": 9, "grid": 2},
    "occlusion": {"window": 3},
}
"""Every method that evaluates a model, with options that make it quick."""
SAMPLING = ["integrated_gradients", "smooth_grad", "var_grad", "rise", "occlusion"]
"""Those that evaluate the model on several images."""


def explain(name, image, baseline=BASELINE, key=KEY, target=TARGET, net=NET, batch_size=4, **options):
    """Explain with any method, which is always called in the same way."""
    score = jx.class_score(net, target)
    given = METHODS[name] | options
    return getattr(attributions, name)(score, image, baseline, key=key, batch_size=batch_size, **given)
