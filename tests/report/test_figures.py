"""Figures: what is drawn where, text that fits, files, and independence of the user's matplotlib settings."""

import io
import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxplain import overlay
from jaxplain.report import canvas, figures
from jaxplain.report.figures import Tile

RNG = np.random.default_rng(3)
PHOTO = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
NAN, INF = float("nan"), float("inf")
STEPS = np.linspace(0, 1, 11)


def curves(**changes):
    values = {
        "fraction": STEPS,
        "deletion": np.full(11, 0.2),
        "insertion": np.full(11, 0.8),
        "deletion_auc": 0.118,
        "insertion_auc": 0.557,
    }
    return SimpleNamespace(**(values | changes))


def panel(pixels=PHOTO, importance=None, measured=None, **changes):
    words = {"label": "tabby", "probability": 0.97, "method": "I-GOS"}
    importance = np.eye(7) if importance is None else importance
    return figures.panel(pixels, importance, measured or curves(), **(words | changes))


def texts(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def lines(figure, color):
    """The data of the long lines of a color; samples of a legend have two points."""
    found = [line for ax in figure.axes for line in ax.lines if line.get_color() == color]
    return [line.get_xydata() for line in found if len(line.get_xdata()) > 2]


def rendered(figure):
    return np.asarray(Image.open(io.BytesIO(canvas.figure_bytes(figure))).convert("RGB"))


def assert_nothing_is_cut_off(figure):
    pixels = rendered(figure)
    border = np.concatenate([*pixels[[0, -1]], *pixels[:, [0, -1]].swapaxes(0, 1)])
    assert (border == 255).all()


def assert_texts_fit(figure):
    """No text reaches outside of the figure or into another text."""
    canvas.figure_bytes(figure)
    renderer = figure.canvas.get_renderer()
    written = [text for ax in figure.axes for text in (*ax.texts, ax.xaxis.label, ax.yaxis.label, ax.title)]
    plots = [ax for ax in figure.axes if ax.axison]
    labels = [text for ax in plots for text in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    boxes = [text.get_window_extent(renderer) for text in [*written, *labels] if text.get_text()]
    width, height = figure.bbox.width, figure.bbox.height
    for index, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        for other in boxes[:index]:
            apart = box.x0 >= other.x1 or other.x0 >= box.x1 or box.y0 >= other.y1 or other.y0 >= box.y1
            assert apart


# ------------------------------------------------------------------------------------------------- files


def test_files_of_all_formats():
    figure = figures.curves(curves())
    png, svg, pdf = (figures.figure_bytes(figure, kind) for kind in ("png", "svg", "pdf"))
    assert Image.open(io.BytesIO(png)).size == tuple(np.round(figure.get_size_inches() * canvas.DPI))
    assert svg.startswith(b"<?xml")
    assert b"</svg>" in svg
    assert pdf.startswith(b"%PDF")
    assert png == figures.figure_bytes(figures.curves(curves()))
    assert pdf == figures.figure_bytes(figures.curves(curves()), "pdf")
    with pytest.raises(ValueError, match="did you mean 'png'"):
        figures.figure_bytes(figure, "pgn")


def test_the_users_settings_neither_change_a_figure_nor_are_changed():
    before, plain = dict(matplotlib.rcParams), figures.figure_bytes(panel())
    odd = {
        "figure.facecolor": "black",
        "axes.facecolor": "navy",
        "text.color": "yellow",
        "font.size": 30,
        "font.family": "monospace",
        "lines.linewidth": 9,
        "lines.marker": "o",
        "axes.grid": False,
        "axes.spines.left": False,
        "xtick.labelbottom": False,
        "savefig.bbox": "tight",
        "savefig.dpi": 30,
        "figure.autolayout": True,
        "image.interpolation": "nearest",
        "image.origin": "lower",
    }
    with matplotlib.rc_context(odd):
        assert figures.figure_bytes(panel()) == plain
    assert dict(matplotlib.rcParams) == before


def test_pyplot_is_not_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would raise
    for kind in ("png", "svg", "pdf"):
        figures.figure_bytes(figures.share_curves({"one": [0.0, 1.0]}), kind)


# -------------------------------------------------------------------------------------------------- text


@given(st.text(max_size=30))
def test_printable_text_has_a_glyph_for_every_character(text):
    shown = canvas.printable(text)
    assert canvas.printable(shown) == shown
    assert "\n" not in shown
    assert all(canvas._font(False).get_char_index(ord(char)) for char in shown)


@given(st.text(st.sampled_from("abcW i,."), max_size=60), st.floats(0, 3), st.booleans())
def test_shortened_text_fits_and_keeps_its_beginning(text, width, bold):
    text = canvas.printable(text)
    short = canvas.shortened(text, 10, width, bold)
    assert short == "" or canvas.text_width(short, 10, bold) <= width
    assert short == text or short == "" or (short.endswith("…") and text.startswith(short[:-1]))


def test_text_is_never_mathematics():
    figure = panel(label="$x^2$", method=r"\alpha $")
    assert "$x^2$, p = 0.97" in texts(figure)
    assert r"\alpha $" in texts(figure)
    canvas.figure_bytes(figure)


# ------------------------------------------------------------------------------------------------- panel


def test_a_panel_has_photo_heatmap_overlay_and_curves():
    importance = RNG.random((7, 7))
    figure = panel(importance=importance, cmap="viridis", alpha=0.3)
    photo, heatmap, blended, bar = (np.asarray(image.get_array()) for image in figure.axes[0].images)
    shape = photo.shape[:2]
    limits = overlay.display_range(importance)
    np.testing.assert_array_equal(heatmap, overlay.heatmap(importance, shape, "viridis", limits))
    np.testing.assert_array_equal(blended, overlay.overlay(photo, importance, 0.3, "viridis", limits))
    np.testing.assert_array_equal(bar, overlay.heatmap([[0.0, 1.0]], (1, 256), "viridis", (0.0, 1.0)))
    np.testing.assert_array_equal(lines(figure, figures.DELETION)[0], np.stack([STEPS, np.full(11, 0.2)], 1))
    np.testing.assert_array_equal(lines(figure, figures.INSERTION)[0], np.stack([STEPS, np.full(11, 0.8)], 1))
    for text in ("tabby, p = 0.97", "I-GOS", "overlay", "less important", "AUC .118", "AUC .557"):
        assert text in texts(figure)
    assert "for the class" in texts(panel(cmap="bwr"))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (PHOTO, {}),
        (np.zeros((30, 100, 3), np.uint8), {"label": "a very long class name, " * 9, "method": "M" * 90}),
        (np.zeros((3000, 1, 3), np.uint8), {"label": "", "probability": NAN}),
        (np.zeros((1, 3000, 3), np.uint8), {"label": "日本\nx", "probability": 0.001}),
    ],
)
def test_no_text_of_a_panel_is_cut_off_or_overlaps(pixels, words):
    figure = panel(pixels, **words)
    assert_nothing_is_cut_off(figure)
    assert_texts_fit(figure)
    assert figure.get_size_inches()[0] < 16


def test_the_probability_survives_a_long_label():
    title = next(text for text in texts(panel(label="W" * 90)) if text.startswith("W"))
    assert title.endswith("…, p = 0.97")
    titles = [texts(panel(probability=p))[0] for p in (NAN, INF, 0.001, 0.0, 1.0)]
    assert titles == ["tabby, p = n/a"] * 2 + ["tabby, p < 0.01", "tabby, p = 0.00", "tabby, p = 1.00"]


def test_a_small_photo_shows_its_pixels_and_keeps_its_proportions():
    figure = panel(np.array([[[255, 0, 0], [0, 0, 255]]] * 4, np.uint8))
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 2
    left, right, bottom, top = figure.axes[0].images[0].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(1 / 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("importance", [np.zeros((3, 3)), [[NAN, 1.0], [INF, -INF]], np.full((1, 1), NAN)])
def test_odd_maps_can_be_drawn(importance):
    canvas.figure_bytes(panel(importance=np.asarray(importance), cmap="bwr"))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        panel(PHOTO.astype(float))
    with pytest.raises(ValueError, match="shape"):
        panel(importance=np.zeros(4))
    with pytest.raises(ValueError, match=r"colormap"):
        panel(cmap="hot")
    with pytest.raises(ValueError, match=r"\(11,\) and \(3,\)"):
        panel(measured=curves(insertion=np.zeros(3)))


# ------------------------------------------------------------------------------------------------ curves


def test_missing_points_leave_a_gap_and_a_lone_point_is_a_dot():
    score = np.full(11, 0.5)
    score[[3, 5]] = NAN, INF
    figure = figures.curves(curves(deletion=score, deletion_auc=NAN))
    [line] = lines(figure, figures.DELETION)
    assert np.flatnonzero(np.isnan(line[:, 1])).tolist() == [3, 5]
    assert "AUC n/a" in texts(figure)
    alone = np.full(11, NAN)
    alone[5] = 0.5
    empty = rendered(figures.curves(curves(deletion=np.full(11, NAN))))
    assert (rendered(figures.curves(curves(deletion=alone))) != empty).any()


@pytest.mark.parametrize(
    ("area", "text"),
    [(0.118, ".118"), (0.6674, ".667"), (0, ".000"), (0.9999, "1.000"), (-0.25, "-.250"), (10.5, "10.500"),
     (NAN, "n/a"), (INF, "n/a")],
)  # fmt: skip
def test_area_format(area, text):
    assert figures.auc_text(area) == text


def test_mean_curves_show_every_method_on_both_axes():
    methods = {f"method {at}": (STEPS, STEPS * at / 20, 1 - STEPS * at / 20) for at in range(16)}
    figure = figures.mean_curves(methods)
    for plot, column in zip(figure.axes[1:], (1, 2), strict=True):
        for line, values in zip(plot.lines, methods.values(), strict=True):
            np.testing.assert_allclose(line.get_ydata(), values[column])
    styles = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in figure.axes[1].lines}
    assert len(styles) == 16  # no two methods look alike
    written = texts(figure)
    assert {"method 15", ".375", ".625"} <= set(written)
    assert_nothing_is_cut_off(figure)
    assert_texts_fit(figure)
    with pytest.raises(ValueError, match="at least one method"):
        figures.mean_curves({})
    with pytest.raises(ValueError, match="a must have x"):
        figures.mean_curves({"a": ([0, 1], [0.5], [0.5])})


def test_share_curves_are_stairs():
    figure = figures.share_curves({"one": [0.0, 0.5, 1.0], "a long name of a network": [0.0, 0.0, 0.25]})
    one, two = figure.axes[1].lines
    assert one.get_drawstyle() == "steps-post"
    assert one.get_xydata()[:3].tolist() == [[0, 0], [1, 0.5], [2, 1]]
    assert two.get_ydata()[-1] == 0.25
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["0", "1", "2"]
    assert_texts_fit(figure)
    for shares in ({}, {"a": [0.0, 1.0], "b": [0.0]}, {"a": 1.0}):
        with pytest.raises(ValueError, match="have the same length"):
            figures.share_curves(shares)


def test_the_history_of_a_search():
    figure = figures.search_history([0, 1, 2, 3, 4], [0.1, 0.4, 0.7, 1.1, NAN], threshold=0.9)
    line, threshold = figure.axes[1].lines
    assert line.get_xydata().tolist() == [[0, 0.1], [1, 0.4], [2, 0.7], [3, 1.1]]
    assert list(threshold.get_ydata()) == [0.9, 0.9]
    assert figure.axes[1].get_ylim()[1] > 1.1
    assert "sufficient: 90%" in texts(figure)
    assert_texts_fit(figure)
    assert len(figures.search_history([0, 1], [NAN, NAN]).axes[1].lines[0].get_xdata()) == 0
    with pytest.raises(ValueError, match="must have x"):
        figures.search_history([0, 1], [0.5])


# ------------------------------------------------------------------------------------------- contact sheet


def test_a_contact_sheet_has_a_place_for_every_tile():
    red, green = (np.full((20, 10, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0)))
    columns = ["photo", "a long name of a method"]
    sheet = figures.contact_sheet(columns, [[Tile(red, "x"), Tile(green, "a caption that is cut")]] * 2)
    boxes = [image.get_extent() for image in sheet.axes[0].images]
    assert len({(box[0], box[2]) for box in boxes}) == 4
    for left, right, bottom, top in boxes:
        assert (right - left) / (bottom - top) == pytest.approx(1 / 2)
    assert_nothing_is_cut_off(sheet)
    assert_texts_fit(sheet)
    with pytest.raises(ValueError, match="each row needs 2 tiles"):
        figures.contact_sheet(columns, [[Tile(red, "x")]])
    with pytest.raises(TypeError, match="uint8"):
        figures.contact_sheet(["photo"], [[Tile(red / 255.0, "x")]])
    assert len(canvas.figure_bytes(figures.contact_sheet([], []))) > 0
