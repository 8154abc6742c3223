"""Classifiers of every kind that can stand in a score."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # read when Keras is first imported

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

IMAGES = np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)
CLASSES, TARGET = 5, 2


def plain_function():
    kernel = jax.random.normal(jax.random.key(0), (3, CLASSES))
    return lambda images: jnp.tanh(images).mean((1, 2)) @ kernel


def partial_of_a_function():
    kernel = jax.random.normal(jax.random.key(0), (3, CLASSES))
    return jax.tree_util.Partial(lambda kernel, images: jnp.tanh(images).mean((1, 2)) @ kernel, kernel)


class NnxNet(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.dense = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, images):
        return self.dense(nnx.relu(self.norm(self.conv(images))).mean((1, 2)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, images):
        hidden = linen.BatchNorm(use_running_average=True)(linen.Conv(4, (3, 3))(images))
        return linen.Dense(CLASSES)(linen.relu(hidden).mean((1, 2)))


def linen_net():
    net = LinenNet()
    return jax.tree_util.Partial(net.apply, net.init(jax.random.key(0), IMAGES))


def equinox_net():
    eqx = pytest.importorskip("equinox")
    conv, dense = jax.random.split(jax.random.key(0))

    class Net(eqx.Module):
        layers: list

        def __call__(self, images):
            return jax.vmap(self.one)(images)

        def one(self, image):
            hidden = image.transpose(2, 0, 1)
            for layer in self.layers:
                hidden = layer(hidden)
            return hidden

    layers = [eqx.nn.Conv2d(3, 4, 3, key=conv), jax.nn.relu, lambda maps: maps.mean((1, 2))]
    return Net([*layers, eqx.nn.Linear(4, CLASSES, key=dense)])


def equinox_vmapped():
    eqx = pytest.importorskip("equinox")
    mlp = eqx.nn.MLP(3, CLASSES, 7, 1, key=jax.random.key(0))  # its activation is a leaf
    mean = eqx.nn.Lambda(lambda image: image.mean((0, 1)))
    return eqx.filter_vmap(eqx.nn.Sequential([mean, mlp]))


def keras_net():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("Keras was imported with another backend")
    keras.utils.set_random_seed(0)  # Keras draws its weights from a global seed of its own
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),  # must be off
            layers.GlobalAveragePooling2D(),
            layers.Dense(CLASSES),
        ]
    )


KINDS = [
    plain_function,
    partial_of_a_function,
    NnxNet,
    equinox_vmapped,
    *(pytest.param(make, marks=pytest.mark.slow) for make in (linen_net, equinox_net, keras_net)),
]
