"""Upsampling, blending and baselines against loops; degenerate sizes; refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import oracles

import jaxplain as jx
from jaxplain.perturb import (
    BASELINES,
    as_baseline,
    as_baselines,
    baseline,
    blend,
    blur_baseline,
    resize_map,
    resizing_matrix,
    upsample,
    upsampling_matrix,
)

SIDES = st.integers(1, 6)


def array(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------
# Upsampling and resizing


@given(h=SIDES, w=SIDES, rows=st.integers(1, 13), cols=st.integers(1, 13))
def test_upsampling_is_interpolation(h, w, rows, cols):
    mask = array(0, h, w)
    found = upsample(jnp.asarray(mask), (rows, cols))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, oracles.upsample(mask, (rows, cols)), atol=1e-5)


@given(size_in=SIDES, size_out=st.integers(1, 40))
def test_rows_of_the_matrix_are_averages(size_in, size_out):
    matrix = upsampling_matrix(size_in, size_out)
    assert (matrix >= 0).all()
    assert ((matrix > 0).sum(1) <= 2).all()  # two neighbours
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)


def test_corners_are_aligned():
    mask = array(0, 3, 5)
    found = upsample(jnp.asarray(mask), (7, 9))  # every second and third sample is a cell itself
    np.testing.assert_allclose(found[::3, ::2], mask, atol=1e-6)


def test_a_plane_stays_a_plane_and_ones_stay_ones():
    plane = jnp.arange(4.0)[:, None] + 10 * jnp.arange(3.0)[None, :]
    rows, cols = np.linspace(0, 3, 13), np.linspace(0, 2, 8)
    np.testing.assert_allclose(upsample(plane, (13, 8)), rows[:, None] + 10 * cols[None], atol=1e-5)
    np.testing.assert_allclose(upsample(jnp.ones((7, 7)), (224, 224)), 1.0, atol=1e-6)


def test_the_same_shape_is_the_identity():
    mask = jnp.asarray(array(0, 5, 6))
    assert upsample(mask, (5, 6)) is mask


@given(size_in=st.integers(1, 40), size_out=st.integers(1, 40))
def test_resizing_averages_over_cells_or_interpolates(size_in, size_out):
    matrix = np.asarray(resizing_matrix(size_in, size_out))
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-5)
    if size_out >= size_in:
        np.testing.assert_array_equal(matrix, upsampling_matrix(size_in, size_out))
    else:  # every cell weighs the same
        np.testing.assert_allclose(matrix.sum(0), size_out / size_in, atol=1e-5)


def test_resizing_a_map():
    importance = jnp.asarray(array(0, 4, 6))
    np.testing.assert_allclose(
        resize_map(importance, (2, 2)), importance.reshape(2, 2, 2, 3).mean((1, 3)), atol=1e-6
    )
    np.testing.assert_array_equal(resize_map(importance, (7, 9)), upsample(importance, (7, 9)))
    mixed = resize_map(importance, (2, 11))
    expected = upsample(importance.reshape(2, 2, 6).mean(1), (2, 11))
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    assert resize_map(importance, (4, 6)) is importance


def test_gradient_of_upsampling_is_its_transpose():
    grads = array(1, 7, 9)
    _, pull = jax.vjp(lambda mask: upsample(mask, (7, 9)), jnp.asarray(array(0, 3, 4)))
    np.testing.assert_allclose(pull(grads)[0], oracles.upsample_transposed(grads, (3, 4)), atol=1e-5)


# ---------------------------------------------------------------------------------------------------------
# Blending


def test_blend_is_its_formula():
    image, other, mask = array(0, 5, 4, 3), array(1, 5, 4, 3), array(2, 5, 4)
    found = blend(jnp.asarray(image), jnp.asarray(other), jnp.asarray(mask))
    np.testing.assert_allclose(found, oracles.blend(image, other, mask), atol=1e-5)
    np.testing.assert_allclose(blend(image, other, jnp.ones((5, 4))), image, atol=1e-6)
    np.testing.assert_array_equal(blend(image, other, jnp.zeros((5, 4))), other)


# ---------------------------------------------------------------------------------------------------------
# Baselines


@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    radius=st.integers(0, 12),  # larger than the image: the border is reflected more than once
    sigma=st.floats(0.3, 30),
)
def test_blur_is_the_loop(rows, cols, radius, sigma):
    image = array(0, rows, cols, 2)
    found = blur_baseline(jnp.asarray(image), kernel=2 * radius + 1, sigma=sigma)
    np.testing.assert_allclose(found, oracles.blur(image, 2 * radius + 1, sigma), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "taps"), [((4, 8), 51), ((60, 224), 51), ((240, 240), 55), ((500, 40), 113), ((40, 2048), 467)]
)
def test_the_kernel_is_a_share_of_the_longer_side(shape, taps):
    image = jnp.asarray(array(0, *shape, 1))
    np.testing.assert_array_equal(blur_baseline(image), blur_baseline(image, kernel=taps, sigma=taps - 1))
    np.testing.assert_array_equal(blur_baseline(image), blur_baseline(image, kernel=taps))


@pytest.mark.parametrize("side", [224, 500, pytest.param(2048, marks=pytest.mark.slow)])
def test_objects_are_blurred_alike_at_every_size(side):
    """The centre of a bright square, a fifth of the side wide, keeps the same share of its brightness."""
    width = side // 5
    start = (side - width) // 2
    image = jnp.zeros((side, side, 1)).at[start : start + width, start : start + width].set(1.0)
    centre = float(jax.jit(blur_baseline)(image)[side // 2, side // 2, 0])
    assert centre == pytest.approx(0.74, abs=0.09)


def test_blur_commutes_with_a_per_channel_normalisation():
    image, scale = jnp.asarray(array(0, 9, 7, 3)), jnp.array([1.0, 2.0, 3.0])[None, None]
    found = blur_baseline(image * scale + 5)
    np.testing.assert_allclose(found, blur_baseline(image) * scale + 5, rtol=1e-5)


def test_a_kernel_of_one_tap_changes_nothing():
    image = jnp.asarray(array(0, 4, 5, 3))
    np.testing.assert_allclose(blur_baseline(image, kernel=1), image, atol=1e-6)


@pytest.mark.parametrize("kernel", [0, 2, -3, 5.0])
def test_invalid_kernels_are_refused(kernel):
    with pytest.raises((ValueError, TypeError), match="blur kernel must be"):
        blur_baseline(jnp.zeros((4, 4, 3)), kernel=kernel)


@pytest.mark.parametrize("sigma", [0.0, -1.0, np.nan])
def test_invalid_sigmas_are_refused(sigma):
    with pytest.raises(ValueError, match="sigma must be above 0"):
        blur_baseline(jnp.zeros((4, 4, 3)), kernel=3, sigma=sigma)


def normalize(pixels):
    return (pixels - jnp.array([10.0, 20.0, 30.0])) / 50.0


def test_baselines_by_name():
    image, key = jnp.asarray(array(0, 6, 5, 3)), jax.random.key(0)
    found = {kind: baseline(kind, image, normalize=normalize, key=key) for kind in BASELINES}
    assert all(picture.shape == image.shape for picture in found.values())
    np.testing.assert_array_equal(found["blur"], jx.blur_baseline(image))
    np.testing.assert_allclose(found["mean"][3, 2], np.asarray(image).mean((0, 1)), atol=1e-6)
    np.testing.assert_allclose(found["black"][5, 4], [-0.2, -0.4, -0.6], rtol=1e-6)
    np.testing.assert_allclose(found["white"][0, 0], [4.9, 4.7, 4.5], rtol=1e-6)
    np.testing.assert_array_equal(found["zero"], 0.0)
    low, high = found["black"], found["white"]
    assert ((found["noise"] >= low) & (found["noise"] <= high)).all()
    for kind in ("mean", "black", "white", "zero"):
        assert (np.ptp(found[kind], axis=(0, 1)) == 0).all()


def test_noise_fills_its_range_evenly():
    image, key = jnp.zeros((60, 70, 3)), jax.random.key(0)
    low, high = jnp.array([-1.0, 0.0, 2.0]), 5.0
    found = np.asarray(jx.noise_baseline(image, key, low, high))
    places = (found - np.asarray(low)) / (high - np.asarray(low))
    for channel in range(3):
        shares = np.histogram(places[..., channel], bins=10, range=(0, 1))[0] / 4200
        np.testing.assert_allclose(shares, 0.1, atol=0.02)
    np.testing.assert_array_equal(found, jx.noise_baseline(image, key, low, high))
    assert (found != jx.noise_baseline(image, jax.random.key(1), low, high)).all()


def test_constants_are_one_number_or_one_per_channel():
    image = jnp.zeros((2, 2, 3))
    np.testing.assert_array_equal(jx.constant_baseline(image, 2.0), 2.0)
    found = jx.constant_baseline(image, jnp.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found[1, 0], [1.0, 2.0, 3.0])


def test_baselines_pass_through_vmap_and_jit():
    images = jnp.asarray(array(0, 3, 6, 5, 3))
    for kind in ("blur", "mean", "zero"):
        found = jax.jit(jax.vmap(lambda image, kind=kind: baseline(kind, image)))(images)
        for row, image in zip(found, images, strict=True):
            np.testing.assert_allclose(row, baseline(kind, image), atol=1e-6)


def test_missing_arguments_of_a_baseline_are_named():
    image = jnp.zeros((4, 4, 3))
    with pytest.raises(ValueError, match="unknown baseline 'blurred': did you mean 'blur'"):
        baseline("blurred", image)
    for kind in ("black", "white", "noise"):
        with pytest.raises(ValueError, match="pass normalize="):
            baseline(kind, image)
    with pytest.raises(ValueError, match="pass key="):
        baseline("noise", image, normalize=normalize)


@pytest.mark.parametrize("make", [jx.blur_baseline, jx.mean_baseline, jx.constant_baseline])
def test_invalid_images_are_refused(make):
    with pytest.raises(ValueError, match=r"one image \[H, W, C\].*use jax.vmap"):
        make(jnp.zeros((2, 4, 4, 3)))
    with pytest.raises(TypeError, match=r"floating-point.*preprocess"):
        make(jnp.zeros((4, 4, 3), jnp.uint8))
    with pytest.raises(TypeError, match="array of floats, got list"):
        make([[0.0]])
    with pytest.raises(ValueError, match="contains 1 NaN or infinite value out of 48"):
        make(jnp.zeros((4, 4, 3)).at[0, 0, 0].set(jnp.inf))


def test_checked_baselines():
    image = jnp.asarray(array(0, 6, 5, 3))
    other = array(1, 6, 5, 3)
    np.testing.assert_array_equal(as_baseline(None, image), blur_baseline(image))
    np.testing.assert_array_equal(as_baseline(other, image), other)
    np.testing.assert_array_equal(as_baselines(None, image), blur_baseline(image)[None])
    np.testing.assert_array_equal(as_baselines(other, image), other[None])
    several = np.stack([other, -other])
    np.testing.assert_array_equal(as_baselines(several, image), several)
    with pytest.raises(
        ValueError, match=r"baseline \(5, 5, 3\) and image \(6, 5, 3\) must have the same shape"
    ):
        as_baseline(other[:5], image)
    with pytest.raises(ValueError, match=r"or be K baselines \[K, H, W, C\]; got shape \(0, 6, 5, 3\)"):
        as_baselines(several[:0], image)
    with pytest.raises(TypeError, match="baseline must be a floating-point array"):
        as_baselines(several.astype(int), image)
