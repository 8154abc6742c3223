"""Fits of explanation networks to planted problems, and the steps of training."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import xnn
from jaxplain.explanation import Status
from jaxplain.xnn import training
from jaxplain.xnn.losses import TrainingData

fit_module = sys.modules["jaxplain.xnn.fit"]  # the name in the package is the function

SMALL = {"widths": (32, 16), "n_features": 4, "epochs": 60, "batch_size": 25, "decay_every": 25}
BRIEF = {**SMALL, "epochs": 2, "pretrain_epochs": 1, "max_rounds": 1}


def planted(seed=0, count=600):
    """Features of two hidden causes, and a logit that is the sum of both: [N, 20], [N]."""
    random = np.random.default_rng(seed)
    causes = np.maximum(random.standard_normal((count, 2)), 0)
    spread = np.abs(np.random.default_rng(99).standard_normal((2, 20)))
    features = causes @ spread + 0.1 * np.abs(random.standard_normal((count, 20)))
    return jnp.asarray(features, jnp.float32), jnp.asarray(3 * causes.sum(1) - 1, jnp.float32)


def briefly(features, logits):
    """A fit of fewer photos than a batch; all of the same shapes share one compilation."""
    return xnn.fit(features, logits, key=jax.random.key(0), **BRIEF)


@pytest.fixture(scope="module")
def fitted():
    return xnn.fit(*planted(), key=jax.random.key(0), **SMALL)


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


def test_the_same_key_gives_the_same_fit(fitted):
    again = xnn.fit(*planted(), key=jax.random.key(0), **SMALL)
    for one, other in zip(jax.tree.leaves(fitted), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_fit_does_not_depend_on_the_scale_of_features_and_logits(fitted):
    features, logits = planted()
    other = xnn.fit(features * 64, logits * 16, key=jax.random.key(0), **SMALL)  # powers of 2: same rounding
    np.testing.assert_allclose(other.srae(features * 64) / 16, fitted.srae(features), rtol=1e-3, atol=1e-3)


def test_several_classes_share_x_features_and_progress_is_reported():
    features, logits = planted()
    two = jnp.stack([logits, features[:, 0]], axis=1)
    epochs = []
    options = SMALL | {"max_rounds": 1, "progress": lambda epoch: epochs.append(int(epoch))}
    result = jax.block_until_ready(xnn.fit(features, two, key=jax.random.key(0), **options))
    jax.effects_barrier()
    assert sorted(epochs) == list(range(SMALL["epochs"]))
    assert result.srae(features).shape == (600, 2)
    for target in range(2):
        assert xnn.diagnose(result.srae, features, two, target).r2 > 0.9


def test_an_ablation_is_one_call(fitted):
    """A vmap over keys and loss weights equals single fits, and a larger pull-away weight lowers its loss."""
    keys, strengths = jax.random.split(jax.random.key(3), 2), jnp.array([0.0, 60.0])

    def fit(key, strength):
        return xnn.fit(*planted(), key=key, weights=(3, 15, strength, 5), **SMALL)

    rows = jax.vmap(fit)(keys, strengths)
    for index in range(2):
        alone = fit(keys[index], strengths[index])  # compiled for `fitted`
        first = rows.training.total[index][:3]
        if rows.rounds[index] == alone.rounds == 1:
            np.testing.assert_allclose(first, alone.training.total[:3], rtol=1e-2)
            assert rows.weights.pull_away[index] == strengths[index]
    pull_away = rows.validation.pull_away[:, -1]
    assert pull_away[1] < pull_away[0]


def test_a_compiled_function_may_close_over_the_logits_and_traced_nan_becomes_a_status():
    features, logits = planted(count=20)
    both = jnp.stack([features, features.at[3, 2].set(jnp.nan)])
    found = jax.jit(jax.vmap(lambda f: briefly(f, logits)))(both)
    assert found.status[0] in (Status.OK, Status.NOT_ACCEPTED)
    assert Status(int(found.status[1])) is Status.NOT_FINITE
    with pytest.raises(ValueError, match="features are negative"):
        jax.jit(lambda key: xnn.fit(-features, logits, key=key, **BRIEF))(jax.random.key(0))


def test_constant_logits_become_a_status():
    features, logits = planted(count=20)
    constant = briefly(features, logits * 0 + 2)
    assert Status(int(constant.status)) is Status.CONSTANT_LOGITS
    assert "add images that differ" in Status.CONSTANT_LOGITS.message
    np.testing.assert_allclose(constant.srae(features), 2, atol=0.5)


def test_features_that_rarely_or_never_vary_are_not_amplified():
    features, logits = planted(count=20)
    features = features.at[:, 3].set(0.0).at[:, 4].set(5.0).at[:, 5].multiply(1e-6)
    result = briefly(features, logits)
    spread, scale = np.asarray(features).std(0), np.asarray(result.srae.feature_scale)
    assert (scale[3:6] > 0.3 * np.median(spread)).all()
    assert (scale > 0.8 * spread).all()
    assert np.isfinite(result.srae(features)).all()


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


def test_negative_features_with_a_linear_output_and_patience():
    features, logits = planted(count=100)
    options = BRIEF | {"output": "linear", "epochs": 8, "patience": 1, "learning_rate": 0.0}
    result = xnn.fit(features - 1, logits, key=jax.random.key(0), **options)
    assert np.isfinite(result.srae(features - 1)).all()
    assert np.isnan(result.training.total[-1])  # no epoch improves, so that the fit stops


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.ones((5, 3, 2))}, r"features must be \[N, D\]"),
        ({"logits": np.ones(7)}, r"got \(40, 20\) and \(7, 1\)"),
        ({"features": np.full((40, 20), np.nan)}, "features holds 800 NaN or infinite values"),
        ({"logits": np.full(40, np.inf)}, "logits holds 40 NaN or infinite values"),
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
    before = srae.forward(data.features)
    assert before.x_features[:, 1].max() == 0
    after = training.revive(srae, data, jax.random.key(0)).forward(data.features)
    assert (after.x_features[:, 1] > 0).mean() > 0.5
    assert np.corrcoef(after.x_features[:, 1], data.logits[:, 0])[0, 1] > 0.3
    others = np.delete(np.arange(before.x_features.shape[1]), 1)
    np.testing.assert_array_equal(after.x_features[:, others], before.x_features[:, others])
    np.testing.assert_allclose(after.logits.mean(), before.logits.mean(), rtol=1e-3, atol=1e-3)
    assert srae.forward(data.features).x_features[:, 1].max() == 0  # the argument is not changed


def test_balancing_scales_x_features_and_changes_no_output(fitted, data):
    srae = training._copy(fitted.srae)
    srae.encoder[-1].kernel[...] *= 7
    srae.encoder[-1].bias[...] *= 7
    before, after = srae.forward(data.features), training.balance(srae, data).forward(data.features)
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
