"""Pictures as PNG bytes, and inside documents."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_png(image: NDArray[np.uint8] | Image.Image) -> bytes:
    """Encode a picture as PNG, in memory. With one Pillow version, the same picture gives the same bytes.

    Args:
        image: uint8 ``[H, W]`` (grey), ``[H, W, 3]`` (RGB) or ``[H, W, 4]`` (RGBA), or a Pillow image.

    Returns:
        The bytes of a PNG file.

    Raises:
        TypeError: an array that is not uint8.
        ValueError: an array of another shape or without pixels.

    Example:
        >>> to_png(np.zeros((2, 2, 3), np.uint8))[:4]
        b'\\x89PNG'
    """
    if not isinstance(image, Image.Image):
        image = _from_array(np.asarray(image))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(rgb: NDArray[np.uint8]) -> str:
    """A photo inside a document: JPEG as a data URI.

    Args:
        rgb: uint8 ``[H, W, 3]``.

    Example:
        >>> data_uri(np.zeros((2, 2, 3), np.uint8))[:23]
        'data:image/jpeg;base64,'
    """
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(f"expected uint8 values 0 to 255; got {array.dtype}")
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"expected [H, W], [H, W, 3] or [H, W, 4]; got {array.shape}")
    return Image.fromarray(np.ascontiguousarray(array))
