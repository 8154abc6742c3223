"""A contact sheet: a table of small pictures, titles above, captions below."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from jaxplain.images import check_rgb, resize
from jaxplain.render.sheet.parts import Tile
from jaxplain.render.text import MUTED, printable, shorten, write

_TILE, _GAP, _MARGIN = 128, 8, 16
_HEAD, _CAPTION = 26, 20
_TITLE_FONT, _CAPTION_FONT = 13, 12


def contact_sheet(titles: Sequence[str], rows: Sequence[Sequence[Tile]]) -> Image.Image:
    """Draw a table of pictures.

    Args:
        titles: of the columns.
        rows: of one tile a column each; their pictures are fitted into squares of 128 pixels.

    Returns:
        An RGB picture on white.

    Raises:
        TypeError, ValueError: a picture that is not uint8 ``[H, W, 3]``, or a row of another length.

    Example:
        >>> import numpy as np
        >>> contact_sheet(["photo", "igos"], [[Tile(np.zeros((4, 4, 3), np.uint8), "cat")] * 2]).size
        (296, 214)
    """
    for row in rows:
        if len(row) != len(titles):
            raise ValueError(f"each row needs {len(titles)} tiles, one a title; got {len(row)}")
    step = _TILE + _GAP
    width = 2 * _MARGIN + len(titles) * step - _GAP
    height = 2 * _MARGIN + _HEAD + len(rows) * (_TILE + _CAPTION + _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    for column, title in enumerate(titles):
        text = shorten(printable(title), _TITLE_FONT, _TILE)
        write(sheet, (_MARGIN + column * step + _TILE / 2, _MARGIN + 12), text, size=_TITLE_FONT, anchor="mm")
    for number, row in enumerate(rows):
        top = _MARGIN + _HEAD + number * (_TILE + _CAPTION + _GAP)
        for column, tile in enumerate(row):
            _paste(sheet, (_MARGIN + column * step, top), tile)
    return sheet


def _paste(sheet: Image.Image, at: tuple[int, int], tile: Tile) -> None:
    check_rgb(tile.picture)
    height, width = tile.picture.shape[:2]
    zoom = _TILE / max(height, width)
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    shown = Image.fromarray(resize(tile.picture, size, method="lanczos"))
    sheet.paste(shown, (at[0] + (_TILE - size[1]) // 2, at[1] + (_TILE - size[0]) // 2))
    caption = shorten(printable(tile.caption), _CAPTION_FONT, _TILE)
    write(
        sheet, (at[0] + _TILE / 2, at[1] + _TILE + 10), caption, size=_CAPTION_FONT, anchor="mm", color=MUTED
    )
