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
    return (images * WEIGHTS[None]).sum((1, 2, 3))


# ------------------------------------------------------------------------------------------- sensitivity


def identity(score, image, baseline):
    return image


def sensitivity(explain, **options):
    return metrics.max_sensitivity(linear, IMAGE, None, explain, **({"key": KEY} | options))


def test_a_map_that_never_moves_has_none():
    found = sensitivity(lambda score, image, baseline: WEIGHTS.sum(-1))
    assert float(found.maximum) == 0
    assert found.distances.shape == (10,)


def test_the_image_as_its_own_map_moves_by_the_noise():
    """|d| / |x|, of which the mean square is known: (radius * range)^2 / 3 per value."""
    found = sensitivity(identity, radius=0.1, n_samples=200)
    spread = 0.1 * float(IMAGE.max() - IMAGE.min())
    expected = np.sqrt(IMAGE.size * spread**2 / 3) / np.linalg.norm(IMAGE)
    assert float(found.average) == pytest.approx(expected, rel=0.02)
    assert float(found.maximum) == pytest.approx(float(found.distances.max()))


def test_it_grows_with_the_radius_and_no_more_than_the_noise_allows():
    largest = {radius: float(sensitivity(identity, radius=radius).maximum) for radius in (0.0, 0.01, 0.02)}
    assert largest[0.02] == pytest.approx(2 * largest[0.01], rel=1e-4)
    assert largest[0.0] == 0
    reach = 0.02 * float(IMAGE.max() - IMAGE.min()) * np.sqrt(IMAGE.size)
    assert largest[0.02] <= reach / np.linalg.norm(IMAGE)


def test_a_known_map_need_not_be_computed_again():
    computed = sensitivity(identity)
    known = sensitivity(identity, importance=IMAGE)
    np.testing.assert_allclose(known.distances, computed.distances, rtol=1e-5)


def test_the_noise_of_the_method_itself_is_not_measured():
    def random(score, image, baseline, *, key):
        return jax.random.normal(key, image.shape)

    assert float(sensitivity(random).maximum) == 0


def test_score_and_baseline_reach_the_method():
    def slope(score, image, baseline):
        return jax.grad(lambda image: score(image[None])[0])(image) * baseline

    found = metrics.max_sensitivity(linear, IMAGE, 2 * IMAGE, slope, key=KEY, importance=2 * WEIGHTS * IMAGE)
    np.testing.assert_allclose(found.distances, 0, atol=1e-6)


def test_a_map_of_zeros_has_no_scale():
    assert np.isnan(sensitivity(lambda score, image, baseline: image * 0).maximum)


def test_bad_arguments_of_sensitivity_are_refused():
    with pytest.raises(TypeError, match="explain must be a function"):
        sensitivity(3)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        sensitivity(identity, n_samples=0)
    with pytest.raises(ValueError, match="but explain returns shape"):
        sensitivity(identity, importance=jnp.ones((6, 6)))
    with pytest.raises(TypeError, match="max_sensitivity is random: pass key"):
        sensitivity(identity, key=None)


# ------------------------------------------------------------------------------------------- infidelity


def infidelity(importance, score=linear, **options):
    return metrics.infidelity(
        score, IMAGE, 0 * IMAGE, importance, **({"key": KEY, "n_samples": 600} | options)
    )


@pytest.mark.parametrize("perturbation", ["square", "gaussian"])
def test_the_gradient_of_a_linear_score_predicts_everything(perturbation):
    found = infidelity(WEIGHTS, perturbation=perturbation)
    assert float(found.value) == pytest.approx(0, abs=1e-6)
    assert float(found.scale) == pytest.approx(1, abs=1e-4)
    assert float(found.unexplained) == pytest.approx(0, abs=1e-6)


def test_contributions_of_a_linear_score_predict_everything():
    found = infidelity((WEIGHTS * IMAGE).sum(-1), kind="contribution")
    assert float(found.value) == pytest.approx(0, abs=1e-6)


def test_only_the_scaled_value_ignores_the_scale():
    found = infidelity(3 * WEIGHTS)
    assert float(found.value) > 0.1
    assert float(found.scaled) == pytest.approx(0, abs=1e-5)
    assert float(found.scale) == pytest.approx(1 / 3, rel=1e-4)


def test_a_wrong_map_explains_nothing():
    other = jax.random.normal(jax.random.key(3), WEIGHTS.shape)
    found = infidelity(other, perturbation="gaussian")
    assert float(found.unexplained) > 0.9
    # The default noise is a tenth of the image's range.
    noise = 0.1 * (IMAGE.max() - IMAGE.min())
    same = infidelity(other, perturbation="gaussian", noise=noise)
    assert float(same.value) == pytest.approx(float(found.value))


def test_squares_of_one_pixel():
    """Mean squared drop, from a map of zeros; no baseline is the blurred image."""
    zeros, gray = jnp.zeros(IMAGE.shape), jnp.full(IMAGE.shape, 0.5)
    found = metrics.infidelity(linear, IMAGE, gray, zeros, key=KEY, max_side=1, n_samples=2000)
    single = np.asarray((WEIGHTS * (IMAGE - gray)).sum(-1)) ** 2
    assert float(found.value) == pytest.approx(single.mean(), rel=0.1)
    assert np.isnan(found.scale)
    blurred = metrics.infidelity(linear, IMAGE, None, zeros, key=KEY, max_side=1, n_samples=2000)
    assert not np.isclose(float(blurred.value), float(found.value))


def test_batch_size_changes_nothing():
    def squared(images):
        return linear(images) ** 2

    one, other = (infidelity(WEIGHTS, squared, n_samples=7, batch_size=size).value for size in (1, 3))
    assert float(one) == pytest.approx(float(other), rel=1e-5)


@pytest.mark.parametrize(
    ("importance", "options", "error"),
    [
        (WEIGHTS, {"kind": "contribution", "perturbation": "gaussian"}, "requires perturbation='square'"),
        (WEIGHTS[:3], {}, "importance must have the image's shape"),
        (WEIGHTS, {"max_side": 7}, "shorter side 6, got 7"),
        (WEIGHTS, {"perturbation": "sqare"}, "unknown perturbation"),
    ],
)
def test_bad_arguments_of_infidelity_are_refused(importance, options, error):
    with pytest.raises(ValueError, match=error):
        infidelity(importance, **options)
