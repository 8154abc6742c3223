"""Extremal perturbation: against a loop, what it finds, its areas, under vmap, its program, at its edges."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles

from jaxplain import Status
from jaxplain.masks import extremal_perturbation
from jaxplain.masks.extremal import area_miss

SHAPE = (3, 4)
slow = partial(pytest.param, marks=pytest.mark.slow)
SIGMA = 4.0
SQUARE = (slice(4, 9), slice(9, 14))


def patch_score(images):
    """High while the pattern of ones is in its place."""
    return jax.nn.sigmoid(8 * images[:, 4:9, 9:14].mean((1, 2, 3)) - 4)


IMAGE = np.random.default_rng(0).standard_normal((18, 18, 3)).astype(np.float32)
IMAGE[SQUARE] = 1.0
BASELINE = np.zeros_like(IMAGE)
EXPLAIN = partial(extremal_perturbation, patch_score, IMAGE, BASELINE)


# --------------------------------------------------------------------------------------- against a loop


def smooth(parameters, cells=SHAPE, pixels=(12, 12)):
    """One cell after the other, one neighbour after the other."""
    gaps = [(p - 1) / (c - 1) for c, p in zip(cells, pixels, strict=True)]
    mask = np.zeros(cells)
    for row, col in np.ndindex(cells):
        values = []
        for down in range(-9, 10):
            for right in range(-9, 10):
                away = np.hypot(down * gaps[0], right * gaps[1]) / SIGMA
                if away <= 2:
                    near = (min(max(row + down, 0), cells[0] - 1), min(max(col + right, 0), cells[1] - 1))
                    values.append(np.exp(-2 * max(away - 0.5, 0) ** 2) * parameters[near])
        mask[row, col] = sum(v * np.exp(20 * v) for v in values) / sum(np.exp(20 * v) for v in values)
    return mask


def reference(mask, area):
    """Ones for the largest; equal cells share theirs."""
    zeros = round((1 - area) * mask.size)
    ascending = sorted(mask.flat)
    held = {value: [] for value in ascending}
    for place, value in enumerate(ascending):
        held[value].append(float(place >= zeros))
    return np.array([np.mean(held[value]) for value in mask.flat]).reshape(mask.shape)


def loop(scene, area, iterations, weight, growth, rate, momentum):
    """Plain Python: scores, misses and the last mask."""
    image, baseline = (np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline))
    ends = scene.score(jnp.stack([scene.image, scene.baseline]))
    span = float(ends[0] - ends[1])
    parameters, velocity, values, misses = np.ones(SHAPE), 0.0, [], []
    for iteration in range(iterations):
        mask = smooth(parameters)
        mask = np.full(SHAPE, mask[0, 0]) if iteration == 0 else mask  # equal but for rounding
        picture = oracles.blend(image, baseline, oracles.upsample(mask, (12, 12)))
        value, grad = oracles.one(np.float32(picture), scene.score)
        slope = (np.asarray(grad, np.float64) * (image - baseline)).sum(-1)
        wanted = reference(mask, area)
        slope = -oracles.upsample_transposed(slope, SHAPE) / span
        slope += weight * growth**iteration * 2 * (mask - wanted) / mask.size
        grads = np.zeros(SHAPE)
        for place in np.ndindex(SHAPE):
            moved = [parameters.copy(), parameters.copy()]
            moved[0][place] += 1e-5
            moved[1][place] -= 1e-5
            grads[place] = np.sum(slope * (smooth(moved[0]) - smooth(moved[1]))) / 2e-5
        velocity = momentum * velocity + grads * mask.size / 1024
        parameters = np.clip(parameters - rate * velocity, 0, 1)
        values.append(float(value))
        misses.append(np.mean((mask - wanted) ** 2))
    return values, misses, smooth(parameters)


@pytest.mark.slow
def test_a_whole_run_is_the_loop(scene):
    numbers = {"iterations": 3, "weight": 3.0, "growth": 1.5, "rate": 3.0, "momentum": 0.8}
    found = extremal_perturbation(
        scene.score, scene.image, scene.baseline, areas=0.3, size=SHAPE, sigma=SIGMA, **numbers
    )
    values, misses, mask = loop(scene, 0.3, **numbers)
    details = found.details
    np.testing.assert_allclose(details.history.score[0], values, atol=1e-3)
    np.testing.assert_allclose(details.history.miss[0], misses, atol=1e-3)
    np.testing.assert_allclose(details.masks[0], mask, atol=2e-3)
    assert np.ptp(mask) > 0.1
    np.testing.assert_allclose(found.importance, details.masks[0])
    up = oracles.upsample(np.asarray(details.masks[0], np.float64), (12, 12))
    last = oracles.blend(np.asarray(scene.image), np.asarray(scene.baseline), up)
    assert float(details.scores[0]) == pytest.approx(float(scene.score(np.float32(last)[None])[0]), abs=1e-5)
    ends = scene.score(jnp.stack([scene.image, scene.baseline]))
    np.testing.assert_allclose([details.image_score, details.baseline_score], ends, atol=1e-6)


@pytest.mark.parametrize("area", [0.1, 0.25, 0.5, 0.9])
def test_the_miss_of_a_mask(area):
    mask = np.random.default_rng(1).integers(0, 5, (4, 5)) / 4.0  # with ties
    expected = np.mean((mask - reference(mask, area)) ** 2)
    assert float(area_miss(jnp.asarray(mask, jnp.float32), area)) == pytest.approx(expected, abs=1e-6)
    binary = np.zeros(20)
    binary[: round(area * 20)] = 1.0
    assert float(area_miss(jnp.asarray(binary.reshape(4, 5), jnp.float32), area)) == 0.0


@pytest.mark.slow
def test_no_corner_is_preferred():
    """A score that no pixel changes leaves equal cells equal."""
    score = jax.tree_util.Partial(lambda images: 0.0 * images.mean((1, 2, 3)))
    found = extremal_perturbation(score, IMAGE, BASELINE, size=6, iterations=3)
    assert np.ptp(found.details.masks) < 1e-3
    assert Status(int(found.status)) is Status.NOT_ABOVE_BASELINE


# -------------------------------------------------------------------------------------- what it finds


@pytest.mark.slow
def test_the_planted_square_is_found_at_every_area():
    areas = (0.1, 0.2, 0.4)
    found = EXPLAIN(areas=areas, size=9, iterations=400)
    details = found.details
    assert Status(int(found.status)) is Status.OK
    np.testing.assert_allclose(details.areas, areas)
    np.testing.assert_allclose(details.reached, areas, atol=0.08)  # its soft edge is on the outside
    np.testing.assert_allclose(details.reached, details.masks.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose((details.masks > 0.5).mean((1, 2)), areas, atol=0.01)
    np.testing.assert_allclose(found.importance, details.masks.mean(0), rtol=1e-6)
    saliency = np.asarray(found.saliency(18, 18))
    inside = np.zeros((18, 18), bool)
    inside[3:10, 8:15] = True
    assert inside[np.unravel_index(saliency.argmax(), saliency.shape)]
    assert saliency[SQUARE].mean() > 2 * saliency[~inside].mean()
    assert (np.diff(details.scores) > -0.05).all()  # a larger area preserves no less
    assert float(details.scores[1]) > 0.7 * float(details.image_score)
    assert saliency.min() >= 0
    assert saliency.max() <= 1


@pytest.mark.parametrize("size", [slow(1), slow(3), (4, 7), slow(18)])
def test_sizes(size):
    found = EXPLAIN(size=size, iterations=2)
    shape = (size, size) if isinstance(size, int) else size
    assert found.importance.shape == shape
    assert found.details.masks.shape == (1, *shape)
    assert np.isfinite(found.importance).all()


# ------------------------------------------------------------------------------------------------- vmap


def same(found, expected):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_areas_side_by_side_are_areas_one_by_one():
    areas = (0.1, 0.3)
    both = EXPLAIN(areas=areas, size=6, iterations=20)
    for row, area in enumerate(areas):
        alone = EXPLAIN(areas=area, size=6, iterations=20)
        for name in ("masks", "areas", "reached", "scores"):
            one, other = getattr(both.details, name)[row], getattr(alone.details, name)[0]
            np.testing.assert_allclose(one, other, atol=1e-4)
        history = jax.tree.map(lambda leaf, row=row: leaf[row : row + 1], both.details.history)
        same(history, alone.details.history)


@pytest.mark.slow
def test_a_row_of_a_vmap_is_the_image_alone():
    images = jnp.stack([IMAGE, IMAGE[::-1], jnp.full_like(IMAGE, jnp.nan)])
    numbers = jnp.array([5.0, 15.0, 5.0])

    def explain(image, weight):
        return extremal_perturbation(
            patch_score, image, BASELINE, areas=(0.1, 0.2), size=6, iterations=10, weight=weight
        )

    found = jax.vmap(explain)(images, numbers)
    for row in range(2):
        same(jax.tree.map(lambda leaf, row=row: leaf[row], found), explain(images[row], numbers[row]))
    assert Status(int(found.status[2])) is Status.NOT_FINITE


# --------------------------------------------------------------------- program, status and refusals


def test_a_program_has_two_copies_of_the_model(scene):
    """One forward, one forward and backward: three products with the first weights of the scene's network."""
    explain = partial(extremal_perturbation, areas=(0.1, 0.2), size=SHAPE, iterations=2)
    lowered = jax.jit(explain).lower(scene.score, scene.image, scene.baseline)
    products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
    assert sum("432x6" in line for line in products) == 3


def test_the_result_is_not_differentiable(scene):
    explain = partial(extremal_perturbation, size=SHAPE, iterations=2)
    with pytest.raises(TypeError, match="an extremal mask is the result of a search"):
        jax.grad(lambda image: explain(scene.score, image, scene.baseline).importance.sum())(scene.image)


def test_evaluations_are_the_images_that_the_model_saw():
    seen = []

    def score(images):
        rows = images.shape[0]
        jax.debug.callback(lambda: seen.append(rows))
        return patch_score(images)

    found = extremal_perturbation(
        score, IMAGE, BASELINE, areas=(0.1, 0.2), size=6, iterations=3, batch_size=64
    )
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert sorted(seen) == [2] * (2 + 2 + 1)  # image and baseline once, three iterations, the last masks
    assert int(found.evaluations) == sum(seen)


def test_status(scene):
    explain = partial(extremal_perturbation, size=SHAPE, iterations=2)
    assert Status(int(explain(scene.score, scene.image, scene.baseline).status)) is Status.OK
    back = explain(scene.score, scene.baseline, scene.image)
    assert Status(int(back.status)) is Status.NOT_ABOVE_BASELINE
    nan = scene.score.classifier._replace(second=scene.score.classifier.second.at[0, 0].set(jnp.nan))
    found = explain(dataclasses.replace(scene.score, classifier=nan), scene.image, scene.baseline)
    assert Status(int(found.status)) is Status.NOT_FINITE


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"areas": 0.0}, ValueError, "areas must lie between 0 and 1"),
        ({"areas": (0.1, 1.0)}, ValueError, "areas must lie between 0 and 1"),
        ({"areas": ()}, ValueError, "areas must be one number or an array"),
        ({"areas": [[0.1]]}, ValueError, r"got shape \(1, 1\)"),
        ({"areas": np.nan}, ValueError, "areas contains 1 NaN"),
        ({"size": 19}, ValueError, "size of 19 x 19 is finer than the image"),
        ({"size": 0}, ValueError, "size must be at least 1"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
        ({"sigma": 0.0}, ValueError, "sigma must be above 0"),
        ({"sigma": 1e4, "size": 18}, ValueError, "too fine for a sigma of"),
        ({"weight": jnp.ones(2)}, ValueError, "weight must be one number"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        EXPLAIN(**({"size": 6} | options))


def test_pictures_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="must have the same shape"):
        extremal_perturbation(patch_score, IMAGE, BASELINE[:5])
    with pytest.raises(ValueError, match=r"baseline must be one image"):
        extremal_perturbation(patch_score, IMAGE, np.stack([BASELINE] * 2))
    with pytest.raises(TypeError, match="must be callable"):
        extremal_perturbation(0.5, IMAGE, BASELINE, size=6)
