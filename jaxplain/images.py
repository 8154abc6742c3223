"""Load photos as uint8 RGB arrays [H, W, 3]; files that cannot be loaded raise `ImageError`.

This module does not depend on models or on JAX; pass the arrays to a model's `preprocess`. Color profiles are
ignored, as in most image loaders: samples are assumed to be sRGB.
"""

from __future__ import annotations

import contextlib
import io
import operator
import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Rgb = NDArray[np.uint8]
ResizeMethod = Literal["bilinear", "bicubic", "lanczos", "nearest"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}

# Vector graphics, not photos; Pillow would run an external program (Ghostscript) to render them.
_VECTOR_FORMATS = frozenset({"EPS", "WMF"})

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_WHITE_IS_ZERO = 0


class ImageError(ValueError):
    """Raised if a file cannot be used as a photo; the message gives the path, the reason and a remedy."""


def load_image(path: str | os.PathLike[str]) -> Rgb:
    """Load a photo from an image file as an upright uint8 RGB array.

    The EXIF orientation is applied. Grayscale, palette, 1-bit and CMYK/YCCK files are converted to RGB (CMYK
    JPEGs may have inverted samples, as Adobe writes them). Transparent pixels are composited over white.
    Grayscale images with more than 8 bits are rescaled, not clipped: the white level is 65535, or 4095 for a
    12-bit TIFF, and 32-bit integers are treated as 16-bit samples. Only the first frame or page of a file is
    read.

    A truncated file is rejected, never loaded partially (unless the calling program has set
    `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`).

    Args:
      path: a file in any raster format that Pillow reads (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, ...).

    Returns:
      A new C-contiguous uint8 array `[H, W, 3]` with values from 0 to 255.

    Raises:
      ImageError: if the path does not exist or is not a file; or if the file is empty, not an image, damaged,
        truncated, without pixels or a vector drawing, has floating-point samples or integers outside 0 to
        65535, or exceeds `PIL.Image.MAX_IMAGE_PIXELS` (the guard against decompression bombs).

    Example:
      >>> photo = load_image("cat.jpg")  # doctest: +SKIP
      >>> photo.shape, photo.dtype  # doctest: +SKIP
      ((300, 451, 3), dtype('uint8'))
    """
    path = Path(path)
    return decode_image(read_image_file(path), path)


def read_image_file(path: Path) -> bytes:
    """Return an image file's contents, for decoding with `decode_image` and for hashing.

    Raises:
      ImageError: if the file does not exist, is not a regular file, is empty, or cannot be read.
    """
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {_explain(error)}") from error


def decode_image(data: bytes, path: Path) -> Rgb:
    """Decode an image file's contents as `load_image` does; `path` is used in error messages."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_header(image, path)
            image.load()
            upright = _apply_orientation(_to_rgb(image, path), _orientation(image))
    except ImageError:
        raise
    except Exception as error:  # each of Pillow's forty decoders raises its own exceptions for bad data
        raise ImageError(f"{path}: {_explain(error)}") from error
    # Pillow's own buffer is read-only, and applying the orientation only creates views.
    return np.array(upright, order="C")


def resize(image: Rgb, size: tuple[int, int], *, method: ResizeMethod = "bilinear") -> Rgb:
    """Resize a photo to an exact size, without keeping its aspect ratio.

    Downsizing is antialiased, except for "nearest".

    Args:
      image: uint8 `[H, W, 3]`.
      size: `(height, width)` of the result in pixels; both must be at least 1.
      method: "bilinear", "bicubic", "lanczos" or "nearest".

    Returns:
      A new uint8 array `[height, width, 3]`.

    Raises:
      TypeError: if `image` is not uint8.
      ValueError: if `image` is not `[H, W, 3]`, a side is below 1, or the method is unknown.

    Example:
      >>> resize(np.zeros((300, 451, 3), np.uint8), (224, 224), method="bicubic").shape
      (224, 224, 3)
    """
    check_rgb(image)
    if method not in _RESAMPLING:
        raise ValueError(f"method must be one of {', '.join(_RESAMPLING)}; got {method!r}")
    height, width = (operator.index(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"size must be (height, width), both at least 1; got {(height, width)}")
    return np.array(Image.fromarray(image).resize((width, height), _RESAMPLING[method]))


def center_crop(image: Rgb, fraction: float) -> Rgb:
    """Crop the central square; its side is `round(fraction * min(H, W))` pixels, but at least 1.

    Args:
      image: uint8 `[H, W, 3]`.
      fraction: fraction of the shorter side to keep, above 0 and at most 1.

    Returns:
      A new uint8 array `[side, side, 3]`. If a margin is odd, the extra pixel is cut at the bottom or right.

    Raises:
      TypeError: if `image` is not uint8.
      ValueError: if `image` is not `[H, W, 3]`, or `fraction` is not in (0, 1].

    Example:
      >>> center_crop(np.zeros((300, 451, 3), np.uint8), 0.875).shape
      (262, 262, 3)
    """
    check_rgb(image)
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be above 0 and at most 1; got {fraction}")
    height, width = image.shape[:2]
    side = max(1, round(fraction * min(height, width)))
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side].copy()


def check_rgb(image: Rgb) -> None:
    """Check that an array is a uint8 RGB image.

    Args:
      image: array to check; must be uint8 `[H, W, 3]`, with H and W at least 1.

    Raises:
      TypeError: if the array is not uint8 (the range of float arrays would be ambiguous).
      ValueError: if the array has any other shape.

    Example:
      >>> check_rgb(np.zeros((2, 2, 3), np.uint8))
    """
    dtype = getattr(image, "dtype", type(image).__name__)
    if dtype != np.uint8:
        raise TypeError(f"expected a uint8 RGB image with values 0 to 255; got {dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected an RGB image of shape [H, W, 3]; got {image.shape}")


def _check_file(path: Path) -> None:
    """Check that a path is a non-empty regular file; Pillow's own errors are cryptic."""
    if os.path.isdir(path):
        raise ImageError(
            f"{path}: this is a folder, not an image. Name the files in it, such as {path}/*.jpg."
        )
    if not os.path.lexists(path):
        raise ImageError(f"{path}: no such file. Check the spelling and the current folder.")
    if not os.path.isfile(path):
        raise ImageError(f"{path}: this is a broken link, a pipe or a device. Name a regular image file.")
    if os.path.getsize(path) == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes). Copy or download it again.")


def _check_header(image: Image.Image, path: Path) -> None:
    """Check the image header before decoding, to guard against decompression bombs."""
    if image.format in _VECTOR_FORMATS:
        raise ImageError(f"{path}: {image.format} is a vector format. Export it as PNG or JPEG first.")
    if image.width < 1 or image.height < 1:
        raise ImageError(f"{path}: the image has no pixels ({image.width} x {image.height}). Save it again.")
    # Up to twice its limit, Pillow only warns. Turning the warning into an error with warnings.catch_warnings
    # would not be thread-safe, so the limit is also checked here.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise ImageError(
            f"{path}: {image.width} x {image.height} pixels exceed the limit of {limit}, which guards "
            f"against decompression bombs. {_BOMB_ADVICE}"
        )


_BOMB_ADVICE = "Scale the image down first, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file."


def _explain(error: Exception) -> str:
    """Describe the reason for an exception from Pillow, and a remedy."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{str(error).rstrip('.')}. {_BOMB_ADVICE}"
    if isinstance(error, UnidentifiedImageError):
        return "this is not an image that Pillow can read, or its header is damaged. Save it as PNG or JPEG."
    if isinstance(error, PermissionError):
        return "no permission to read this file. Change its permissions or copy it elsewhere."
    detail = str(error).strip().rstrip(".") or type(error).__name__
    return (
        f"the file cannot be decoded; it is damaged, cut short or of an unsupported kind ({detail}). "
        "Copy or download it again, or save it as PNG or JPEG."
    )


def _to_rgb(image: Image.Image, path: Path) -> Rgb:
    """Convert a loaded Pillow image of any mode to uint8 [H, W, 3]."""
    if image.mode == "F":
        raise ImageError(
            f"{path}: the samples are floating point (mode F), so the white level is unknown. "
            "Scale them to 0..255 and save an 8-bit PNG."
        )
    if image.mode.startswith("I"):
        return np.repeat(_wide_gray(image, path)[:, :, None], 3, axis=2)
    if image.mode == "La":  # premultiplied gray: Pillow converts it only in two steps
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _wide_gray(image: Image.Image, path: Path) -> Rgb:
    """Rescale grayscale with more than 8 bits to uint8 [H, W]; Pillow's own conversion clips at 255."""
    samples = np.asarray(image).astype(np.int64)
    tags = getattr(image, "tag_v2", {})
    white = 4095 if tags.get(_TIFF_BITS_PER_SAMPLE) == (12,) else 65535
    if samples.min() < 0 or samples.max() > white:
        raise ImageError(
            f"{path}: integer samples from {samples.min()} to {samples.max()} (mode {image.mode}) do not fit "
            f"0..{white}, so the white level is unknown. Scale them to 0..255 and save an 8-bit PNG."
        )
    gray = (samples * 255 + white // 2) // white
    if tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO:
        gray = 255 - gray
    key = image.info.get("transparency")  # a PNG may declare one gray value transparent
    if isinstance(key, int):
        gray[samples == key] = 255
    return gray.astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8), or 1 (upright) if it is missing or damaged."""
    with contextlib.suppress(Exception):
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    return 1


def _apply_orientation(rgb: Rgb, orientation: int) -> Rgb:
    """Rotate the stored pixels upright; orientations 5 to 8 swap height and width."""
    if orientation in (5, 6, 7, 8):
        rgb = rgb.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):  # after the transpose, mirror left-right ...
        rgb = rgb[:, ::-1]
    if orientation in (3, 4, 7, 8):  # ... and top-bottom
        rgb = rgb[::-1]
    return rgb
