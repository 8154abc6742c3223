"""Explanation networks: losses against slow oracles, the module, fits of planted problems, the probe."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from jaxplain import xnn
from jaxplain.xnn import start, training
from jaxplain.xnn.losses import is_dead
from jaxplain.xnn.objective import Data

fit_module = sys.modules["jaxplain.xnn.fit"]  # the name in the package is the function
seeds = st.integers(0, 10**6)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------
# Losses


@given(seeds)
def test_the_losses_equal_slow_ones(seed):
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


def test_the_ends_of_the_scales():
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
    with pytest.raises(ValueError, match="same two axes"):
        loss(jnp.ones((3, 1)), jnp.ones((3, 4)))


# ---------------------------------------------------------------------------------------------------------
# The module


def srae(**changes):
    return xnn.SRAE(
        xnn.SRAEConfig(**{"features": 12, "widths": (8, 6), "n_features": 3} | changes), rngs=nnx.Rngs(0)
    )


@pytest.mark.parametrize(
    "changes", [{}, {"head": "signed", "classes": 2}, {"activation": "tanh", "widths": ()}]
)
def test_contributions_and_bias_add_up_to_the_logit(changes):
    network = srae(**changes)
    network.logit_scale[...], network.logit_shift[...] = (
        network.logit_scale[...] * 3,
        network.logit_shift[...] + 2,
    )
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
    reading = network.read(network.standardize(features))
    np.testing.assert_allclose(
        reading.logits * network.logit_scale[...] + network.logit_shift[...], network(features), rtol=1e-4
    )
    assert reading.reconstruction.shape == features.shape


def test_it_is_an_argument_of_compiled_functions():
    network, features = srae(), jnp.ones((4, 12))
    np.testing.assert_allclose(jax.jit(lambda n, f: n(f))(network, features), network(features), rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
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
def test_a_network_that_cannot_be_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        srae(**changes)


def test_features_of_another_layer_are_refused():
    with pytest.raises(ValueError, match=r"features must be \[N, 12\], got \(3, 11\)"):
        srae()(jnp.ones((3, 11)))


# ---------------------------------------------------------------------------------------------------------
# Fits

SMALL = {"widths": (32, 16), "n_features": 4, "epochs": 60, "batch_size": 25, "decay_every": 25}


def planted(seed=0, count=600):
    """Features of two hidden causes, a logit that is the sum of both: [N, 20], [N]."""
    random = np.random.default_rng(seed)
    causes = np.maximum(random.standard_normal((count, 2)), 0)
    spread = np.abs(np.random.default_rng(99).standard_normal((2, 20)))
    features = causes @ spread + 0.1 * np.abs(random.standard_normal((count, 20)))
    return jnp.asarray(features, jnp.float32), jnp.asarray(3 * causes.sum(1) - 1, jnp.float32)


@pytest.fixture(scope="module")
def fitted():
    return xnn.fit(*planted(), key=jax.random.key(0), **SMALL)


def test_a_planted_logit_is_found_on_unseen_images(fitted):
    found = xnn.diagnose(fitted.srae, *planted(1))
    assert xnn.Status(int(fitted.status)) is xnn.Status.OK
    features, logits = planted(1)
    error = np.asarray(fitted.srae(features)[:, 0] - logits)
    np.testing.assert_allclose(found.r2, 1 - (error**2).mean() / logits.var(), rtol=1e-3)
    assert found.r2 > 0.9
    assert found.significant > 1.2
    assert np.isfinite(fitted.training.total).all()
    assert fitted.validation.total[fitted.best_epoch] <= fitted.validation.total[0]


def test_a_fit_does_not_depend_on_the_scale_of_features_and_logits(fitted):
    features, logits = planted()
    # Powers of two, so that nothing is rounded otherwise.
    other = xnn.fit(features * 64, logits * 16, key=jax.random.key(0), **SMALL)
    np.testing.assert_allclose(other.srae(features * 64) / 16, fitted.srae(features), rtol=1e-3, atol=1e-3)


def test_several_classes_share_x_features_and_progress_is_told():
    features, logits = planted()
    two = jnp.stack([logits, features[:, 0]], axis=1)
    seen = []
    options = SMALL | {"max_rounds": 1, "progress": lambda epoch: seen.append(int(epoch))}
    found = xnn.fit(features, two, key=jax.random.key(0), **options)
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert sorted(seen) == list(range(SMALL["epochs"]))
    assert found.srae(features).shape == (600, 2)
    for target in range(2):
        assert xnn.diagnose(found.srae, features, two, target).r2 > 0.9


def test_a_compiled_function_may_close_over_the_features():
    """They are numbers while it is traced, and are checked as such."""
    features, logits = planted(count=60)
    options = SMALL | {"epochs": 1, "pretrain_epochs": 1, "max_rounds": 1}
    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.jit(jax.vmap(lambda key: xnn.fit(features, logits, key=key, **options)))(keys)
    assert found.status.shape == (2,)
    negative = -features
    with pytest.raises(ValueError, match="features are negative"):
        jax.jit(lambda key: xnn.fit(negative, logits, key=key, **options))(keys[0])


def test_the_same_key_gives_the_same_fit(fitted):
    again = xnn.fit(*planted(), key=jax.random.key(0), **SMALL)
    for one, other in zip(jax.tree.leaves(fitted), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_ablation_is_one_call():
    """Keys and weights under vmap give what each fit gives alone, and pulling away does what it says."""
    options = SMALL | {"epochs": 25, "max_rounds": 1}
    keys, strengths = jax.random.split(jax.random.key(3), 2), jnp.array([0.0, 60.0])

    def fit(key, strength):
        return xnn.fit(*planted(), key=key, weights=(3, 15, strength, 5), **options)

    rows = jax.vmap(fit)(keys, strengths)
    for at in range(2):
        alone = fit(keys[at], strengths[at])
        np.testing.assert_allclose(rows.training.total[at][:3], alone.training.total[:3], rtol=1e-2)
        assert rows.weights.pull_away[at] == strengths[at]
    pulled = [jax.tree.map(lambda leaf, at=at: leaf[at], rows.validation.pull_away)[-1] for at in range(2)]
    assert pulled[1] < pulled[0]


def test_a_retry_that_never_accepts_returns_the_best_round_and_says_so(monkeypatch):
    monkeypatch.setattr(fit_module, "_SECOND", 2.0)  # no share is that large
    features, logits = planted()
    options = SMALL | {"epochs": 3, "max_rounds": 3}  # not compiled by another test
    found = xnn.fit(features, logits, key=jax.random.key(0), weights=(1, 10, 10, 1), **options)
    assert xnn.Status(int(found.status)) is xnn.Status.NOT_ACCEPTED
    assert found.rounds == 3
    used = [(10 * 1.2**k, 10 * 0.8**k) for k in range(3)]
    assert any(np.allclose((found.weights.reconstruction, found.weights.pull_away), pair) for pair in used)
    assert np.isfinite(found.srae(features)).all()


def test_constant_logits_and_traced_nan_are_told():
    features, logits = planted(count=60)
    options = SMALL | {"epochs": 1, "max_rounds": 1}
    constant = xnn.fit(features, logits * 0 + 2, key=jax.random.key(0), **options)
    assert xnn.Status(int(constant.status)) is xnn.Status.CONSTANT_LOGITS
    np.testing.assert_allclose(constant.srae(features), 2, atol=0.5)
    bad = jax.jit(lambda f: xnn.fit(f, logits, key=jax.random.key(0), **options))(
        features.at[3, 2].set(jnp.nan)
    )
    assert xnn.Status(int(bad.status)) is xnn.Status.NOT_FINITE


def test_a_feature_that_hardly_stirs_is_not_blown_up():
    features, logits = planted(count=60)
    features = features.at[:, 3].multiply(1e-6)
    found = xnn.fit(features, logits, key=jax.random.key(0), **SMALL | {"epochs": 1, "max_rounds": 1})
    spread = np.asarray(features).std(0)
    scale = np.asarray(found.srae.feature_scale)
    assert scale[3] > 0.3 * np.median(spread)
    assert (scale > 0.9 * spread).all()


def test_features_that_never_vary_and_fewer_rows_than_a_batch_are_no_trouble():
    features, logits = planted(count=20)
    found = xnn.fit(
        features.at[:, 3].set(0.0).at[:, 4].set(5.0), logits, key=jax.random.key(0), **SMALL | {"epochs": 3}
    )
    assert np.isfinite(found.srae(features)).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": np.ones((5, 3, 2))}, r"features must be \[N, D\]"),
        ({"logits": np.ones(7)}, r"got \(40, 20\) and \(7, 1\)"),
        ({"features": np.full((40, 20), np.nan)}, "features must be finite; 800 values are not"),
        ({"logits": np.full(40, np.inf)}, "logits must be finite"),
        ({"features": -np.ones((40, 20))}, "take output='linear'"),
        ({"weights": (1, 2)}, "three or four numbers, got 2"),
        ({"over": "rows"}, "unknown over"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_rounds": 0}, "max_rounds must be at least 1"),
        ({"validation": 0.0}, "validation must hold out"),
        ({"validation": 1.0}, "validation must hold out"),
        ({"n_features": 0}, "n_features must be at least 1"),
        ({"n_features": 16}, "less than the 16 units"),
    ],
)
def test_a_fit_that_cannot_be_is_refused(changes, told):
    features, logits = planted(count=40)
    with pytest.raises(ValueError, match=told):
        xnn.fit(**{"features": features, "logits": logits, "key": jax.random.key(0)} | SMALL | changes)


def test_negative_features_with_a_linear_output():
    features, logits = planted(count=100)
    found = xnn.fit(features - 1, logits, key=jax.random.key(0), output="linear", **SMALL | {"epochs": 3})
    assert np.isfinite(found.srae(features - 1)).all()


def parts(fitted):
    """Graph, parameters, constants and standardised data of the planted problem."""
    split = nnx.split(fitted.srae, nnx.Param, ...)
    features, logits = planted()
    standardized = (logits[:, None] - fitted.srae.logit_shift[...]) / fitted.srae.logit_scale[...]
    return split, Data(fitted.srae.standardize(features), standardized)


def test_dead_x_features_start_again_and_the_others_stay(fitted):
    (graphdef, params, constants), data = parts(fitted)
    srae = nnx.merge(graphdef, params, constants)
    kernel = srae.encoder[-1].kernel[...].at[:, 1].set(0)
    bias = srae.encoder[-1].bias[...].at[1].set(-1)
    srae.encoder[-1].kernel[...], srae.encoder[-1].bias[...] = kernel, bias
    before = srae.read(data.features)
    assert before.x_features[:, 1].max() == 0
    params = nnx.split(srae, nnx.Param, ...)[1]
    params = start.revive(graphdef, params, constants, data, jax.random.key(0))
    after = nnx.merge(graphdef, params, constants).read(data.features)
    assert (after.x_features[:, 1] > 0).mean() > 0.5
    assert np.corrcoef(after.x_features[:, 1], data.logits[:, 0])[0, 1] > 0.3
    others = np.delete(np.arange(before.x_features.shape[1]), 1)
    np.testing.assert_array_equal(after.x_features[:, others], before.x_features[:, others])
    np.testing.assert_allclose(after.logits.mean(), before.logits.mean(), rtol=1e-3, atol=1e-3)


def test_balancing_changes_sizes_and_nothing_else(fitted):
    (graphdef, params, constants), data = parts(fitted)
    srae = nnx.merge(graphdef, params, constants)
    srae.encoder[-1].kernel[...] *= 7
    srae.encoder[-1].bias[...] *= 7
    before = srae.read(data.features)
    params = start.balance(graphdef, nnx.split(srae, nnx.Param, ...)[1], constants, data)
    after = nnx.merge(graphdef, params, constants).read(data.features)
    sizes = np.sqrt((np.asarray(after.x_features) ** 2).mean(0))
    np.testing.assert_allclose(sizes[sizes > 0], 1, rtol=1e-4)
    np.testing.assert_allclose(after.logits, before.logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(after.reconstruction, before.reconstruction, rtol=1e-3, atol=1e-3)


def test_the_slopes_of_a_linear_logit_are_exact():
    features = normal(0, 60, 5)
    weights = normal(1, 5, 2)
    found = training.slopes(Data(jnp.asarray(features), jnp.asarray(features @ weights)))
    np.testing.assert_allclose(found, weights, rtol=1e-2, atol=1e-2)


def test_x_features_that_add_next_to_nothing_count_as_dead():
    contributions = np.abs(normal(0, 30, 4))[:, :, None] * np.array([1, 1e-3, 0, 0.5])[None, :, None]
    assert is_dead(jnp.asarray(contributions)).tolist() == [False, True, True, False]
    assert is_dead(jnp.zeros((3, 2, 1))).all()
    # Of several classes, one that it speaks for is enough.
    two = np.concatenate([contributions, np.abs(normal(1, 30, 4))[:, :, None]], axis=2)
    assert not is_dead(jnp.asarray(two)).any()


# ---------------------------------------------------------------------------------------------------------
# Measures and the probe


@given(seeds)
def test_significant_x_features_are_the_smallest_set_that_reaches_nine_tenths(seed):
    contributions = normal(seed, 6, 5)
    for row, chosen in zip(
        contributions, np.asarray(xnn.significant(jnp.asarray(contributions))), strict=True
    ):
        positive = np.sort(np.maximum(row, 0))[::-1]
        size = next(k for k in range(6) if positive[:k].sum() >= 0.9 * positive.sum() - 1e-6)
        assert chosen.sum() == size
        assert row[chosen].sum() >= 0.9 * positive.sum() - 1e-5


def test_recall_and_precision_of_a_replaced_logit():
    logits, labels = jnp.array([[2.0, 1, 0], [0, 2, 1], [0, 1, 2], [3, 0, 1]]), jnp.array([0, 1, 1, 2])
    assert xnn.recall_and_precision(logits, labels, 1) == (0.5, 1.0)
    replaced = xnn.replace_logit(logits, 1, jnp.array([9.0, 2, 1, 0]))
    assert xnn.recall_and_precision(replaced, labels, 1) == (0.5, 0.5)
    np.testing.assert_array_equal(replaced[:, [0, 2]], logits[:, [0, 2]])


def test_the_probe_is_the_minimum_of_its_loss():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 90)
    features = jnp.asarray(5 + 3 * (np.eye(3)[labels] + random.standard_normal((90, 3))), jnp.float32)
    probe = xnn.linear_probe(features, jnp.asarray(labels), 3, l2=1e-2)
    spread = features.std(0)

    def loss(probe):
        picked = jax.nn.log_softmax(probe(features))[jnp.arange(90), labels]
        return -picked.mean() + 1e-2 * jnp.sum((probe.kernel * spread[:, None]) ** 2)

    slope = jax.grad(loss)(probe)
    assert all(np.abs(leaf).max() < 2e-3 for leaf in slope)
    assert (probe(features).argmax(1) == labels).mean() > 0.5


@pytest.mark.parametrize(
    ("features", "labels", "told"),
    [
        (np.ones((4, 2)), np.array([0, 0, 2, 2]), "no example of class 1"),
        (np.ones((4, 2)), np.array([0, 1, 2, 3]), r"labels must be in 0\.\.2, got 0\.\.3"),
        (np.ones((4, 2)), np.array([0, 1]), "must be"),
        (np.full((3, 2), np.nan), np.array([0, 1, 2]), "finite"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(features, labels, told):
    with pytest.raises(ValueError, match=told):
        xnn.linear_probe(features, labels, 3)
