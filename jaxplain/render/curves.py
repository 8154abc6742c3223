"""Deletion and insertion curves on one pair of axes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from jaxplain.render.text import INK, MUTED, font, write

# Vermilion and blue of the Okabe-Ito palette: told apart with every kind of colour blindness.
DELETION_COLOR = (213, 94, 0)
INSERTION_COLOR = (0, 114, 178)

_GRID = (228, 228, 228)
_SPINE = (130, 130, 130)
_FILL_OPACITY = 34  # of 255
_LINE = 3.0
SUPERSAMPLING = 4  # Pillow draws lines without antialiasing, so they are drawn larger and reduced
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
TICK_FONT = 14
# Room around the axes. Top and bottom are what a panel leaves above and below its photos, so axes line up.
_LEFT, _RIGHT, TOP, BOTTOM = 62, 20, 44, 50
_SMALLEST = (260, 180)


class Curve(NamedTuple):
    """A measured curve over T steps, and its area."""

    fraction: ArrayLike  # [T] share of the cells deleted or inserted, 0 to 1
    score: ArrayLike  # [T] softmax probability, 0 to 1
    area: float  # as the metric defines it; shown, not recomputed


class PlotArea(NamedTuple):
    """The rectangle between the axes, in pixels of the drawing."""

    left: int
    top: int
    right: int
    bottom: int

    def point(self, fraction: float, score: float) -> tuple[float, float]:
        """Where a data point is drawn.

        Args:
            fraction: 0 to 1, from left to right.
            score: 0 to 1, from bottom to top.

        Returns:
            ``(x, y)`` in pixels.

        Example:
            >>> PlotArea(10, 0, 110, 50).point(0.5, 1.0)
            (60.0, 0.0)
        """
        x = self.left + fraction * (self.right - self.left)
        return x, self.bottom - score * (self.bottom - self.top)


class _Series(NamedTuple):
    """One curve, ready to be drawn."""

    curve: Curve
    color: tuple[int, int, int]
    name: str


def plot_area(size: tuple[int, int]) -> PlotArea:
    """The rectangle that `draw_curves` draws into, for a picture of this size.

    Args:
        size: ``(width, height)`` of the whole drawing in pixels.

    Returns:
        The rectangle of the data, without ticks, labels and legend.

    Raises:
        ValueError: too small for ticks, labels and legend.

    Example:
        >>> plot_area((420, 320))
        PlotArea(left=62, top=44, right=400, bottom=270)
    """
    width, height = size
    if width < _SMALLEST[0] or height < _SMALLEST[1]:
        raise ValueError(
            f"curves need at least {_SMALLEST[0]} x {_SMALLEST[1]} pixels; got {width} x {height}"
        )
    return PlotArea(_LEFT, TOP, width - _RIGHT, height - BOTTOM)


def draw_curves(deletion: Curve, insertion: Curve, size: tuple[int, int] = (420, 370)) -> NDArray[np.uint8]:
    """Draw both curves with axes, ticks, labels and a legend that holds the areas.

    Args:
        deletion: score while the most important cells are removed (a low area is good).
        insertion: score while they are inserted (a high area is good).
        size: ``(width, height)`` in pixels, at least 260 x 180.

    Returns:
        uint8 ``[height, width, 3]``. Points that are not finite interrupt a curve; points outside [0, 1] are
        drawn at the edge.

    Raises:
        ValueError: the size is too small, or fraction and score of a curve are not ``[T]`` of one length.

    Example:
        >>> draw_curves(Curve([0, 1], [0.9, 0.1], 0.5), Curve([0, 1], [0.1, 0.9], 0.5)).shape
        (370, 420, 3)
    """
    area = plot_area(size)
    series = (
        _Series(deletion, DELETION_COLOR, "deletion (low is good)"),
        _Series(insertion, INSERTION_COLOR, "insertion (high is good)"),
    )
    picture = _draw_lines(series, area, size)
    _write_axes(picture, area)
    _write_legend(picture, series)
    return np.array(picture)


def format_area(area: float) -> str:
    """An area as papers print it, without the leading zero.

    Args:
        area: usually 0 to 1.

    Returns:
        Three decimals, or "n/a" where it is not finite.

    Example:
        >>> format_area(0.118), format_area(1.0), format_area(float("nan"))
        ('.118', '1.000', 'n/a')
    """
    if not math.isfinite(area):
        return "n/a"
    text = f"{area:.3f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def _draw_lines(series: tuple[_Series, ...], area: PlotArea, size: tuple[int, int]) -> Image.Image:
    """Everything without letters."""
    scale = SUPERSAMPLING
    large = Image.new("RGB", (size[0] * scale, size[1] * scale), "white")
    draw = ImageDraw.Draw(large, "RGBA")  # on an RGB picture, this mode blends what is drawn
    zoomed = PlotArea(*(scale * side for side in area))
    draw_grid(draw, zoomed)
    runs = [(one.color, run) for one in series for run in _runs(one.curve, zoomed)]
    for color, run in runs:  # all fills first: no fill may tint a line
        base = [(run[-1][0], zoomed.bottom), (run[0][0], zoomed.bottom)]
        draw.polygon([*run, *base], fill=(*color, _FILL_OPACITY))
    for color, run in runs:
        draw_run(draw, run, color)
    return large.reduce(scale)


def draw_grid(draw: ImageDraw.ImageDraw, area: PlotArea) -> None:
    """Grid lines at the ticks and the two axes, in a drawing that is `SUPERSAMPLING` times larger."""
    width = SUPERSAMPLING
    for tick in TICKS:
        x, y = area.point(tick, tick)
        draw.rectangle((area.left, y, area.right, y + width - 1), fill=_GRID)
        draw.rectangle((x, area.top, x + width - 1, area.bottom), fill=_GRID)
    draw.rectangle((area.left, area.bottom, area.right, area.bottom + width - 1), fill=_SPINE)
    draw.rectangle((area.left, area.top, area.left + width - 1, area.bottom), fill=_SPINE)


def draw_run(draw: ImageDraw.ImageDraw, run: list[tuple[float, float]], color: tuple[int, int, int]) -> None:
    """A line with round ends, which also shows a run of a single point; larger as in `draw_grid`."""
    width = round(_LINE * SUPERSAMPLING)
    draw.line(run, fill=color, width=width, joint="curve")
    for x, y in (run[0], run[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2 - 1, y + width / 2 - 1), fill=color)


def _runs(curve: Curve, area: PlotArea) -> list[list[tuple[float, float]]]:
    """The curve in pixels, cut where a point is not finite."""
    fraction, score = np.asarray(curve.fraction, np.float64), np.asarray(curve.score, np.float64)
    if fraction.ndim != 1 or fraction.shape != score.shape:
        raise ValueError(f"a curve needs fraction [T] and score [T]; got {fraction.shape} and {score.shape}")
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(fraction, score, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append(area.point(float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1))))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _write_axes(picture: Image.Image, area: PlotArea) -> None:
    for tick in TICKS:
        x, y = area.point(tick, tick)
        write(picture, (x, area.bottom + 14), f"{tick:g}", size=TICK_FONT, anchor="mm", color=MUTED)
        write(picture, (area.left - 8, y), f"{tick:g}", size=TICK_FONT, anchor="rm", color=MUTED)
    middle = area.point(0.5, 0.5)
    write(
        picture,
        (middle[0], area.bottom + 36),
        "fraction of the cells deleted / inserted",
        size=TICK_FONT,
        anchor="mm",
    )
    write_upwards(picture, (14, middle[1]), "softmax probability")


def write_upwards(picture: Image.Image, center: tuple[float, float], text: str) -> None:
    """Text that runs from bottom to top, by turning a mask of it."""
    left, top, right, bottom = (round(side) for side in font(TICK_FONT).getbbox(text))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font(TICK_FONT))
    mask = mask.transpose(Image.Transpose.ROTATE_90)
    at = (round(center[0] - mask.width / 2), round(center[1] - mask.height / 2))
    picture.paste(INK, (*at, at[0] + mask.width, at[1] + mask.height), mask)


def _write_legend(picture: Image.Image, series: tuple[_Series, ...]) -> None:
    """Above the axes, where no curve can pass behind it; the areas stand in one column."""
    draw = ImageDraw.Draw(picture)
    column = _LEFT + 36 + max(font(TICK_FONT).getlength(one.name) for one in series) + 14
    for row, one in enumerate(series):
        y = 8 + 20 * row
        draw.rectangle((_LEFT, y - 1, _LEFT + 26, y + 1), fill=one.color)
        write(picture, (_LEFT + 36, y), one.name, size=TICK_FONT, anchor="lm")
        write(picture, (column, y), format_area(one.curve.area), size=TICK_FONT, anchor="lm")
