"""The share of images that are explained with at most k patches, one line a classifier."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxplain.render.lines import Line, draw_lines


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
    largest = max(1, len(next(iter(lines.values()))) - 1)
    return draw_lines(
        {name: _staircase(values) for name, values in lines.items()},
        x="patches, at most",
        y="share of images explained",
        x_max=largest,
        size=size,
    )


def _staircase(values: NDArray[np.float64]) -> Line:
    """Between two whole numbers of patches nothing changes."""
    steps = np.repeat(np.arange(len(values)), 2)[1:]
    return Line(steps, np.repeat(values, 2)[:-1], f"in all {values[-1]:.2f}")
