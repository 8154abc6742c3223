"""Figures with text and pictures, measured in inches from the top left corner and encoded as files.

All drawing uses matplotlib's object-oriented interface. pyplot is never imported, so the user's backend and
current figure do not change. Every property that affects a drawing is set here, so the user's rcParams have
no effect on its appearance.
"""

import bisect
import functools
import io
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, get_hinting_flag
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

from jaxplain.checks import check_choice
from jaxplain.images import check_rgb, resize

DPI = 150
INK, MUTED, FRAME, GRID = "#22282d", "#5a646d", "#c9d0d6", "#e4e8eb"
# The Okabe-Ito palette without yellow, which is too light for a line on white. Its colors can be told apart
# with any kind of color blindness.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#3c3c3c")

_FONT = "DejaVu Sans"  # bundled with matplotlib, so that drawings are the same on every machine
_ELLIPSIS = "…"
_PIXELATED_FROM = 4  # enlarged this much or more, pixels stay squares; otherwise they are interpolated
_FORMATS = ("png", "svg", "pdf")


def blank(width: float, height: float, dpi: float = DPI, units: float = 1.0) -> Axes:
    """Return axes that cover a new white figure, with y pointing down.

    Data coordinates and the size are in inches, or with `units` in that many units per inch.

    Example:
      >>> blank(4, 3).figure.get_size_inches().tolist()
      [4.0, 3.0]
    """
    size = width / units, height / units
    figure = Figure(figsize=size, dpi=dpi, facecolor="white", edgecolor="white", layout="none")  # type: ignore[arg-type]
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), facecolor="none")
    ax.set_axis_off()
    return ax


def inset(ax: Axes, left: float, top: float, width: float, height: float) -> Axes:
    """Add plain axes for a plot to a figure made by `blank`; the box is given in inches."""
    figure = figure_of(ax)
    total_width, total_height = figure.get_size_inches()
    box = (left / total_width, 1 - (top + height) / total_height, width / total_width, height / total_height)
    plot = figure.add_axes(box, facecolor="white")
    plot.set_axisbelow(True)
    plot.grid(True, which="major", color=GRID, linewidth=0.8, linestyle="-")
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        plot.spines[side].set(visible=True, color="#8a939b", linewidth=0.8)
    plot.tick_params(
        "both", length=0, pad=5, labelsize=9, labelcolor=MUTED, labelfontfamily=_FONT, labelbottom=True,
        labelleft=True, bottom=True, left=True, top=False, right=False,
    )  # fmt: skip
    return plot


def write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 10,
    width: float | None = None,
    ha: Literal["left", "center", "right"] = "left",
    va: Literal["baseline", "center", "top"] = "baseline",
    color: str = INK,
    bold: bool = False,
    **more: Any,
) -> None:
    """Write one line of literal text (never math), truncated with an ellipsis if wider than `width`.

    Args:
      ax: axes from `blank` (x and y in inches), or any other axes.
      x: horizontal position of the anchor, in data coordinates.
      y: vertical position of the anchor, in data coordinates.
      text: any string.
      size: font size in points.
      width: available width in inches.
      ha: horizontal alignment relative to x.
      va: vertical alignment relative to y.
      color: text color.
      bold: whether the font is bold.
      **more: further properties of `matplotlib.text.Text`.
    """
    line = printable(text) if width is None else shortened(printable(text), size, width, bold)
    if line:
        ax.text(x, y, line, fontsize=size, ha=ha, va=va, color=color, **text_style(bold), **more)


def text_style(bold: bool = False) -> dict[str, Any]:
    """Return the properties shared by all text: the font, with math and TeX disabled."""
    weight = "bold" if bold else "normal"
    return {"fontfamily": _FONT, "fontweight": weight, "parse_math": False, "usetex": False}


def place(ax: Axes, pixels: NDArray[np.uint8], left: float, top: float, width: float, height: float) -> None:
    """Draw a picture (uint8 [H, W, 3]) in a box of a figure made by `blank`.

    Raises:
      TypeError, ValueError: `pixels` is not a picture.
    """
    check_rgb(pixels)
    limits = ax.get_xlim(), ax.get_ylim()
    ax.imshow(
        pixels, extent=(left, left + width, top + height, top), aspect="auto", origin="upper",
        interpolation="antialiased", zorder=1.5,
    )  # fmt: skip
    ax.set(xlim=limits[0], ylim=limits[1])  # imshow changes the limits and the direction of the axes


def fitted(pixels: NDArray[np.uint8], width: float, height: float) -> tuple[float, float]:
    """Return the size in inches at which a picture fits into a box, preserving its aspect ratio.

    Example:
      >>> fitted(np.zeros((100, 50, 3), np.uint8), 2.0, 2.0)
      (1.0, 2.0)
    """
    check_rgb(pixels)
    rows, columns = pixels.shape[:2]
    scale = min(width / columns, height / rows)
    return columns * scale, rows * scale


def at_resolution(pixels: NDArray[np.uint8], width: float, height: float) -> NDArray[np.uint8]:
    """Resize a picture to the figure's resolution for a box of the given size in inches."""
    shape = max(1, round(height * DPI)), max(1, round(width * DPI))
    method: Literal["nearest", "lanczos"] = (
        "nearest" if shape[0] >= _PIXELATED_FROM * len(pixels) else "lanczos"
    )
    return resize(pixels, shape, method=method)


def printable(text: str) -> str:
    """Return text on one line, with a question mark in place of each character missing from the font.

    Example:
      >>> printable("crème  brûlée"), printable("cat 日本")
      ('crème brûlée', 'cat ??')
    """
    font = _font(False)
    return " ".join("".join(c if c.isspace() or font.get_char_index(ord(c)) else "?" for c in text).split())


def shortened(text: str, size: float, width: float, bold: bool = False) -> str:
    """Truncate printable text to a given width, adding an ellipsis if anything is cut.

    Args:
      text: printable text; see `printable`.
      size: font size in points.
      width: maximum width in inches.
      bold: whether the font is bold.

    Example:
      >>> shortened("tabby cat", 10, 3.0), shortened("tabby cat", 10, 0.5)
      ('tabby cat', 'tabb…')
    """
    if text_width(text, size, bold) <= width:
        return text

    def cut(end: int) -> str:
        return text[:end].rstrip(" ,;-") + _ELLIPSIS

    ends = range(len(text))
    end = bisect.bisect_left(ends, True, key=lambda end: text_width(cut(end), size, bold) > width) - 1
    return cut(end) if end >= 0 else ""


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of printable text in inches."""
    font = _font(bold)
    font.set_size(size, DPI)  # because of hinting, the width depends on the resolution
    font.set_text(text, 0.0, flags=get_hinting_flag())
    return float(font.get_width_height()[0]) / 64 / DPI


def figure_bytes(figure: Figure, format: str = "png") -> bytes:
    """Encode a figure as a "png", "svg" or "pdf" file.

    PNG and PDF output depends only on the figure and the matplotlib version. Identifiers in SVG output are
    random.

    Raises:
      ValueError: the format is none of these.

    Example:
      >>> figure_bytes(blank(1, 1).figure, "png")[:4]
      b'\\x89PNG'
    """
    check_choice(format, _FORMATS, "format")
    buffer = io.BytesIO()
    # Print with the canvas directly, because savefig would follow the user's rcParams.
    if format == "png":
        FigureCanvasAgg(figure).print_png(buffer)
    elif format == "svg":
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
        return text.getvalue().encode()
    else:
        FigureCanvasPdf(figure).print_pdf(buffer, metadata={"CreationDate": None})
    return buffer.getvalue()


def axes_png(ax: Axes) -> bytes:
    """Encode as a PNG the figure that axes made by `blank` belong to."""
    return figure_bytes(figure_of(ax), "png")


def figure_of(ax: Axes) -> Figure:
    """Return the figure that axes made by `blank` belong to."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure


def _font(bold: bool) -> Any:
    return get_font(_font_file(bold))  # matplotlib keeps one font object per thread


@functools.cache
def _font_file(bold: bool) -> str:
    return findfont(FontProperties(family=_FONT, weight="bold" if bold else "normal"))
