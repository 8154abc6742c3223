"""Excitation backprop: against loops over neurons, and what must hold of any share of a probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import Net
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxplain.attributions import excitation, excitation_backprop
from jaxplain.zoo import MODELS
from jaxplain.zoo.conv import depthwise_conv2d, max_pool
from jaxplain.zoo.layers import Conv


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def shared(mass, x, weights):
    """One linear layer, neuron by neuron: mass [J] signed, x [I], weights [I, J] -> signed mass [I]."""
    handed = np.zeros(len(x))
    for j, part in enumerate(mass):
        sign = 1 if part >= 0 else -1
        contributions = np.maximum(sign * weights[:, j] * x, 0)
        if contributions.sum() > 0:
            handed += abs(part) * contributions / contributions.sum()
    return handed * np.sign(x)


@given(seed=st.integers(0, 999))
def test_two_layers_against_a_loop_over_neurons(seed):
    """Inputs and hidden activations of both signs (a linear bottleneck), biases, a ReLU on top of them."""
    first, second, top = numbers(seed, 5, 6), numbers(seed + 1, 6, 4), numbers(seed + 2, 4, 3)
    x, bias = numbers(seed + 3, 5), numbers(seed + 4, 6)
    hidden = x @ first + bias  # linear
    above = np.maximum(hidden @ second + 0.1, 0)
    mass = shared(np.eye(3)[1], above, top)
    mass = shared(mass, hidden, second)
    expected = np.abs(shared(mass, x, first))

    def network(x):
        return jax.nn.relu((x @ first + bias) @ second + 0.1) @ top

    np.testing.assert_allclose(excitation(network, jnp.asarray(x), 1), expected, atol=1e-5)


@given(seed=st.integers(0, 999))
def test_nothing_is_lost_where_all_excite(seed):
    """Positive weights and inputs, no ReLU that cuts: the shares sum to 1 through every kind of layer."""
    kernel, depth = abs(numbers(seed, 3, 3, 2, 4)), abs(numbers(seed + 1, 3, 3, 4))
    top = abs(numbers(seed + 2, 4, 5))

    def network(images):
        hidden = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = hidden + depthwise_conv2d(jax.nn.relu6(hidden), depth, 1, ((1, 1), (1, 1)))
        hidden = max_pool(hidden, 2, stride=2)
        return (jnp.concatenate([hidden, hidden], -1).mean((1, 2)) @ np.concatenate([top, top]))[0]

    images = abs(numbers(seed + 3, 1, 6, 6, 2)) + 0.1
    found = excitation(network, jnp.asarray(images), 2)
    assert float(found.sum()) == pytest.approx(1, abs=1e-4)
    assert float(found.min()) >= 0


def test_a_convolution_is_the_matrix_that_it_stands_for():
    kernel, top, images = numbers(0, 3, 3, 2, 3), numbers(1, 3, 4), abs(numbers(2, 1, 5, 5, 2))

    def convolved(images):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    matrix = np.asarray(jax.jacobian(lambda x: convolved(x.reshape(1, 5, 5, 2)).reshape(-1))(np.zeros(50)))

    def dense(x):
        return jax.nn.relu(x @ matrix.T).reshape(-1, 3).mean(0) @ top

    found = excitation(lambda x: jax.nn.relu(convolved(x)).mean((0, 1, 2)) @ top, jnp.asarray(images), 0)
    expected = excitation(dense, jnp.asarray(images.reshape(-1)), 0)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)


def test_the_depthwise_convolution_is_the_native_one():
    """It is written as shifted products, and must be shared as one sum and not pair by pair."""
    kernel, images = numbers(0, 3, 3, 4), abs(numbers(1, 1, 5, 5, 4))

    def native(images):
        return jax.lax.conv_general_dilated(
            images, kernel[:, :, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )  # fmt: skip

    def shifted(images):
        return depthwise_conv2d(images, jnp.asarray(kernel), 1, ((1, 1), (1, 1)))

    maps = [
        excitation(lambda x, conv=conv: jax.nn.relu(conv(x)).mean((0, 1, 2)), jnp.asarray(images), 1)
        for conv in (native, shifted)
    ]
    np.testing.assert_allclose(*maps, atol=1e-6)


def test_pooling_and_residuals_by_hand():
    pooled = excitation(
        lambda x: max_pool(x, 2, stride=2).reshape(1), jnp.array([1.0, 4, 2, 3]).reshape(1, 2, 2, 1), 0
    )
    assert pooled.reshape(-1).tolist() == [0, 1, 0, 0]
    added = excitation(lambda x: x[:1] + x[1:], jnp.array([1.0, 3.0]), 0)
    assert added.tolist() == [0.25, 0.75]
    against = excitation(lambda x: x[:1] - x[1:], jnp.array([3.0, -1.0]), 0)
    assert against.tolist() == [0.75, 0.25]
    opposed = excitation(lambda x: x[:1] + x[1:], jnp.array([1.0, -3.0]), 0)
    assert opposed.tolist() == [1.0, 0.0]


def test_contrast_is_evidence_for_minus_evidence_against():
    weights = jnp.array([[1.0], [1.0], [-2.0]])
    found = excitation(lambda x: x @ weights, jnp.ones(3), 0, contrastive=True)
    np.testing.assert_allclose(found, [0.5, 0.5, -1.0])


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(NotImplementedError, match="'sin'"):
        excitation(lambda x: jnp.sin(x), jnp.ones(3), 0)
    with pytest.raises(NotImplementedError, match="'mul'"):
        excitation(lambda x: x * x[::-1], jnp.ones(3), 0)
    with pytest.raises(NotImplementedError, match="'scan'"):
        excitation(lambda x: jax.lax.scan(lambda c, _: (c * 2.0, None), x, None, 3)[0], jnp.ones(3), 0)


def test_logits_that_do_not_depend_on_it_leave_it_empty():
    assert excitation(lambda x: jnp.ones(3), jnp.ones(4), 0).tolist() == [0, 0, 0, 0]


# ------------------------------------------------------------------------------------------- classifiers


class Small(nnx.Module):
    """Two convolutions with a bias, then the mean."""

    def __init__(self, rngs):
        self.first = Conv(3, 6, 3, padding="same", rngs=rngs)
        self.second = Conv(6, 5, 3, stride=2, padding="same", rngs=rngs)
        self.top = nnx.Linear(5, 4, rngs=rngs)

    def feature_maps(self, images):
        return jax.nn.relu(self.second(jax.nn.relu(self.first(images))))

    def pool(self, maps):
        return maps.mean((1, 2))

    def head(self, features):
        return self.top(features)


@pytest.mark.parametrize("layer", ["maps", "image"])
@pytest.mark.parametrize("contrastive", [False, True])
def test_results_of_a_classifier(layer, contrastive):
    model, image = Small(nnx.Rngs(0)), jnp.asarray(numbers(0, 8, 6, 3))
    options = {"layer": layer, "contrastive": contrastive}
    found = excitation_backprop(model, image, **options)
    assert found.attribution.shape == ((4, 3) if layer == "maps" else (8, 6))
    assert found.saliency.shape == (8, 6)
    assert int(found.status) == 0
    total = float(found.attribution.sum())
    assert abs(total) < 1e-5 if contrastive else 0.3 < total <= 1 + 1e-5
    top = int(jnp.argmax(model.head(model.pool(model.feature_maps(image[None])))))
    named = excitation_backprop(model, image, jnp.int32(top), **options)
    np.testing.assert_allclose(found.attribution, named.attribution)
    assert (
        float(
            jnp.abs(
                excitation_backprop(model, image, (top + 1) % 4, **options).saliency - found.saliency
            ).max()
        )
        > 0
    )


def test_rows_of_a_vmap_are_single_runs():
    model, images = Small(nnx.Rngs(1)), jnp.asarray(numbers(0, 2, 8, 6, 3))
    together = jax.vmap(lambda image: excitation_backprop(model, image, layer="image"))(images)
    for at in range(2):
        alone = excitation_backprop(model, images[at], layer="image")
        np.testing.assert_allclose(together.attribution[at], alone.attribution, atol=1e-6)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet18", "resnet50", "vgg19", "squeezenet1_0"])
def test_every_network_of_the_zoo_has_all_rules(name):
    """Traced only: shapes, and that no operation lacks a rule, down to the pixels."""
    entry = MODELS[name]
    model = nnx.eval_shape(lambda: entry.build(name, tuple("abc"), rngs=nnx.Rngs(0)))
    image = jax.ShapeDtypeStruct((*model.spec.size, 3), jnp.float32)
    found = jax.eval_shape(
        lambda model, image: excitation_backprop(model, image, layer="image"), model, image
    )
    assert found.attribution.shape == model.spec.size


def test_bad_input():
    model, image = Small(nnx.Rngs(0)), jnp.zeros((8, 6, 3))
    with pytest.raises(ValueError, match="unknown layer 'map': did you mean 'maps'"):
        excitation_backprop(model, image, layer="map")
    with pytest.raises(TypeError, match="Net has no feature_maps and no pool and no head"):
        excitation_backprop(Net(jnp.ones((432, 6)), jnp.ones((6, 4))), image)
    assert int(excitation_backprop(model, image.at[0, 0, 0].set(0.0) + jnp.float32(3e38)).status) in (0, 1)
