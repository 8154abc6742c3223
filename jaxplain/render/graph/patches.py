"""Patches of a photo: where they lie, and the photo with only some of them shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxplain.images import check_rgb
from jaxplain.render.overlay import resize_map


class Box(NamedTuple):
    """A rectangle, in shares of a picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float


def outlines(grid: tuple[int, int]) -> list[Box]:
    """Where the patches of a grid lie: around their lattice points, half-way to the neighbours'.

    The lattice's corners are the picture's, so patches on the border are half as wide.

    Args:
        grid: ``(rows, columns)``.

    Returns:
        A box for each patch in reading order; together they tile the picture.

    Example:
        >>> [box.right for box in outlines((1, 3))]
        [0.25, 0.75, 1.0]
    """
    tops, lefts = (_edges(count) for count in grid)
    return [
        Box(lefts[col], tops[row], lefts[col + 1], tops[row + 1])
        for row in range(grid[0])
        for col in range(grid[1])
    ]


def _edges(count: int) -> list[float]:
    if count == 1:
        return [0.0, 1.0]
    return [0.0, *((at + 0.5) / (count - 1) for at in range(count - 1)), 1.0]


def masked_photo(
    rgb: NDArray[np.uint8], hidden: NDArray[np.uint8], patches: Iterable[int], grid: tuple[int, int]
) -> NDArray[np.uint8]:
    """The photo where its patches are shown, the baseline elsewhere: what the model scored.

    Args:
        rgb: uint8 ``[H, W, 3]``, the photo.
        hidden: uint8 ``[H, W, 3]``, the baseline as a picture.
        patches: numbers of the shown ones.
        grid: ``(rows, columns)`` of patches.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: the two pictures differ in shape.

    Example:
        >>> white, black = np.full((4, 4, 3), 255, np.uint8), np.zeros((4, 4, 3), np.uint8)
        >>> masked_photo(white, black, [0], (2, 2))[..., 0].tolist()[0]
        [255, 170, 85, 0]
    """
    check_rgb(rgb)
    check_rgb(hidden)
    if rgb.shape != hidden.shape:
        raise ValueError(f"photo {rgb.shape} and baseline {hidden.shape} must have the same shape")
    indicator = np.zeros(grid[0] * grid[1])
    indicator[list(patches)] = 1.0
    mask = resize_map(indicator.reshape(grid), rgb.shape[:2])[..., None]
    return np.floor(hidden + mask * (rgb.astype(float) - hidden) + 0.5).astype(np.uint8)
