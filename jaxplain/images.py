"""Load photos as uint8 RGB arrays [H, W, 3]; files that cannot be loaded raise `ImageError`.

This module does not depend on models or on JAX; pass the arrays to a model's `preprocess`. Color profiles are
ignored, as in most image loaders: samples are assumed to be sRGB.
"""

from __future__ import annotations

import contextlib
import functools
import io
import operator
import os
import re
import warnings
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from jaxplain.samples import (
    SIXTEEN_BITS,
    Samples,
    UnsupportedImageError,
    check_tiff,
    parse_tiff,
    pillow_samples,
    tiff_samples,
)

Rgb = NDArray[np.uint8]
ResizeMethod = Literal["bilinear", "bicubic", "lanczos", "nearest"]

_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}

# Formats that Pillow recognizes but that are not photos. To render vector graphics, it would run an external
# program (Ghostscript); the samples of scientific data have no fixed range (and FITS has an offset and a
# scale, which Pillow ignores).
_NOT_PHOTOS = {
    "EPS": "a vector format",
    "WMF": "a vector format",
    "MPEG": "a video format",
    "BUFR": "a format for scientific data",
    "FITS": "a format for scientific data",
    "GRIB": "a format for scientific data",
    "HDF5": "a format for scientific data",
}
_HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_HEIF_ADVICE = "run pip install pillow-heif"

_DEPTHS = (8, 10, 12, 14)  # bits per sample of cameras and scanners


class ImageError(ValueError):
    """Raised if a file cannot be used as a photo; the message gives the path, the reason and a remedy."""


class ImageWarning(UserWarning):
    """Issued if a photo is probably not what its file says, such as one that is much too dark."""


def load_image(path: str | os.PathLike[str], *, white_level: float | None = None) -> Rgb:
    """Load a photo from an image file as an upright uint8 RGB array.

    The EXIF orientation is applied. Grayscale, palette, 1-bit and CMYK/YCCK files are converted to RGB (CMYK
    JPEGs may have inverted samples, as Adobe writes them). Transparent pixels are composited over white.
    Images with more than 8 bits per sample are rescaled, not clipped. Their white level is the one that the
    file states (in a PNG's sBIT chunk, a TIFF's MaxSampleValue, or as 12 bits per sample), otherwise the
    largest 16-bit sample: 65535, or 32767 for signed samples. 32-bit integers are treated as 16-bit samples.
    Only the first frame or page of a file is read.

    A truncated file is rejected, never loaded partially (unless the calling program has set
    `PIL.ImageFile.LOAD_TRUNCATED_IMAGES`).

    Args:
      path: a file in any raster format that Pillow reads (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, JPEG 2000,
        ...), or a HEIC photo if the package pillow-heif is installed.
      white_level: sample value that becomes white, for images with more than 8 bits per sample, such as 4095
        for 12-bit data; larger samples become white as well. If None, see above. Images with floating-point
        samples can only be loaded with a white level.

    Returns:
      A new C-contiguous uint8 array `[H, W, 3]` with values from 0 to 255.

    Raises:
      ImageError: if the path does not exist or is not a file; or if the file is empty, not an image, damaged,
        truncated, without pixels or a vector drawing, has samples whose white level is unknown
        (floating-point, or integers outside 0 to 65535), or exceeds `PIL.Image.MAX_IMAGE_PIXELS` (the guard
        against decompression bombs).
      ValueError: if `white_level` is not a positive number.

    Warns:
      ImageWarning: if the white level is assumed, but no sample reaches a quarter of it: the file probably
        contains 12-bit data or the like, and the photo is nearly black.

    Example:
      >>> photo = load_image("cat.jpg")  # doctest: +SKIP
      >>> photo.shape, photo.dtype  # doctest: +SKIP
      ((300, 451, 3), dtype('uint8'))
      >>> photo = load_image("x-ray.png", white_level=4095)  # doctest: +SKIP
    """
    path = Path(path)
    return decode_image(read_image_file(path), path, white_level)


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


def decode_image(data: bytes, path: Path, white_level: float | None = None) -> Rgb:
    """Decode an image file's contents as `load_image` does; `path` is used in messages."""
    check_white_level(white_level)
    try:
        rgb, doubt = _decode(data, path, white_level)
    except ImageError:
        raise
    except UnsupportedImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:  # each of Pillow's forty decoders raises its own exceptions for bad data
        raise ImageError(f"{path}: {_explain(error, data)}") from error
    if doubt:
        warnings.warn(f"{path}: {doubt}", ImageWarning, stacklevel=3)
    return rgb


def check_white_level(white_level: float | None) -> None:
    """Raise a ValueError unless a white level is a positive, finite number or None.

    Example:
      >>> check_white_level(4095)
    """
    if white_level is not None and not 0 < white_level < float("inf"):
        raise ValueError(f"the white level must be a positive number such as 4095; got {white_level}.")


@functools.cache
def photo_suffixes() -> frozenset[str]:
    """Return the file name extensions of photos, in lower case: those of all formats that can be loaded.

    HEIC is included if pillow-heif is installed.

    Example:
      >>> sorted(photo_suffixes() & {".jpg", ".jfif", ".jp2", ".tif", ".pdf", ".txt"})
      ['.jfif', '.jp2', '.jpg', '.tif']
    """
    formats = Image.registered_extensions()  # loads all of Pillow's formats, hence not on import
    # Pillow has no decoder of its own for MPO, which it reads as JPEG.
    readable = {*Image.OPEN, "MPO"} - set(_NOT_PHOTOS)
    suffixes = {suffix for suffix, name in formats.items() if name in readable}
    return frozenset(suffixes - _HEIF_SUFFIXES | (_HEIF_SUFFIXES if heif_installed() else frozenset()))


def heif_installed() -> bool:
    """Return whether the package pillow-heif, which reads HEIC photos, is installed."""
    return find_spec("pillow_heif") is not None


def unread_advice(suffixes: Iterable[str]) -> str:
    """Return what to install to read files with these extensions, or an empty string.

    Example:
      >>> unread_advice([".txt", ".pdf"])
      ''
    """
    heif = sorted(_HEIF_SUFFIXES.intersection(suffixes))
    return f"to read {', '.join(heif)}, {_HEIF_ADVICE}" if heif and not heif_installed() else ""


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


def is_web_address(path: Path) -> bool:
    """Return whether a path that does not exist is a web address, such as https://example.com/cat.jpg."""
    return re.match(r"[a-z][a-z0-9+.-]+:/", str(path), re.IGNORECASE) is not None


def _check_file(path: Path) -> None:
    """Check that a path is a non-empty regular file; Pillow's own errors are cryptic."""
    if os.path.isdir(path):
        raise ImageError(
            f"{path}: this is a folder, not an image. Name the files in it, such as {path}/*.jpg."
        )
    if not os.path.lexists(path):
        if is_web_address(path):
            raise ImageError(f"{path}: this is a web address, not a file. Download it first.")
        raise ImageError(f"{path}: no such file. Check the spelling and the current folder.")
    if not os.path.isfile(path):
        raise ImageError(f"{path}: this is a broken link, a pipe or a device. Name a regular image file.")
    if os.path.getsize(path) == 0:
        raise ImageError(f"{path}: the file is empty (0 bytes). Copy or download it again.")


def _check_header(kind: str | None, width: int, height: int, path: Path) -> None:
    """Check the image header before decoding, to guard against decompression bombs."""
    if kind in _NOT_PHOTOS:
        raise ImageError(f"{path}: {kind} is {_NOT_PHOTOS[kind]}. Export it as PNG or JPEG first.")
    if width < 1 or height < 1:
        raise ImageError(f"{path}: the image has no pixels ({width} x {height}). Save it again.")
    # Up to twice its limit, Pillow only warns. Turning the warning into an error with warnings.catch_warnings
    # would not be thread-safe, so the limit is also checked here.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise ImageError(
            f"{path}: {width} x {height} pixels exceed the limit of {limit}, which guards "
            f"against decompression bombs. {_BOMB_ADVICE}"
        )


_BOMB_ADVICE = "Scale the image down first. (In Python, PIL.Image.MAX_IMAGE_PIXELS is the limit.)"


def _explain(error: Exception, data: bytes = b"") -> str:
    """Describe the reason for an exception from Pillow, and a remedy."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{str(error).rstrip('.')}. {_BOMB_ADVICE}"
    if _is_heif(data) and not heif_installed():
        return f"this is a HEIC photo, which requires pillow-heif: {_HEIF_ADVICE}, or save it as PNG or JPEG."
    if isinstance(error, UnidentifiedImageError):
        return "this is not an image that Pillow can read, or its header is damaged. Save it as PNG or JPEG."
    if isinstance(error, PermissionError):
        return "no permission to read this file. Change its permissions or copy it elsewhere."
    detail = str(error).strip().rstrip(".") or type(error).__name__
    return (
        f"the file cannot be decoded; it is damaged, cut short or of an unsupported kind ({detail}). "
        "Copy or download it again, or save it as PNG or JPEG."
    )


class _Decoded(NamedTuple):
    rgb: Rgb  # upright
    doubt: str  # why the image is probably not what the file says; empty if it is


def _decode(data: bytes, path: Path, white_level: float | None) -> _Decoded:
    """Decode a file; raise any exception if that fails."""
    if _is_heif(data):
        _add_heif()
    samples, tiff = None, parse_tiff(data)
    if tiff is not None:
        _check_header("TIFF", *tiff.size, path)
        check_tiff(tiff)
        samples, orientation = tiff_samples(tiff), tiff.get(ExifTags.Base.Orientation, 1)
    if samples is None:
        with Image.open(io.BytesIO(data)) as image:
            _check_header(image.format, image.width, image.height, path)
            image.load()
            samples, orientation = pillow_samples(image, data, white_level), _orientation(image)
            if samples is None:
                decoded = _Decoded(_to_rgb(image), "")
    if samples is not None:
        decoded = _rgb_of_samples(samples, path, white_level)
    # Pillow's own buffer is read-only, and applying the orientation only creates views.
    return decoded._replace(rgb=np.array(_apply_orientation(decoded.rgb, orientation), order="C"))


def _is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


@functools.cache
def _add_heif() -> None:
    """Let Pillow read HEIC photos, if pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()


def _to_rgb(image: Image.Image) -> Rgb:
    """Convert a loaded Pillow image with at most 8 bits per sample to uint8 [H, W, 3]."""
    if image.mode == "La":  # premultiplied gray: Pillow converts it only in two steps
        image = image.convert("LA")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


# ---------------------------------------------------------------------------------------------------------
# Scaling samples to 8 bits


def _rgb_of_samples(samples: Samples, path: Path, white_level: float | None) -> _Decoded:
    """Scale samples to uint8 [H, W, 3], and composite them over white."""
    white, doubt = (white_level, "") if white_level is not None else _white_level(samples, path)
    scaled = _to_eight_bits(samples.color, white)
    if samples.inverted:
        scaled = 255 - scaled
    if scaled.shape[2] == 4:
        scaled = np.asarray(Image.fromarray(scaled, "CMYK").convert("RGB"))
    rgb = np.broadcast_to(scaled, (*scaled.shape[:2], 3))
    if samples.alpha is None:
        return _Decoded(rgb, doubt)
    # Opacity is scaled like the colors, unless only the colors have a lower white level.
    opaque = white if samples.alpha.max() <= white else samples.full
    opacity = _to_eight_bits(samples.alpha, opaque).astype(np.uint32)
    shown = rgb if samples.premultiplied else (rgb * opacity + 127) // 255
    return _Decoded(np.minimum(shown + (255 - opacity), 255).astype(np.uint8), doubt)


def _white_level(samples: Samples, path: Path) -> tuple[int, str]:
    """Return the white level, and the doubt about it, which is empty if the file states the level."""
    full, stated = samples.full, samples.stated
    advice = (
        "Give it with --white-level (in Python, white_level=), or scale the samples to 0..255 and save an "
        "8-bit PNG."
    )
    if not full:
        raise ImageError(f"{path}: the samples are floating point, so the white level is unknown. {advice}")
    low, high = int(samples.color.min()), int(samples.color.max())
    if low < 0 or high > full:
        raise ImageError(
            f"{path}: integer samples from {low} to {high} do not fit 0..{full}, so the white level is "
            f"unknown. {advice}"
        )
    if stated and high <= stated:
        return stated, ""
    if full < SIXTEEN_BITS // 2 or not 0 < high <= full // 4:
        return full, ""
    bits = next(bits for bits in _DEPTHS if high < 2**bits)
    return full, (
        f"samples reach {high:,} of {full:,}: {bits}-bit data? If so, use --white-level {2**bits - 1} (in "
        f"Python, white_level={2**bits - 1})."
    )


def _to_eight_bits(samples: np.ndarray, white: float) -> Rgb:
    """Scale samples to uint8; those below 0 and above the white level are clipped."""
    if samples.dtype.kind == "f" or white != int(white) or white > SIXTEEN_BITS:
        if not np.isfinite(samples).all():
            raise ValueError("some samples are NaN or infinite")
        return np.rint(np.clip(samples / white, 0, 1) * 255).astype(np.uint8)
    level = np.uint32(white)
    return ((np.clip(samples, 0, int(white)).astype(np.uint32) * 255 + level // 2) // level).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation (1 to 8), or 1 (upright) if it is missing or damaged."""
    with contextlib.suppress(Exception):
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
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
