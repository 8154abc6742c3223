"""A score that does not change, whatever is tried, is never reported as explained."""

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
