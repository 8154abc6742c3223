"""Colours against their definitions, overlays, resizing for display, and pictures that are read back."""

import io

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from jaxplain.overlay import (
    COLORMAPS,
    as_pixels,
    data_uri,
    display_range,
    heatmap,
    overlay,
    plot,
    resize_bilinear,
    robust_range,
    thumbnail,
    to_png,
)

matplotlib.use("Agg")
RNG = np.random.default_rng(3)
PHOTO = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
NAN, INF = float("nan"), float("inf")
GRAY = [128, 128, 128]


def colours(values, cmap, limits=(0.0, 1.0)):
    return heatmap([values], (1, len(values)), cmap, limits)[0].tolist()


# ---------------------------------------------------------------------------------------------------------
# Colours


@pytest.mark.parametrize(("value", "expected"), [(0, (0, 0, 128)), (0.5, (128, 255, 128)), (1, (128, 0, 0))])
def test_jet(value, expected):
    assert np.abs(np.subtract(colours([value], "jet")[0], expected)).max() <= 8


@pytest.mark.parametrize(("value", "expected"), [(0, (0, 0, 255)), (0.5, (255,) * 3), (1, (255, 0, 0))])
def test_bwr(value, expected):
    assert np.abs(np.subtract(colours([value], "bwr")[0], expected)).max() <= 2


def test_gray_is_linear():
    levels = np.arange(256)
    shown = np.array(colours(levels / 255, "gray"))
    assert np.abs(shown - levels[:, None]).max() <= 1


@pytest.mark.parametrize("cmap", COLORMAPS)
def test_colours_are_those_of_matplotlib(cmap):
    levels = np.linspace(0, 1, 256)
    theirs = matplotlib.colormaps[cmap](levels, bytes=True)[:, :3]
    np.testing.assert_array_equal(colours(levels, cmap), theirs)


@pytest.mark.parametrize("cmap", COLORMAPS)
def test_values_outside_the_limits_and_missing_ones(cmap):
    shown = colours([NAN, -3.0, 7.0], cmap)
    assert shown == [GRAY, *colours([0.0, 1.0], cmap)]


@pytest.mark.parametrize("cmap", ["jet", "viridis", "bwr"])
def test_no_value_looks_like_a_missing_one(cmap):
    assert GRAY not in colours(np.linspace(0, 1, 1001), cmap)


@pytest.mark.parametrize("cmap", COLORMAPS)
@pytest.mark.parametrize("value", [0.0, 1.0, -7.25, 1e-30, 3e38, 0.1])
def test_a_constant_map_is_flat(cmap, value):
    shown = heatmap(np.full((4, 5), value, np.float32), (4, 5), cmap)
    first = colours(
        [0.5 if cmap == "bwr" and value == 0 else 1.0 if cmap == "bwr" and value > 0 else 0.0], cmap
    )
    assert (shown == first[0]).all()


def test_rounding_noise_is_not_stretched_into_a_pattern():
    one = np.float32(1)
    noisy = np.where(RNG.random((8, 8)) > 0.5, one, np.nextafter(one, np.float32(2)))
    assert len(np.unique(heatmap(noisy, (8, 8)).reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(heatmap([[1.0, 1.0001]], (1, 2)).reshape(-1, 3), axis=0)) == 2  # small but real


ANY_MAPS = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(width=64)
)


@pytest.mark.filterwarnings("error")
@given(ANY_MAPS, st.sampled_from(COLORMAPS))
def test_any_floats_can_be_drawn(importance, cmap):
    low, high = display_range(importance, cmap)
    assert np.isfinite([low, high]).all()
    assert low <= high
    shown = heatmap(importance, importance.shape, cmap)
    assert shown.dtype == np.uint8
    assert (shown[np.isnan(importance)] == GRAY).all()


def test_signed_maps_have_zero_in_the_middle():
    assert display_range([[-1.0, 4.0, NAN, INF]], "bwr") == (-4.0, 4.0)
    white = colours([0.5], "bwr")[0]
    assert heatmap([[-1.0, 0.0, 4.0]], (1, 3), "bwr")[0, 1].tolist() == white
    assert heatmap([[0.0, 0.0]], (1, 2), "bwr")[0].tolist() == [white] * 2  # neither for nor against


def test_a_robust_range_leaves_out_outliers():
    importance = np.arange(100.0).reshape(10, 10)
    importance[-1, -1] = 1e9
    importance[0, 0] = NAN
    low, high = robust_range(importance)
    assert (low, high) == tuple(np.nanpercentile(importance, [1, 99]))
    assert robust_range([[2.0, 2.0]]) is None
    assert robust_range([[NAN, INF]]) is None
    assert display_range([[NAN, INF]]) == (0.0, 0.0)


# ---------------------------------------------------------------------------------------------------------
# Overlays


@given(
    hnp.arrays(np.uint8, (3, 4, 3)),
    hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)),
    st.floats(0, 1),
    st.sampled_from(COLORMAPS),
)
def test_overlay_is_the_weighted_mean(pixels, importance, alpha, cmap):
    before = pixels.copy(), importance.copy()
    shown = overlay(pixels, importance, alpha, cmap, limits=(0.0, 1.0))
    expected = (1 - alpha) * pixels + alpha * heatmap(importance, (3, 4), cmap, (0.0, 1.0)).astype(float)
    assert shown.dtype == np.uint8
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(pixels, before[0])
    np.testing.assert_array_equal(importance, before[1])


def test_overlay_at_its_ends():
    importance = RNG.random((12, 17))
    np.testing.assert_array_equal(overlay(PHOTO, importance, alpha=0), PHOTO)
    np.testing.assert_array_equal(overlay(PHOTO, importance, alpha=1), heatmap(importance, (12, 17)))


def test_limits_are_shared_between_overlays():
    black = np.zeros((1, 2, 3), np.uint8)
    weak = overlay(black, [[0.0, 0.5]], 1.0, "gray", (0, 1))
    strong = overlay(black, [[0.0, 1.0]], 1.0, "gray", (0, 1))
    assert (weak[0, 1, 0], strong[0, 1, 0]) == (128, 255)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: overlay(PHOTO / 255.0, np.zeros((2, 2))), TypeError, "uint8"),
        (lambda: overlay(PHOTO, np.zeros((2, 2)), alpha=1.1), ValueError, r"alpha must be in 0\.\.1"),
        (lambda: overlay(PHOTO, np.zeros((2, 2, 1))), ValueError, r"one map \[h, w\], got shape \(2, 2, 1\)"),
        (lambda: overlay(PHOTO, np.zeros((0, 2))), ValueError, "one map"),
        (lambda: overlay(PHOTO, np.zeros((2, 2)), cmap="virids"), ValueError, "colormap.*'viridis'"),
        (
            lambda: overlay(PHOTO, np.zeros((2, 2)), limits=(2, 1)),
            ValueError,
            "two finite numbers in ascending",
        ),
        (lambda: overlay(PHOTO, np.zeros((2, 2)), limits=(0, INF)), ValueError, "two finite numbers"),
        (lambda: resize_bilinear(np.zeros((2, 2)), (0, 3)), ValueError, "both at least 1"),
        (lambda: as_pixels(np.zeros((2, 2))), ValueError, r"must be \[H, W, 1\] or \[H, W, 3\]"),
    ],
)
def test_invalid_arguments_are_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---------------------------------------------------------------------------------------------------------
# Resizing for display


def test_resizing_aligns_corners():
    importance = np.array([[0.0, 3.0], [6.0, 9.0]])
    np.testing.assert_allclose(
        resize_bilinear(importance, (3, 4)), [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    )
    np.testing.assert_array_equal(resize_bilinear(importance, (2, 2)), importance)
    np.testing.assert_array_equal(resize_bilinear([[5.0]], (2, 3)), np.full((2, 3), 5.0))
    assert resize_bilinear(importance, (1, 1)).tolist() == [[0.0]]


@given(
    hnp.arrays(
        np.float64,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_resizing_reproduces_linear_maps_and_stays_within_the_extremes(importance, height, width):
    shown = resize_bilinear(importance, (height, width))
    slack = 1e-9 * np.abs(importance).max()
    assert shown.min() >= importance.min() - slack
    assert shown.max() <= importance.max() + slack
    rows, columns = importance.shape
    if min(rows, columns, height, width) > 1:
        plane = np.add.outer(np.linspace(0, 1, rows), 2 * np.linspace(0, 1, columns))
        expected = np.add.outer(np.linspace(0, 1, height), 2 * np.linspace(0, 1, width))
        np.testing.assert_allclose(resize_bilinear(plane, (height, width)), expected, atol=1e-12)


def test_a_missing_cell_spoils_only_its_neighbourhood():
    importance = np.arange(25.0).reshape(5, 5)
    importance[2, 2] = NAN
    assert np.isnan(resize_bilinear(importance, (5, 5))).sum() == 1
    larger = np.isnan(resize_bilinear(importance, (41, 41)))  # ten pixels per cell
    assert larger[11:30, 11:30].all()
    assert larger.sum() == 19 * 19
    assert overlay(np.zeros((5, 5, 3), np.uint8), importance, 1.0)[2, 2].tolist() == GRAY


# ---------------------------------------------------------------------------------------------------------
# Encoding and plotting


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 4), (1, 1, 3)])
def test_png_round_trip(shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    for picture in (array, Image.fromarray(array), np.asfortranarray(array)):
        decoded = np.asarray(Image.open(io.BytesIO(to_png(picture))))
        np.testing.assert_array_equal(decoded, array)


def test_what_is_no_picture_is_refused():
    with pytest.raises(TypeError, match="float64"):
        to_png(np.zeros((2, 2, 3)))
    for shape in ((2,), (2, 2, 2), (0, 2, 3), (1, 2, 2, 3)):
        with pytest.raises(ValueError, match="a picture must be"):
            to_png(np.zeros(shape, np.uint8))


def test_thumbnails_have_square_cells():
    assert np.asarray(Image.open(io.BytesIO(thumbnail(RNG.random((7, 14)))))).shape == (112, 224, 3)
    assert np.asarray(Image.open(io.BytesIO(thumbnail(RNG.random((500, 300)))))).shape == (500, 300, 3)


def test_a_data_uri_is_a_jpeg():
    assert data_uri(PHOTO).startswith("data:image/jpeg;base64,/9j/")


def test_floats_become_pixels_of_their_own_range():
    image = np.array([[[-1.0], [0.0], [1.0], [NAN]]])
    assert as_pixels(image)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3, [0] * 3]
    np.testing.assert_array_equal(as_pixels(PHOTO), PHOTO)
    assert not as_pixels(np.full((2, 2, 3), 5.0)).any()


def test_plot_on_axes():
    axes = plot(RNG.random((3, 4)), PHOTO, title="rise")
    assert axes.get_title() == "rise"
    assert axes.images[0].get_array().shape == PHOTO.shape
    assert plot([[0.0, 1.0]], ax=axes) is axes
