"""Average drop, increase in confidence, and the Gini index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracles

from jaxplain import metrics

probabilities = st.lists(st.floats(0.015625, 1.0, width=32), min_size=3, max_size=3)


@given(before=probabilities, seed=st.integers(0, 99))
def test_drop_and_increase_against_loops(before, seed):
    after = np.random.default_rng(seed).uniform(size=len(before)).astype(np.float32)
    drops = [max(0.0, y - o) / y for y, o in zip(before, after, strict=True)]
    rises = [o > y for y, o in zip(np.float32(before), after, strict=True)]
    pair = jnp.asarray(before, jnp.float32), jnp.asarray(after)
    assert float(metrics.average_drop(*pair)) == pytest.approx(100 * np.mean(drops), abs=1e-3)
    assert float(metrics.increase_in_confidence(*pair)) == pytest.approx(100 * np.mean(rises), abs=1e-3)


def test_undefined_is_nan_and_an_equal_score_is_no_increase():
    zero, some, unknown = jnp.array([0.0]), jnp.array([0.5]), jnp.array([jnp.nan])
    assert np.isnan(metrics.average_drop(zero, some))
    assert np.isnan(metrics.average_drop(some, unknown))
    assert np.isnan(metrics.increase_in_confidence(some, unknown))
    assert float(metrics.increase_in_confidence(some, some)) == 0


def mean_score(images):
    return images.mean((1, 2, 3))


def test_only_what_the_map_keeps_is_shown():
    """Half of the map shows the image, half the baseline; scale and offset of the map do not matter."""
    image, baseline = jnp.ones((4, 4, 3)), jnp.full((4, 4, 3), -1.0)
    importance = jnp.zeros((4, 4)).at[:2].set(1.0)
    for one in (importance, 7 * importance - 3):
        found = metrics.confidence_on_explanation(mean_score, image, baseline, one)
        assert (float(found.before), float(found.after)) == (1.0, 0.0)
    # The blurred image of a constant one is itself.
    assert float(metrics.confidence_on_explanation(mean_score, image, None, importance).after) == 1.0


def test_a_constant_map_has_no_score_of_its_own():
    image = jnp.ones((4, 4, 3))
    for importance in (jnp.ones((4, 4)), jnp.full((4, 4), jnp.nan)):
        found = metrics.confidence_on_explanation(mean_score, image, 0 * image, importance)
        assert float(found.before) == 1.0
        assert np.isnan(found.after)


def test_coarse_maps_are_upsampled_and_rows_of_a_vmap_are_single_calls():
    random = np.random.default_rng(0)
    images = random.normal(size=(3, 8, 8, 3)).astype(np.float32)
    maps = random.uniform(size=(3, 2, 2)).astype(np.float32)

    def confidence(image, importance):
        return metrics.confidence_on_explanation(mean_score, image, 0 * image, importance)

    together = jax.vmap(confidence)(images, maps)
    for row in range(3):
        np.testing.assert_allclose(together.after[row], confidence(images[row], maps[row]).after, rtol=1e-5)
        full = oracles.upsample(maps[row], (8, 8))
        kept = (full - full.min()) / (full.max() - full.min())
        np.testing.assert_allclose(together.after[row], (images[row] * kept[..., None]).mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("importance", "error"),
    [
        (jnp.ones((9, 9)), "no larger than the image's"),
        (jnp.ones((2, 4, 4)), "must be one map"),
        (jnp.ones((4, 4), int), "array of floats"),
    ],
)
def test_bad_maps_are_refused(importance, error):
    with pytest.raises((ValueError, TypeError), match=error):
        metrics.confidence_on_explanation(mean_score, jnp.ones((8, 8, 3)), None, importance)


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        metrics.average_drop(jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="not be empty"):
        metrics.average_drop(jnp.ones(0), jnp.ones(0))
    with pytest.raises(TypeError, match="floats"):
        metrics.increase_in_confidence([0.5], [0.5])


# ------------------------------------------------------------------------------------------- complexity


@given(st.lists(st.floats(0.0, 10.0, width=32), min_size=5, max_size=5).filter(lambda v: max(v) > 0.01))
def test_gini_against_mean_differences(values):
    """The other definition: mean absolute difference of all pairs over twice the mean."""
    numbers = np.asarray(values, np.float64)
    expected = np.abs(numbers[:, None] - numbers[None]).mean() / (2 * numbers.mean())
    assert float(metrics.gini(jnp.asarray(values, jnp.float32))) == pytest.approx(expected, abs=1e-4)


def test_gini_of_extremes():
    assert float(metrics.gini(jnp.zeros((4, 4)).at[1, 2].set(-5.0))) == pytest.approx(1 - 1 / 16)
    assert float(metrics.gini(jnp.full((4, 4), 3.0))) == pytest.approx(0.0, abs=1e-6)
    assert float(metrics.gini(jnp.array([1e37, 1e37, 0.0]))) == pytest.approx(1 / 3, abs=1e-6)
    assert np.isnan(metrics.gini(jnp.zeros((4, 4))))
    assert np.isnan(metrics.gini(jnp.array([1.0, jnp.nan])))
