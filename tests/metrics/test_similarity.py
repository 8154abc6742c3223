"""Rank correlation and structural similarity of maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from jaxplain import metrics


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(seed=st.integers(0, 999), levels=st.integers(2, 30))
def test_rank_correlation_against_scipy(seed, levels):
    """With ties: values of few levels."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, levels, (2, 6, 7)).astype(np.float32)
    expected = spearmanr(first.ravel(), second.ravel()).statistic
    assert float(metrics.rank_correlation(first, second)) == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_rank_correlation_depends_on_the_order_only():
    importance = normal(0, 6, 7)
    assert float(metrics.rank_correlation(importance, np.exp(importance))) == pytest.approx(1, abs=1e-6)
    assert float(metrics.rank_correlation(importance, -importance)) == pytest.approx(-1, abs=1e-6)
    assert np.isnan(metrics.rank_correlation(importance, np.ones((6, 7), np.float32)))
    assert np.isnan(metrics.rank_correlation(importance, np.where(importance > 0, importance, np.nan)))


@given(seed=st.integers(0, 99), noise=st.floats(0, 2), offset=st.floats(-100, 100))
def test_ssim_against_scikit_image(seed, noise, offset):
    first = normal(seed, 20, 24) + np.float32(offset)
    second = first + np.float32(noise) * normal(seed + 1, 20, 24)
    span = float(max(first.max(), second.max()) - min(first.min(), second.min()))
    _, everywhere = structural_similarity(
        np.float64(first), np.float64(second), data_range=span, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    expected = everywhere[5:-5, 5:-5].mean()  # where the window of 11 x 11 fits
    assert float(metrics.ssim(first, second)) == pytest.approx(expected, abs=2e-3)


def test_ssim_of_equal_and_of_constant_maps():
    importance = jnp.asarray(normal(0, 16, 16))
    assert float(metrics.ssim(importance, importance)) == pytest.approx(1, abs=1e-5)
    assert np.isnan(metrics.ssim(jnp.ones((16, 16)), jnp.ones((16, 16))))


def test_rows_of_a_vmap_are_single_calls():
    first, second = normal(0, 3, 16, 16), normal(1, 3, 16, 16)
    for measure in (metrics.rank_correlation, metrics.ssim):
        alone = [float(measure(one, other)) for one, other in zip(first, second, strict=True)]
        np.testing.assert_allclose(jax.vmap(measure)(first, second), alone, rtol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        metrics.rank_correlation(jnp.ones((4, 4)), jnp.ones((4, 5)))
    with pytest.raises(TypeError, match="floats"):
        metrics.rank_correlation(jnp.ones((4, 4), int), jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        metrics.ssim(jnp.ones((10, 16)), jnp.ones((10, 16)))
