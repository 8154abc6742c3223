"""The share of images that are explained with at most k patches, one line a classifier."""

from __future__ import annotations

from collections.abc import Mapping

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
_COLORS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
_LEFT, _RIGHT, _LEGEND_ROW = 62, 20, 22
_SMALLEST = (260, 180)


def draw_shares(shares: Mapping[str, ArrayLike], size: tuple[int, int] = (560, 400)) -> NDArray[np.uint8]:
    """Draw the share of images explained with at most k patches, with axes and a legend.

    Args:
        shares: for each name the shares ``[P + 1]`` for k = 0 to P, all of one length; 0 to 1.
        size: ``(width, height)`` in pixels without the legend, at least 260 x 180.

    Returns:
        uint8 ``[height + legend, width, 3]``.

    Raises:
        ValueError: nothing to draw, shares of different lengths, or too small a size.

    Example:
        >>> draw_shares({"one": [0.0, 0.5, 1.0], "two": [0.0, 0.0, 0.5]}).shape
        (444, 560, 3)
    """
    lines = {name: np.asarray(values, np.float64) for name, values in shares.items()}
    if len({values.shape for values in lines.values()}) != 1 or next(iter(lines.values())).ndim != 1:
        raise ValueError("shares must be at least one line, all [P + 1] of one length")
    if size[0] < _SMALLEST[0] or size[1] < _SMALLEST[1]:
        raise ValueError(f"shares need at least {_SMALLEST[0]} x {_SMALLEST[1]} pixels; got {size}")
    legend = _LEGEND_ROW * len(lines)
    width, height = size[0], size[1] + legend
    area = PlotArea(_LEFT, legend + 12, width - _RIGHT, height - BOTTOM)
    largest = len(next(iter(lines.values()))) - 1
    picture = _draw_lines(lines, area, (width, height))
    _write_axes(picture, area, largest)
    _write_legend(picture, lines, width)
    return np.array(picture)


def _color(number: int) -> tuple[int, int, int]:
    return _COLORS[number % len(_COLORS)]


def _draw_lines(
    lines: Mapping[str, NDArray[np.float64]], area: PlotArea, size: tuple[int, int]
) -> Image.Image:
    """Everything without letters. Between two whole numbers of patches nothing changes: a staircase."""
    large = Image.new("RGB", (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING), "white")
    draw = ImageDraw.Draw(large, "RGBA")
    zoomed = PlotArea(*(SUPERSAMPLING * side for side in area))
    draw_grid(draw, zoomed)
    for number, values in enumerate(lines.values()):
        steps = np.repeat(np.arange(len(values)) / max(1, len(values) - 1), 2)[1:]
        heights = np.repeat(np.clip(np.nan_to_num(values), 0, 1), 2)[:-1]
        run = [zoomed.point(float(x), float(y)) for x, y in zip(steps, heights, strict=True)]
        draw_run(draw, run, _color(number))
    return large.reduce(SUPERSAMPLING)


def _write_axes(picture: Image.Image, area: PlotArea, largest: int) -> None:
    for tick in TICKS:
        x, y = area.point(tick, tick)
        write(
            picture, (x, area.bottom + 14), f"{tick * largest:.3g}", size=TICK_FONT, anchor="mm", color=MUTED
        )
        write(picture, (area.left - 8, y), f"{tick:g}", size=TICK_FONT, anchor="rm", color=MUTED)
    middle = area.point(0.5, 0.5)
    write(picture, (middle[0], area.bottom + 36), "patches, at most", size=TICK_FONT, anchor="mm")
    write_upwards(picture, (14, middle[1]), "share of images explained")


def _write_legend(picture: Image.Image, lines: Mapping[str, NDArray[np.float64]], width: int) -> None:
    draw = ImageDraw.Draw(picture)
    for number, (name, values) in enumerate(lines.items()):
        y = 14 + _LEGEND_ROW * number
        draw.rectangle((_LEFT, y - 1, _LEFT + 26, y + 1), fill=_color(number))
        text = shorten(printable(name), TICK_FONT, width - _LEFT - _RIGHT - 110)
        write(picture, (_LEFT + 36, y), text, size=TICK_FONT, anchor="lm")
        write(picture, (width - _RIGHT, y), f"in all {values[-1]:.2f}", size=TICK_FONT, anchor="rm")
