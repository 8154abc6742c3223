"""A heatmap laid over its photo."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxplain.images import check_rgb
from jaxplain.render.colormap import Colormap, check_map, colorize, display_range, normalize


class _Taps(NamedTuple):
    """Where each output position falls between input positions, along one axis of T outputs."""

    before: NDArray[np.intp]  # [T]
    after: NDArray[np.intp]  # [T]
    weight: NDArray[np.float64]  # [T], share of `after`, in [0, 1)


def overlay(
    rgb: NDArray[np.uint8],
    saliency: ArrayLike,
    alpha: float = 0.5,
    cmap: Colormap = "jet",
    vmin: float | None = None,
    vmax: float | None = None,
) -> NDArray[np.uint8]:
    """Blend the coloured heatmap into the photo: ``(1 - alpha) * rgb + alpha * color``.

    Args:
        rgb: uint8 ``[H, W, 3]``.
        saliency: float ``[h, w]`` or ``[H, W]``, high = important; resized bilinearly, corners on corners.
        alpha: weight of the heatmap, 0 (photo only) to 1 (heatmap only).
        cmap: "jet", "viridis", "gray" or "bwr".
        vmin: the value drawn in the lowest colour; None for the smallest ("bwr": minus the largest absolute).
        vmax: the value drawn in the highest colour; None for the largest ("bwr": the largest absolute).

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        TypeError: ``rgb`` is not uint8.
        ValueError: a wrong shape, alpha outside [0, 1], an unknown colour map, vmin above vmax.

    Example:
        >>> overlay(np.zeros((4, 6, 3), np.uint8), [[0.0, 1.0]], alpha=0.5, cmap="gray")[0, -1].tolist()
        [128, 128, 128]
    """
    check_rgb(rgb)
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must be in [0, 1]; got {alpha}")
    colors = heatmap(saliency, rgb.shape[:2], cmap, vmin, vmax)
    # Half up, so that the rounding does not depend on whether the sum is even.
    return np.floor((1.0 - alpha) * rgb + alpha * colors + 0.5).astype(np.uint8)


def heatmap(
    saliency: ArrayLike,
    size: tuple[int, int],
    cmap: Colormap = "jet",
    vmin: float | None = None,
    vmax: float | None = None,
) -> NDArray[np.uint8]:
    """The coloured heatmap alone, at the size of its photo.

    Args:
        saliency: float ``[h, w]``.
        size: ``(H, W)`` in pixels.
        cmap: as in `overlay`.
        vmin: as in `overlay`.
        vmax: as in `overlay`.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: as in `overlay`.

    Example:
        >>> heatmap([[0.0, 1.0]], (4, 6)).shape
        (4, 6, 3)
    """
    # The limits are those of the map as computed, so its colours do not depend on the size of the photo.
    low, high = display_range(saliency, cmap, vmin, vmax)
    return colorize(normalize(resize_map(saliency, size), low, max(low, high)), cmap)


def resize_map(saliency: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Resize a map bilinearly with aligned corners: the corner values stay at the corners.

    Args:
        saliency: float ``[h, w]``.
        size: ``(H, W)``, both at least 1.

    Returns:
        float64 ``[H, W]``. A NaN spreads only to where it has weight.

    Raises:
        ValueError: ``saliency`` is not a non-empty ``[h, w]``, or a size is below 1.

    Example:
        >>> resize_map([[0.0, 1.0]], (1, 3)).tolist()
        [[0.0, 0.5, 1.0]]
    """
    numbers = check_map(saliency)
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width), both at least 1; got {(height, width)}")
    rows = _interpolate(numbers, _taps(numbers.shape[0], height))
    return _interpolate(rows.T, _taps(numbers.shape[1], width)).T


def _taps(length: int, count: int) -> _Taps:
    position = np.linspace(0.0, length - 1, count)
    before = np.floor(position).astype(np.intp)
    return _Taps(before, np.minimum(before + 1, length - 1), position - before)


def _interpolate(values: NDArray[np.float64], taps: _Taps) -> NDArray[np.float64]:
    """Along the first axis. Where its weight is zero, `after` must not matter, even if NaN or infinite."""
    weight = taps.weight[:, None]
    before, after = values[taps.before], values[taps.after]
    with np.errstate(invalid="ignore"):  # 0 * inf, in the branch that is not taken
        return np.where(weight == 0.0, before, (1.0 - weight) * before + weight * after)
