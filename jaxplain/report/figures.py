"""Figures of heatmaps, curves and comparisons, for files and papers; `figure_bytes` encodes them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from jaxplain import overlay
from jaxplain.images import check_rgb
from jaxplain.report import canvas
from jaxplain.report.canvas import figure_bytes as figure_bytes

DELETION, INSERTION = canvas.COLORS[1], canvas.COLORS[0]  # vermilion and blue
_LINE_STYLES = ("-", (0, (4, 2)), (0, (1.2, 1.5)))  # each style is used with every color before the next one
_BAR_TEXT = ("less important", "more important")
_SIGNED_BAR_TEXT = ("against the class", "for the class")

# In inches. A panel for a square photo is about 11 inches wide, so that its text is legible in a README.
_MARGIN, _GAP = 0.14, 0.25
_PHOTO, _PHOTO_MAX_WIDTH, _COLUMN_MIN_WIDTH = 2.3, 3.45, 1.9
_TITLE, _BELOW = 0.55, 0.5
_AXES, _Y_LABEL = 2.75, 0.62
_TILE, _TILE_GAP, _CAPTION = 1.15, 0.08, 0.2
_LEGEND_LINE = 0.36  # length of the sample line


class Tile(NamedTuple):
    """A picture with a caption."""

    picture: NDArray[np.uint8]  # [H, W, 3]
    caption: str


def panel(
    pixels: NDArray[np.uint8],
    importance: ArrayLike,
    curves: Any,
    *,
    label: str,
    probability: float,
    method: str,
    cmap: str = "jet",
    alpha: float = 0.5,
) -> Figure:
    """Draw a row with a photo, its heatmap, their overlay, and the deletion and insertion curves.

    Args:
      pixels: the photo, uint8 [H, W, 3], any size; a very wide photo is drawn smaller.
      importance: the map, [h, w], high = important. NaN is drawn in gray.
      curves: the map's curves, a `jaxplain.metrics.Curves`.
      label: name of the explained class; shortened if it does not fit.
      probability: probability of the explained class on the photo.
      method: name of the method.
      cmap: colormap; see `jaxplain.overlay.overlay`.
      alpha: weight of the heatmap in the overlay, 0 to 1.

    Raises:
      TypeError, ValueError: an argument is invalid (see `jaxplain.overlay.overlay`), or the curves differ in
        length.

    Example:
      >>> from types import SimpleNamespace
      >>> curves = SimpleNamespace(
      ...     fraction=[0, 1], deletion=[0.9, 0.1], insertion=[0.1, 0.9], deletion_auc=0.5, insertion_auc=0.5)
      >>> photo = np.zeros((60, 80, 3), np.uint8)
      >>> figure = panel(photo, np.eye(7), curves, label="cat", probability=0.9, method="I-GOS")
      >>> len(figure.axes)
      2
    """
    check_rgb(pixels)
    width, height = canvas.fitted(pixels, _PHOTO_MAX_WIDTH, _PHOTO)
    shown = canvas.at_resolution(pixels, width, height)
    # All three use the map's value range before resizing.
    limits = overlay.display_range(importance, cmap)
    colors = overlay.heatmap(importance, shown.shape[:2], cmap, limits)
    blended = overlay.overlay(shown, importance, alpha, cmap, limits)
    column = max(width, _COLUMN_MIN_WIDTH)
    ax = canvas.blank(
        2 * _MARGIN + 3 * (column + _GAP) + _Y_LABEL + _AXES, 2 * _MARGIN + _TITLE + _PHOTO + _BELOW
    )
    top = _MARGIN + _TITLE + (_PHOTO - height) / 2
    tail = f", p {_probability_text(probability)}"
    label = canvas.shortened(canvas.printable(label), 10, column - canvas.text_width(tail, 10))
    for index, (picture, title) in enumerate(((shown, label + tail), (colors, method), (blended, "overlay"))):
        left = _MARGIN + index * (column + _GAP)
        canvas.write(ax, left + column / 2, top - 0.1, title, width=column, ha="center")
        _framed(ax, picture, left + (column - width) / 2, top, width, height)
    _color_bar(ax, _MARGIN + column + _GAP, top + height, column, cmap)
    plot = canvas.inset(ax, _MARGIN + 3 * (column + _GAP) + _Y_LABEL, _MARGIN + _TITLE, _AXES - 0.1, _PHOTO)
    _draw_curves(plot, curves)
    return canvas.figure_of(ax)


def curves(curves: Any) -> Figure:
    """Plot the deletion and insertion curves of one map (a `jaxplain.metrics.Curves`) on the same axes."""
    ax = canvas.blank(4.2, 3.5)
    _draw_curves(canvas.inset(ax, 0.75, 0.75, 3.2, 2.1), curves)
    return canvas.figure_of(ax)


def mean_curves(methods: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]]) -> Figure:
    """Plot the mean deletion and insertion curves of several methods side by side, with AUCs in the legend.

    Args:
      methods: tuples (fraction [T], deletion [T], insertion [T]) by method name.

    Raises:
      ValueError: there is no method, or the curves differ in length.

    Example:
      >>> figure = mean_curves({"igos": ([0, 1], [0.9, 0.1], [0.1, 0.9])})
      >>> [axes.get_title() for axes in figure.axes[1:]]
      ['deletion (lower is better)', 'insertion (higher is better)']
    """
    lines = {
        name: [_line(name, fraction, curve) for curve in (deletion, insertion)]
        for name, (fraction, deletion, insertion) in methods.items()
    }
    if not lines:
        raise ValueError("methods must contain at least one method.")
    side, legend_left = 3.3, 2 * (0.75 + 3.3) + 0.3
    rows = [(name, *(_area_text(*line) for line in pair)) for name, pair in lines.items()]
    name_width = _column_width([row[0] for row in rows])
    height = max(0.55 + side + 0.6, _legend_height(len(rows)) + 0.5)
    ax = canvas.blank(legend_left + _LEGEND_LINE + 0.1 + name_width + 2 * 0.75 + 0.1, height)
    titles = ("deletion (lower is better)", "insertion (higher is better)")
    for index, title in enumerate(titles):
        plot = canvas.inset(ax, 0.75 + index * (side + 0.75), 0.45, side, side)
        _unit_axes(plot, "fraction of the cells", "mean probability" if index == 0 else "")
        plot.set_title(title, fontsize=11, color=canvas.INK, pad=8, **canvas.text_style())
        for number, pair in enumerate(lines.values()):
            _draw_line(plot, *pair[index], number)
    _legend(ax, legend_left, 0.45, rows, name_width, ("", "deletion", "insertion"))
    return canvas.figure_of(ax)


def share_curves(shares: Mapping[str, ArrayLike]) -> Figure:
    """Plot the fraction of images explained with at most k patches, with one line per name.

    Args:
      shares: arrays [P + 1] of fractions (0 to 1) for k = 0 to P, by name; all have the same length.

    Raises:
      ValueError: `shares` is empty, or its arrays differ in length.

    Example:
      >>> len(share_curves({"one": [0.0, 0.5, 1.0], "two": [0.0, 0.0, 0.5]}).axes[1].lines)
      2
    """
    lines = {name: np.asarray(values, np.float64) for name, values in shares.items()}
    if len({values.shape for values in lines.values()}) != 1 or next(iter(lines.values())).ndim != 1:
        raise ValueError("shares must contain at least one array [P + 1], and all must have the same length.")
    rows = [(name, f"{values[-1]:.2f}") for name, values in lines.items()]
    legend = _legend_height(len(rows))
    ax = canvas.blank(5.6, legend + 3.4)
    plot = canvas.inset(ax, 0.75, legend, 4.6, 2.7)
    _unit_axes(plot, "patches, at most", "share of images explained")
    last = len(next(iter(lines.values()))) - 0.5
    _whole_ticks(plot, last)
    for number, values in enumerate(lines.values()):
        # The fraction is constant between whole numbers of patches.
        steps = [*range(len(values)), last]
        _draw_line(plot, steps, [*values, values[-1]], number, drawstyle="steps-post")
    _legend(ax, 0.75, 0.08, rows, 4.6 - _LEGEND_LINE - 0.1 - 0.75, ("", "overall"))
    return canvas.figure_of(ax)


def search_history(sizes: ArrayLike, shares: ArrayLike, *, threshold: float | None = None) -> Figure:
    """Plot a search for sufficient patches: the highest fraction of the score reached per number of patches.

    Args:
      sizes: numbers of patches, [T].
      shares: the highest score of any set of that size, divided by the whole image's score, [T]; NaN is
        skipped.
      threshold: the fraction that counts as sufficient, drawn as a line.

    Raises:
      ValueError: `sizes` and `shares` differ in length.

    Example:
      >>> figure = search_history([1, 2, 3], [0.2, 0.6, 0.95], threshold=0.9)
      >>> figure.axes[1].get_xlabel()
      'number of patches'
    """
    x, y = _line("search history", sizes, shares)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    ax = canvas.blank(4.6, 3.2)
    plot = canvas.inset(ax, 0.75, 0.3, 3.6, 2.2)
    _unit_axes(plot, "number of patches", "best share of the score")
    top = max(1.0, float(y.max(initial=0.0)), threshold or 0.0)
    _whole_ticks(plot, float(x.max(initial=1.0)) + 0.3)
    plot.set_ylim(0, 1.05 * top)
    plot.plot(x, y, color=INSERTION, linewidth=2, linestyle="-", marker="o", markersize=4, clip_on=False)
    if threshold is not None:
        plot.axhline(threshold, color=DELETION, linewidth=1.2, linestyle=(0, (4, 2)))
        canvas.write(
            plot, 0.01, threshold + 0.02 * top, f"sufficient: {threshold:.0%}", size=9, color=DELETION,
            transform=plot.get_yaxis_transform(),
        )  # fmt: skip
    return canvas.figure_of(ax)


def contact_sheet(columns: Sequence[str], rows: Sequence[Sequence[Tile]]) -> Figure:
    """Draw a table of small pictures, with column names at the top and a caption below each picture.

    Args:
      columns: column names.
      rows: rows of tiles, one tile per column; every picture keeps its aspect ratio.

    Raises:
      TypeError, ValueError: a picture is not uint8 [H, W, 3], or a row has the wrong length.

    Example:
      >>> sheet = contact_sheet(["photo", "igos"], [[Tile(np.zeros((4, 4, 3), np.uint8), "cat")] * 2])
      >>> len(sheet.axes[0].images)
      2
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"each row needs {len(columns)} tiles, one per column, got {len(row)}.")
    step, line = _TILE + _TILE_GAP, _TILE + _CAPTION + _TILE_GAP
    ax = canvas.blank(
        2 * _MARGIN + max(1, len(columns)) * step - _TILE_GAP, 2 * _MARGIN + 0.25 + len(rows) * line
    )
    for column, name in enumerate(columns):
        middle = _MARGIN + column * step + _TILE / 2
        canvas.write(ax, middle, _MARGIN + 0.12, name, size=9, width=_TILE, ha="center", bold=True)
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            draw_tile(ax, tile, _MARGIN + column * step, _MARGIN + 0.25 + number * line, _TILE)
    return canvas.figure_of(ax)


def draw_tile(ax: Axes, tile: Tile, left: float, top: float, side: float) -> None:
    """Draw a tile on axes made by `canvas.blank`: the picture in a square, with the caption below."""
    width, height = canvas.fitted(tile.picture, side, side)
    shown = canvas.at_resolution(tile.picture, width, height)
    canvas.place(ax, shown, left + (side - width) / 2, top + (side - height) / 2, width, height)
    style: dict[str, Any] = {"size": 8, "ha": "center", "va": "top", "color": canvas.MUTED}
    canvas.write(ax, left + side / 2, top + side + 0.04, tile.caption, width=side + 0.04, **style)


def auc_text(area: float) -> str:
    """Format an area under a curve as in papers, without the leading zero.

    Example:
      >>> auc_text(0.118), auc_text(1.0), auc_text(float("nan"))
      ('.118', '1.000', 'n/a')
    """
    if not math.isfinite(area):
        return "n/a"
    text = f"{area:.3f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


# ---------------------------------------------------------------------------------------------------------
# Parts of a panel


def _probability_text(probability: float) -> str:
    if not math.isfinite(probability):
        return "= n/a"
    return "< 0.01" if 0.0 < probability < 0.005 else f"= {probability:.2f}"


def _framed(
    ax: Axes, picture: NDArray[np.uint8], left: float, top: float, width: float, height: float
) -> None:
    """Draw a picture in a thin frame, so that a white sky does not merge with the page."""
    canvas.place(ax, picture, left, top, width, height)
    x, y = [left, left + width, left + width, left, left], [top, top, top + height, top + height, top]
    ax.plot(x, y, color=canvas.FRAME, linewidth=0.6, linestyle="-", marker="")


def _color_bar(ax: Axes, left: float, top: float, width: float, cmap: str) -> None:
    """Draw a thin color bar, from the lowest to the highest color, with labels at its ends."""
    gradient = overlay.heatmap([[0.0, 1.0]], (1, 256), cmap, (0.0, 1.0))
    canvas.place(ax, gradient, left, top + 0.1, width, 0.08)
    low, high = _SIGNED_BAR_TEXT if cmap == "bwr" else _BAR_TEXT
    options: dict[str, Any] = {"size": 8, "va": "top", "color": canvas.MUTED}
    canvas.write(ax, left, top + 0.23, low, width=width / 2, **options)
    canvas.write(ax, left + width, top + 0.23, high, width=width / 2, ha="right", **options)


def _draw_curves(plot: Axes, curves: Any) -> None:
    """Draw a deletion and an insertion curve, with the legend above the axes so that it hides neither."""
    _unit_axes(plot, "fraction of the cells deleted / inserted", "probability")
    series = (
        ("deletion (lower is better)", curves.deletion, curves.deletion_auc, DELETION),
        ("insertion (higher is better)", curves.insertion, curves.insertion_auc, INSERTION),
    )
    for row, (name, scores, area, color) in enumerate(series):
        x, y = _line(name, curves.fraction, scores)
        plot.fill_between(
            x, y, 0, where=np.isfinite(y).tolist(), color=color, alpha=0.13, linewidth=0, zorder=2
        )
        # Markers as wide as the line make a point between two missing ones visible.
        marker: dict[str, Any] = {"marker": "o", "markersize": 2, "markeredgewidth": 0}
        plot.plot(x, y, color=color, linewidth=2, linestyle="-", zorder=3 + row, **marker)
        y_legend = 1.16 - 0.085 * row
        line: dict[str, Any] = {"linewidth": 2, "linestyle": "-", "marker": "", "clip_on": False}
        plot.plot([0, 0.09], [y_legend + 0.015] * 2, color=color, transform=plot.transAxes, **line)
        place: dict[str, Any] = {"size": 9, "transform": plot.transAxes}
        canvas.write(plot, 0.12, y_legend, name, **place)
        canvas.write(plot, 1.0, y_legend, f"AUC {auc_text(float(area))}", ha="right", **place)


# ---------------------------------------------------------------------------------------------------------
# Lines and legends


def _line(name: str, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a line's x and y values as arrays, with infinite values replaced by NaN."""
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if across.ndim != 1 or across.shape != up.shape:
        raise ValueError(f"{name} must have x [T] and y [T], got {across.shape} and {up.shape}.")
    return across, np.where(np.isfinite(up), up, np.nan)


def _area_text(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return auc_text(float(np.trapezoid(y, x)))


def _unit_axes(plot: Axes, x_label: str, y_label: str) -> None:
    """Set the range of both axes to 0 to 1."""
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0)
    plot.set(xlim=(0, 1), ylim=(0, 1), autoscale_on=False)
    plot.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    plot.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    style: dict[str, Any] = {"fontsize": 9, "color": canvas.INK, **canvas.text_style()}
    plot.set_xlabel(x_label, labelpad=5, **style)
    plot.set_ylabel(y_label, labelpad=5, **style)


def _line_style(number: int) -> dict[str, Any]:
    colors = len(canvas.COLORS)
    return {
        "color": canvas.COLORS[number % colors],
        "linestyle": _LINE_STYLES[number // colors % len(_LINE_STYLES)],
        "linewidth": 1.8,
        "marker": "",
    }


def _draw_line(plot: Axes, x: ArrayLike, y: ArrayLike, number: int, **more: Any) -> None:
    plot.plot(x, np.clip(y, 0, 1), **_line_style(number), **more)


def _whole_ticks(plot: Axes, largest: float) -> None:
    """Set the horizontal axis to the range from 0 to `largest`, with about eight integer ticks."""
    ticks = range(0, math.floor(largest) + 1, max(1, math.ceil(largest / 9)))
    plot.set_xlim(0, largest)
    plot.set_xticks(ticks, [str(tick) for tick in ticks])


def _legend_height(rows: int) -> float:
    return 0.45 + 0.22 * rows


def _column_width(names: Sequence[str]) -> float:
    longest = max((canvas.text_width(canvas.printable(name), 9) for name in names), default=0.0)
    return min(3.0, max(0.6, longest)) + 0.1


def _legend(
    ax: Axes,
    left: float,
    top: float,
    rows: Sequence[tuple[str, ...]],
    name_width: float,
    headings: tuple[str, ...],
) -> None:
    """Draw a legend as a table: a sample of each line, its name, then columns of numbers with headings."""
    options: dict[str, Any] = {"size": 9, "va": "center"}
    right = left + _LEGEND_LINE + 0.1 + name_width
    for column, heading in enumerate(headings[1:], 1):
        canvas.write(
            ax, right + 0.75 * column, top + 0.11, heading, ha="right", color=canvas.MUTED, **options
        )
    for number, (name, *values) in enumerate(rows):
        y = top + 0.22 * (number + 1) + 0.11
        ax.plot([left, left + _LEGEND_LINE], [y, y], **_line_style(number))
        canvas.write(ax, left + _LEGEND_LINE + 0.1, y, name, width=name_width, **options)
        for column, value in enumerate(values, 1):
            canvas.write(ax, right + 0.75 * column, y, value, ha="right", **options)
