"""What a sheet consists of."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COLORS = ((0, 114, 178), (213, 94, 0))  # of a row's first and second bar; Okabe and Ito's blue and vermillion


class Tile(NamedTuple):
    """A picture and what it is."""

    picture: NDArray[np.uint8]  # [H, W, 3]
    caption: str


class Bar(NamedTuple):
    """A value, drawn to the scale of its sheet."""

    label: str
    value: float  # NaN is written and not drawn


class Row(NamedTuple):
    """One x-feature."""

    title: str
    note: str
    bars: tuple[Bar, ...]  # one, or two that are compared
    tiles: tuple[Tile, ...]


class Sheet(NamedTuple):
    """A heading, a few pictures above, and rows."""

    title: str
    notes: tuple[str, ...]
    lead: tuple[Tile, ...]
    rows: tuple[Row, ...]


def largest(sheet: Sheet) -> float:
    """The longest bar of a sheet, to whose length all are drawn; 1 where there is none."""
    values = [abs(bar.value) for row in sheet.rows for bar in row.bars if math.isfinite(bar.value)]
    return max(values, default=0.0) or 1.0


def written(value: float) -> str:
    """A bar's value as text.

    Example:
        >>> written(1.234), written(-0.5), written(float("nan"))
        ('+1.23', '-0.50', 'n/a')
    """
    return f"{value:+.2f}" if math.isfinite(value) else "n/a"
