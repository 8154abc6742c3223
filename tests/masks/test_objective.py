"""Path-integrated objectives and their slopes against a loop over terms, baselines and nodes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jaxplain.masks.penalties import edge_weights

from jaxplain import paths
from jaxplain.masks import objective as obj
from jaxplain.masks.recipes import IGOS, IGOS_PLUS, IGOS_PP

FORMS = {"igos": IGOS, "igos+": IGOS_PLUS, "igos++": IGOS_PP}
NUMBERS = oracles.Numbers(l1=0.7, l2=1.3, sigma=2.0, score_weight=0.6, deletion=1.5, insertion=0.8)
METHODS = pytest.mark.parametrize("method", FORMS)


def make(scene, baselines=1, path=None, noise=None, numbers=NUMBERS):
    others = [scene.baseline, jnp.zeros_like(scene.image), -scene.image]
    coefficients = {name: jnp.float32(getattr(numbers, name)) for name in ("l1", "l2", "score_weight")}
    coefficients |= {name: jnp.float32(getattr(numbers, name)) for name in ("deletion", "insertion")}
    return obj.Problem(
        scene.score,
        scene.image,
        jnp.stack(others[:baselines]),
        edge_weights(scene.image, numbers.sigma),
        paths.gauss_legendre(3) if path is None else path,  # no two weights or steps between nodes alike
        obj.Coefficients(noise=None if noise is None else jnp.float32(noise), **coefficients),
    )


def make_masks(method, seed=0):
    """Masks [M, 3, 4]."""
    shape = FORMS[method].masks, 3, 4
    return jnp.asarray(np.random.default_rng(seed).uniform(0.1, 0.9, shape), jnp.float32)


@partial(jax.jit, static_argnums=(0, 1))
def slopes_at(form, batch_size, problem, masks, key=None):
    return obj.slopes(obj.Setup(form, batch_size), problem, masks, key)


@partial(jax.jit, static_argnums=(0, 1))
def losses_at(form, batch_size, problem, candidates, key=None):
    return obj.path_losses(obj.Setup(form, batch_size), problem, candidates, key)


@partial(jax.jit, static_argnums=(0, 1))
def endpoint_at(form, batch_size, problem, candidates):
    return obj.endpoint_losses(obj.Setup(form, batch_size), problem, candidates)


def oracle(method, problem, masks, numbers=NUMBERS, path=None):
    nodes, weights = problem.path if path is None else path
    pictures = np.asarray(problem.image, np.float64), np.asarray(problem.baselines, np.float64)
    return oracles.objective(
        method, problem.score, np.asarray(masks, np.float64), *pictures,
        np.asarray(nodes), np.asarray(weights), numbers,
    )  # fmt: skip


@pytest.mark.parametrize("baselines", [1, 3])
@METHODS
def test_slopes_are_the_loop(scene, method, baselines):
    problem, masks = make(scene, baselines), make_masks(method)
    found = slopes_at(FORMS[method], 5, problem, masks)
    expected = oracle(method, problem, masks)
    assert float(found.loss) == pytest.approx(expected.loss, abs=1e-4)
    np.testing.assert_allclose(found.grads, expected.grads, rtol=1e-3, atol=1e-4)
    assert float(found.scores.deletion) == pytest.approx(expected.deletion, abs=1e-5)
    assert float(found.scores.insertion) == pytest.approx(expected.insertion, abs=1e-5, nan_ok=True)
    # Every part of the gradient is large enough to be missed.
    assert np.abs(expected.grads).max() > 0.01


@pytest.mark.parametrize("baselines", [1, 3])
@METHODS
def test_losses_of_candidates_are_the_loop(scene, method, baselines):
    problem = make(scene, baselines)
    candidates = jnp.stack([make_masks(method, seed) for seed in (1, 2)])
    along = losses_at(FORMS[method], 5, problem, candidates)
    end = endpoint_at(FORMS[method], 5, problem, candidates)
    for row, masks in enumerate(candidates):
        expected = oracle(method, problem, masks)
        assert float(along[row]) == pytest.approx(expected.loss, abs=1e-4)
        expected = oracle(method, problem, masks, path=([1.0], [1.0]))
        assert float(end[row]) == pytest.approx(expected.loss, abs=1e-4)
    assert np.ptp(along) > 1e-3
    assert np.abs(along - end).max() > 1e-3


@METHODS
def test_gradient_is_that_of_the_loss(scene, method):
    """Central differences of the measured loss, along random directions."""
    numbers = NUMBERS._replace(score_weight=1.0)
    problem, masks = make(scene, numbers=numbers), make_masks(method)
    grads = np.asarray(slopes_at(FORMS[method], 5, problem, masks).grads)
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(masks.shape).astype(np.float32)
        ends = jnp.stack([masks + 1e-2 * direction, masks - 1e-2 * direction])
        up, down = losses_at(FORMS[method], 5, problem, ends)
        assert (up - down) / 2e-2 == pytest.approx((grads * direction).sum(), rel=0.01, abs=2e-3)


@METHODS
def test_score_weight_weighs_scores_in_the_gradient_only(scene, method):
    masks = make_masks(method)
    found = {
        weight: slopes_at(FORMS[method], 5, make(scene, numbers=NUMBERS._replace(score_weight=weight)), masks)
        for weight in (0.0, 1.0, 3.0)
    }
    assert found[0.0].loss == found[1.0].loss == found[3.0].loss
    penalties, both = found[0.0].grads, found[1.0].grads
    np.testing.assert_allclose(found[3.0].grads, penalties + 3 * (both - penalties), rtol=1e-3, atol=1e-5)
    assert np.abs(both - penalties).max() > 1e-3
    assert np.abs(penalties).max() > 1e-3


@pytest.mark.parametrize("method", ["igos", "igos+"])
def test_a_step_along_the_path_changes_the_integral_by_its_end(scene, method):
    """F(m) + <m, F'(m)> = f(end of the path): the derivative in a of the integral from 0 to a. It holds only
    with the chain rule's factor s/S, and ties path, gradient and end point to each other."""
    numbers = NUMBERS._replace(l1=0.0, l2=0.0, score_weight=1.0)
    problem, masks = make(scene, 2, paths.gauss_legendre(10), numbers=numbers), make_masks(method)
    found = slopes_at(FORMS[method], 7, problem, masks)
    end = endpoint_at(FORMS[method], 7, problem, masks[None])[0]
    assert float(found.loss + (masks * found.grads).sum()) == pytest.approx(float(end), abs=1e-4)


def test_products_are_taken_after_upsampling(scene):
    """Upsampling a product is not the product of what is upsampled."""
    layers = obj._layers(IGOS_PP, jnp.stack([jnp.eye(3), jnp.eye(3)]), (9, 9, 3))
    up = oracles.upsample(np.eye(3), (9, 9))
    np.testing.assert_allclose(layers, np.stack([up, up, up * up]), atol=1e-6)
    explained = obj.explained_mask(IGOS_PP, jnp.stack([jnp.full((3, 3), 0.5), jnp.eye(3)]))
    np.testing.assert_array_equal(explained, 0.5 * np.eye(3))


@METHODS
def test_at_ones_only_the_scores_pull(scene, method):
    """Where all masks start the penalties have slope 0."""
    masks = jnp.ones((FORMS[method].masks, 3, 4))
    found = slopes_at(FORMS[method], 5, make(scene, numbers=NUMBERS._replace(score_weight=0.0)), masks)
    np.testing.assert_allclose(found.grads, 0.0, atol=1e-6)


# ------------------------------------------------------------------------------------------------ noise


def first_pixel(images):
    """Linear, so that its noise is the pixel's."""
    return images[:, 0, 0, 0]


@pytest.mark.parametrize("steps", [1, 4])
def test_every_node_gets_fresh_noise_of_its_deviation(scene, steps):
    """The mean over S independent nodes has deviation std / sqrt(S); shared noise would keep std."""
    numbers = NUMBERS._replace(l1=0.0, l2=0.0, deletion=1.0)
    problem = make(scene, 1, paths.riemann(steps), noise=0.3, numbers=numbers)
    problem = problem._replace(score=jax.tree_util.Partial(first_pixel))
    candidates = jnp.broadcast_to(make_masks("igos"), (2000, 1, 3, 4))
    noisy = np.asarray(losses_at(IGOS, 200, problem, candidates, jax.random.key(0)))
    clean = losses_at(IGOS, 200, problem, candidates[:1])[0]
    assert noisy.std() == pytest.approx(0.3 / np.sqrt(steps), rel=0.06)
    assert noisy.mean() == pytest.approx(float(clean), abs=0.02)
    assert abs(np.corrcoef(noisy[1:], noisy[:-1])[0, 1]) < 0.06


def test_noise_is_its_key(scene):
    problem, masks = make(scene, noise=0.3), make_masks("igos++")
    one = slopes_at(IGOS_PP, 5, problem, masks, jax.random.key(0))
    again = slopes_at(IGOS_PP, 5, problem, masks, jax.random.key(0))
    other = slopes_at(IGOS_PP, 5, problem, masks, jax.random.key(1))
    for first, second, third in zip(*map(jax.tree.leaves, (one, again, other)), strict=True):
        np.testing.assert_array_equal(first, second)
        assert (first != third).all()


def test_noise_does_not_depend_on_the_batch_size(scene):
    problem, masks = make(scene, noise=0.3), make_masks("igos++")
    found = [slopes_at(IGOS_PP, size, problem, masks, jax.random.key(0)) for size in (1, 5)]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_end_points_have_no_noise(scene):
    masks = make_masks("igos++")[None]
    for noise in (None, 0.3):
        found = endpoint_at(IGOS_PP, 5, make(scene, noise=noise), masks)
        np.testing.assert_allclose(found, endpoint_at(IGOS_PP, 5, make(scene), masks), rtol=1e-6)


@METHODS
def test_evaluations_are_terms_times_baselines_times_nodes(scene, method):
    problem, setup = make(scene, 3), obj.Setup(FORMS[method], 1)
    terms = len(oracles.TERMS[method])
    assert obj.evaluations(setup, problem, endpoint=False) == terms * 3 * 3
    assert obj.evaluations(setup, problem, endpoint=True) == terms * 3
