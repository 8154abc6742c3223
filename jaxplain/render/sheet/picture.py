"""A sheet as one picture."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from jaxplain.images import check_rgb, resize
from jaxplain.render.sheet.parts import COLORS, Bar, Row, Sheet, Tile, largest, written
from jaxplain.render.text import INK, MUTED, printable, shorten, write

TILE = 150  # side of the square that a picture is fitted into
_MARGIN, _GAP, _TEXT = 24, 14, 300  # around, between pictures, width of the column of bars
_CAPTION, _LINE, _BAR = 22, 20, 34
_RULE, _AXIS = (222, 226, 230), (150, 158, 166)
_VALUE = 52  # room for a bar's value


def sheet_png(sheet: Sheet) -> Image.Image:
    """Draw a sheet: title and notes, pictures above, and a row of bars and pictures for each x-feature.

    Args:
        sheet: what to draw; texts may hold anything, what the font lacks is replaced.

    Returns:
        An RGB picture on white.

    Raises:
        TypeError, ValueError: a picture that is not uint8 ``[H, W, 3]``.

    Example:
        >>> import numpy as np
        >>> row = Row("x-feature 1", "", (Bar("here", 1.0),), (Tile(np.zeros((4, 4, 3), np.uint8), "a"),))
        >>> sheet_png(Sheet("gull", ("one note",), (), (row,))).size[0]
        1018
    """
    wide = max([4, *(len(row.tiles) for row in sheet.rows)])
    wide = max(wide, len(sheet.lead) - 2)
    width = 2 * _MARGIN + _TEXT + wide * (TILE + _GAP) + _GAP
    head = _MARGIN + 34 + _LINE * len(sheet.notes) + 8
    lead = TILE + _CAPTION + _GAP if sheet.lead else 0
    heights = [_row_height(row) for row in sheet.rows]
    picture = Image.new("RGB", (width, head + lead + sum(heights) + _MARGIN), "white")
    write(picture, (_MARGIN, _MARGIN + 20), _fit(sheet.title, 24, width - 2 * _MARGIN), size=24, anchor="ls")
    for at, note in enumerate(sheet.notes):
        place = (_MARGIN, _MARGIN + 34 + _LINE * at + 14)
        write(picture, place, _fit(note, 14, width - 2 * _MARGIN), size=14, anchor="ls", color=MUTED)
    _draw_tiles(picture, (_MARGIN, head), sheet.lead)
    top, longest = head + lead, largest(sheet)
    for row, height in zip(sheet.rows, heights, strict=True):
        ImageDraw.Draw(picture).line((_MARGIN, top, width - _MARGIN, top), fill=_RULE)
        _draw_row(picture, top + _GAP, row, longest)
        top += height
    return picture


def _row_height(row: Row) -> int:
    text = 44 + _BAR * len(row.bars)
    return max(text, TILE + _CAPTION if row.tiles else 0) + _GAP + 8


def _draw_row(picture: Image.Image, top: int, row: Row, longest: float) -> None:
    write(picture, (_MARGIN, top + 14), _fit(row.title, 17, _TEXT), size=17, anchor="ls")
    write(picture, (_MARGIN, top + 34), _fit(row.note, 13, _TEXT), size=13, anchor="ls", color=MUTED)
    for at, bar in enumerate(row.bars):
        _draw_bar(picture, top + 46 + _BAR * at, bar, longest, COLORS[at % len(COLORS)])
    _draw_tiles(picture, (_MARGIN + _TEXT + _GAP, top), row.tiles)


def _draw_bar(picture: Image.Image, top: int, bar: Bar, longest: float, color: tuple[int, int, int]) -> None:
    """The label over a bar that starts at zero: to the right for the class, to the left against it."""
    draw = ImageDraw.Draw(picture)
    room = _TEXT - _VALUE - 8
    zero, reach = _MARGIN + room // 3, room - room // 3
    write(picture, (_MARGIN, top + 10), _fit(bar.label, 13, _TEXT), size=13, anchor="ls", color=MUTED)
    if math.isfinite(bar.value):
        end = zero + max(-room // 3, round(reach * bar.value / longest))
        draw.rectangle((min(zero, end), top + 16, max(zero, end), top + 26), fill=color)
    draw.line((zero, top + 14, zero, top + 28), fill=_AXIS)
    write(picture, (_MARGIN + _TEXT - 4, top + 21), written(bar.value), size=13, anchor="rm", color=INK)


def _draw_tiles(picture: Image.Image, at: tuple[int, int], tiles: tuple[Tile, ...]) -> None:
    left, top = at
    for tile in tiles:
        check_rgb(tile.picture)
        height, width = tile.picture.shape[:2]
        zoom = TILE / max(height, width)
        size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
        shown = Image.fromarray(resize(tile.picture, size, method="lanczos"))
        picture.paste(shown, (left + (TILE - size[1]) // 2, top + TILE - size[0]))
        caption = _fit(tile.caption, 12, TILE)
        write(picture, (left + TILE / 2, top + TILE + 15), caption, size=12, anchor="ms", color=MUTED)
        left += TILE + _GAP


def _fit(text: str, size: int, width: float) -> str:
    return shorten(printable(text), size, width)
