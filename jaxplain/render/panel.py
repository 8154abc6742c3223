"""One row that tells an explanation: photo, heatmap, overlay, curves."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from jaxplain.images import check_rgb, resize
from jaxplain.render.colormap import Colormap, check_map, colorize, display_range
from jaxplain.render.curves import BOTTOM, TOP, Curve, draw_curves
from jaxplain.render.overlay import heatmap, overlay
from jaxplain.render.text import MUTED, font, printable, shorten, write

PHOTO_HEIGHT = 320
_PHOTO_MAX_WIDTH = 570  # a 16:9 photo at full height; wider ones become less high
_COLUMN_MIN_WIDTH = 230  # room for a title over a narrow photo
_CURVES_WIDTH = 430
_MARGIN, _GAP = 20, 28
_TITLE_FONT, _SMALL_FONT = 18, 14
_FRAME = (205, 205, 205)
_PIXELATED_FROM = 4  # enlarged this much or more, a photo shows its pixels rather than a blur

_BAR_TEXT = ("less important", "more important")
_SIGNED_BAR_TEXT = ("against the class", "for the class")


class _Column(NamedTuple):
    """One picture of the row."""

    title: str
    picture: Image.Image
    bar: Image.Image | None  # a colour bar to go below


def panel(
    rgb: NDArray[np.uint8],
    saliency: ArrayLike,
    deletion: Curve,
    insertion: Curve,
    *,
    label: str,
    probability: float,
    method: str,
    cmap: Colormap = "jet",
    alpha: float = 0.5,
) -> Image.Image:
    """Draw the photo, its heatmap, both together, and the deletion and insertion curves side by side.

    Args:
        rgb: uint8 ``[H, W, 3]``, of any size; shown about 320 pixels high (less if very wide).
        saliency: float ``[h, w]`` or ``[H, W]``, high = important. NaN is shown mid-grey.
        deletion: the deletion curve.
        insertion: the insertion curve.
        label: name of the explained class; shortened with an ellipsis where it does not fit.
        probability: its softmax probability on the photo.
        method: name of the method, the heatmap's title.
        cmap: "jet", "viridis", "gray" or "bwr" (signed, symmetric about zero).
        alpha: weight of the heatmap in the overlay, 0 to 1.

    Returns:
        An RGB picture on white.

    Raises:
        TypeError: ``rgb`` is not uint8.
        ValueError: a wrong shape, alpha outside [0, 1], an unknown colour map.

    Example:
        >>> photo, curve = np.zeros((60, 80, 3), np.uint8), Curve([0, 1], [0.9, 0.1], 0.5)
        >>> picture = panel(photo, np.eye(7), curve, curve, label="cat", probability=0.9, method="I-GOS")
    """
    check_rgb(rgb)
    shown = _scale_photo(rgb)
    # From the map as computed: the bar, the heatmap and the overlay then share their limits.
    low, high = display_range(check_map(saliency), cmap)
    colors = heatmap(saliency, shown.shape[:2], cmap, low, high)
    blended = overlay(shown, saliency, alpha, cmap, low, high)
    width = max(shown.shape[1], _COLUMN_MIN_WIDTH)
    columns = (
        _Column(_photo_title(label, probability, width), Image.fromarray(shown), None),
        _Column(_fit(method, width), Image.fromarray(colors), _color_bar(width, cmap)),
        _Column("overlay", Image.fromarray(blended), None),
    )
    curves = Image.fromarray(draw_curves(deletion, insertion, (_CURVES_WIDTH, TOP + PHOTO_HEIGHT + BOTTOM)))
    return _compose(columns, width, curves)


def _scale_photo(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """To the height of the row, or less where the width would run away; never below one pixel."""
    height, width = rgb.shape[:2]
    zoom = min(PHOTO_HEIGHT / height, _PHOTO_MAX_WIDTH / width)
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    return resize(rgb, size, method="nearest" if zoom >= _PIXELATED_FROM else "lanczos")


def _photo_title(label: str, probability: float, width: int) -> str:
    """The probability is kept whole; the label gives way."""
    tail = f", p {_format_probability(probability)}"
    return shorten(printable(label), _TITLE_FONT, width - font(_TITLE_FONT).getlength(tail)) + tail


def _format_probability(probability: float) -> str:
    if not math.isfinite(probability):
        return "= n/a"
    return "< 0.01" if 0.0 < probability < 0.005 else f"= {probability:.2f}"


def _fit(text: str, width: int) -> str:
    return shorten(printable(text), _TITLE_FONT, width)


def _color_bar(width: int, cmap: Colormap) -> Image.Image:
    """A thin bar from the lowest to the highest colour, and what its ends mean."""
    bar = Image.new("RGB", (width, BOTTOM), "white")
    colors = colorize(np.tile(np.linspace(0.0, 1.0, width), (10, 1)), cmap)
    bar.paste(Image.fromarray(colors), (0, 10))
    left, right = _SIGNED_BAR_TEXT if cmap == "bwr" else _BAR_TEXT
    write(bar, (0, 34), left, size=_SMALL_FONT, anchor="lm", color=MUTED)
    write(bar, (width, 34), right, size=_SMALL_FONT, anchor="rm", color=MUTED)
    return bar


def _framed(picture: Image.Image) -> Image.Image:
    """A hairline around it, so that a white sky or a white "bwr" zero does not run into the page."""
    return ImageOps.expand(picture, border=1, fill=_FRAME)


def _compose(columns: tuple[_Column, ...], width: int, curves: Image.Image) -> Image.Image:
    total = _MARGIN + len(columns) * (width + _GAP) + curves.width + _MARGIN
    row = Image.new("RGB", (total, _MARGIN + TOP + PHOTO_HEIGHT + BOTTOM + _MARGIN), "white")
    top = _MARGIN + TOP
    for index, column in enumerate(columns):
        left = _MARGIN + index * (width + _GAP)
        inset_x, inset_y = (width - column.picture.width) // 2, (PHOTO_HEIGHT - column.picture.height) // 2
        write(row, (left + width / 2, top + inset_y - 14), column.title, size=_TITLE_FONT, anchor="ms")
        row.paste(_framed(column.picture), (left + inset_x - 1, top + inset_y - 1))
        if column.bar is not None:
            row.paste(column.bar, (left, top + inset_y + column.picture.height))
    row.paste(curves, (total - _MARGIN - curves.width, _MARGIN))
    return row
