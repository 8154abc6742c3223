"""Deletion and insertion curves against a loop; fractions, ties and gradients; good maps and bad ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles
from support.ids import stable

import jaxplain as jx
from jaxplain import insertion_deletion, metrics


def uniform(seed, *shape):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "n_steps"),
    [
        ((3, 4), 50),  # fewer cells than steps: one at a time
        ((3, 4), 5),  # two at a time
        ((4, 4), 3),  # five at a time, and one at the end
        ((1, 1), 50),
        ((12, 12), 10),  # per pixel
    ],
)
def test_curves_are_the_loop(scene, shape, n_steps):
    importance = uniform(0, *shape)
    found = insertion_deletion(
        scene.score, scene.image, scene.baseline, jnp.asarray(importance), n_steps=n_steps, batch_size=7
    )
    pictures = np.asarray(scene.image, np.float64), np.asarray(scene.baseline, np.float64)
    expected = oracles.insertion_deletion(scene.score, *pictures, importance, n_steps)
    for name, one, other in zip(found._fields, found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)


def mean_score(images):
    return images.mean((1, 2, 3))


@pytest.mark.parametrize(("rows", "cols", "n_steps", "seed"), [(4, 3, 7, 0), (1, 4, 1, 1)])
def test_fractions_start_at_none_and_end_at_all(rows, cols, n_steps, seed):
    image, baseline = jnp.ones((4, 4, 1)), jnp.zeros((4, 4, 1))
    importance = jnp.asarray(uniform(seed, rows, cols))
    found = insertion_deletion(mean_score, image, baseline, importance, n_steps=n_steps)
    fraction = np.asarray(found.fraction)
    assert (fraction[0], fraction[-1]) == (0, 1)
    assert (np.diff(fraction) > 0).all()
    assert np.diff(fraction).max() <= max(1, rows * cols // n_steps) / (rows * cols) + 1e-6
    # Both ends are the image and the baseline themselves.
    np.testing.assert_allclose([found.deletion[0], found.insertion[-1]], 1.0, atol=1e-6)
    np.testing.assert_allclose([found.deletion[-1], found.insertion[0]], 0.0, atol=1e-6)
    # With this score the two curves are complementary.
    np.testing.assert_allclose(found.deletion + found.insertion, 1.0, atol=1e-5)


def test_ties_are_broken_in_reading_order():
    def weighted(images):
        return (images[..., 0] * jnp.array([[1.0, 2.0], [4.0, 8.0]])[None]).sum((1, 2))

    image, baseline = jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 1))
    for importance in (jnp.zeros((2, 2)), jnp.array([[0.0, -0.0], [-0.0, 0.0]]), jnp.full((2, 2), 3.0)):
        found = insertion_deletion(weighted, image, baseline, importance)
        np.testing.assert_allclose(found.insertion, [0, 1, 3, 7, 15])
        np.testing.assert_allclose(found.deletion, [15, 14, 12, 8, 0])
    found = insertion_deletion(weighted, image, baseline, jnp.array([[1.0, 2.0], [2.0, 1.0]]))
    np.testing.assert_allclose(found.insertion, [0, 2, 6, 7, 15])


def test_areas_are_trapezoids_over_the_true_fractions():
    image, baseline = jnp.ones((2, 3, 1)), jnp.zeros((2, 3, 1))
    importance = jnp.asarray(uniform(0, 2, 3))
    found = insertion_deletion(lambda images: mean_score(images) ** 2, image, baseline, importance, n_steps=2)
    np.testing.assert_allclose(found.fraction, [0, 0.5, 1])
    np.testing.assert_allclose(found.insertion, [0, 0.25, 1], atol=1e-6)
    assert float(found.insertion_auc) == pytest.approx(0.5 * 0.125 + 0.5 * 0.625)


def patch_score(images):
    return jax.nn.sigmoid(8 * images[:, 2:5, 1:4].mean((1, 2, 3)) - 4)


def test_a_correct_map_beats_noise_and_noise_beats_a_wrong_map():
    image, baseline = jnp.ones((6, 6, 3)), jnp.zeros((6, 6, 3))
    correct = jnp.zeros((6, 6)).at[2:5, 1:4].set(1.0)
    noise = jnp.asarray(uniform(0, 6, 6))
    found = [insertion_deletion(patch_score, image, baseline, one) for one in (correct, noise, -correct)]
    deletion, insertion = (
        [float(getattr(curves, name)) for curves in found] for name in ("deletion_auc", "insertion_auc")
    )
    assert deletion[0] < deletion[1] - 0.1 < deletion[2] - 0.2
    assert insertion[0] > insertion[1] + 0.1 > insertion[2] + 0.2


def test_only_the_order_matters_and_no_baseline_is_the_blurred_image(scene):
    importance = jnp.asarray(uniform(0, 4, 4))
    blurred = jx.blur_baseline(scene.image)
    first = insertion_deletion(scene.score, scene.image, None, importance)
    second = insertion_deletion(scene.score, scene.image, blurred, jnp.exp(5 * importance) - 100)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_of_a_vmap_are_single_calls_for_every_batch_size(scene):
    """Over maps, images and targets at once, under jit."""
    maps = jnp.asarray(uniform(0, 2, 4, 4))
    images = jnp.stack([scene.image, -scene.image])
    targets = jnp.array([0, 1])

    def curves(image, importance, target, batch_size=5):
        score = jx.class_score(scene.net, target)
        return insertion_deletion(score, image, scene.baseline, importance, n_steps=8, batch_size=batch_size)

    found = jax.jit(jax.vmap(curves))(images, maps, targets)
    for row, batch_size in enumerate((1, 100)):
        alone = curves(images[row], maps[row], targets[row], batch_size)
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one[row], other, atol=1e-5)


# ------------------------------------------------------------------------------------------- derivatives


def test_gradients_are_finite_differences(scene):
    """With respect to the image, the baseline and the score's parameters; the ranking has none."""
    importance = jnp.asarray(uniform(0, 3, 3))

    @jax.jit
    def quality(net, image, baseline, importance):
        curves = insertion_deletion(
            jx.class_score(net, scene.score.target), image, baseline, importance, n_steps=4, batch_size=3
        )
        return curves.insertion_auc - 0.5 * curves.deletion_auc

    given = scene.net, scene.image, scene.baseline, importance
    grads = jax.jit(jax.grad(quality, argnums=(0, 1, 2, 3)))(*given)
    np.testing.assert_array_equal(grads[3], 0)
    random = np.random.default_rng(0)
    for part in range(3):
        leaves, treedef = jax.tree_util.tree_flatten(given[part])
        along = [jnp.asarray(random.standard_normal(leaf.shape), jnp.float32) for leaf in leaves]

        def moved(amount, part=part, leaves=leaves, treedef=treedef, along=along):
            pairs = zip(leaves, along, strict=True)
            changed = treedef.unflatten([leaf + amount * step for leaf, step in pairs])
            return float(quality(*given[:part], changed, *given[part + 1 :]))

        expected = (moved(0.01) - moved(-0.01)) / 0.02
        pairs = zip(jax.tree_util.tree_leaves(grads[part]), along, strict=True)
        slope = sum(float(jnp.sum(grad * step)) for grad, step in pairs)
        assert slope == pytest.approx(expected, rel=0.01, abs=1e-4)
        assert abs(expected) > 1e-3  # something to compare


# ------------------------------------------------------------------------------------------- adversarial rise


@pytest.mark.parametrize(
    ("curve", "rise"),
    [
        ([0, 1, 1, 1, 1], 0.25),
        ([0, 0, 0, 0, 1], 1.0),
        ([0.5, 0.5, 0.5, 0.5, 1], 0.0),
        ([0, 0.4, 0.5, 0, 1], 0.5),
        ([0, 0, 0, 0, 0], np.nan),
        ([0, np.nan, 1, 1, 1], np.nan),
    ],
)
def test_rise_by_hand(curve, rise):
    found = metrics.adversarial_rise(jnp.linspace(0, 1, 5), jnp.asarray(curve, jnp.float32))
    np.testing.assert_array_equal(found, rise)


def test_curves_of_two_lengths_are_refused():
    with pytest.raises(ValueError, match="same shape"):
        metrics.adversarial_rise(jnp.linspace(0, 1, 3), jnp.zeros(4))


# ------------------------------------------------------------------------------------------- errors

IMAGE, MAP = np.ones((6, 6, 3), np.float32), np.ones((3, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": IMAGE[None]}, ValueError, "image must be one image"),
        ({"image": IMAGE.astype(np.uint8)}, TypeError, "image must be a floating-point array"),
        ({"baseline": IMAGE[:5]}, ValueError, r"baseline \(5, 6, 3\) and image \(6, 6, 3\)"),
        ({"baseline": IMAGE * np.nan}, ValueError, "baseline contains 108 NaN"),
        ({"importance": MAP[None]}, ValueError, r"one map \[h, w\].*got shape \(1, 3, 3\)"),
        (
            {"importance": np.ones((7, 3), np.float32)},
            ValueError,
            r"no larger than the image's size \(6, 6\)",
        ),
        ({"importance": MAP[:0]}, ValueError, "one map"),
        ({"importance": None}, ValueError, "one map"),
        ({"importance": MAP * np.nan}, ValueError, "importance contains 9 NaN"),
        ({"importance": MAP.astype(int)}, TypeError, "importance must be an array of floats"),
        ({"n_steps": 0}, ValueError, "n_steps must be at least 1"),
        ({"n_steps": 2.0}, TypeError, "n_steps must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"score": 3}, TypeError, "must be callable"),
        ({"score": lambda images: images.mean()}, ValueError, "one number per image"),
    ],
    ids=stable,
)
def test_bad_arguments_are_refused(change, error, message):
    given = {"score": patch_score, "image": IMAGE, "baseline": 0 * IMAGE, "importance": MAP}
    with pytest.raises(error, match=message):
        insertion_deletion(**(given | change))
