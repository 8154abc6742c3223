"""Deletion and insertion curves against a loop; fractions and ties; what they say of good and bad maps."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxplain as jx
from jaxplain import insertion_deletion


def uniform(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "steps"),
    [
        ((3, 4), 50),  # fewer cells than steps: one at a time
        ((3, 4), 12),
        ((3, 4), 5),  # two at a time
        ((4, 4), 3),  # five at a time, and one at the end
        ((3, 4), 1),
        ((1, 1), 50),
        ((1, 7), 50),
        ((12, 12), 10),  # per pixel
    ],
)
def test_curves_are_the_loop(scene, shape, steps):
    saliency = uniform(0, *shape)
    found = insertion_deletion(
        scene.score, scene.image, scene.baseline, jnp.asarray(saliency), steps=steps, batch_size=7
    )
    pictures = np.asarray(scene.image, np.float64), np.asarray(scene.baseline, np.float64)
    expected = oracles.insertion_deletion(scene.score, *pictures, saliency, steps)
    for name in found._fields:
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


@settings(max_examples=5)
@given(rows=st.integers(1, 4), cols=st.integers(1, 4), steps=st.integers(1, 20), seed=st.integers(0, 99))
def test_fractions_start_at_none_and_end_at_all(rows, cols, steps, seed):
    def score(images):
        return images.mean((1, 2, 3))

    image, baseline = jnp.ones((4, 4, 1)), jnp.zeros((4, 4, 1))
    found = insertion_deletion(score, image, baseline, jnp.asarray(uniform(seed, rows, cols)), steps=steps)
    fraction = np.asarray(found.fraction)
    assert (fraction[0], fraction[-1]) == (0, 1)
    assert (np.diff(fraction) > 0).all()
    assert np.diff(fraction).max() <= max(1, rows * cols // steps) / (rows * cols) + 1e-6
    # Both ends are the image and the baseline themselves.
    np.testing.assert_allclose([found.deletion[0], found.insertion[-1]], 1.0, atol=1e-6)
    np.testing.assert_allclose([found.deletion[-1], found.insertion[0]], 0.0, atol=1e-6)
    # As many pixels go as come, so the two curves are each other's complement here.
    np.testing.assert_allclose(found.deletion + found.insertion, 1.0, atol=1e-5)


def test_ties_go_in_reading_order():
    def weighted(images):
        return (images[..., 0] * jnp.array([[1.0, 2.0], [4.0, 8.0]])[None]).sum((1, 2))

    image, baseline = jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 1))
    for saliency in (jnp.zeros((2, 2)), jnp.array([[0.0, -0.0], [-0.0, 0.0]]), jnp.full((2, 2), 3.0)):
        found = insertion_deletion(weighted, image, baseline, saliency)
        np.testing.assert_allclose(found.insertion, [0, 1, 3, 7, 15])
        np.testing.assert_allclose(found.deletion, [15, 14, 12, 8, 0])
    found = insertion_deletion(weighted, image, baseline, jnp.array([[1.0, 2.0], [2.0, 1.0]]))
    np.testing.assert_allclose(found.insertion, [0, 2, 6, 7, 15])


def test_areas_are_trapezoids_over_the_true_fractions():
    def score(images):
        return images.mean((1, 2, 3)) ** 2

    image, baseline = jnp.ones((2, 3, 1)), jnp.zeros((2, 3, 1))
    found = insertion_deletion(score, image, baseline, jnp.asarray(uniform(0, 2, 3)), steps=2)
    np.testing.assert_allclose(found.fraction, [0, 0.5, 1])
    np.testing.assert_allclose(found.insertion, [0, 0.25, 1], atol=1e-6)
    assert float(found.insertion_area) == pytest.approx(0.5 * 0.125 + 0.5 * 0.625)


def patch_score(images):
    return jax.nn.sigmoid(8 * images[:, 2:5, 1:4].mean((1, 2, 3)) - 4)


def test_a_right_map_beats_noise_and_noise_beats_a_wrong_map():
    image, baseline = jnp.ones((6, 6, 3)), jnp.zeros((6, 6, 3))
    right = jnp.zeros((6, 6)).at[2:5, 1:4].set(1.0)
    noise = jnp.asarray(uniform(0, 6, 6))
    found = [insertion_deletion(patch_score, image, baseline, m) for m in (right, noise, -right)]
    deletion, insertion = (
        [float(getattr(f, name)) for f in found] for name in ("deletion_area", "insertion_area")
    )
    assert deletion[0] < deletion[1] - 0.1 < deletion[2] - 0.2
    assert insertion[0] > insertion[1] + 0.1 > insertion[2] + 0.2


def test_only_the_order_counts(scene):
    saliency = jnp.asarray(uniform(0, 4, 4))
    one = insertion_deletion(scene.score, scene.image, scene.baseline, saliency)
    other = insertion_deletion(scene.score, scene.image, scene.baseline, jnp.exp(5 * saliency) - 100)
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_row_of_a_vmap_is_the_map_alone(scene):
    """Over maps, pictures and targets at once, under jit."""
    maps = jnp.asarray(uniform(0, 3, 4, 4))
    images = jnp.stack([scene.image, -scene.image, scene.baseline])
    targets = jnp.array([0, 1, 2])

    def curves(image, saliency, target):
        score = jx.class_score(scene.net, target)
        return insertion_deletion(score, image, scene.baseline, saliency, steps=8, batch_size=5)

    found = jax.jit(jax.vmap(curves))(images, maps, targets)
    for row in range(3):
        alone = curves(images[row], maps[row], targets[row])
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one[row], other, atol=1e-5)


def test_every_batch_size_gives_the_same(scene):
    saliency = jnp.asarray(uniform(0, 3, 3))
    expected = insertion_deletion(scene.score, scene.image, scene.baseline, saliency, batch_size=1)
    for batch_size in (7, 100, None):
        found = insertion_deletion(scene.score, scene.image, scene.baseline, saliency, batch_size=batch_size)
        np.testing.assert_allclose(found.deletion, expected.deletion, atol=1e-6)


IMAGE, MAP = np.ones((6, 6, 3), np.float32), np.ones((3, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": IMAGE[None]}, ValueError, "image must be one image"),
        ({"image": IMAGE.astype(np.uint8)}, TypeError, "image must be floating point"),
        ({"baseline": IMAGE[:5]}, ValueError, r"baseline \(5, 6, 3\) and image \(6, 6, 3\)"),
        ({"baseline": IMAGE * np.nan}, ValueError, "baseline holds 108 NaN"),
        ({"saliency": MAP[None]}, ValueError, r"one map \[h, w\].*got shape \(1, 3, 3\)"),
        ({"saliency": np.ones((7, 3), np.float32)}, ValueError, r"at most the image's \(6, 6\)"),
        ({"saliency": MAP[:0]}, ValueError, "one map"),
        ({"saliency": None}, ValueError, "one map"),
        ({"saliency": MAP * np.nan}, ValueError, "saliency holds 9 NaN"),
        ({"saliency": MAP.astype(int)}, TypeError, "saliency must be floating point"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"steps": 2.0}, TypeError, "steps must be a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"score": 3}, TypeError, "must be callable"),
        ({"score": lambda images: images.mean()}, ValueError, "one number each"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(change, error, message):
    given = {"score": patch_score, "image": IMAGE, "baseline": 0 * IMAGE, "saliency": MAP}
    with pytest.raises(error, match=message):
        insertion_deletion(**(given | change))
