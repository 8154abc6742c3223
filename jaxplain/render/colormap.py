"""Numbers to colours, for the eye only: nothing here changes a heatmap that is kept or measured."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Colormap = Literal["jet", "viridis", "gray", "bwr"]

# Shown where there is no number. Jet, viridis and bwr do not contain it.
NAN_COLOR = (128, 128, 128)

# A float32 map whose values differ by less is constant up to rounding; stretching it would show noise.
_FLAT = 4 * float(np.finfo(np.float32).eps)

# Matplotlib's viridis (CC0) at 32 evenly spaced points, fitted so that straight lines between them stay
# within 2/255 of all its 256 colours.
_VIRIDIS = np.frombuffer(
    bytes.fromhex(
        "440154 470d60 48196b 482474 472e7c 453882 424287 3e4b8a 3a548c 365d8d 32658e 2e6d8e 2b758e 287d8e"
        "25858e 228c8d 1f948c 1e9c8a 20a386 24ab82 2db27d 39ba76 48c16e 58c765 6acd5b 7ed34f 92d742 a8db34"
        "bedf25 d4e21a e9e418 fde725"
    ),
    dtype=np.uint8,
).reshape(32, 3)


def colorize(values: ArrayLike, cmap: Colormap = "jet") -> NDArray[np.uint8]:
    """Colour a map of numbers in [0, 1].

    "jet" is the piecewise-linear dark blue - cyan - yellow - dark red that readers of class activation maps
    know; "viridis" is even to the eye and safe for the colour-blind; "bwr" runs from blue (0) over white (.5)
    to red (1), for signed maps; "gray" is black to white.

    Args:
        values: float ``[H, W]``. Values outside [0, 1] take the end colours; NaN becomes mid-grey.
        cmap: "jet", "viridis", "gray" or "bwr".

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: ``values`` is not a non-empty ``[H, W]``, or the name is unknown.

    Example:
        >>> colorize([[0.0, 1.0]], "gray")[0].tolist()
        [[0, 0, 0], [255, 255, 255]]
    """
    check_colormap(cmap)
    numbers = check_map(values)
    missing = np.isnan(numbers)
    level = np.clip(np.where(missing, 0.0, numbers), 0.0, 1.0)
    colors = np.rint(_COLORS[cmap](level)).astype(np.uint8)
    colors[missing] = NAN_COLOR
    return colors


def normalize(
    saliency: ArrayLike,
    vmin: float | None = None,
    vmax: float | None = None,
    clip_percentile: float = 0.0,
) -> NDArray[np.float32]:
    """Scale a map to [0, 1] for display: ``vmin`` becomes 0, ``vmax`` becomes 1, beyond them is clipped.

    Give the same ``vmin`` and ``vmax`` to several maps to make them comparable. A constant map (also one that
    is constant up to float32 rounding) gives all zeros: no division by zero and no invented structure.

    Args:
        saliency: float ``[H, W]``, high = important.
        vmin: the value shown as 0; None for the smallest (or the percentile below).
        vmax: the value shown as 1; None for the largest (or the percentile below).
        clip_percentile: in [0, 50). Where vmin or vmax is None, this percentile, or 100 minus it, takes the
            place of the extreme, so that single outliers do not flatten the rest.

    Returns:
        float32 ``[H, W]`` in [0, 1]. NaN stays NaN; infinite values are clipped and set no limits.

    Raises:
        ValueError: ``saliency`` is not a non-empty ``[H, W]``; vmin is above vmax, or one is not finite; the
            percentile is not in [0, 50).

    Example:
        >>> normalize([[1.0, 2.0, 5.0]]).tolist()
        [[0.0, 0.25, 1.0]]
    """
    numbers = check_map(saliency)
    low, high = _display_range(numbers, vmin, vmax, clip_percentile)
    if high <= low:
        return np.where(np.isnan(numbers), np.nan, 0.0).astype(np.float32)
    unit = max(abs(low), abs(high))  # high - low itself can be too large or too small for a float
    scaled = (np.clip(numbers, low, high) / unit - low / unit) / (high / unit - low / unit)
    return np.clip(scaled, 0.0, 1.0).astype(np.float32)


def symmetric_range(saliency: ArrayLike) -> tuple[float, float]:
    """Display limits of a signed map, so that zero falls on the middle colour (white in "bwr").

    Args:
        saliency: float ``[H, W]``.

    Returns:
        ``(-m, m)`` with m the largest finite absolute value; m is 1 where that is zero, so that zero keeps
        its colour there too.

    Raises:
        ValueError: ``saliency`` is not a non-empty ``[H, W]``.

    Example:
        >>> symmetric_range([[-3.0, 1.0]])
        (-3.0, 3.0)
    """
    numbers = check_map(saliency)
    finite = numbers[np.isfinite(numbers)]
    largest = (float(np.abs(finite).max()) if finite.size else 0.0) or 1.0
    return -largest, largest


def display_range(
    saliency: ArrayLike, cmap: Colormap, vmin: float | None = None, vmax: float | None = None
) -> tuple[float, float]:
    """The limits that a map is drawn with: those given, else its extremes; in "bwr" symmetric about zero.

    Args:
        saliency: float ``[H, W]``.
        cmap: the colour map it will be drawn in.
        vmin: lower limit or None.
        vmax: upper limit or None.

    Returns:
        ``(low, high)``; equal for a constant map.

    Raises:
        ValueError: as in `normalize` and `colorize`.

    Example:
        >>> display_range([[-3.0, 1.0]], "jet"), display_range([[-3.0, 1.0]], "bwr")
        ((-3.0, 1.0), (-3.0, 3.0))
    """
    check_colormap(cmap)
    if cmap == "bwr" and vmin is None and vmax is None:
        return symmetric_range(saliency)
    return _display_range(check_map(saliency), vmin, vmax, 0.0)


def check_map(values: ArrayLike) -> NDArray[np.float64]:
    """A map of numbers as float64 ``[H, W]``.

    Args:
        values: numbers ``[H, W]``, H and W at least 1.

    Returns:
        float64 ``[H, W]``.

    Raises:
        ValueError: another shape.

    Example:
        >>> check_map([[1, 2]]).shape
        (1, 2)
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 2 or numbers.size == 0:
        raise ValueError(f"expected a map of shape [H, W]; got {numbers.shape}")
    return numbers


def check_colormap(cmap: str) -> None:
    """Refuse an unknown colour map.

    Args:
        cmap: a name.

    Raises:
        ValueError: it is none of "jet", "viridis", "gray", "bwr".

    Example:
        >>> check_colormap("jet")
    """
    if cmap not in _COLORS:
        raise ValueError(f"cmap must be one of {', '.join(_COLORS)}; got {cmap!r}")


def _display_range(
    numbers: NDArray[np.float64], vmin: float | None, vmax: float | None, clip_percentile: float
) -> tuple[float, float]:
    """The limits; ``low >= high`` says that there is nothing to stretch."""
    if not 0.0 <= clip_percentile < 50.0:
        raise ValueError(f"clip_percentile must be in [0, 50); got {clip_percentile}")
    given = [limit for limit in (vmin, vmax) if limit is not None]
    if not all(math.isfinite(limit) for limit in given):
        raise ValueError(f"vmin and vmax must be finite; got {vmin} and {vmax}")
    if vmin is not None and vmax is not None:
        if vmin > vmax:
            raise ValueError(f"vmin must not be above vmax; got {vmin} and {vmax}")
        return float(vmin), float(vmax)
    finite = numbers[np.isfinite(numbers)]
    if finite.size == 0:
        return 0.0, 0.0
    low, high = np.percentile(finite, [clip_percentile, 100.0 - clip_percentile]).tolist()
    if vmin is None and vmax is None and high - low <= _FLAT * max(abs(low), abs(high)):
        return low, low
    return (low if vmin is None else float(vmin)), (high if vmax is None else float(vmax))


def _ramp(level: NDArray[np.float64], center: float) -> NDArray[np.float64]:
    """Jet's trapezium: one from center - 1/8 to center + 1/8, zero from 3/8 on."""
    return 255.0 * np.clip(1.5 - 4.0 * np.abs(level - center), 0.0, 1.0)


def _jet(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Red, green and blue are one trapezium, centred on 3/4, 1/2 and 1/4."""
    return np.stack([_ramp(level, 0.75), _ramp(level, 0.5), _ramp(level, 0.25)], axis=-1)


def _bwr(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Blue to white over the lower half, white to red over the upper."""
    rising, falling = np.minimum(2.0 * level, 1.0), np.minimum(2.0 - 2.0 * level, 1.0)
    return 255.0 * np.stack([rising, np.minimum(rising, falling), falling], axis=-1)


def _gray(level: NDArray[np.float64]) -> NDArray[np.float64]:
    return 255.0 * np.repeat(level[..., None], 3, axis=-1)


def _viridis(level: NDArray[np.float64]) -> NDArray[np.float64]:
    points = np.linspace(0.0, 1.0, len(_VIRIDIS))
    return np.stack([np.interp(level, points, _VIRIDIS[:, channel]) for channel in range(3)], axis=-1)


_COLORS = {"jet": _jet, "viridis": _viridis, "gray": _gray, "bwr": _bwr}
