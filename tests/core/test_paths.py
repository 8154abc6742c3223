"""Integration rules by what they integrate exactly, the noise by its statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.paths import EVEN, RULES, adaptive, add_noise, gauss_legendre, midpoint, pilot, riemann

STEPS = [1, 2, 5, 20]
ADAPTIVE = jax.jit(adaptive, static_argnums=1)


def error(rule, degree):
    """Return the error of the integral of x^degree over [0, 1]."""
    nodes, weights = (np.asarray(part, np.float64) for part in rule)
    return abs((weights * nodes**degree).sum() - 1 / (degree + 1))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", RULES)
def test_nodes_ascend_in_the_unit_interval_and_weights_sum_to_one(name, steps):
    nodes, weights = RULES[name](steps)
    assert nodes.shape == weights.shape == (steps,)
    assert nodes.dtype == weights.dtype == jnp.float32
    assert (np.diff(nodes) > 0).all()
    assert nodes[0] > 0
    assert nodes[-1] <= 1
    assert (weights > 0).all()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_right_hand_riemann_sum(steps):
    nodes, weights = riemann(steps)
    np.testing.assert_allclose(nodes, [s / steps for s in range(1, steps + 1)], rtol=1e-6)
    np.testing.assert_allclose(weights, 1 / steps, rtol=1e-6)
    assert float(nodes[-1]) == 1  # the end itself is a node
    assert error(riemann(steps), 1) == pytest.approx(0.5 / steps, abs=1e-6)  # first order, from above


@pytest.mark.parametrize("steps", STEPS)
def test_exact_up_to_the_degree_of_the_rule(steps):
    """The midpoint rule is exact to degree 1, Gauss-Legendre with S nodes to degree 2S - 1; no further."""
    assert error(midpoint(steps), 1) < 1e-6
    assert error(midpoint(steps), 2) == pytest.approx(1 / (12 * steps**2), rel=0.01)
    for degree in range(2 * steps):
        assert error(gauss_legendre(steps), degree) < 1e-6
    if steps <= 3:  # later the error is below rounding
        assert error(gauss_legendre(steps), 2 * steps) > 1e-4


@pytest.mark.parametrize("steps", STEPS)
def test_pilot_scores_cover_the_path(steps):
    places = np.asarray(pilot(steps))
    assert (places[0], places[-1]) == (0, 1)
    assert len(places) == max(2, steps // 2) + 1
    assert (np.diff(places) > 0).all()
    assert np.argmin(np.diff(places)) == 0


SCORES = {
    "constant": jnp.ones_like,
    "straight": lambda places: 3 * places,
    "steep": lambda places: jax.nn.sigmoid((places - 0.7) / 0.01),
    "huge": lambda places: 1e20 * places**2,
    "tiny": lambda places: 1e-20 * jnp.sin(9 * places),
    "random": lambda places: jax.random.normal(jax.random.key(1), places.shape),
    "broken": lambda places: places * jnp.nan,
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", SCORES)
def test_adaptive_nodes_leave_nothing_out(name, steps):
    """The cells cover the path, whatever the scores, and some of them lie between any two scores."""
    nodes, weights = map(np.asarray, ADAPTIVE(SCORES[name](pilot(steps)), steps))
    assert nodes.shape == weights.shape == (steps,)
    assert nodes.dtype == weights.dtype == np.float32
    assert (weights > 0).all()
    edges = np.concatenate([[0], weights.cumsum()])
    np.testing.assert_allclose(nodes, (edges[1:] + edges[:-1]) / 2, atol=1e-6)
    assert edges[-1] == pytest.approx(1, abs=1e-6)
    assert error((nodes, weights), 1) < 1e-6
    places = np.asarray(pilot(steps))
    intervals = np.diff(np.interp(edges, places, np.arange(len(places))))  # per cell
    assert intervals.max() < (len(places) - 1) / (EVEN * steps) + 1e-3


def test_adaptive_nodes_are_where_the_slope_changes():
    places = pilot(64)
    nodes = np.asarray(ADAPTIVE(SCORES["steep"](places), 64).nodes)
    assert np.mean(np.abs(nodes - 0.7) < 0.1) > 0.6
    even = np.asarray(ADAPTIVE(SCORES["straight"](places), 64).nodes)
    assert np.mean(np.abs(even - 0.7) < 0.1) < 0.2


DERIVATIVE = jax.jit(jax.grad(lambda scores: jnp.sum(jnp.sin(adaptive(scores, 8).nodes))))


@pytest.mark.parametrize("name", ["constant", "straight", "steep", "random"])
def test_adaptive_nodes_have_finite_derivatives(name):
    scores = SCORES[name](pilot(8))
    found = DERIVATIVE(scores)
    assert np.isfinite(found).all()


def test_noise_has_its_deviation_and_is_fresh_in_every_pixel():
    image = jnp.full((50, 40, 3), 2.0)
    noise = np.asarray(add_noise(image, jax.random.key(0), jnp.float32(0.2))) - 2
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert abs(noise.mean()) < 0.01
    neighbours = np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]
    channels = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert abs(neighbours) < 0.05
    assert abs(channels) < 0.08


def test_noise_depends_on_its_key():
    image, std = jnp.zeros((4, 4, 3)), jnp.float32(1.0)
    one = add_noise(image, jax.random.key(0), std)
    np.testing.assert_array_equal(one, add_noise(image, jax.random.key(0), std))
    assert (one != add_noise(image, jax.random.key(1), std)).all()
    np.testing.assert_array_equal(add_noise(image, jax.random.key(0), jnp.float32(0.0)), image)
