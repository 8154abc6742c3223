"""Sheets as one page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from jaxplain.render.png import data_uri
from jaxplain.render.sheet.parts import Bar, Row, Sheet, Tile, largest, written


def sheets_page(
    sheets: Sequence[Sheet],
    *,
    title: str,
    summary: str = "",
    table: Sequence[Sequence[str]] = (),
    notes: Iterable[tuple[str, str]] = (),
    facts: Iterable[tuple[str, str]] = (),
) -> str:
    """A self-contained page: a summary, a table, and the sheets one below the other with links to each.

    Works on a phone, in print, light and dark, without a network and without JavaScript.

    Args:
        sheets: what to show.
        title: of the page.
        summary: a sentence below it.
        table: rows of cells, the first being the headings; none for no table.
        notes: names and explanations, below the table.
        facts: names and values, of how the page came about.

    Returns:
        HTML text. All texts may hold anything; they are shown as text.

    Example:
        >>> "no x-feature" in sheets_page([Sheet("gull", (), (), ())], title="Gulls")
        True
    """
    template = files("jaxplain.render.sheet").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        summary=escape(summary),
        links=_links(sheets),
        table=_table(table),
        notes="".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in notes),
        sheets="".join(_sheet(number, sheet) for number, sheet in enumerate(sheets)),
        facts="".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in facts),
    )


def _links(sheets: Sequence[Sheet]) -> str:
    if len(sheets) < 2:
        return ""
    items = (f"<li><a href='#sheet-{at}'>{escape(sheet.title)}</a></li>" for at, sheet in enumerate(sheets))
    return f"<nav aria-label='sheets'><ul>{''.join(items)}</ul></nav>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(_table_row(row) for row in rows[1:])
    return f"<div class='scroller'><table class='figures'><tr>{head}</tr>{body}</table></div>"


def _table_row(row: Sequence[str]) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    return f"<tr><th scope='row'>{escape(row[0])}</th>{cells}</tr>"


def _sheet(number: int, sheet: Sheet) -> str:
    longest = largest(sheet)
    notes = "".join(f"<p class='muted'>{escape(note)}</p>" for note in sheet.notes)
    rows = "".join(_row(row, longest) for row in sheet.rows) or "<p>There is no x-feature to show.</p>"
    return (
        f"<section class='sheet' id='sheet-{number}'><h2>{escape(sheet.title)}</h2>{notes}"
        f"{_tiles(sheet.lead)}{rows}</section>"
    )


def _row(row: Row, longest: float) -> str:
    bars = "".join(_bar(bar, longest, at) for at, bar in enumerate(row.bars))
    return (
        f"<article class='row'><div class='text'><h3>{escape(row.title)}</h3>"
        f"<p class='muted'>{escape(row.note)}</p>{bars}</div>{_tiles(row.tiles)}</article>"
    )


def _bar(bar: Bar, longest: float, at: int) -> str:
    """A bar from zero, which stands at a third of the width: to the right for the class."""
    share = bar.value / longest if math.isfinite(bar.value) else 0.0
    start, length = (33.3, 66.7 * share) if share >= 0 else (33.3 - min(33.3, -66.7 * share), -66.7 * share)
    return (
        f"<div class='bar'><span>{escape(bar.label)}</span><b>{written(bar.value)}</b>"
        f"<i class='c{at % 2}' style='margin-left:{start:.1f}%;width:{min(length, 66.7):.1f}%'></i></div>"
    )


def _tiles(tiles: Sequence[Tile]) -> str:
    if not tiles:
        return ""
    shown = (
        f"<figure><img src='{data_uri(tile.picture)}' alt='{escape(tile.caption)}' loading='lazy'>"
        f"<figcaption>{escape(tile.caption)}</figcaption></figure>"
        for tile in tiles
    )
    return f"<div class='tiles'>{''.join(shown)}</div>"
