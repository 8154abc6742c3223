"""Max-sensitivity and infidelity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import metrics

KEY = jax.random.key(0)
IMAGE = jax.random.normal(jax.random.key(1), (6, 6, 3))
WEIGHTS = jax.random.normal(jax.random.key(2), (6, 6, 3))


def linear(images):
    return (images * WEIGHTS).sum((1, 2, 3))


# --------------------------------------------------------------------------------------- sensitivity


def test_a_map_that_never_moves_has_none():
    found = metrics.max_sensitivity(lambda image: WEIGHTS.sum(-1), IMAGE, key=KEY)
    assert float(found.maximum) == 0
    assert found.distances.shape == (10,)


def test_the_image_as_its_own_map_moves_by_the_noise():
    """|d| / |x|, of which the mean square is known: (radius * range)^2 / 3 a number."""
    found = metrics.max_sensitivity(lambda image: image, IMAGE, key=KEY, radius=0.1, samples=400)
    spread = 0.1 * float(IMAGE.max() - IMAGE.min())
    expected = np.sqrt(IMAGE.size * spread**2 / 3) / np.linalg.norm(IMAGE)
    assert float(found.average) == pytest.approx(expected, rel=0.02)
    assert float(found.maximum) == pytest.approx(float(found.distances.max()))


def test_it_grows_with_the_radius_and_no_more_than_the_noise_allows():
    def of(radius):
        return float(metrics.max_sensitivity(lambda image: image, IMAGE, key=KEY, radius=radius).maximum)

    assert of(0.02) == pytest.approx(2 * of(0.01), rel=1e-4)
    assert of(0.0) == 0
    reach = 0.02 * float(IMAGE.max() - IMAGE.min()) * np.sqrt(IMAGE.size)
    assert of(0.02) <= reach / np.linalg.norm(IMAGE)


def test_a_known_map_need_not_be_computed_again():
    def explain(image):
        return (image**2).sum(-1)

    known = metrics.max_sensitivity(explain, IMAGE, explain(IMAGE), key=KEY)
    computed = metrics.max_sensitivity(explain, IMAGE, key=KEY)
    np.testing.assert_allclose(known.distances, computed.distances, rtol=1e-5)


def test_a_map_of_zeros_has_no_scale():
    assert np.isnan(metrics.max_sensitivity(lambda image: image * 0, IMAGE, key=KEY).maximum)


def test_bad_input_of_sensitivity():
    with pytest.raises(TypeError, match="function of an image"):
        metrics.max_sensitivity(3, IMAGE, key=KEY)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        metrics.max_sensitivity(lambda image: image, IMAGE, key=KEY, samples=0)
    with pytest.raises(ValueError, match="not of the shape"):
        metrics.max_sensitivity(lambda image: image, IMAGE, jnp.ones((6, 6)), key=KEY)


# --------------------------------------------------------------------------------------- infidelity


@pytest.mark.parametrize("perturbation", ["square", "gaussian"])
def test_the_gradient_of_a_linear_score_foretells_all(perturbation):
    found = metrics.infidelity(linear, IMAGE, WEIGHTS, key=KEY, perturbation=perturbation, samples=100)
    assert float(found.value) == pytest.approx(0, abs=1e-6)
    assert float(found.scale) == pytest.approx(1, abs=1e-4)
    assert float(found.unexplained) == pytest.approx(0, abs=1e-6)


def test_contributions_of_a_linear_score_foretell_all():
    contributions = (WEIGHTS * IMAGE).sum(-1)
    found = metrics.infidelity(linear, IMAGE, contributions, key=KEY, kind="contribution", samples=100)
    assert float(found.value) == pytest.approx(0, abs=1e-6)


def test_scale_is_forgiven_by_the_scaled_value_only():
    found = metrics.infidelity(linear, IMAGE, 3 * WEIGHTS, key=KEY, samples=100)
    assert float(found.value) > 0.1
    assert float(found.scaled) == pytest.approx(0, abs=1e-5)
    assert float(found.scale) == pytest.approx(1 / 3, rel=1e-4)


def test_a_wrong_map_explains_nothing():
    other = jax.random.normal(jax.random.key(3), WEIGHTS.shape)
    found = metrics.infidelity(linear, IMAGE, other, key=KEY, perturbation="gaussian", samples=500)
    assert float(found.unexplained) > 0.9


def test_the_square_against_a_loop():
    """Squares drawn by hand from what the measure says of itself: mean squared drop of a map of zeros."""
    baseline = jnp.full(IMAGE.shape, 0.5)
    zeros = jnp.zeros(IMAGE.shape)
    found = metrics.infidelity(linear, IMAGE, zeros, key=KEY, baseline=baseline, largest=1, samples=3000)
    single = np.asarray((WEIGHTS * (IMAGE - baseline)).sum(-1)) ** 2  # squares of one pixel
    assert float(found.value) == pytest.approx(single.mean(), rel=0.1)
    assert np.isnan(found.scale)


def test_batch_size_changes_nothing():
    values = [
        metrics.infidelity(
            lambda x: linear(x) ** 2, IMAGE, WEIGHTS, key=KEY, samples=7, batch_size=size
        ).value
        for size in (1, 3, 8)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_bad_input_of_infidelity():
    with pytest.raises(ValueError, match="needs perturbation='square'"):
        metrics.infidelity(linear, IMAGE, WEIGHTS, key=KEY, kind="contribution", perturbation="gaussian")
    with pytest.raises(ValueError, match="attribution must have the image's shape"):
        metrics.infidelity(linear, IMAGE, WEIGHTS[:3], key=KEY)
    with pytest.raises(ValueError, match="shorter side 6, got 7"):
        metrics.infidelity(linear, IMAGE, WEIGHTS, key=KEY, largest=7)
    with pytest.raises(ValueError, match="unknown perturbation"):
        metrics.infidelity(linear, IMAGE, WEIGHTS, key=KEY, perturbation="sqare")
