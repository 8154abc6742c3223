"""Objectives and their slopes against a loop over terms, baselines and nodes; penalties against loops, and
what happens at their kinks and on masks of one row.

One program per method computes everything for two candidates; noise is a number, 0 in most tests.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracles

from jaxplain import paths
from jaxplain.masks import objective as obj
from jaxplain.masks.objective import (
    bilateral_total_variation,
    edge_weights,
    l1,
    magnitude,
    total_variation,
)
from jaxplain.masks.recipes import IGOS, IGOS_PLUS, IGOS_PP

FORMS = {"igos": IGOS, "igos+": IGOS_PLUS, "igos++": IGOS_PP}
NUMBERS = oracles.Numbers(l1=0.7, l2=1.3, sigma=2.0, score_weight=0.6, deletion=1.5, insertion=0.8)
METHODS = pytest.mark.parametrize("method", ["igos", pytest.param("igos+", marks=pytest.mark.slow), "igos++"])
KEY = jax.random.key(0)


class All(NamedTuple):
    slopes: obj.Slopes  # at the first candidate
    along: jax.Array  # [2]
    end: jax.Array  # [2]


def compute(form, batch_size, problem, candidates, key=KEY, first=True):
    return compiled(form, batch_size, problem, candidates, key, first)


@partial(jax.jit, static_argnums=(0, 1))
def compiled(form, batch_size, problem, candidates, key, first):
    setup = obj.Setup(form, batch_size)
    return All(
        obj.slopes(setup, problem, candidates[0], key, jnp.asarray(first)),
        obj.path_losses(setup, problem, candidates, key),
        obj.endpoint_losses(setup, problem, candidates),
    )


def make(scene, path=None, noise=0.0, numbers=NUMBERS):
    """Two baselines and no two weights or steps between nodes alike."""
    path = paths.gauss_legendre(3) if path is None else path
    names = ("l1", "l2", "score_weight", "deletion", "insertion")
    coefficients = {name: jnp.float32(getattr(numbers, name)) for name in names}
    return obj.Problem(
        scene.score,
        scene.image,
        jnp.stack([scene.baseline, -scene.image]),
        edge_weights(scene.image, numbers.sigma),
        path,
        obj.Coefficients(noise=jnp.float32(noise), **coefficients),
    )


def make_candidates(method):
    """Two candidates: [2, M, 3, 4]."""
    shape = 2, FORMS[method].masks, 3, 4
    return jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, shape), jnp.float32)


def oracle(method, problem, masks, numbers=NUMBERS, path=None):
    nodes, weights = problem.path if path is None else path
    pictures = np.asarray(problem.image, np.float64), np.asarray(problem.baselines, np.float64)
    return oracles.objective(
        method, problem.score, np.asarray(masks, np.float64), *pictures,
        np.asarray(nodes), np.asarray(weights), numbers,
    )  # fmt: skip


@METHODS
def test_slopes_and_losses_are_the_loop(scene, method):
    problem, candidates = make(scene), make_candidates(method)
    slopes, along, end = compute(FORMS[method], 5, problem, candidates)
    for row, masks in enumerate(candidates):
        expected = oracle(method, problem, masks)
        assert float(along[row]) == pytest.approx(expected.loss, abs=1e-4)
        at_end = oracle(method, problem, masks, path=([1.0], [1.0]))
        assert float(end[row]) == pytest.approx(at_end.loss, abs=1e-4)
        if row == 0:
            assert float(slopes.loss) == pytest.approx(expected.loss, abs=1e-4)
            np.testing.assert_allclose(slopes.grads, expected.grads, rtol=1e-3, atol=1e-4)
            assert float(slopes.deletion) == pytest.approx(expected.deletion, abs=1e-5)
            assert float(slopes.insertion) == pytest.approx(expected.insertion, abs=1e-5, nan_ok=True)
            # Every part of the gradient is large enough to be missed.
            assert np.abs(expected.grads).max() > 0.01
            assert float(slopes.references.endpoint_loss) == pytest.approx(at_end.loss, abs=1e-4)
    assert np.ptp(along) > 1e-3
    assert np.abs(along - end).max() > 1e-3


@METHODS
def test_gradient_is_that_of_the_loss(scene, method):
    """Central differences of the measured loss, along random directions."""
    problem, candidates = make(scene, numbers=NUMBERS._replace(score_weight=1.0)), make_candidates(method)
    grads = np.asarray(compute(FORMS[method], 5, problem, candidates).slopes.grads)
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(grads.shape).astype(np.float32)
        ends = jnp.stack([candidates[0] + 1e-2 * direction, candidates[0] - 1e-2 * direction])
        up, down = compute(FORMS[method], 5, problem, ends).along
        assert (up - down) / 2e-2 == pytest.approx((grads * direction).sum(), rel=0.01, abs=2e-3)


@METHODS
def test_score_weight_weighs_scores_in_the_gradient_only(scene, method):
    candidates = make_candidates(method)
    found = {}
    for weight in (0.0, 1.0, 3.0):
        problem = make(scene, numbers=NUMBERS._replace(score_weight=weight))
        found[weight] = compute(FORMS[method], 5, problem, candidates).slopes
    assert found[0.0].loss == found[1.0].loss == found[3.0].loss
    penalties, both = found[0.0].grads, found[1.0].grads
    np.testing.assert_allclose(found[3.0].grads, penalties + 3 * (both - penalties), rtol=1e-3, atol=1e-5)
    assert np.abs(both - penalties).max() > 1e-3
    assert np.abs(penalties).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["igos", "igos+"])
def test_a_step_along_the_path_changes_the_integral_by_its_end(scene, method):
    """F(m) + <m, F'(m)> = f(end of the path): the derivative in a of the integral from 0 to a. It holds only
    with the chain rule's factor s/S, and ties path, gradient and end point to each other."""
    numbers = NUMBERS._replace(l1=0.0, l2=0.0, score_weight=1.0)
    problem, candidates = make(scene, paths.gauss_legendre(10), numbers=numbers), make_candidates(method)
    slopes, _, end = compute(FORMS[method], 7, problem, candidates)
    found = float(slopes.loss + (candidates[0] * slopes.grads).sum())
    assert found == pytest.approx(float(end[0]), abs=1e-4)


def test_products_are_taken_after_upsampling():
    """Upsampling a product is not the product of what is upsampled."""
    layers = obj._layers(IGOS_PP, jnp.stack([jnp.eye(3), jnp.eye(3)]), (9, 9, 3))
    up = oracles.upsample(np.eye(3), (9, 9))
    np.testing.assert_allclose(layers, np.stack([up, up, up * up]), atol=1e-6)
    explained = obj.explained_mask(IGOS_PP, jnp.stack([jnp.full((3, 3), 0.5), jnp.eye(3)]))
    np.testing.assert_array_equal(explained, 0.5 * np.eye(3))


@METHODS
def test_at_ones_only_the_scores_pull(scene, method):
    """Where all masks start the penalties have slope 0."""
    problem, masks = make(scene, numbers=NUMBERS._replace(score_weight=0.0)), make_candidates(method)
    found = compute(FORMS[method], 5, problem, jnp.ones_like(masks)).slopes
    np.testing.assert_allclose(found.grads, 0.0, atol=1e-6)


# ------------------------------------------------------------------------------------------- references


@pytest.mark.parametrize("noise", [0.0, 0.3])
@METHODS
def test_references_are_scored_on_request_and_change_nothing_else(scene, method, noise):
    """Image, baselines and the end of the path, without noise; further rows of the same batch."""
    problem, candidates = make(scene, noise=noise), make_candidates(method)
    without = compute(FORMS[method], 5, problem, candidates, first=False).slopes
    found, _, end = compute(FORMS[method], 5, problem, candidates)
    for one, other in zip(found[:4], without[:4], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert np.isnan(without.references).all()
    scores = problem.score(jnp.concatenate([problem.image[None], problem.baselines]))
    assert float(found.references.image_score) == pytest.approx(float(scores[0]), abs=1e-6)
    assert float(found.references.baseline_score) == pytest.approx(float(scores[1:].mean()), abs=1e-6)
    assert float(found.references.endpoint_loss) == pytest.approx(float(end[0]), abs=1e-6)


def distance(images):
    """Its slope at the zero image is infinite."""
    return jnp.sqrt((images**2).sum((1, 2, 3)))


def test_references_have_no_gradient(scene):
    """The nodes of the path do not reach its ends, where the slope may be infinite."""
    problem = make(scene)._replace(
        score=jax.tree_util.Partial(distance), baselines=jnp.zeros((2, *scene.image.shape))
    )
    masks = jnp.ones((2, 1, 3, 4))
    with_references = compute(IGOS_PLUS, 5, problem, masks).slopes
    assert float(with_references.references.baseline_score) == 0.0
    assert np.isfinite(with_references.references.endpoint_loss)
    found = compute(IGOS_PLUS, 5, problem, masks, first=False).slopes
    np.testing.assert_allclose(with_references.grads, found.grads, rtol=1e-5)
    assert np.isfinite(found.grads).all()


@METHODS
def test_evaluations_are_terms_times_baselines_times_nodes(scene, method):
    problem, setup = make(scene), obj.Setup(FORMS[method], 1)
    terms = len(oracles.TERMS[method])
    assert obj.evaluations(setup, problem, endpoint=False) == terms * 2 * 3
    assert obj.evaluations(setup, problem, endpoint=True) == terms * 2


# ------------------------------------------------------------------------------------------------ noise


def first_pixel(images):
    """Linear, so that its noise is the pixel's."""
    return images[:, 0, 0, 0]


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_every_node_gets_fresh_noise_of_its_deviation(scene, steps):
    """The mean over S independent nodes has deviation std / sqrt(S); shared noise would keep std."""
    numbers = NUMBERS._replace(l1=0.0, l2=0.0, deletion=1.0)
    problem = make(scene, paths.riemann(steps), noise=0.3, numbers=numbers)
    problem = problem._replace(
        score=jax.tree_util.Partial(first_pixel), baselines=jnp.zeros((1, *scene.image.shape))
    )
    candidates = jnp.broadcast_to(make_candidates("igos")[:1], (2000, 1, 3, 4))
    run = jax.jit(partial(obj.path_losses, obj.Setup(IGOS, 200)))
    noisy = np.asarray(run(problem, candidates, KEY))
    clean = problem.coefficients._replace(noise=jnp.float32(0.0))
    expected = run(problem._replace(coefficients=clean), candidates, KEY)[0]
    assert noisy.std() == pytest.approx(0.3 / np.sqrt(steps), rel=0.06)
    assert noisy.mean() == pytest.approx(float(expected), abs=0.02)
    assert abs(np.corrcoef(noisy[1:], noisy[:-1])[0, 1]) < 0.06


def test_noise_is_its_key_and_not_at_the_end_of_the_path(scene):
    problem, candidates = make(scene, noise=0.3), make_candidates("igos++")
    one, again = (compute(IGOS_PP, 5, problem, candidates) for _ in range(2))
    other = compute(IGOS_PP, 5, problem, candidates, jax.random.key(1))
    for first, second, third in zip(one.slopes[:4], again.slopes[:4], other.slopes[:4], strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)
        assert (first != third).all()
    quiet = compute(IGOS_PP, 5, make(scene), candidates)
    assert (one.along != quiet.along).all()
    np.testing.assert_allclose(one.end, quiet.end, rtol=1e-6)


@pytest.mark.slow
def test_noise_does_not_depend_on_the_batch_size(scene):
    problem, candidates = make(scene, noise=0.3), make_candidates("igos++")
    found = [compute(IGOS_PP, size, problem, candidates) for size in (1, 5)]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------- penalties

SIDES = st.integers(1, 5)
POWERS = [1.0, 2.0, 3.0]


def uniform(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@jax.jit
def all_penalties(mask, image, sigma):
    """Size, and both kinds of roughness for each power."""
    edges = edge_weights(image, sigma)
    plain = [total_variation(mask, power) for power in POWERS]
    return l1(mask), plain, [bilateral_total_variation(mask, edges, power) for power in POWERS]


@settings(max_examples=8)
@given(
    sides=st.sampled_from([(1, 4), (3, 2)]),
    sigma=st.floats(0.01, 1),
    seed=st.integers(0, 99),
)
def test_penalties_are_the_loops(sides, sigma, seed):
    mask, image = uniform(seed, *sides), 0.3 * uniform(seed + 1, 6, 7, 3)
    size, plain, bilateral = all_penalties(mask, image, sigma)
    mask, image = mask.astype(np.float64), image.astype(np.float64)
    assert float(size) == pytest.approx(oracles.l1(mask), rel=1e-5)
    for power, one, other in zip(POWERS, plain, bilateral, strict=True):
        assert float(one) == pytest.approx(oracles.total_variation(mask, power), rel=1e-4)
        expected = oracles.bilateral_total_variation(mask, image, sigma, power)
        assert float(other) == pytest.approx(expected, rel=1e-4)


def test_a_flat_image_counts_its_edges_in_full_and_a_sharp_edge_not_at_all():
    mask = jnp.asarray(uniform(0, 6, 6))  # of image resolution, so both halves see the same mask
    _, plain, bilateral = all_penalties(mask, jnp.zeros((6, 6, 3)), 0.01)
    np.testing.assert_allclose(bilateral, plain, rtol=1e-6)
    step = jnp.zeros((6, 6)).at[:, 3:].set(1.0)  # the mask's only edge lies on the image's
    edged = jnp.broadcast_to(step[..., None], (6, 6, 3))
    _, plain, bilateral = all_penalties(step, edged, 0.01)
    np.testing.assert_allclose(bilateral, 0.5 * np.asarray(plain), rtol=1e-6)


def test_edges_are_symmetric():
    """The published program treats the two axes differently; here a turned image is a turned result."""
    mask, image = jnp.asarray(uniform(0, 6, 6)), 0.3 * uniform(1, 6, 6, 3)
    bilateral = all_penalties(mask, image, 0.01)[2]
    turned = all_penalties(mask.T, image.swapaxes(0, 1), 0.01)[2]
    np.testing.assert_allclose(turned, bilateral, rtol=1e-6)


def test_means_do_not_depend_on_resolution():
    for size in (6, 24):
        checkers = (np.indices((size, size)).sum(0) % 2).astype(np.float32)
        assert float(l1(0.75 * checkers)) == pytest.approx(1 - 0.375)
        assert float(total_variation(jnp.asarray(checkers))) == pytest.approx(2.0)


# ------------------------------------------------------------------------------------------------ kinks


def test_subgradient_of_the_size_at_one_is_zero():
    """Every mask starts at 1. JAX's own derivative of |x| at 0 is 1 and would pull every cell down."""
    slope = jax.jit(jax.grad(l1))
    np.testing.assert_array_equal(slope(jnp.ones((2, 2))), 0.0)
    np.testing.assert_allclose(slope(jnp.array([[0.5, 1.0], [1.0, 1.5]])), [[-0.25, 0.0], [0.0, 0.25]])
    assert float(jax.grad(magnitude)(0.0)) == 0.0
    assert float(jax.grad(jnp.abs)(0.0)) == 1.0  # why it is needed


@jax.jit
def slopes_of_penalties(mask, image):
    """Of both kinds of roughness, for each power; and whether all values are finite."""
    edges = edge_weights(image, 0.01)

    def values(mask):
        plain = [total_variation(mask, power) for power in POWERS]
        return jnp.stack([*plain, *(bilateral_total_variation(mask, edges, power) for power in POWERS)])

    return jax.jacrev(values)(mask), jnp.isfinite(values(mask)).all()


def test_a_flat_mask_has_no_slope():
    slopes, _ = slopes_of_penalties(jnp.full((3, 4), 0.5), uniform(0, 7, 6, 3))
    np.testing.assert_allclose(slopes, 0.0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_masks_of_one_row_or_column(shape):
    """An axis without neighbours counts 0, value and slope; a mean over nothing would be NaN."""
    slopes, finite = slopes_of_penalties(jnp.asarray(uniform(0, *shape)), uniform(1, 6, 7, 3))
    assert finite
    assert np.isfinite(slopes).all()
    assert float(total_variation(jnp.ones((1, 1)))) == 0.0
