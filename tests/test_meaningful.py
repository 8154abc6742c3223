"""Meaningful perturbation, and what the engine learned for it: losses that come with gradients, jitter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import jaxplain as jx
from jaxplain.masks import FixedStep, LineSearch, Nesterov, Optax, Status, meaningful_perturbation

SHAPE = (3, 4)
SGD = Optax(optax.sgd(5.0))


def run(scene, score=None, **options):
    return meaningful_perturbation(
        score or scene.score, scene.image, scene.baseline, **({"size": SHAPE} | options)
    )


def penalty(mask, l1=0.01, l2=0.2):
    return l1 * oracles.l1(mask) + l2 * oracles.total_variation(mask, 3.0)


def adam(all_grads, rate=0.1, decays=(0.9, 0.999)):
    """The update after these gradients, from all of them anew."""
    count = len(all_grads)
    shares = [[(1 - b) * b ** (count - 1 - at) / (1 - b**count) for at in range(count)] for b in decays]
    mean = sum(share * grads for share, grads in zip(shares[0], all_grads, strict=True))
    square = sum(share * grads**2 for share, grads in zip(shares[1], all_grads, strict=True))
    return -rate * mean / (np.sqrt(square) + 1e-8)


def loop(scene, iterations, **weights):
    """The optimisation in plain Python: losses at the masks 1..T, masks 0..T."""
    image, baseline = (np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline))
    mask, masks, losses, all_grads = np.ones(SHAPE), [], [], []
    for _ in range(iterations + 1):
        picture = oracles.blend(image, baseline, oracles.upsample(mask, (12, 12)))
        value, grad = oracles.one(np.float32(picture), scene.score)
        slope = (np.asarray(grad, np.float64) * (image - baseline)).sum(-1)
        grads = oracles.upsample_transposed(slope, SHAPE)
        for place in np.ndindex(SHAPE):
            moved = [mask.copy(), mask.copy()]
            moved[0][place] += 1e-5
            moved[1][place] -= 1e-5
            grads[place] += (penalty(moved[0], **weights) - penalty(moved[1], **weights)) / 2e-5
        masks.append(mask)
        losses.append(float(value) + penalty(mask, **weights))
        all_grads.append(grads)
        mask = np.clip(mask + adam(all_grads), 0, 1)
    return masks, losses


def test_a_whole_run_is_the_loop(scene):
    found = run(scene, iterations=6, l1=0.3, l2=2.0)
    masks, losses = loop(scene, 6, l1=0.3, l2=2.0)
    np.testing.assert_allclose(found.history.loss, losses[1:], atol=1e-3)
    best = int(np.argmin(losses))
    np.testing.assert_allclose(found.mask, masks[best], atol=1e-2)
    assert float(found.loss) == pytest.approx(losses[best], abs=1e-3)
    assert np.ptp(found.mask) > 0.1
    assert int(found.history.trials.sum()) == 6


def test_the_published_numbers_are_the_default(scene):
    found = run(scene)
    assert found.history.loss.shape == (300,)
    assert float(found.loss) == pytest.approx(float(found.history.loss.min()))
    mask = np.asarray(found.mask, np.float64)
    picture = oracles.blend(
        np.asarray(scene.image), np.asarray(scene.baseline), oracles.upsample(mask, (12, 12))
    )
    value = float(scene.score(np.float32(picture)[None])[0])
    assert float(found.loss) == pytest.approx(value + penalty(mask), abs=1e-4)


@pytest.mark.parametrize("size", [1, 6, 12])
def test_the_planted_square_is_found(size):
    def score(images):
        return jax.nn.sigmoid(8 * images[:, 2:6, 6:10].mean((1, 2, 3)) - 4)

    image = np.random.default_rng(0).standard_normal((12, 12, 3)).astype(np.float32)
    image[2:6, 6:10] = 1.0
    found = meaningful_perturbation(
        score, jnp.asarray(image), jnp.zeros((12, 12, 3)), size=size, iterations=60, l1=0.2, l2=0.02
    )
    saliency = np.asarray(found.saliency)
    assert Status(int(found.status)) is Status.OK
    if size > 1:
        assert saliency[2:6, 6:10].mean() > 3 * saliency[:, :4].mean()


def test_a_row_of_a_vmap_is_the_image_alone(scene):
    images = jnp.stack([scene.image, scene.image[::-1]])

    def explain(image, l1):
        options = {"size": SHAPE, "iterations": 5, "l1": l1}
        return meaningful_perturbation(scene.score, image, scene.baseline, **options)

    weights = jnp.array([0.01, 0.5])
    found = jax.vmap(explain)(images, weights)
    for row in range(2):
        alone = explain(images[row], weights[row])
        np.testing.assert_allclose(found.mask[row], alone.mask, atol=1e-3)
        np.testing.assert_allclose(found.history.loss[row], alone.history.loss, atol=1e-4)


def test_status(scene):
    nan = scene.score.classifier._replace(second=scene.score.classifier.second.at[0, 0].set(jnp.nan))
    found = run(scene, dataclasses.replace(scene.score, classifier=nan), iterations=2)
    assert Status(int(found.status)) is Status.NOT_FINITE
    found = meaningful_perturbation(scene.score, scene.baseline, scene.image, size=SHAPE, iterations=2)
    assert Status(int(found.status)) is Status.NOT_ABOVE_BASELINE


# ------------------------------------------------------------------ losses that come with the gradients


@pytest.mark.parametrize("descent", [SGD, Nesterov(5.0), FixedStep(0.3)], ids=lambda d: type(d).__name__)
def test_losses_are_those_of_measuring_each_move(scene, descent):
    """But for the first masks, which are then seen too; and without an evaluation of their own."""
    options = {"descent": descent, "iterations": 5, "l1": 0.2, "rescue": True}
    free = run(scene, search="gradient", **options)
    paid = run(scene, search="path", **options)
    np.testing.assert_allclose(free.history.loss, paid.history.loss, rtol=1e-5)
    np.testing.assert_allclose(free.history.step, paid.history.step, rtol=1e-5)
    np.testing.assert_array_equal(free.masks, paid.masks)
    assert int(free.evaluations) == 2 + 5 + 1
    assert int(paid.evaluations) == 2 + 5 + 5


def test_the_first_masks_may_be_the_best(scene):
    found = run(scene, descent=Nesterov(1.0), iterations=2, l1=-0.0, l2=0.0, deletion=-1.0, noise=0.0)
    assert float(found.loss) <= -float(found.image_score) + 1e-5
    up = run(scene, descent=Nesterov(-50.0), iterations=2, init=jnp.full(SHAPE, 0.5))
    assert float(up.loss) < float(up.history.loss.min())
    np.testing.assert_array_equal(up.mask, 0.5)


def test_evaluations_are_the_images_that_the_model_saw(scene):
    seen = []

    def score(images):
        rows = images.shape[0]
        jax.debug.callback(lambda: seen.append(rows))
        return jnp.tanh(images[:, :6].mean((1, 2, 3)))

    found = run(scene, score, iterations=4, batch_size=1)
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert int(found.evaluations) == sum(seen)


def test_a_descent_that_compares_needs_losses(scene):
    with pytest.raises(ValueError, match="LineSearch compares candidates: search must be 'endpoint'"):
        run(scene, descent=LineSearch())
    with pytest.raises(ValueError, match="BestStep compares candidates"):
        jx.igos(scene.score, scene.image, scene.baseline, size=SHAPE, search="gradient")


# ----------------------------------------------------------------------------------------------- jitter


def corner(images):
    return images[:, 5, 5, 0]


def test_jitter_shifts_the_picture_under_the_mask_that_stays():
    """Of a ramp, each shift shows as a value; the mask hides the right half wherever the picture is."""
    ramp = jnp.broadcast_to(
        jnp.arange(12.0)[:, None, None] * 100 + jnp.arange(12.0)[None, :, None], (12, 12, 3)
    )
    options = {"size": 12, "descent": Nesterov(0.0), "iterations": 60, "l1": 0.0, "l2": 0.0}
    init = jnp.ones((12, 12)).at[:, 6:].set(0.0)

    def values(**changes):
        found = meaningful_perturbation(corner, ramp, -ramp, init=init, **(options | changes))
        return np.round(np.asarray(found.history.deletion)).astype(int)

    shifted = values(jitter=2, key=jax.random.key(0))
    expected = {505 - 100 * down - right for down in range(-2, 3) for right in range(-2, 3)}
    assert set(shifted) <= expected
    assert len(set(shifted)) > 15
    np.testing.assert_array_equal(values(), 505)
    np.testing.assert_array_equal(values(jitter=0, key=jax.random.key(0)), 505)


def test_borders_are_repeated_and_jitter_may_be_traced():
    picture = jnp.arange(3.0)[:, None, None] * jnp.ones((1, 3, 3))

    def values(jitter):
        return meaningful_perturbation(
            lambda images: images[:, 0, 0, 0], picture, picture - 1, size=1, descent=Nesterov(0.0),
            iterations=40, jitter=jitter, key=jax.random.key(1), l1=0.0,
        ).history.deletion  # fmt: skip

    still, moving = jax.vmap(values)(jnp.array([0.0, 5.0]))
    assert set(np.asarray(still).tolist()) == {0.0}
    assert set(np.asarray(moving).tolist()) == {0.0, 1.0, 2.0}


def test_jitter_needs_a_key(scene):
    with pytest.raises(ValueError, match="jitter is random: pass key="):
        run(scene, jitter=4)


def test_jitter_finds_the_mask_too(scene):
    found = run(scene, jitter=1, key=jax.random.key(0), iterations=20)
    assert Status(int(found.status)) is Status.OK
    assert not np.array_equal(found.mask, run(scene, iterations=20).mask)
