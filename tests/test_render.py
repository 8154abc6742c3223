"""Colours against their definitions, blending, and pictures read back pixel by pixel."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from jaxplain.render import (
    Curve,
    colorize,
    display_range,
    draw_curves,
    heatmap,
    normalize,
    overlay,
    panel,
    symmetric_range,
    to_png,
)
from jaxplain.render.colormap import NAN_COLOR
from jaxplain.render.curves import DELETION_COLOR, INSERTION_COLOR, format_area, plot_area
from jaxplain.render.overlay import resize_map
from jaxplain.render.text import font, printable, shorten

CMAPS = ["jet", "viridis", "gray", "bwr"]
RNG = np.random.default_rng(3)
PHOTO = RNG.integers(0, 256, (12, 17, 3), dtype=np.uint8)
NAN, INF = float("nan"), float("inf")


def color(value, cmap):
    return tuple(colorize([[value]], cmap)[0, 0].tolist())


# ---------------------------------------------------------------- colours


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, (0, 0, 128)),
        (1 / 8, (0, 0, 255)),
        (1 / 4, (0, 128, 255)),
        (3 / 8, (0, 255, 255)),
        (1 / 2, (128, 255, 128)),
        (5 / 8, (255, 255, 0)),
        (7 / 8, (255, 0, 0)),
        (1, (128, 0, 0)),
    ],
)
def test_jet_at_its_corners(value, expected):
    assert color(value, "jet") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, (0, 0, 255)), (0.2, (102, 102, 255)), (0.5, (255,) * 3), (0.8, (255, 102, 102)), (1, (255, 0, 0))],
)
def test_bwr(value, expected):
    assert color(value, "bwr") == expected


def test_gray_is_linear():
    levels = np.arange(256)
    np.testing.assert_array_equal(
        colorize(levels[None] / 255, "gray"), np.repeat(levels[None, :, None], 3, axis=2)
    )


def test_viridis_against_matplotlib():
    matplotlib = pytest.importorskip("matplotlib")
    levels = np.arange(256)
    theirs = matplotlib.colormaps["viridis"](levels, bytes=True)[:, :3].astype(int)
    ours = colorize(levels[None] / 255, "viridis")[0].astype(int)
    assert np.abs(ours - theirs).max() <= 2


def test_bwr_and_gray_against_matplotlib():
    matplotlib = pytest.importorskip("matplotlib")
    levels = np.arange(256)
    for cmap in ("bwr", "gray"):
        theirs = matplotlib.colormaps[cmap](levels, bytes=True)[:, :3].astype(int)
        assert np.abs(colorize(levels[None] / 255, cmap)[0] - theirs).max() <= 1, cmap


@pytest.mark.parametrize("cmap", CMAPS)
def test_odd_values(cmap):
    shown = colorize([[NAN, -INF, INF, -3.0, 7.0]], cmap)[0].tolist()
    low, high = list(color(0, cmap)), list(color(1, cmap))
    assert shown == [list(NAN_COLOR), low, high, low, high]


@pytest.mark.parametrize("cmap", ["jet", "viridis", "bwr"])
def test_no_value_looks_like_a_missing_one(cmap):
    colors = colorize(np.linspace(0, 1, 5001)[None], cmap)[0]
    assert not (colors == NAN_COLOR).all(axis=1).any()


@pytest.mark.parametrize("cmap", CMAPS)
def test_colours_do_not_jump(cmap):
    colors = colorize(np.linspace(0, 1, 2001)[None], cmap)[0].astype(int)
    assert np.abs(np.diff(colors, axis=0)).max() <= 2


def test_colorize_refuses():
    with pytest.raises(ValueError, match="cmap must be one of"):
        colorize([[0.0]], "rainbow")
    with pytest.raises(ValueError, match=r"\[H, W\].*\(2, 2, 3\)"):
        colorize(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="shape"):
        colorize(np.zeros((0, 4)))


# ---------------------------------------------------------------- normalisation

MAPS = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e6, 1e6, width=32)
)
ANY_MAPS = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(width=64)
)


@given(MAPS)
def test_normalised_spans_zero_to_one_or_is_zero(saliency):
    shown = normalize(saliency)
    assert shown.dtype == np.float32
    assert shown.shape == saliency.shape
    if shown.any():
        assert shown.min() == 0
        assert shown.max() == 1
        order = np.argsort(saliency, axis=None)
        assert (np.diff(shown.ravel()[order]) >= 0).all()
    else:
        assert np.ptp(saliency) <= 1e-6 * np.abs(saliency).max()


@pytest.mark.filterwarnings("error")
@given(ANY_MAPS, st.sampled_from(CMAPS))
def test_any_floats_at_all_stay_in_range(saliency, cmap):
    shown = normalize(saliency, *display_range(saliency, cmap))
    valid = shown[~np.isnan(saliency)]
    assert ((valid >= 0) & (valid <= 1)).all()
    assert np.isnan(shown[np.isnan(saliency)]).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -7.25, 1e-30, 3e38, 0.1])
def test_a_constant_map_is_all_zeros(value):
    assert not normalize(np.full((4, 5), value)).any()
    assert not normalize(np.full((4, 5), value, np.float32), clip_percentile=2).any()


def test_rounding_noise_is_not_stretched_into_a_pattern():
    one = np.float32(1)
    noisy = np.where(RNG.random((8, 8)) > 0.5, one, np.nextafter(one, np.float32(2)))
    assert not normalize(noisy).any()
    assert normalize([[1.0, 1.0001]]).max() == 1  # small but real


def test_given_limits_are_shared_and_clip():
    shown = normalize([[-1.0, 0.0, 1.0, 2.0, 3.0]], vmin=0, vmax=2)
    np.testing.assert_array_equal(shown, [[0, 0, 0.5, 1, 1]])
    np.testing.assert_array_equal(normalize([[0.5, 0.5]], vmin=0, vmax=1), [[0.5, 0.5]])
    np.testing.assert_array_equal(normalize([[1.0, 3.0]], vmin=-1), [[0.5, 1]])
    np.testing.assert_array_equal(normalize([[1.0, 3.0]], vmax=5), [[0, 0.5]])
    assert not normalize([[1.0, 3.0]], vmin=4).any()  # nothing reaches the lower limit
    assert not normalize([[1.0, 3.0]], vmin=2, vmax=2).any()


def test_percentiles_tame_outliers():
    saliency = np.arange(100.0).reshape(10, 10)
    saliency[-1, -1] = 1e9
    assert normalize(saliency)[9, 8] < 1e-6
    clipped = normalize(saliency, clip_percentile=2)
    low, high = np.percentile(saliency, [2, 98])
    np.testing.assert_allclose(clipped, np.clip((saliency - low) / (high - low), 0, 1), atol=1e-6)


def test_missing_and_infinite_values():
    shown = normalize([[NAN, 0.0, 4.0, 1.0, INF, -INF]])
    np.testing.assert_array_equal(shown, [[NAN, 0, 1, 0.25, 1, 0]])
    assert np.isnan(normalize([[NAN, NAN]])).all()
    np.testing.assert_array_equal(normalize([[INF, -INF, NAN]]), [[0, 0, NAN]])


def test_normalize_refuses():
    for options in ({"vmin": 2, "vmax": 1}, {"vmin": NAN}, {"vmax": INF}):
        with pytest.raises(ValueError, match="vmin"):
            normalize([[0.0, 1.0]], **options)
    for percentile in (-1, 50, NAN):
        with pytest.raises(ValueError, match="clip_percentile"):
            normalize([[0.0, 1.0]], clip_percentile=percentile)
    with pytest.raises(ValueError, match="shape"):
        normalize([0.0, 1.0])


def test_signed_maps_have_zero_in_the_middle():
    assert symmetric_range([[-1.0, 4.0, NAN, INF]]) == (-4.0, 4.0)
    assert color_of_map([[-1.0, 0.0, 4.0]], "bwr")[1] == (255, 255, 255)
    assert color_of_map([[0.0, 0.0]], "bwr") == [(255, 255, 255)] * 2  # no evidence is not evidence against


def color_of_map(saliency, cmap):
    shape = np.shape(saliency)
    return [tuple(pixel) for pixel in heatmap(saliency, shape, cmap)[0].tolist()]


# ---------------------------------------------------------------- overlay


@given(
    hnp.arrays(np.uint8, (3, 4, 3)), hnp.arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)),
    st.floats(0, 1), st.sampled_from(CMAPS),
)  # fmt: skip
def test_overlay_is_the_weighted_mean(rgb, saliency, alpha, cmap):
    shown = overlay(rgb, saliency, alpha, cmap, vmin=0, vmax=1)
    expected = (1 - alpha) * rgb + alpha * colorize(saliency, cmap).astype(float)
    assert shown.dtype == np.uint8
    assert np.abs(shown - expected).max() <= 0.5 + 1e-9


def test_overlay_at_its_ends():
    saliency = RNG.random((12, 17))
    np.testing.assert_array_equal(overlay(PHOTO, saliency, alpha=0), PHOTO)
    np.testing.assert_array_equal(overlay(PHOTO, saliency, alpha=1), colorize(normalize(saliency), "jet"))


def test_overlay_leaves_its_inputs_alone():
    rgb, saliency = PHOTO.copy(), RNG.random((3, 3))
    before = saliency.copy()
    overlay(rgb, saliency)
    np.testing.assert_array_equal(rgb, PHOTO)
    np.testing.assert_array_equal(saliency, before)


def test_limits_are_shared_between_overlays():
    black = np.zeros((1, 2, 3), np.uint8)
    weak = overlay(black, [[0.0, 0.5]], 1.0, "gray", vmin=0, vmax=1)
    strong = overlay(black, [[0.0, 1.0]], 1.0, "gray", vmin=0, vmax=1)
    assert (weak[0, 1, 0], strong[0, 1, 0]) == (128, 255)


def test_resizing_a_map_aligns_corners():
    saliency = np.array([[0.0, 3.0], [6.0, 9.0]])
    np.testing.assert_allclose(resize_map(saliency, (3, 4)), [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]])
    np.testing.assert_array_equal(resize_map(saliency, (2, 2)), saliency)
    np.testing.assert_array_equal(resize_map([[5.0]], (2, 3)), np.full((2, 3), 5.0))
    assert resize_map(saliency, (1, 1)).tolist() == [[0.0]]


@given(MAPS, st.integers(1, 9), st.integers(1, 9))
def test_resizing_reproduces_linear_maps_and_stays_within_the_extremes(saliency, height, width):
    shown = resize_map(saliency, (height, width))
    slack = 1e-9 * np.abs(saliency).max()
    assert shown.min() >= saliency.min() - slack
    assert shown.max() <= saliency.max() + slack
    rows, columns = saliency.shape
    plane = np.add.outer(np.linspace(0, 1, rows), 2 * np.linspace(0, 1, columns))
    if rows > 1 and columns > 1 and height > 1 and width > 1:
        expected = np.add.outer(np.linspace(0, 1, height), 2 * np.linspace(0, 1, width))
        np.testing.assert_allclose(resize_map(plane, (height, width)), expected, atol=1e-12)


def test_a_missing_cell_spoils_only_its_neighbourhood():
    saliency = np.arange(25.0).reshape(5, 5)
    saliency[2, 2] = NAN
    same = resize_map(saliency, (5, 5))
    assert np.isnan(same).sum() == 1
    larger = np.isnan(resize_map(saliency, (41, 41)))  # ten pixels a cell
    assert larger[11:30, 11:30].all()
    assert larger.sum() == 19 * 19
    assert overlay(np.zeros((5, 5, 3), np.uint8), saliency, 1.0)[2, 2].tolist() == list(NAN_COLOR)


def test_overlay_refuses():
    with pytest.raises(TypeError, match="uint8"):
        overlay(PHOTO / 255.0, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="alpha"):
        overlay(PHOTO, np.zeros((2, 2)), alpha=1.1)
    with pytest.raises(ValueError, match="shape"):
        overlay(PHOTO, np.zeros((2, 2, 1)))
    with pytest.raises(ValueError, match="cmap"):
        overlay(PHOTO, np.zeros((2, 2)), cmap="hot")


# ---------------------------------------------------------------- curves

SIZE = (420, 360)
AREA = plot_area(SIZE)
STEPS = np.linspace(0, 1, 11)
HIGH, LOW = Curve(STEPS, np.full(11, 0.8), 0.8), Curve(STEPS, np.full(11, 0.2), 0.2)
EMPTY = Curve([], [], NAN)
WHITE = (255, 255, 255)


def pixel(picture, fraction, score, down=0):
    x, y = AREA.point(fraction, score)
    return tuple(picture[int(y) + down, int(x)].tolist())


def tinted(line_color):
    """White under a fill of that colour."""
    share = 34 / 255
    return np.array(line_color) * share + 255 * (1 - share)


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98))
@settings(max_examples=25, deadline=None)
def test_a_data_point_has_its_curves_colour(fraction, score):
    falling = Curve([0, fraction, 1], [1, score, 0], 0.5)
    assert pixel(draw_curves(falling, EMPTY, SIZE), fraction, score) == DELETION_COLOR
    rising = Curve([0, fraction, 1], [0, score, 1], 0.5)
    assert pixel(draw_curves(EMPTY, rising, SIZE), fraction, score) == INSERTION_COLOR


def test_between_the_points_runs_a_straight_line():
    picture = draw_curves(Curve([0, 1], [1, 0], 0.5), EMPTY, SIZE)
    for fraction in (0.1, 0.33, 0.6, 0.9):
        assert pixel(picture, fraction, 1 - fraction) == DELETION_COLOR


def test_light_fill_under_each_curve_and_white_above():
    picture = draw_curves(LOW, HIGH, SIZE)
    assert pixel(picture, 0.4, 0.9) == WHITE
    assert np.abs(np.array(pixel(picture, 0.4, 0.6)) - tinted(INSERTION_COLOR)).max() <= 1
    both = tinted(DELETION_COLOR) * (1 - 34 / 255) + np.array(INSERTION_COLOR) * 34 / 255
    assert np.abs(np.array(pixel(picture, 0.4, 0.1)) - both).max() <= 1.5


def test_no_fill_tints_a_line():
    """The insertion fill lies over the deletion line unless all fills come first."""
    assert pixel(draw_curves(LOW, HIGH, SIZE), 0.4, 0.2) == DELETION_COLOR


def test_colours_are_far_apart_for_the_colour_blind():
    """Blue-yellow contrast, which the common red-green weaknesses leave intact."""
    difference = np.array(INSERTION_COLOR, int) - DELETION_COLOR
    assert difference[2] > 120
    assert difference[0] < -120


def test_missing_points_leave_a_gap():
    score = np.full(11, 0.5)
    score[4] = NAN
    picture = draw_curves(Curve(STEPS, score, NAN), EMPTY, SIZE)
    assert pixel(picture, 0.15, 0.5) == DELETION_COLOR
    assert pixel(picture, 0.85, 0.5) == DELETION_COLOR
    assert pixel(picture, 0.4, 0.5, down=3) == WHITE
    assert DELETION_COLOR not in [pixel(picture, 0.4, 0.5, down) for down in range(-4, 5)]


def test_a_lone_point_is_a_dot():
    picture = draw_curves(Curve([0.3, 0.6, 0.9], [NAN, 0.6, INF], 0.1), EMPTY, SIZE)
    assert pixel(picture, 0.6, 0.6) == DELETION_COLOR
    assert pixel(picture, 0.63, 0.62) == WHITE


def test_no_points_at_all():
    nothing = Curve([NAN, NAN], [0.5, NAN], NAN)
    np.testing.assert_array_equal(draw_curves(nothing, nothing, SIZE), draw_curves(EMPTY, EMPTY, SIZE))


def test_points_outside_are_drawn_at_the_edge():
    picture = draw_curves(Curve([0, 1], [1.7, 1.7], 1.7), EMPTY, SIZE)
    assert pixel(picture, 0.6, 1.0) == DELETION_COLOR
    assert (picture[: AREA.top - 4, AREA.left + 250 :] == 255).all()


def test_legend_names_the_curves_and_their_areas():
    def legend(area, row):
        picture = draw_curves(LOW._replace(area=area), HIGH, SIZE)
        return picture[: AREA.top // 2] if row == 0 else picture[AREA.top // 2 : AREA.top - 8]

    assert (legend(0.118, 0) == DELETION_COLOR).all(axis=2).any()
    assert (legend(0.118, 1) == INSERTION_COLOR).all(axis=2).any()
    assert not np.array_equal(legend(0.118, 0), legend(0.119, 0))
    np.testing.assert_array_equal(legend(0.118, 1), legend(0.119, 1))


@pytest.mark.parametrize(
    ("area", "text"),
    [
        (0.118, ".118"),
        (0.6674, ".667"),
        (0, ".000"),
        (1.0, "1.000"),
        (0.9999, "1.000"),
        (-0.25, "-.250"),
        (10.5, "10.500"),
        (NAN, "n/a"),
        (INF, "n/a"),
    ],
)
def test_area_format(area, text):
    assert format_area(area) == text


def test_ticks_and_axis_titles_have_ink_where_they_belong():
    picture = draw_curves(EMPTY, EMPTY, SIZE)
    dark = (picture < 140).all(axis=2)
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = (round(side) for side in AREA.point(tick, tick))
        assert dark[AREA.bottom + 6 : AREA.bottom + 22, x - 10 : x + 11].any(), tick
        assert dark[y - 7 : y + 8, AREA.left - 40 : AREA.left - 6].any(), tick
    assert dark[AREA.bottom + 26 :, AREA.left : AREA.right].any()
    assert dark[AREA.top : AREA.bottom, :24].any()
    # nothing is cut off at the border of the picture
    assert not dark[[0, -1]].any()
    assert not dark[:, [0, -1]].any()


def test_the_smallest_size_and_below():
    for size in ((260, 180), (900, 300)):
        assert draw_curves(LOW, HIGH, size).shape == (size[1], size[0], 3)
    with pytest.raises(ValueError, match="at least 260 x 180"):
        draw_curves(LOW, HIGH, (259, 180))


def test_curves_refuse_unequal_lengths():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        draw_curves(Curve([0, 1], [0, 1, 2], 0), HIGH, SIZE)
    with pytest.raises(ValueError, match="fraction"):
        draw_curves(Curve([[0, 1]], [[0, 1]], 0), HIGH, SIZE)


# ---------------------------------------------------------------- text


def test_printable():
    assert printable("  crème\nbrûlée\t") == "creme brulee"
    assert printable("Straße \u2013 2 \xd7 3…") == "Strasse - 2 x 3…"
    assert printable("日本 \x00\ud800") == "?? ??"


@given(st.text(max_size=30))
def test_printable_is_what_the_font_has(text):
    shown = printable(text)
    assert all(" " <= char <= "~" or char == "…" for char in shown)
    assert printable(shown) == shown


@given(st.text(st.sampled_from("abcW i,."), max_size=60), st.floats(0, 200))
def test_shorten_fits_and_keeps_the_beginning(text, width):
    short = shorten(text, 18, width)
    assert font(18).getlength(short) <= width
    assert short == text or short == "" or (short.endswith("…") and text.startswith(short[:-1]))
    if font(18).getlength(text) <= width:
        assert short == text


# ---------------------------------------------------------------- panel

CURVES = {"deletion": LOW, "insertion": HIGH}
WORDS = {"label": "tabby", "probability": 0.97, "method": "I-GOS"}
TOP, LEFT, GAP = 64, 20, 28  # of the photo in the panel
FULL = RNG.integers(0, 256, (320, 240, 3), dtype=np.uint8)  # shown as it is, without scaling


def draw(rgb=FULL, saliency=None, **changes):
    saliency = RNG.random((7, 7)) if saliency is None else saliency
    return np.asarray(panel(rgb, saliency, **{**CURVES, **WORDS, **changes}))


def tile(picture, index, width=240, height=320):
    left = LEFT + index * (width + GAP)
    return picture[TOP : TOP + height, left : left + width]


def test_panel_holds_photo_heatmap_overlay_and_curves():
    saliency = RNG.random((7, 7))
    picture = draw(saliency=saliency, cmap="viridis", alpha=0.3)
    np.testing.assert_array_equal(tile(picture, 0), FULL)
    np.testing.assert_array_equal(tile(picture, 1), heatmap(saliency, (320, 240), "viridis"))
    np.testing.assert_array_equal(tile(picture, 2), overlay(FULL, saliency, 0.3, "viridis"))
    curves = draw_curves(LOW, HIGH, (430, 414))
    np.testing.assert_array_equal(picture[20:434, -450:-20], curves)
    area = plot_area((430, 414))
    assert (area.top + 20, area.bottom + 20) == (TOP, TOP + 320)  # the axes line up with the photo


def test_panel_is_an_rgb_picture_on_white():
    picture = panel(FULL, np.eye(4), **CURVES, **WORDS)
    assert isinstance(picture, Image.Image)
    assert picture.mode == "RGB"
    border = np.asarray(picture)
    for edge in (border[:15], border[-15:], border[:, :15], border[:, -15:]):
        assert (edge == 255).all()


@pytest.mark.parametrize("cmap", CMAPS)
def test_colour_bar_runs_from_low_to_high(cmap):
    picture = draw(cmap=cmap)
    left = LEFT + 240 + GAP
    bar = picture[TOP + 320 + 15, left : left + 240]
    np.testing.assert_array_equal(bar, colorize(np.linspace(0, 1, 240)[None], cmap)[0])
    words = (picture[TOP + 320 + 24 : TOP + 320 + 46, left : left + 240] < 140).all(axis=2)
    assert words[:, :70].any()
    assert words[:, -70:].any()
    assert not words[:, 110:130].any()


def title(picture, index, width=240):
    left = LEFT + index * (width + GAP)
    return picture[TOP - 34 : TOP - 4, left - GAP // 2 : left + width + GAP // 2]


def test_titles_show_label_probability_and_method():
    saliency = np.eye(5)
    base = draw(saliency=saliency)
    for change, index in (({"label": "lynx"}, 0), ({"probability": 0.5}, 0), ({"method": "RISE"}, 1)):
        other = draw(saliency=saliency, **change)
        for column in range(3):
            same = np.array_equal(title(base, column), title(other, column))
            assert same == (column != index), (change, column)


def test_long_labels_and_methods_stay_in_their_columns():
    picture = draw(label="a very long class name, " * 9, method="an equally long method name " * 9)
    for index in range(3):
        row = (title(picture, index) < 200).all(axis=2)
        assert row.any()
        assert not row[:, :10].any()
        assert not row[:, -10:].any()


def test_the_probability_survives_a_long_label():
    """The end of the title is the same ink as that of a short label that also fills the column."""

    def last_ink(label, probability):
        row = title(draw(label=label, probability=probability), 0)
        columns = np.flatnonzero((row < 200).all(axis=2).any(axis=0))
        return row[:, columns[-1] - 40 : columns[-1] + 1]

    long, longer = "W" * 60, "W" * 90
    np.testing.assert_array_equal(last_ink(long, 0.97), last_ink(longer, 0.97))
    assert not np.array_equal(last_ink(long, 0.97), last_ink(long, 0.31))


@pytest.mark.parametrize("probability", [0.0, 1.0, 0.001, NAN, INF])
@pytest.mark.parametrize("label", ["", "日本", "two\nlines", "x" * 500])
def test_odd_words_do_not_crash(label, probability):
    assert draw(FULL[:40, :30], label=label, probability=probability, method=label).size


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=12, deadline=None)
def test_any_photo_and_map_size(height, width, rows, columns):
    rgb = np.full((height, width, 3), 77, np.uint8)
    picture = draw(rgb, RNG.random((rows, columns)))
    assert picture.shape[0] == 454
    assert picture.shape[1] <= 2300
    assert (picture == 77).all(axis=2).any()


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2, 700)])
def test_extreme_shapes(shape):
    assert draw(np.zeros((*shape, 3), np.uint8)).shape[1] <= 2300


def test_aspect_ratio_is_kept():
    rgb = np.zeros((100, 50, 3), np.uint8)
    picture = draw(rgb, np.zeros((2, 2)))
    black = (picture[:, :270] == 0).all(axis=2)
    assert (black.any(axis=1).sum(), black.any(axis=0).sum()) == (320, 160)


@pytest.mark.parametrize(
    "saliency",
    [np.zeros((3, 3)), np.full((3, 3), NAN), np.array([[NAN, 1.0], [INF, -INF]]), np.full((1, 1), 3.0)],
    ids=["zero", "nan", "mixed", "one"],
)
@pytest.mark.parametrize("cmap", CMAPS)
@pytest.mark.filterwarnings("error")
def test_odd_maps_do_not_crash(saliency, cmap):
    assert draw(FULL[:40, :30], saliency, cmap=cmap).size


def test_a_constant_map_is_shown_flat():
    shown = tile(draw(saliency=np.full((4, 4), 0.7)), 1)
    assert (shown == (0, 0, 128)).all()


def test_panels_of_the_same_inputs_are_the_same_bytes():
    saliency = np.eye(3)
    first, second = (to_png(panel(FULL[:30, :30], saliency, **CURVES, **WORDS)) for _ in range(2))
    assert first == second


def test_panel_refuses():
    with pytest.raises(TypeError, match="uint8"):
        draw(FULL.astype(float))
    with pytest.raises(ValueError, match="shape"):
        draw(saliency=np.zeros(4))
    with pytest.raises(ValueError, match="cmap"):
        draw(cmap="hot")


# ---------------------------------------------------------------- PNG


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3), (5, 4, 4), (1, 1, 3)])
def test_png_round_trip(shape):
    array = RNG.integers(0, 256, shape, dtype=np.uint8)
    for given_image in (array, Image.fromarray(array), np.asfortranarray(array)):
        decoded = np.asarray(Image.open(io.BytesIO(to_png(given_image))))
        np.testing.assert_array_equal(decoded, array)


def test_png_refuses():
    with pytest.raises(TypeError, match="float64"):
        to_png(np.zeros((2, 2, 3)))
    for shape in ((2,), (2, 2, 2), (0, 2, 3), (1, 2, 2, 3)):
        with pytest.raises(ValueError, match="expected"):
            to_png(np.zeros(shape, np.uint8))
