"""What holds for every method of the registry: constant scores, small images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jx
from jaxplain.explanation import Status, differ
from jaxplain.methods import METHODS, apply

IMAGE = jnp.asarray(np.random.default_rng(0).standard_normal((12, 12, 3)), jnp.float32)
OPTIONS = {"size": 4, "iterations": 2, "n_samples": 20, "n_steps": 8, "steps": 3, "grid": 3}
CONTROLS = {"random", "edges"}  # never call the model
MODELLED = [name for name in METHODS if name not in CONTROLS]
ATTRIBUTIONS = [name for name in MODELLED if "attributions" in METHODS[name].function.__module__]


class Flat:
    """Logits that are `level` for every image, times a switch that makes them depend on it."""

    def __init__(self, level, switch=0.0):
        self.level, self.switch = level, switch

    def feature_maps(self, images):
        return jnp.abs(images[:, ::4, ::4])

    def pool(self, maps):
        return maps.mean((1, 2))

    def head(self, features):
        weights = self.switch * jnp.array([[1.0, -1.0], [0.0, 0.0], [0.0, 0.0]])
        return features @ weights + jnp.array([[self.level, 0.0]])

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


def status(name, score):
    found = apply(METHODS[name], score, IMAGE, jnp.zeros_like(IMAGE), key=jax.random.key(1), options=OPTIONS)
    assert int(found.evaluations) > 0
    return Status(int(found.status))


def slow_if(condition, *values):
    return pytest.param(*values, marks=pytest.mark.slow if condition else ())


@pytest.mark.parametrize(
    ("name", "level"),  # 200: a saturated probability, 1 in float32
    [
        *(slow_if(name not in ATTRIBUTIONS, name, 200.0) for name in MODELLED),
        *(slow_if(name.startswith("igos++-"), name, 0.3) for name in MODELLED),
    ],
)
def test_no_method_explains_a_constant(name, level):
    outcome = status(name, jx.class_score(Flat(level), 0))
    assert outcome in (Status.CONSTANT_SCORE, Status.NOT_ABOVE_BASELINE)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_a_score_that_changes_is_no_constant(name):
    assert status(name, jx.class_score(Flat(0.3, switch=5.0), 0)) is Status.OK


@pytest.mark.parametrize("name", ["gradient", "smooth-grad", "var-grad"])
def test_copies_without_noise_are_no_constant(name):
    options = {"noise": 0.0, "n_samples": 3}
    score = jx.class_score(Flat(0.3, switch=5.0), 0)
    found = apply(METHODS[name], score, IMAGE, IMAGE * 0, key=jax.random.key(1), options=options)
    assert Status(int(found.status)) is Status.OK


# ---------------------------------------------------------------------------------------------------------
# Defaults on small images


def of_corner(images):
    """Two logits: the brightness of the upper left quarter decides."""
    side = images.shape[1] // 2
    bright = 6 * images[:, :side, :side].mean((1, 2, 3))
    return jnp.stack([bright, jnp.zeros_like(bright)], axis=1)


class OfCorner:
    """`of_corner`, cut into parts."""

    def feature_maps(self, images):
        return jax.nn.relu(images)

    def pool(self, maps):
        return maps.mean(3).reshape(len(maps), -1)

    def head(self, features):
        side = round(features.shape[1] ** 0.5)
        near = jnp.arange(side) < side // 2
        weights = (near[:, None] & near[None]).reshape(-1, 1) * 24 / side**2
        return features @ (weights * jnp.array([[1.0, 0.0]]))

    def __call__(self, images):
        return self.head(self.pool(self.feature_maps(images)))


PLAIN = [name for name in METHODS if not name.startswith("igos++-") and name != "random"]


@pytest.mark.slow
@pytest.mark.parametrize(("side", "channels"), [(20, 3), (8, 3), (28, 1), (32, 3)])
def test_defaults_suit_small_images(side, channels):
    image = jnp.zeros((side, side, channels)).at[: side // 3, : side // 3].set(1.0)
    score = jx.class_score(OfCorner(), 0)
    np.testing.assert_allclose(OfCorner()(image[None]), of_corner(image[None]), rtol=1e-5)
    for name in PLAIN:
        few = {"n_samples": 200} if name == "rise" else {}
        found = METHODS[name].function(score, image, jnp.zeros_like(image), key=jax.random.key(0), **few)
        assert Status(int(found.status)) is Status.OK, name
        assert float(np.ptp(found.importance)) > 0, name
        assert max(found.importance.shape) <= side, name
    result = jx.sag.search(score, image, jnp.zeros_like(image), max_size=4)
    assert result.grid == (min(7, side), min(7, side))


def test_a_size_that_is_chosen_is_still_checked():
    score, image = jx.class_score(OfCorner(), 0), jnp.ones((20, 20, 3))
    for call in (jx.igos_pp, jx.masks.extremal_perturbation):
        with pytest.raises(ValueError, match="a size of 21 x 21 is finer than the image of 20 x 20"):
            call(score, image, size=21)


# ---------------------------------------------------------------------------------------------------------
# 64-bit numbers switched on


def assert_same_in_float32(found, expected):
    for one, other in zip(*map(jax.tree_util.tree_leaves, (found, expected)), strict=True):
        assert one.dtype == other.dtype
        assert one.dtype in (jnp.float32, jnp.int32, jnp.bool_)
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


EXACT = [
    "random",
    "gradient",
    "integrated-gradients",
    "smooth-grad",
    "var-grad",
    "grad-cam",
    "rise",
    "occlusion",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*EXACT, "igos", "igos++", "extremal-perturbation", "excitation-backprop"])
def test_results_do_not_depend_on_64_bit_numbers(name):
    """Not even of images, baselines and options in float64."""
    score = jx.class_score(OfCorner(), 0)
    image = np.random.default_rng(1).standard_normal((20, 20, 3)) * 0.3
    image[:7, :7] += 1.5
    options = {"iterations": 2, "n_samples": 10, "size": 5, "n_steps": 4}
    spec, key, noisy = METHODS[name], jax.random.key(1), {"noise": np.float64(0.1), "probability": 0.5}

    def explain():
        array = jnp.asarray(image)
        chosen = options | noisy
        return apply(spec, score, array, jnp.zeros_like(array), key=key, options=chosen)._replace(details=())

    expected = explain()
    with jax.enable_x64(True):
        assert jnp.asarray(image).dtype == jnp.float64
        found = explain()
    assert_same_in_float32(found, expected)


@pytest.mark.slow
def test_measures_and_searches_do_not_depend_on_64_bit_numbers():
    score, image = jx.class_score(OfCorner(), 0), np.zeros((20, 20, 3))
    image[:7, :7] = 1.5

    def everything():
        array = jnp.asarray(image)
        return (
            jx.insertion_deletion(score, array, None, array[..., 0], n_steps=5),
            jx.sag.proposal_map(score, array, grid=3, n_steps=4),
            jx.top_class(OfCorner(), array),
            jx.noise_baseline(array, jax.random.key(0)),
            jx.metrics.rank_correlation(array[..., 0], array[..., 1] ** 2),
            jx.metrics.gini(array[..., 0]),
        )

    expected = everything()
    with jax.enable_x64(True):
        found = everything()
    assert_same_in_float32(found, expected)


# ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_search_for_explanations_does_not_report_a_constant_as_explained():
    for level in (0.3, 200.0, -200.0):
        found = jx.sag.search(jx.class_score(Flat(level), 0), IMAGE, IMAGE * 0, grid=3)
        assert Status(int(found.status)) in (Status.BASELINE_SUFFICIENT, Status.LOW_SCORE)


@pytest.mark.parametrize("level", [1e-30, 1.0, 1e6, -3.0])
def test_rounding_is_no_difference(level):
    values = jnp.full(4, level)
    assert not differ(values)
    assert not differ(values.at[1].set(np.nextafter(np.float32(level), np.float32(np.inf))))
    assert differ(values.at[1].mul(1 + 1e-5))


def test_advice():
    assert "same for all images that were tried" in Status.CONSTANT_SCORE.message
