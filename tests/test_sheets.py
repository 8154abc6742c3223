"""Explanation sheets as pictures and pages."""

import re

import numpy as np
import pytest

from jaxplain.render import Bar, Row, Sheet, Tile, sheet_png, sheets_page
from jaxplain.render.sheet.parts import COLORS, largest, written
from jaxplain.render.sheet.picture import TILE

HOSTILE = "</script><b onload='x'>\"&'"


def tile(shade=0, caption="a photo", shape=(30, 40)):
    return Tile(np.full((*shape, 3), (shade, 200, 40), np.uint8), caption)


def row(*values, tiles=(), title="x-feature 1"):
    return Row(title, "a note", tuple(Bar(f"bar {at}", value) for at, value in enumerate(values)), tiles)


def colored(picture, color):
    return np.argwhere((np.asarray(picture) == color).all(-1))


def test_bars_start_at_zero_and_are_drawn_to_one_scale():
    sheet = Sheet("gull", (), (), (row(4.0, -1.0), row(2.0)))
    assert largest(sheet) == 4
    first = colored(sheet_png(Sheet("gull", (), (), (row(4.0), row(2.0)))), COLORS[0])
    rows = [first[first[:, 0] < first[:, 0].mean()], first[first[:, 0] > first[:, 0].mean()]]
    lengths = [np.ptp(part[:, 1]) for part in rows]
    assert lengths[1] == pytest.approx(lengths[0] / 2, abs=2)
    assert rows[0][:, 1].min() == rows[1][:, 1].min()
    both = sheet_png(sheet)
    gap = colored(both, COLORS[0])[:, 1].min() - colored(both, COLORS[1])[:, 1].max()
    assert 0 < gap <= 2  # the line at zero; what is negative lies left of it


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1e30, -1e30])
def test_any_value_can_be_drawn(value):
    sheet = Sheet("gull", (), (), (row(value, 1.0),))
    assert sheet_png(sheet).size[0] > 300
    assert written(value) in sheets_page([sheet], title="page")


def test_pictures_of_any_shape_fit_their_square():
    tiles = (tile(10, shape=(4, 400)), tile(20, shape=(400, 4)), tile(30, shape=(1, 1)), tile(40))
    picture = sheet_png(Sheet("gull", ("note",), (tile(50),), (row(1.0, tiles=tiles),)))
    for shade in (10, 20, 30, 40, 50):
        found = colored(picture, (shade, 200, 40))
        assert len(found)
        assert np.ptp(found, axis=0).max() < TILE
    more = sheet_png(Sheet("gull", ("note",), (tile(50),), (row(1.0, tiles=(*tiles, tile(), tile())),)))
    assert more.width > picture.width
    assert sheet_png(Sheet("", (), (), ())).size[1] > 0


def test_what_is_no_picture_is_refused():
    with pytest.raises(TypeError, match="uint8"):
        sheet_png(Sheet("gull", (), (Tile(np.zeros((4, 4, 3)), ""),), ()))


def test_the_page_shows_everything_and_takes_nothing_for_markup():
    sheet = Sheet(HOSTILE, (HOSTILE,), (tile(caption=HOSTILE),), (row(1.5, title=HOSTILE),))
    page = sheets_page(
        [sheet, sheet],
        title=HOSTILE,
        summary=HOSTILE,
        table=[["class", "r2"], [HOSTILE, "0.98"]],
        notes=[(HOSTILE, HOSTILE)],
        facts=[(HOSTILE, HOSTILE)],
    )
    assert "<b onload" not in page
    assert "</script>" not in page
    assert page.count("<section") == 2
    assert page.count("href='#sheet-") == 2
    assert page.count("<img src='data:image/jpeg;base64,") == 2
    assert "0.98" in page
    assert "+1.50" in page
    assert not re.search(r"(src|href)=.https?:", page)
    assert "$" not in page


def test_a_negative_bar_lies_left_of_zero_on_the_page():
    page = sheets_page([Sheet("gull", (), (), (row(2.0, -1.0, -4.0),))], title="page")
    bars = re.findall(r"margin-left:([\d.]+)%;width:([\d.]+)%", page)
    numbers = [(float(start), float(length)) for start, length in bars]
    assert numbers[0] == pytest.approx((33.3, 33.4), abs=0.1)
    assert numbers[1][0] + numbers[1][1] == pytest.approx(33.3, abs=0.1)
    assert numbers[2][0] == 0  # cut, as it has no more room
