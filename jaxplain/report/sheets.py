"""Explanation sheets: one row per x-feature, with bars for its contribution and pictures that activate it."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from jaxplain.report import canvas, figures, pages
from jaxplain.report.figures import Tile as Tile

COLORS = canvas.COLORS[:2]  # colors of a row's first and second bar

# In inches.
_SIDE, _GAP, _MARGIN = 1.3, 0.12, 0.22
_TEXT, _VALUE = 2.7, 0.5  # widths of the column of bars and of a bar's value within it
_CAPTION, _LINE, _BAR = 0.2, 0.19, 0.34
_TILES = 4  # minimum number of columns of pictures


class Bar(NamedTuple):
    """A value drawn as a bar, to the sheet's scale."""

    label: str
    value: float  # NaN is printed but not drawn


class SheetRow(NamedTuple):
    """The row for one x-feature."""

    title: str
    note: str
    bars: tuple[Bar, ...]  # one bar, or two to compare
    tiles: tuple[Tile, ...]


class Sheet(NamedTuple):
    """A heading, a few pictures, and rows."""

    title: str
    notes: tuple[str, ...]
    lead: tuple[Tile, ...]  # the pictures above the rows
    rows: tuple[SheetRow, ...]


def value_text(value: float) -> str:
    """Format a bar's value as text.

    Example:
      >>> value_text(1.234), value_text(-0.5), value_text(float("nan"))
      ('+1.23', '-0.50', 'n/a')
    """
    return f"{value:+.2f}" if math.isfinite(value) else "n/a"


def largest_value(sheet: Sheet) -> float:
    """Return the largest absolute value among a sheet's bars, which sets the scale; 1 if it has no bars."""
    values = [abs(bar.value) for row in sheet.rows for bar in row.bars if math.isfinite(bar.value)]
    return max(values, default=0.0) or 1.0


# ---------------------------------------------------------------------------------------------------------
# PNG


def sheet_png(sheet: Sheet) -> bytes:
    """Draw a sheet as a PNG: title, notes, pictures, then one row of bars and pictures per x-feature.

    Args:
      sheet: the sheet to draw. Text that is too long is shortened.

    Raises:
      TypeError, ValueError: a picture is not uint8 [H, W, 3].

    Example:
      >>> row = SheetRow("x-feature 1", "", (Bar("here", 1.0),), ())
      >>> sheet_png(Sheet("gull", ("one note",), (), (row,)))[:4]
      b'\\x89PNG'
    """
    columns = max(_TILES, len(sheet.lead) - 2, *(len(row.tiles) for row in sheet.rows), 0)
    width = 2 * _MARGIN + _TEXT + columns * (_SIDE + _GAP)
    head = _MARGIN + 0.35 + _LINE * len(sheet.notes) + 0.1
    lead = _SIDE + _CAPTION + _GAP if sheet.lead else 0.0
    heights = [_row_height(row) for row in sheet.rows]
    ax = canvas.blank(width, head + lead + sum(heights) + _MARGIN)
    room = width - 2 * _MARGIN
    canvas.write(ax, _MARGIN, _MARGIN + 0.2, sheet.title, size=16, width=room, bold=True)
    for index, note in enumerate(sheet.notes):
        top = _MARGIN + 0.48 + _LINE * index
        canvas.write(ax, _MARGIN, top, note, size=10, width=room, color=canvas.MUTED)
    _draw_tiles(ax, _MARGIN, head, sheet.lead)
    top, largest = head + lead, largest_value(sheet)
    for row, height in zip(sheet.rows, heights, strict=True):
        _draw_line(ax, (_MARGIN, width - _MARGIN), (top, top), canvas.GRID)
        _draw_row(ax, top + _GAP, row, largest)
        top += height
    return canvas.axes_png(ax)


def _row_height(row: SheetRow) -> float:
    text = 0.42 + _BAR * len(row.bars)
    return max(text, _SIDE + _CAPTION if row.tiles else 0.0) + _GAP + 0.08


def _draw_line(ax: Axes, x: tuple[float, float], y: tuple[float, float], color: str) -> None:
    ax.plot(x, y, color=color, linewidth=0.8, linestyle="-", marker="")


def _draw_row(ax: Axes, top: float, row: SheetRow, largest: float) -> None:
    canvas.write(ax, _MARGIN, top + 0.13, row.title, size=11.5, width=_TEXT, bold=True)
    canvas.write(ax, _MARGIN, top + 0.31, row.note, size=9, width=_TEXT, color=canvas.MUTED)
    for index, bar in enumerate(row.bars):
        _draw_bar(ax, top + 0.42 + _BAR * index, bar, largest, COLORS[index % len(COLORS)])
    _draw_tiles(ax, _MARGIN + _TEXT + _GAP, top, row.tiles)


def _draw_bar(ax: Axes, top: float, bar: Bar, largest: float, color: str) -> None:
    """Draw a bar below its label, from zero to the right (for the class) or to the left (against it)."""
    room = _TEXT - _VALUE - 0.08
    zero, reach = _MARGIN + room / 3, room * 2 / 3
    canvas.write(ax, _MARGIN, top + 0.1, bar.label, size=9, width=_TEXT, color=canvas.MUTED)
    if math.isfinite(bar.value):
        length = max(-room / 3, reach * bar.value / largest)
        ax.add_patch(Rectangle((zero, top + 0.165), length, 0.1, facecolor=color, edgecolor="none"))
    _draw_line(ax, (zero, zero), (top + 0.15, top + 0.28), "#969ea6")
    canvas.write(
        ax, _MARGIN + _TEXT - 0.04, top + 0.215, value_text(bar.value), size=9, ha="right", va="center"
    )


def _draw_tiles(ax: Axes, left: float, top: float, tiles: Sequence[Tile]) -> None:
    for index, tile in enumerate(tiles):
        figures.draw_tile(ax, tile, left + index * (_SIDE + _GAP), top, _SIDE)


# ---------------------------------------------------------------------------------------------------------
# The page


def sheets_page(
    sheets: Sequence[Sheet],
    *,
    title: str,
    summary: str = "",
    table: Sequence[Sequence[str]] = (),
    notes: Iterable[tuple[str, str]] = (),
    facts: Iterable[tuple[str, str]] = (),
) -> str:
    """Return a page with a summary, a table, several sheets, and links to the sheets.

    The page works on phones, in print, in light and dark mode, offline and without JavaScript.

    Args:
      sheets: sheets to show.
      title: title of the page.
      summary: a sentence shown below the title.
      table: rows of cells, with the headings in the first row; empty for no table.
      notes: (name, explanation) pairs for the measures, shown below the table.
      facts: (name, value) pairs for the table that describes how the page was made.

    Returns:
      The page as HTML. All text may contain any characters; it is escaped.

    Example:
      >>> "no x-feature" in sheets_page([Sheet("gull", (), (), ())], title="Gulls")
      True
    """
    return pages.render(
        "sheets.html",
        title=title,
        summary=summary,
        sheets=list(sheets),
        largest_value=largest_value,
        value_text=value_text,
        table=[list(row) for row in table],
        notes=list(notes),
        facts=list(facts),
    )
