"""Lines with a legend, and contact sheets."""

import numpy as np
import pytest

from jaxplain.render import Line, Tile, contact_sheet, draw_lines

BLUE = (0, 114, 178)


def count(picture, color):
    return int((np.asarray(picture) == color).all(-1).sum())


def test_a_line_runs_where_its_numbers_say():
    flat = draw_lines({"one": Line([0, 1], [0.5, 0.5])}, x="fraction", y="score")
    low = draw_lines({"one": Line([0, 1], [0.0, 0.0])}, x="fraction", y="score")
    rows = [np.flatnonzero((one[40:] == BLUE).all(-1).sum(1) > 300) + 40 for one in (flat, low)]
    assert abs(rows[0].mean() - (34 + (422 - 50)) / 2) < 2  # half way up the axes
    assert abs(rows[1].mean() - (422 - 50)) < 3


def test_the_eighth_line_is_dashed_in_the_first_colour():
    """The first is covered by a line in another colour, so that only the eighth is counted."""

    def drawn(count):
        lines = {
            str(at): Line([0, 1], [0.33, 0.33] if at < count - 1 else [0.77, 0.77]) for at in range(count)
        }
        picture = draw_lines(lines, x="fraction", y="score")
        return picture[len(lines) * 22 + 12 :]  # without the legend

    solid, dashed = count(drawn(1), BLUE), count(drawn(8), BLUE)
    assert 0.4 * solid < dashed < 0.7 * solid


def test_numbers_that_cannot_be_drawn():
    odd = draw_lines({"one": Line([0, 0.5, 1], [np.nan, 2.0, -1.0])}, x="fraction", y="score")
    assert odd.shape == (422, 560, 3)
    with pytest.raises(ValueError, match="line 'one' needs x"):
        draw_lines({"one": Line([0, 1], [0.5])}, x="fraction", y="score")
    with pytest.raises(ValueError, match="at least one line"):
        draw_lines({}, x="fraction", y="score")
    with pytest.raises(ValueError, match="at least 260 x 180"):
        draw_lines({"one": Line([0], [0])}, x="fraction", y="score", size=(100, 100))


def test_a_sheet_has_a_place_for_every_tile():
    red, green = (np.full((20, 10, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0)))
    sheet = contact_sheet(["photo", "a long name of a method"], [[Tile(red, "x"), Tile(green, "y")]] * 2)
    assert count(sheet, (255, 0, 0)) == count(sheet, (0, 255, 0)) == 2 * 128 * 64
    with pytest.raises(ValueError, match="each row needs 2 tiles"):
        contact_sheet(["photo", "method"], [[Tile(red, "x")]])
