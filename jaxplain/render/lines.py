"""Several lines on one pair of axes, with a legend above."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from jaxplain.render.curves import (
    BOTTOM,
    SUPERSAMPLING,
    TICK_FONT,
    TICKS,
    PlotArea,
    draw_grid,
    draw_run,
    write_upwards,
)
from jaxplain.render.text import MUTED, printable, shorten, write

# The Okabe-Ito palette without its yellow, which is too light for a line on white.
_COLORS = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (60, 60, 60),
)  # fmt: skip
_LEFT, _RIGHT, _LEGEND_ROW = 62, 20, 22
_NOTE = 110  # room for a line's note in the legend
_SMALLEST = (260, 180)
_DASH = 9.0  # pixels of a dash and of a gap, in the lines beyond the palette


class Line(NamedTuple):
    """One line and what the legend says of it."""

    x: ArrayLike  # [T]
    y: ArrayLike  # [T], 0 to 1
    note: str = ""


def draw_lines(
    lines: Mapping[str, Line], *, x: str, y: str, x_max: float = 1.0, size: tuple[int, int] = (560, 400)
) -> NDArray[np.uint8]:
    """Draw lines with axes and a legend. When the colours are used up, they begin again with dashes.

    Args:
        lines: by name.
        x: what the horizontal axis shows, 0 to `x_max`.
        y: what the vertical axis shows, 0 to 1.
        x_max: right end of the horizontal axis.
        size: ``(width, height)`` in pixels without the legend, at least 260 x 180.

    Returns:
        uint8 ``[height + legend, width, 3]``. Points outside the axes are drawn at their edge, NaN as 0.

    Raises:
        ValueError: nothing to draw, x and y of different lengths, or too small a size.

    Example:
        >>> draw_lines({"one": Line([0, 1], [0.2, 0.9], "area .55")}, x="fraction", y="score").shape
        (422, 560, 3)
    """
    for name, line in lines.items():
        if np.ndim(line.x) != 1 or np.shape(line.x) != np.shape(line.y) or not np.size(line.x):
            raise ValueError(
                f"line {name!r} needs x [T] and y [T]; got {np.shape(line.x)} and {np.shape(line.y)}"
            )
    if not lines:
        raise ValueError("there must be at least one line")
    if size[0] < _SMALLEST[0] or size[1] < _SMALLEST[1]:
        raise ValueError(f"lines need at least {_SMALLEST[0]} x {_SMALLEST[1]} pixels; got {size}")
    legend = _LEGEND_ROW * len(lines)
    width, height = size[0], size[1] + legend
    area = PlotArea(_LEFT, legend + 12, width - _RIGHT, height - BOTTOM)
    picture = _draw(lines, area, (width, height), x_max)
    _write_axes(picture, area, (x, y), x_max)
    _write_legend(picture, lines, width)
    return np.array(picture)


def _color(number: int) -> tuple[int, int, int]:
    return _COLORS[number % len(_COLORS)]


def _dashed(number: int) -> bool:
    return (number // len(_COLORS)) % 2 == 1


def _draw(lines: Mapping[str, Line], area: PlotArea, size: tuple[int, int], x_max: float) -> Image.Image:
    """Everything without letters."""
    large = Image.new("RGB", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), "white")
    draw = ImageDraw.Draw(large, "RGBA")
    zoomed = PlotArea(*(SUPERSAMPLING * side for side in area))
    draw_grid(draw, zoomed)
    for number, line in enumerate(lines.values()):
        xs = np.clip(np.asarray(line.x, np.float64) / x_max, 0, 1)
        ys = np.clip(np.nan_to_num(np.asarray(line.y, np.float64)), 0, 1)
        run = [zoomed.point(float(across), float(up)) for across, up in zip(xs, ys, strict=True)]
        for piece in _dashes(run) if _dashed(number) else [run]:
            draw_run(draw, piece, _color(number))
    return large.reduce(SUPERSAMPLING)


def _dashes(run: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Every other stretch of a line, cut by its length."""
    points = np.asarray(run)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    period = _DASH * SUPERSAMPLING
    pieces = []
    for start in np.arange(0.0, length[-1] + 1e-9, 2 * period):
        end = min(start + period, length[-1])
        at = np.concatenate([[start], length[(length > start) & (length < end)], [end]])
        pieces.append(
            [(float(a), float(b)) for a, b in zip(*(np.interp(at, length, c) for c in points.T), strict=True)]
        )
    return pieces


def _write_axes(picture: Image.Image, area: PlotArea, labels: tuple[str, str], x_max: float) -> None:
    for tick in TICKS:
        x, y = area.point(tick, tick)
        write(picture, (x, area.bottom + 14), f"{tick * x_max:.3g}", size=TICK_FONT, anchor="mm", color=MUTED)
        write(picture, (area.left - 8, y), f"{tick:g}", size=TICK_FONT, anchor="rm", color=MUTED)
    middle = area.point(0.5, 0.5)
    write(picture, (middle[0], area.bottom + 36), labels[0], size=TICK_FONT, anchor="mm")
    write_upwards(picture, (14, middle[1]), labels[1])


def _write_legend(picture: Image.Image, lines: Mapping[str, Line], width: int) -> None:
    draw = ImageDraw.Draw(picture)
    for number, (name, line) in enumerate(lines.items()):
        y = 14 + _LEGEND_ROW * number
        stretches = ((0, 7), (10, 17), (20, 26)) if _dashed(number) else ((0, 26),)
        for start, end in stretches:
            draw.rectangle((_LEFT + start, y - 1, _LEFT + end, y + 1), fill=_color(number))
        text = shorten(printable(name), TICK_FONT, width - _LEFT - _RIGHT - _NOTE)
        write(picture, (_LEFT + 36, y), text, size=TICK_FONT, anchor="lm")
        write(picture, (width - _RIGHT, y), line.note, size=TICK_FONT, anchor="rm")
