"""Average drop, increase in confidence, sparseness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxplain import metrics

probabilities = st.lists(st.floats(0.015625, 1.0, width=32), min_size=1, max_size=12)


@given(before=probabilities, seed=st.integers(0, 99))
def test_drop_and_increase_against_loops(before, seed):
    after = np.random.default_rng(seed).uniform(size=len(before)).astype(np.float32)
    drops = [max(0.0, y - o) / y for y, o in zip(before, after, strict=True)]
    rises = [o > y for y, o in zip(np.float32(before), after, strict=True)]
    whole = jnp.asarray(before, jnp.float32)
    assert float(metrics.average_drop(whole, jnp.asarray(after))) == pytest.approx(
        100 * np.mean(drops), abs=1e-3
    )
    found = metrics.increase_in_confidence(whole, jnp.asarray(after))
    assert float(found) == pytest.approx(100 * np.mean(rises), abs=1e-3)


def test_no_meaning_is_nan():
    zero, some = jnp.array([0.0]), jnp.array([0.5])
    assert np.isnan(metrics.average_drop(zero, some))
    assert np.isnan(metrics.average_drop(some, jnp.array([jnp.nan])))
    assert np.isnan(metrics.increase_in_confidence(some, jnp.array([jnp.nan])))


def test_an_equal_score_is_no_increase():
    assert float(metrics.increase_in_confidence(jnp.array([0.5]), jnp.array([0.5]))) == 0


def mean_score(images):
    return images.mean((1, 2, 3))


def test_what_the_map_keeps():
    """Half of the map shows the image, half the baseline; scale and offset of the map do not matter."""
    image, baseline = jnp.ones((4, 4, 3)), jnp.full((4, 4, 3), -1.0)
    saliency = jnp.zeros((4, 4)).at[:2].set(1.0)
    for shown in (saliency, 7 * saliency - 3):
        found = metrics.confidence_on_explanation(mean_score, image, shown, baseline)
        assert (float(found.before), float(found.after)) == (1.0, 0.0)
    assert float(metrics.confidence_on_explanation(mean_score, image, saliency).after) == 0.5


def test_a_flat_map_keeps_nothing_known():
    found = metrics.confidence_on_explanation(mean_score, jnp.ones((4, 4, 3)), jnp.ones((4, 4)))
    assert float(found.before) == 1.0
    assert np.isnan(found.after)


def test_coarse_maps_are_upsampled_and_rows_of_a_vmap_are_single_runs():
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    maps = jax.random.uniform(jax.random.key(1), (3, 2, 2))
    run = jax.vmap(lambda image, saliency: metrics.confidence_on_explanation(mean_score, image, saliency))
    together = run(images, maps)
    for at in range(3):
        alone = metrics.confidence_on_explanation(mean_score, images[at], maps[at])
        np.testing.assert_allclose(together.after[at], alone.after, rtol=1e-5)


@pytest.mark.parametrize(
    ("saliency", "error"),
    [
        (jnp.ones((9, 9)), "no finer than the image"),
        (jnp.ones((2, 4, 4)), "saliency must have shape"),
        (jnp.ones((4, 4), int), "array of floats"),
    ],
)
def test_bad_maps(saliency, error):
    with pytest.raises((ValueError, TypeError), match=error):
        metrics.confidence_on_explanation(mean_score, jnp.ones((8, 8, 3)), saliency)


def test_bad_scores():
    with pytest.raises(ValueError, match="same shape"):
        metrics.average_drop(jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="not be empty"):
        metrics.average_drop(jnp.ones(0), jnp.ones(0))
    with pytest.raises(TypeError, match="floats"):
        metrics.increase_in_confidence([0.5], [0.5])


# -------------------------------------------------------------------------------------------- sparseness


@given(st.lists(st.floats(0.0, 10.0, width=32), min_size=1, max_size=20).filter(lambda v: max(v) > 0.01))
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
