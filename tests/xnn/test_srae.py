"""Explanation networks: losses against slow oracles, and the auto-encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxplain import xnn
from jaxplain.xnn.losses import is_dead

seeds = st.integers(0, 10**6)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------
# Losses


@given(seeds)
def test_losses_equal_the_oracles(seed):
    one, two = normal(seed, 7, 4), normal(seed + 1, 7, 4)
    error = sum((one[i, k] - two[i, k]) ** 2 for i in range(7) for k in range(4)) / 28
    np.testing.assert_allclose(xnn.faithfulness_loss(one, two), error, rtol=1e-4)

    features = [sum((one[i, k] - two[i, k]) ** 2 for i in range(7)) / 7 for k in range(4)]
    expected = sum(np.log(1 + 50 * value) for value in features) / 4
    np.testing.assert_allclose(xnn.sparse_reconstruction_loss(one, two, 50), expected, rtol=1e-4)

    for rows in (one, one.T):
        cosines = [
            (rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])) ** 2
            for i in range(len(rows))
            for j in range(len(rows))
            if i != j
        ]
        np.testing.assert_allclose(xnn.pull_away_loss(jnp.asarray(rows)), np.mean(cosines), rtol=1e-3)

    whole = sum(sum(abs(one[i])) ** 2 for i in range(7))
    np.testing.assert_allclose(xnn.dominance_loss(one), (one**2).sum() / whole, rtol=1e-4)


def test_losses_at_the_extremes():
    assert xnn.pull_away_loss(jnp.eye(3)) == pytest.approx(0, abs=1e-6)
    assert xnn.pull_away_loss(jnp.ones((3, 5))) == pytest.approx(1, abs=1e-5)
    assert xnn.pull_away_loss(jnp.ones((1, 5))) == 0
    assert xnn.dominance_loss(jnp.array([[4.0, 0.0], [3.0, 0.0]])) == pytest.approx(1)
    assert xnn.dominance_loss(jnp.ones((3, 4))) == pytest.approx(1 / 4)


@pytest.mark.parametrize("loss", [xnn.pull_away_loss, xnn.dominance_loss])
@pytest.mark.parametrize("values", [np.zeros((3, 4)), np.eye(3, 4)])
def test_dead_x_features_have_finite_derivatives(loss, values):
    assert np.isfinite(jax.grad(loss)(jnp.asarray(values, jnp.float32))).all()


@pytest.mark.parametrize("loss", [xnn.faithfulness_loss, xnn.sparse_reconstruction_loss])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(ValueError, match="must have 2 axes"):
        loss(jnp.ones((3, 1)), jnp.ones((3, 4)))


def test_x_features_with_negligible_contributions_are_dead():
    contributions = np.abs(normal(0, 30, 4))[:, :, None] * np.array([1, 1e-3, 0, 0.5])[None, :, None]
    assert is_dead(jnp.asarray(contributions)).tolist() == [False, True, True, False]
    assert is_dead(jnp.zeros((3, 2, 1))).all()
    # One class to which it contributes is enough.
    two = np.concatenate([contributions, np.abs(normal(1, 30, 4))[:, :, None]], axis=2)
    assert not is_dead(jnp.asarray(two)).any()


# ---------------------------------------------------------------------------------------------------------
# The auto-encoder


def srae(**changes):
    return xnn.SRAE(
        xnn.SRAEConfig(**{"features": 12, "widths": (8, 6), "n_features": 3} | changes), rngs=nnx.Rngs(0)
    )


@pytest.mark.parametrize(
    "changes", [{}, {"head": "signed", "classes": 2}, {"activation": "tanh", "widths": ()}]
)
def test_contributions_and_bias_add_up_to_the_logit(changes):
    network = srae(**changes)
    network.logit_scale[...] *= 3
    network.logit_shift[...] += 2
    network.feature_shift[...] = jnp.full(12, 0.5)
    features = jnp.asarray(np.abs(normal(0, 5, 12)))
    for target in range(network.config.classes):
        parts = network.contributions(features, target)
        assert (network.x_features(features) >= 0).all()
        np.testing.assert_allclose(
            parts.sum(1) + network.bias[target], network(features)[:, target], rtol=1e-5
        )
    if network.config.head == "positive":
        assert (parts >= 0).all()
    outputs = network.forward(network.standardize(features))
    np.testing.assert_allclose(outputs.logits * 3 + 2, network(features), rtol=1e-4)
    assert outputs.reconstruction.shape == features.shape


def test_an_srae_is_an_argument_of_compiled_functions():
    network, features = srae(), jnp.ones((4, 12))
    np.testing.assert_allclose(jax.jit(lambda n, f: n(f))(network, features), network(features), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 0}, "n_features must be at least 1"),
        ({"n_features": 6}, "less than the 6 units of the layer below, got 6"),
        ({"widths": (8, 0)}, "widths must be at least 1"),
        ({"features": 0}, "features must be at least 1"),
        ({"activation": "rellu"}, "did you mean 'relu'"),
        ({"output": "rel"}, "unknown output"),
        ({"head": "positiv"}, "did you mean 'positive'"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1"),
    ],
)
def test_invalid_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        srae(**changes)


def test_features_of_another_layer_are_refused():
    with pytest.raises(ValueError, match=r"features must be \[N, 12\], got \(3, 11\)"):
        srae()(jnp.ones((3, 11)))
