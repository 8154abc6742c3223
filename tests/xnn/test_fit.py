"""Fits of explanation networks to planted problems, and the steps of training."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import xnn
from jaxplain.explanation import Status
from jaxplain.xnn import training
from jaxplain.xnn.losses import LossWeights, TrainingData

fit_module = sys.modules["jaxplain.xnn.fit"]  # the name in the package is the function

SMALL = {
    "widths": (32, 16),
    "n_features": 4,
    "epochs": 40,
    "batch_size": 25,
    "decay_every": 25,
    "max_rounds": 2,
}
BRIEF = {**SMALL, "epochs": 2, "pretrain_epochs": 1, "max_rounds": 1}


def planted(seed=0, count=400):
    """Features of two hidden causes, and a logit that is the sum of both: [N, 20], [N]."""
    random = np.random.default_rng(seed)
    causes = np.maximum(random.standard_normal((count, 2)), 0)
    spread = np.abs(np.random.default_rng(99).standard_normal((2, 20)))
    features = causes @ spread + 0.1 * np.abs(random.standard_normal((count, 20)))
    return jnp.asarray(features, jnp.float32), jnp.asarray(3 * causes.sum(1) - 1, jnp.float32)


@jax.jit
@jax.vmap
def fit_rows(features, logits, key, pull_away):
    """Fits side by side; nearly all tests share this compilation."""
    return xnn.fit(features, logits, key=key, weights=(20, 15, pull_away, 60), **SMALL)


def fit_both(one, two, keys=(0, 0), pull_away=(40.0, 40.0)):
    """Fit two problems (features, logits)."""
    features, logits = (jnp.stack(parts) for parts in zip(one, two, strict=True))
    rows = fit_rows(features, logits, jax.vmap(jax.random.key)(jnp.array(keys)), jnp.array(pull_away))
    return [jax.tree.map(lambda leaf, index=index: leaf[index], rows) for index in range(2)]


@pytest.fixture(scope="module")
def both():
    """The planted problem, and the same at another scale; powers of 2, so that roundings agree."""
    features, logits = planted()
    return fit_both((features, logits), (features * 64, logits * 16))


@pytest.fixture(scope="module")
def fitted(both):
    return both[0]


def test_a_planted_logit_is_predicted_on_unseen_images(fitted):
    assert Status(int(fitted.status)) is Status.OK
    features, logits = planted(1)
    diagnosis = xnn.diagnose(fitted.srae, features, logits)
    error = np.asarray(fitted.srae(features)[:, 0] - logits)
    np.testing.assert_allclose(diagnosis.r2, 1 - (error**2).mean() / logits.var(), rtol=1e-3)
    assert diagnosis.r2 > 0.9
    assert diagnosis.significant > 1.2
    assert np.isfinite(fitted.training.total).all()
    assert fitted.validation.total[fitted.best_epoch] <= fitted.validation.total[0]


def test_a_fit_does_not_depend_on_the_scale_of_features_and_logits(both):
    features, _ = planted()
    np.testing.assert_allclose(both[1].srae(features * 64) / 16, both[0].srae(features), rtol=1e-3, atol=1e-3)


def test_the_same_key_gives_the_same_fit_whatever_is_beside_it(fitted):
    """A larger pull-away weight lowers its loss: an ablation is one call."""
    again, other = fit_both(planted(), planted(), pull_away=(40.0, 0.0))
    for one, two in zip(jax.tree.leaves(fitted), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, two)
    assert again.validation.pull_away[-1] < other.validation.pull_away[-1]
    assert (again.weights.pull_away, other.weights.pull_away) == (40, 0)


def test_traced_nan_and_constant_logits_become_statuses():
    features, logits = planted()
    bad, constant = fit_both((features.at[3, 2].set(jnp.nan), logits), (features, logits * 0 + 2))
    assert Status(int(bad.status)) is Status.NOT_FINITE
    assert Status(int(constant.status)) is Status.CONSTANT_LOGITS
    np.testing.assert_allclose(constant.srae(features), 2, atol=0.5)


def test_features_that_rarely_or_never_vary_are_not_amplified(fitted):
    features, logits = planted()
    features = features.at[:, 3].set(0.0).at[:, 4].set(5.0).at[:, 5].multiply(1e-6)
    result, _ = fit_both((features, logits), planted())
    spread, scale = np.asarray(features).std(0), np.asarray(result.srae.feature_scale)
    assert (scale[3:6] > 0.3 * np.median(spread)).all()
    assert (scale > 0.9 * spread).all()
    assert np.isfinite(result.srae(features)).all()


def test_the_second_largest_contribution_decides_on_acceptance(fitted):
    features, logits = planted()
    data = TrainingData(fitted.srae.standardize(features), logits[:, None])
    share, accepted = fit_module._second_share(fitted.srae, data)
    means = np.sort(np.asarray(fitted.srae.contributions(features)).mean(0))
    np.testing.assert_allclose(share, means[-2] / means[-1], rtol=1e-4)
    assert accepted == (share >= 0.3)


@pytest.mark.slow
def test_rejected_rounds_are_retried_and_the_best_is_returned(monkeypatch):
    monkeypatch.setattr(fit_module, "_SECOND", 2.0)  # no share is that large
    features, logits = planted(count=100)
    options = BRIEF | {"max_rounds": 3}  # not compiled by another test
    result = xnn.fit(features, logits, key=jax.random.key(0), weights=(1, 10, 10, 1), **options)
    assert Status(int(result.status)) is Status.NOT_ACCEPTED
    assert result.rounds == 3
    used = [(10 * 1.2**k, 10 * 0.8**k) for k in range(3)]
    assert any(np.allclose((result.weights.reconstruction, result.weights.pull_away), pair) for pair in used)
    assert np.isfinite(result.srae(features)).all()


def test_weights_change_between_rounds_and_the_better_round_is_retained(fitted):
    weights = LossWeights(*map(jnp.float32, (1, 10, 10, 1)))
    trained = training.TrainedRound(fitted.srae, fitted.training, fitted.validation, fitted.best_epoch)
    worse = jax.tree.map(jnp.zeros_like, trained)
    state = fit_module._FitState(jnp.int32(0), weights, weights, worse, jnp.bool_(False), jnp.float32(-1))
    state = fit_module._after_round(state, trained, jnp.float32(0.2), jnp.bool_(False))
    state = fit_module._after_round(state, worse, jnp.float32(0.1), jnp.bool_(False))
    np.testing.assert_allclose((state.weights.reconstruction, state.weights.pull_away), (14.4, 6.4))
    assert (state.number, state.used.pull_away) == (2, 10)
    np.testing.assert_array_equal(state.best.validation.total, fitted.validation.total)


@pytest.mark.slow
def test_several_classes_share_x_features_and_progress_is_reported():
    features, logits = planted()
    two = jnp.stack([logits, features[:, 0]], axis=1)
    epochs = []
    options = SMALL | {"max_rounds": 1, "progress": lambda epoch: epochs.append(int(epoch))}
    result = jax.block_until_ready(xnn.fit(features, two, key=jax.random.key(0), **options))
    jax.effects_barrier()
    assert sorted(epochs) == list(range(SMALL["epochs"]))
    assert result.srae(features).shape == (400, 2)
    for target in range(2):
        assert xnn.diagnose(result.srae, features, two, target).r2 > 0.9


@pytest.mark.slow
def test_fits_side_by_side_equal_fits_alone(fitted):
    alone = xnn.fit(*planted(), key=jax.random.key(0), **SMALL)
    np.testing.assert_allclose(fitted.training.total[:3], alone.training.total[:3], rtol=1e-2)


@pytest.mark.slow
def test_negative_features_with_a_linear_output_and_patience():
    features, logits = planted(count=20)  # fewer than a batch
    options = BRIEF | {"output": "linear", "epochs": 8, "patience": 1, "learning_rate": 0.0}
    result = xnn.fit(features - 1, logits, key=jax.random.key(0), **options)
    assert np.isfinite(result.srae(features - 1)).all()
    assert np.isnan(result.training.total[-1])  # no epoch improves, so that the fit stops


def test_arrays_that_a_compiled_function_closes_over_are_checked():
    features, logits = planted(count=20)
    negative = np.asarray(-features)  # a JAX array would be traced by the negation
    with pytest.raises(ValueError, match="features are negative"):
        jax.jit(lambda key: xnn.fit(negative, logits, key=key, **BRIEF))(jax.random.key(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.ones((5, 3, 2))}, r"features must be \[N, D\]"),
        ({"logits": np.ones(7)}, r"got \(40, 20\) and \(7, 1\)"),
        ({"features": np.full((40, 20), np.nan)}, "features contains 800 NaN or infinite values"),
        ({"logits": np.full(40, np.inf)}, "logits contains 40 NaN or infinite values"),
        ({"features": -np.ones((40, 20))}, "pass output='linear'"),
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
def test_invalid_arguments_are_refused(changes, message):
    features, logits = planted(count=40)
    with pytest.raises(ValueError, match=message):
        xnn.fit(**{"features": features, "logits": logits, "key": jax.random.key(0)} | SMALL | changes)


# ---------------------------------------------------------------------------------------------------------
# Steps of training


forward = jax.jit(lambda srae, features: srae.forward(features))


@pytest.fixture(scope="module")
def data(fitted):
    """The planted problem, standardised."""
    features, logits = planted()
    srae = fitted.srae
    standardized = (logits[:, None] - srae.logit_shift[...][None]) / srae.logit_scale[...][None]
    return TrainingData(srae.standardize(features), standardized)


def test_dead_x_features_are_revived_and_the_others_stay(fitted, data):
    srae = training._copy(fitted.srae)
    kernel = srae.encoder[-1].kernel[...].at[:, 1].set(0)
    bias = srae.encoder[-1].bias[...].at[1].set(-1)
    srae.encoder[-1].kernel[...], srae.encoder[-1].bias[...] = kernel, bias
    before = forward(srae, data.features)
    assert before.x_features[:, 1].max() == 0
    after = forward(jax.jit(training.revive)(srae, data, jax.random.key(0)), data.features)
    assert (after.x_features[:, 1] > 0).mean() > 0.5
    assert np.corrcoef(after.x_features[:, 1], data.logits[:, 0])[0, 1] > 0.3
    others = np.delete(np.arange(before.x_features.shape[1]), 1)
    np.testing.assert_array_equal(after.x_features[:, others], before.x_features[:, others])
    np.testing.assert_allclose(after.logits.mean(), before.logits.mean(), rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(srae.encoder[-1].kernel[...], kernel)  # the argument is not changed


def test_balancing_scales_x_features_and_changes_no_output(fitted, data):
    srae = training._copy(fitted.srae)
    srae.encoder[-1].kernel[...] *= 7
    srae.encoder[-1].bias[...] *= 7
    before = forward(srae, data.features)
    after = forward(jax.jit(training.balance)(srae, data), data.features)
    sizes = np.sqrt((np.asarray(after.x_features) ** 2).mean(0))
    np.testing.assert_allclose(sizes[sizes > 0], 1, rtol=1e-4)
    np.testing.assert_allclose(after.logits, before.logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(after.reconstruction, before.reconstruction, rtol=1e-3, atol=1e-3)


def test_the_gradient_of_a_linear_logit_is_exact():
    random = np.random.default_rng(0)
    features = random.standard_normal((60, 5)).astype(np.float32)
    weights = random.standard_normal((5, 2)).astype(np.float32)
    found = training.logit_gradient(TrainingData(jnp.asarray(features), jnp.asarray(features @ weights)))
    np.testing.assert_allclose(found, weights, rtol=1e-2, atol=1e-2)
