"""Excitation backprop: against loops over neurons, and what must hold for any probability passed down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from support import strictness

import jaxplain as jx
from jaxplain.attributions import contrastive_excitation_backprop, excitation_backprop, winning_probabilities
from jaxplain.explanation import Status
from jaxplain.zoo import MODELS
from jaxplain.zoo.conv import depthwise_conv2d, max_pool
from jaxplain.zoo.layers import Conv


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick():
    """The zoo and Flax add biases [C] to maps [N, H, W, C] on purpose."""
    with strictness.strict_and_quick("allow"):
        yield


def numbers(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def passed_down(relevance, x, weights):
    """One linear layer, neuron by neuron: relevance [J], x [I], weights [I, J] -> relevance [I], signed."""
    total = np.zeros(len(x))
    for j, part in enumerate(relevance):
        sign = 1 if part >= 0 else -1
        contributions = np.maximum(sign * weights[:, j] * x, 0)
        if contributions.sum() > 0:
            total += abs(part) * contributions / contributions.sum()
    return total * np.sign(x)


@settings(max_examples=4)
@given(seed=st.integers(0, 999))
def test_two_layers_against_a_loop_over_neurons(seed):
    """Inputs and hidden activations of both signs (a linear bottleneck), biases, a ReLU on top of them."""
    first, second, top = numbers(seed, 5, 6), numbers(seed + 1, 6, 4), numbers(seed + 2, 4, 3)
    x, bias = numbers(seed + 3, 5), numbers(seed + 4, 6)
    hidden = x @ first + bias  # linear
    above = np.maximum(hidden @ second + 0.1, 0)
    relevance = passed_down(np.eye(3)[1], above, top)
    relevance = passed_down(relevance, hidden, second)
    expected = np.abs(passed_down(relevance, x, first))

    def network(x):
        return jax.nn.relu((x @ first + bias) @ second + 0.1) @ top

    np.testing.assert_allclose(winning_probabilities(network, jnp.asarray(x), 1), expected, atol=1e-5)


@pytest.mark.slow
@given(seed=st.integers(0, 999))
def test_nothing_is_lost_where_all_excite(seed):
    """With positive weights and inputs the probabilities sum to 1 through every kind of layer."""
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
    found = winning_probabilities(network, jnp.asarray(images), 2)
    assert float(found.sum()) == pytest.approx(1, abs=1e-4)
    assert float(found.min()) >= 0


@pytest.mark.slow
def test_a_convolution_is_the_matrix_that_it_stands_for():
    kernel, top, images = numbers(0, 3, 3, 2, 3), numbers(1, 3, 4), abs(numbers(2, 1, 5, 5, 2))

    def convolved(images):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    matrix = np.asarray(jax.jacobian(lambda x: convolved(x.reshape(1, 5, 5, 2)).reshape(-1))(np.zeros(50)))

    def dense(x):
        return jax.nn.relu(x @ matrix.T).reshape(-1, 3).mean(0) @ top

    found = winning_probabilities(
        lambda x: jax.nn.relu(convolved(x)).mean((0, 1, 2)) @ top, jnp.asarray(images), 0
    )
    expected = winning_probabilities(dense, jnp.asarray(images.reshape(-1)), 0)
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)


def test_the_depthwise_convolution_is_the_native_one():
    """It is written as shifted products, but relevance must be distributed over the whole sum."""
    kernel, images = numbers(0, 3, 3, 4), abs(numbers(1, 1, 5, 5, 4))

    def native(images):
        return jax.lax.conv_general_dilated(
            images, kernel[:, :, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )  # fmt: skip

    def shifted(images):
        return depthwise_conv2d(images, jnp.asarray(kernel), 1, ((1, 1), (1, 1)))

    maps = [
        winning_probabilities(
            lambda x, conv=conv: jax.nn.relu(conv(x)).mean((0, 1, 2)), jnp.asarray(images), 1
        )
        for conv in (native, shifted)
    ]
    np.testing.assert_allclose(*maps, atol=1e-6)


def test_pooling_and_residuals_by_hand():
    pooled = winning_probabilities(
        lambda x: max_pool(x, 2, stride=2).reshape(1), jnp.array([1.0, 4, 2, 3]).reshape(1, 2, 2, 1), 0
    )
    assert pooled.reshape(-1).tolist() == [0, 1, 0, 0]
    added = winning_probabilities(lambda x: x[:1] + x[1:], jnp.array([1.0, 3.0]), 0)
    assert added.tolist() == [0.25, 0.75]
    against = winning_probabilities(lambda x: x[:1] - x[1:], jnp.array([3.0, -1.0]), 0)
    assert against.tolist() == [0.75, 0.25]
    opposed = winning_probabilities(lambda x: x[:1] + x[1:], jnp.array([1.0, -3.0]), 0)
    assert opposed.tolist() == [1.0, 0.0]


def test_contrast_is_evidence_for_minus_evidence_against():
    weights = jnp.array([[1.0], [1.0], [-2.0]])
    found = winning_probabilities(lambda x: x @ weights, jnp.ones(3), 0, contrastive=True)
    np.testing.assert_allclose(found, [0.5, 0.5, -1.0])


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(NotImplementedError, match="'sin'"):
        winning_probabilities(lambda x: jnp.sin(x), jnp.ones(3), 0)
    with pytest.raises(NotImplementedError, match="'mul'"):
        winning_probabilities(lambda x: x * x[::-1], jnp.ones(3), 0)
    with pytest.raises(NotImplementedError, match="'scan'"):
        winning_probabilities(
            lambda x: jax.lax.scan(lambda c, _: (c * 2.0, None), x, None, 3)[0], jnp.ones(3), 0
        )


def test_logits_that_do_not_depend_on_the_input_give_zeros():
    assert winning_probabilities(lambda x: jnp.ones(3), jnp.ones(4), 0).tolist() == [0, 0, 0, 0]


# ---------------------------------------------------------------------------------------------------------
# Classifiers


class TwoLayers(nnx.Module):
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

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


@pytest.fixture(scope="module")
def model():
    return jax.jit(lambda: TwoLayers(nnx.Rngs(0)))()


@pytest.mark.parametrize(
    ("layer", "contrastive"),
    [
        ("maps", False),
        pytest.param("image", True, marks=pytest.mark.slow),
        pytest.param("maps", True, marks=pytest.mark.slow),
        pytest.param("image", False, marks=pytest.mark.slow),
    ],
)
def test_results_of_a_classifier(model, layer, contrastive):
    image = jnp.asarray(numbers(0, 8, 6, 3))
    top = int(jx.top_class(model, image))
    found, other = (
        excitation_backprop(jx.class_score(model, target), image, layer=layer, contrastive=contrastive)
        for target in (top, (top + 1) % 4)
    )
    attribution = found.details.attribution
    assert attribution.shape == ((4, 3) if layer == "maps" else (8, 6))
    np.testing.assert_array_equal(found.importance, np.maximum(attribution, 0))
    assert (int(found.status), int(found.evaluations)) == (Status.OK, 1)
    total = float(attribution.sum())
    assert abs(total) < 1e-5 if contrastive else 0.3 < total <= 1 + 1e-5
    assert jnp.abs(other.details.attribution - attribution).max() > 0
    if contrastive:
        alone = contrastive_excitation_backprop(jx.class_score(model, top, "logit"), image, layer=layer)
        np.testing.assert_array_equal(alone.importance, found.importance)


@pytest.mark.slow
def test_rows_of_a_vmap_are_single_runs(model):
    images = jnp.asarray(numbers(0, 2, 8, 6, 3))

    def explain(image):
        return excitation_backprop(jx.class_score(model, 1), image, layer="image").importance

    for image, row in zip(images, jax.vmap(explain)(images), strict=True):
        np.testing.assert_allclose(row, explain(image), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "squeezenet1_0",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("efficientnet-lite0", "resnet18", "resnet50", "vgg19")
        ),
    ],
)
def test_every_network_of_the_zoo_has_all_rules(name):
    """Traced only: shapes, and that no operation lacks a rule, down to the pixels."""
    entry = MODELS[name]
    model = nnx.eval_shape(lambda: entry.build(name, tuple("abc"), rngs=nnx.Rngs(0)))
    image = jax.ShapeDtypeStruct((*model.spec.size, 3), jnp.float32)
    found = jax.eval_shape(
        lambda model, image: excitation_backprop(jx.class_score(model, 0), image, layer="image"), model, image
    )
    assert found.importance.shape == model.spec.size
