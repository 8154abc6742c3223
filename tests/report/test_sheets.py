"""Explanation sheets as pictures and pages."""

import io
import re

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image
from support.page_reader import NASTY, assert_self_contained, in_browser, use_page

from jaxplain.report import canvas
from jaxplain.report.sheets import (
    Bar,
    Sheet,
    SheetRow,
    Tile,
    largest_value,
    sheet_png,
    sheets_page,
    value_text,
)


def tile(shade=0, caption="a photo", shape=(30, 40)):
    return Tile(np.full((*shape, 3), (shade, 200, 40), np.uint8), caption)


def row(*values, tiles=(), title="x-feature 1"):
    bars = tuple(Bar(f"bar {index}", value) for index, value in enumerate(values))
    return SheetRow(title, "a note", bars, tiles)


@pytest.fixture
def drawn(monkeypatch):
    """Draw a sheet and return its axes."""
    figures = []
    encode = canvas.figure_bytes
    monkeypatch.setattr(
        canvas, "figure_bytes", lambda figure, kind: figures.append(figure) or encode(figure, kind)
    )

    def draw(sheet):
        picture = np.asarray(Image.open(io.BytesIO(sheet_png(sheet))).convert("RGB"))
        border = np.concatenate([*picture[[0, -1]], *picture[:, [0, -1]].swapaxes(0, 1)])
        assert (border == 255).all()  # nothing is cut off
        return figures[-1].axes[0]

    return draw


def test_bars_start_at_zero_and_are_drawn_to_one_scale(drawn):
    sheet = Sheet("gull", (), (), (row(4.0, -1.0), row(2.0)))
    assert largest_value(sheet) == 4
    bars = [patch for patch in drawn(sheet).patches if isinstance(patch, Rectangle)]
    assert len({bar.get_x() for bar in bars}) == 1
    lengths = [bar.get_width() for bar in bars]
    assert lengths == pytest.approx([lengths[0], -lengths[0] / 4, lengths[0] / 2])
    assert [bar.get_facecolor() for bar in bars[:2]] != [bars[0].get_facecolor()] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -1e30])
def test_any_value_can_be_drawn(value):
    sheet = Sheet("gull", (), (), (row(value, 1.0),))
    assert sheet_png(sheet).startswith(b"\x89PNG")
    assert value_text(value) in sheets_page([sheet], title="page")


def test_pictures_of_any_shape_fit_their_square_and_long_texts_are_cut(drawn):
    shapes = [(4, 400), (400, 4), (1, 1), (30, 40), (30, 40), (30, 40)]
    tiles = tuple(tile(shape=shape, caption="a long caption " * 9) for shape in shapes)
    few, more = (
        drawn(Sheet("gull " * 90, ("note " * 90,), (tile(50),), (row(1.0, tiles=tiles[:count]),)))
        for count in (4, 6)
    )
    for image in more.images:
        left, right, bottom, top = image.get_extent()
        assert max(right - left, bottom - top) == pytest.approx(1.3)
    assert len(more.images) == 7
    assert more.figure.get_size_inches()[0] > few.figure.get_size_inches()[0]
    assert sheet_png(Sheet("", (), (), ()))
    with pytest.raises(TypeError, match="uint8"):
        sheet_png(Sheet("gull", (), (Tile(np.zeros((4, 4, 3)), ""),), ()))


def nasty_page():
    sheet = Sheet(NASTY, (NASTY,), (tile(caption=NASTY),), (row(1.5, title=NASTY),))
    return sheets_page(
        [sheet, sheet],
        title=NASTY,
        summary=NASTY,
        table=[["class", "r2"], [NASTY, "0.98"]],
        notes=[(NASTY, NASTY)],
        facts=[(NASTY, NASTY)],
    )


def test_the_page_shows_everything_and_takes_nothing_for_markup():
    page = assert_self_contained(nasty_page())
    assert not {"b onload", "script"} & set(page.tags)
    assert page.tags.count("section") == len(page.addresses) - len(page.images) == 2
    assert (
        page.text.count(NASTY) == 2 + 1 + 2 + 1 + 2 + 2 + 2 * 4
    )  # title, summary, links, table, notes, facts, sheets
    assert [image["alt"] for image in page.images] == [NASTY] * 2
    assert "0.98" in page.text
    assert "+1.50" in page.text
    alone = assert_self_contained(sheets_page([Sheet("gull", (), (), ())], title="Gulls"))
    assert "There is no x-feature to show." in alone.text
    assert "nav" not in alone.tags


def test_a_negative_bar_lies_left_of_zero_on_the_page():
    page = sheets_page([Sheet("gull", (), (), (row(2.0, -1.0, -4.0, float("nan")),))], title="page")
    bars = re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", page)
    numbers = [(float(start), float(length)) for start, length in bars]
    assert numbers[0] == pytest.approx((33.3, 33.4), abs=0.1)
    assert sum(numbers[1]) == pytest.approx(33.3, abs=0.1)
    assert numbers[2] == (0, 33.3)  # cut, because there is no more room
    assert numbers[3] == (33.3, 0)


@in_browser
@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_fits_a_phone_and_a_desk(tmp_path, width):
    out = use_page(tmp_path, nasty_page(), "out.images = all('img').map(one => one.naturalWidth);", width)
    assert out["title"] == NASTY  # nasty text has run nowhere
    assert all(out["images"])
