"""Render importance maps: color them with matplotlib colormaps, overlay them on images, encode them as PNG.

This module is for display only; it does not change maps that are saved or evaluated.
"""

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from jaxplain.checks import check_choice
from jaxplain.images import check_rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORMAPS = ("jet", "viridis", "gray", "bwr")
MISSING = "#808080"  # color for NaN
OUTLIERS = 1.0  # percentage of values that `robust_range` excludes at each end
# A float32 map with a relative range below this is constant up to rounding; stretching it would show noise.
_FLAT = 4 * float(np.finfo(np.float32).eps)
_THUMBNAIL = 224  # length of the longer side in pixels


def overlay(
    pixels: NDArray[np.uint8],
    importance: ArrayLike,
    alpha: float = 0.5,
    cmap: str = "jet",
    limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Overlay a colored map on an image: `(1 - alpha) * pixels + alpha * color`.

    Args:
      pixels: uint8 [H, W, 3].
      importance: [h, w], high = important; resized bilinearly with aligned corners.
      alpha: opacity of the map, from 0 (image only) to 1 (map only).
      cmap: "jet", "viridis", "gray" or "bwr" (for signed maps, symmetric about zero).
      limits: values that map to the first and last colors; if None, the range from `display_range`. See
        also `robust_range`.

    Returns:
      uint8 [H, W, 3].

    Raises:
      TypeError: `pixels` is not uint8.
      ValueError: invalid shape, alpha outside 0..1, unknown colormap, or limits in the wrong order.

    Example:
      >>> import numpy as np
      >>> overlay(np.zeros((4, 6, 3), np.uint8), [[0.0, 1.0]], alpha=0.5, cmap="gray")[0, -1].tolist()
      [128, 128, 128]
    """
    check_rgb(pixels)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in 0..1, got {alpha}.")
    colors = heatmap(importance, pixels.shape[:2], cmap, limits)
    return np.floor((1.0 - alpha) * pixels + alpha * colors + 0.5).astype(np.uint8)


def heatmap(
    importance: ArrayLike,
    shape: tuple[int, int],
    cmap: str = "jet",
    limits: tuple[float, float] | None = None,
) -> NDArray[np.uint8]:
    """Color a map and resize it to `shape`: [h, w] -> uint8 [H, W, 3].

    For the arguments and errors, see `overlay`.

    Example:
      >>> heatmap([[0.0, 1.0]], (4, 6)).shape
      (4, 6, 3)
    """
    import matplotlib

    check_choice(cmap, COLORMAPS, "colormap")
    low, high = display_range(importance, cmap) if limits is None else limits
    if not (np.isfinite([low, high]).all() and low <= high):
        raise ValueError(f"limits must be two finite numbers in ascending order, got {limits}.")
    values = resize_bilinear(importance, shape)
    if high > low:
        unit = max(abs(low), abs(high))  # high - low itself can overflow or underflow
        values = np.clip((values / unit - low / unit) / (high / unit - low / unit), 0.0, 1.0)
    else:
        values = np.where(np.isnan(values), np.nan, 0.5 if cmap == "bwr" else 0.0)
    colors = matplotlib.colormaps[cmap].with_extremes(bad=MISSING)(np.ma.masked_invalid(values), bytes=True)
    return np.ascontiguousarray(colors[..., :3])


def display_range(importance: ArrayLike, cmap: str = "jet") -> tuple[float, float]:
    """Return a map's color limits: its minimum and maximum, or limits symmetric about zero for "bwr".

    The two limits are equal if the map is constant up to rounding or has no finite values.

    Example:
      >>> display_range([[-3.0, 1.0]]), display_range([[-3.0, 1.0]], "bwr")
      ((-3.0, 1.0), (-3.0, 3.0))
    """
    values = _as_map(importance)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 0.0
    low, high = float(finite.min()), float(finite.max())
    if cmap == "bwr":
        largest = max(abs(low), abs(high))
        return -largest, largest
    return (low, low) if high - low <= _FLAT * max(abs(low), abs(high)) else (low, high)


def robust_range(importance: ArrayLike) -> tuple[float, float] | None:
    """Return color limits that exclude 1% of the values at each end, or None if the limits are equal."""
    values = _as_map(importance)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, [OUTLIERS, 100 - OUTLIERS]).tolist()
    return (low, high) if high > low else None


def resize_bilinear(importance: ArrayLike, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Resize a map bilinearly with aligned corners; NaN values affect only the pixels they contribute to.

    Example:
      >>> resize_bilinear([[0.0, 1.0]], (1, 3)).tolist()
      [[0.0, 0.5, 1.0]]
    """
    values = _as_map(importance)
    if min(shape) < 1:
        raise ValueError(f"shape must be (height, width), both at least 1, got {tuple(shape)}.")
    return _interpolated(_interpolated(values, shape[0]).T, shape[1]).T


def _interpolated(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Interpolate along the first axis; neighbors with weight zero are ignored, even if they are NaN."""
    position = np.linspace(0.0, len(values) - 1, count)
    before = np.floor(position).astype(np.intp)
    weight = (position - before)[:, None]
    first, second = values[before], values[np.minimum(before + 1, len(values) - 1)]
    with np.errstate(invalid="ignore"):  # 0 * inf, in the branch that is not taken
        return np.where(weight == 0.0, first, (1.0 - weight) * first + weight * second)


def _as_map(importance: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(importance, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"importance must be one map [h, w], got shape {values.shape}.")
    return values


# ---------------------------------------------------------------------------------------------------------
# Encoding and plotting


def to_png(picture: NDArray[np.uint8] | Image.Image) -> bytes:
    """Encode a picture as PNG: uint8 [H, W], [H, W, 3] or [H, W, 4], or a Pillow image.

    Raises:
      TypeError, ValueError: an array with a different dtype or shape.
    """
    if not isinstance(picture, Image.Image):
        picture = np.asarray(picture)
        if picture.dtype != np.uint8:
            raise TypeError(f"a picture must have uint8 values 0..255, got {picture.dtype}.")
        if picture.size == 0 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
            raise ValueError(f"a picture must be [H, W], [H, W, 3] or [H, W, 4], got {picture.shape}.")
        picture = Image.fromarray(np.ascontiguousarray(picture))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """Encode a photo, uint8 [H, W, 3], as a JPEG data URI for embedding in a page."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def thumbnail(importance: ArrayLike) -> bytes:
    """Render a map without its image as a medium-sized PNG with square cells, for notebooks."""
    height, width = _as_map(importance).shape
    scale = max(1, round(_THUMBNAIL / max(height, width)))
    return to_png(heatmap(importance, (height * scale, width * scale)))


def plot(
    importance: ArrayLike, image: Any = None, *, ax: "Axes | None" = None, alpha: float = 0.5, title: str = ""
) -> "Axes":
    """Plot a map with matplotlib, on top of its image if one is given; see `Explanation.plot`."""
    import matplotlib.pyplot as plt

    ax = plt.subplots(figsize=(4, 4))[1] if ax is None else ax
    if image is None:
        ax.imshow(heatmap(importance, _as_map(importance).shape), interpolation="nearest")
    else:
        ax.imshow(overlay(as_pixels(image), importance, alpha))
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def as_pixels(image: Any) -> NDArray[np.uint8]:
    """Convert an image [H, W, C] to RGB pixels; floats are rescaled from their own range to 0..255.

    Raises:
      ValueError: the image is not [H, W, 1] or [H, W, 3].
    """
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(f"an image to draw on must be [H, W, 1] or [H, W, 3], got shape {array.shape}.")
    if array.dtype != np.uint8:
        array = array.astype(np.float64)
        low, high = np.nanmin(array), np.nanmax(array)
        array = np.nan_to_num((array - low) * (255.0 / max(high - low, 1e-12))).round().astype(np.uint8)
    return np.repeat(array, 3, axis=-1) if array.shape[-1] == 1 else array
