"""Read samples that Pillow does not return as they are stored in the file.

Pillow keeps only the upper 8 bits of a PNG's 16-bit color samples, and it scrambles some TIFFs with separate
planes or with 16 or 32 bits per sample. Here, such files are assembled from what Pillow decodes correctly.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal, NamedTuple

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

SIXTEEN_BITS = 0xFFFF
_MOST_SAMPLES = 16  # per pixel of a TIFF, which bounds the memory for decoding
_DARK = 64  # the upper 8 bits of a PNG's samples do not suffice if all are below this


class UnsupportedImageError(ValueError):
    """Raised if an intact file is of a kind that cannot be read; the message gives the kind and a remedy."""


class Samples(NamedTuple):
    """Samples as stored in a file, not yet scaled to 8 bits."""

    color: np.ndarray  # [H, W, 1] (gray), [H, W, 3] (RGB) or [H, W, 4] (CMYK), of any real type
    full: int  # the largest sample that the file can store; 0 for floating point, whose range is unknown
    stated: int = 0  # the white level that the file states; 0 if it states none
    alpha: np.ndarray | None = None  # [H, W, 1]
    premultiplied: bool = False  # whether the colors have been multiplied by alpha
    inverted: bool = False  # whether 0 is white


def pillow_samples(image: Image.Image, data: bytes, white_level: float | None) -> Samples | None:
    """Return the samples of a loaded Pillow image if they have more than 8 bits, otherwise None."""
    if image.format == "PNG":
        return _png_samples(image, data, white_level)
    if image.mode != "F" and not image.mode.startswith("I"):
        return None
    if image.mode == "F":
        return Samples(np.asarray(image)[:, :, None], 0)
    tags = getattr(image, "tag_v2", {})  # a TIFF with 12 bits per sample; `tiff_samples` reads the others
    twelve = tags.get(_TIFF.BitsPerSample) == (12,)
    inverted = tags.get(_TIFF.PhotometricInterpretation) == _WHITE_IS_ZERO
    return Samples(np.asarray(image)[:, :, None], 4095 if twelve else SIXTEEN_BITS, inverted=inverted)


# ---------------------------------------------------------------------------------------------------------
# PNG

_PNG_GRAY, _PNG_RGB, _PNG_GRAY_ALPHA = 0, 2, 4  # color types


def _png_samples(image: Image.Image, data: bytes, white_level: float | None) -> Samples | None:
    """Return the samples of a PNG with 16 bits per sample, or None if Pillow's 8 bits will do."""
    chunks = _png_chunks(data)
    depth, kind = chunks[b"IHDR"][8:10]
    key = np.frombuffer(chunks.get(b"tRNS", b""), ">u2") if kind in (_PNG_GRAY, _PNG_RGB) else np.empty(0)
    if depth < 8 and len(key) == 1:  # Pillow scales the samples, but not the transparent one
        image.info["transparency"] = int(key[0]) * 255 // (2**depth - 1)
    if depth < 16:
        return None
    colors = 1 if kind in (_PNG_GRAY, _PNG_GRAY_ALPHA) else 3
    bits = max(chunks.get(b"sBIT", b"")[:colors], default=16)
    bits = bits if 0 < bits < 16 else 16
    pixels = np.asarray(image)  # exact for gray, otherwise the upper 8 bits
    if kind == _PNG_GRAY:
        words = pixels[:, :, None]
    elif white_level is not None or bits < 16 or len(key) or pixels[:, :, :colors].max() < _DARK:
        words = _png_words(pixels, data, kind)
    else:
        return None
    color, alpha = words[:, :, :colors], words[:, :, colors:]
    if len(key) == colors:
        alpha = np.where((color == key).all(2, keepdims=True), 0, SIXTEEN_BITS)
    # Samples with fewer significant bits should have been shifted to the upper bits; not all programs do so.
    unshifted = color.max() < 2**bits and (color % 2 ** (16 - bits)).any()
    stated = 2**bits - 1 if unshifted else SIXTEEN_BITS if b"sBIT" in chunks else 0
    return Samples(color, SIXTEEN_BITS, stated, alpha if alpha.size else None)


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the chunks before a PNG's pixels, by name."""
    chunks: dict[bytes, bytes] = {}
    start = 8
    while start + 8 <= len(data) and b"IDAT" not in chunks:
        length, name = struct.unpack_from(">I4s", data, start)
        chunks[name] = data[start + 8 : start + 8 + (0 if name == b"IDAT" else length)]
        start += 12 + length
    return chunks


def _png_words(upper: np.ndarray, data: bytes, kind: int) -> np.ndarray:
    """Return all 16 bits of a PNG's samples, uint16 [H, W, samples].

    Args:
      upper: the upper 8 bits of RGB or RGBA samples, uint8 [H, W, 3 or 4].
      data: the file.
      kind: color type.
    """
    if kind == _PNG_GRAY_ALPHA:  # four bytes per pixel, like 8-bit RGBA: change the header
        header = data[12:24] + bytes([8, 6]) + data[26:29]
        data = data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
        with Image.open(io.BytesIO(data)) as image:
            return np.array(image).view(">u2").astype(np.uint16)
    with Image.open(io.BytesIO(data)) as image:  # decoded as little-endian, to get the lower 8 bits
        image.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in image.tile]
        return upper.astype(np.uint16) << 8 | np.asarray(image)


# ---------------------------------------------------------------------------------------------------------
# TIFF
#
# Any TIFF whose compression works on bytes can be decoded as a gray image with unsigned 8- or 16-bit samples,
# if its width is multiplied accordingly. Pillow decodes that form correctly.

_TIFF = ExifTags.Base  # EXIF's tags are TIFF's
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB_COLORS, _CMYK_COLORS = 0, 1, 2, 5  # values of PhotometricInterpretation
_COLORS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB_COLORS: 3, _CMYK_COLORS: 4}
_YCBCR = 6
_PREMULTIPLIED_ALPHA, _STRAIGHT_ALPHA = 1, 2  # values of ExtraSamples
_UNCOMPRESSED, _HIGHEST_RATIO = 1, 20_000  # of the size of decompressed data to that of compressed data
_BYTEWISE = {
    _UNCOMPRESSED,
    5,
    8,
    32773,
    32946,
    34925,
    50000,
}  # none, LZW, deflate, PackBits, deflate, LZMA, Zstandard
_INTEGERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # field types of TIFF, as codes of `struct`
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4  # values of SampleFormat


class TiffFile(NamedTuple):
    """The first image in a TIFF file."""

    data: bytes
    order: Literal["<", ">"]
    tags: dict[int, tuple[int, ...]]  # fields with unsigned integers

    def get(self, tag: int, default: int) -> int:
        """Return a field's first value."""
        return self.tags.get(tag, (default,))[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.get(_TIFF.ImageWidth, 0), self.get(_TIFF.ImageLength, 0)

    @property
    def bits(self) -> int:
        """Bits per sample."""
        return max(self.tags.get(_TIFF.BitsPerSample, (1,)))

    @property
    def samples(self) -> int:
        """Samples per pixel."""
        return self.get(_TIFF.SamplesPerPixel, 1)

    @property
    def planar(self) -> bool:
        """Whether each sample of the pixels has its own plane."""
        return self.samples > 1 and self.get(_TIFF.PlanarConfiguration, 1) == 2


def parse_tiff(data: bytes) -> TiffFile | None:
    """Parse the first directory of a TIFF; None if the file is not a TIFF or the directory is damaged."""
    order: Literal["<", ">"] = "<" if data[:2] == b"II" else ">"
    if data[:4] in (b"II*\0", b"MM\0*"):
        start, count_code, entry_code = 4, "H", "HHI4s"
    elif data[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF
        start, count_code, entry_code = 8, "Q", "HHQ8s"
    else:
        return None
    position_code = entry_code[2]
    tags = {}
    try:
        [start] = struct.unpack_from(order + position_code, data, start)
        [entries] = struct.unpack_from(order + count_code, data, start)
        start += struct.calcsize(order + count_code)
        for tag, kind, count, value in struct.iter_unpack(
            order + entry_code, data[start : start + entries * struct.calcsize(order + entry_code)]
        ):
            if kind in _INTEGERS and count:
                code = f"{order}{count}{_INTEGERS[kind]}"
                if struct.calcsize(code) > len(value):
                    tags[tag] = struct.unpack_from(code, data, struct.unpack(order + position_code, value)[0])
                else:
                    tags[tag] = struct.unpack_from(code, value)
    except struct.error:
        return None
    return TiffFile(data, order, tags)


def check_tiff(tiff: TiffFile) -> None:
    """Refuse TIFF files whose first image is not the photo, or that Pillow decodes incorrectly.

    Raises:
      UnsupportedImageError: the file is such a file.
    """
    if tiff.get(_TIFF.NewSubfileType, 0) & 1 and _TIFF.SubIFDs in tiff.tags:
        raise UnsupportedImageError(
            "this is a camera's raw file, whose first image is only a preview. Export it as JPEG first."
        )
    colors, compression = tiff.get(_TIFF.PhotometricInterpretation, 0), tiff.get(_TIFF.Compression, 1)
    if (
        colors == _YCBCR
        and compression == _UNCOMPRESSED
        and tiff.tags.get(_TIFF.YCbCrSubSampling, (2, 2)) != (1, 1)
    ):
        raise UnsupportedImageError(
            "this is an uncompressed TIFF with subsampled colors. Save it as PNG or JPEG first."
        )


def tiff_samples(tiff: TiffFile) -> Samples | None:
    """Decode a TIFF with 16 or 32 bits per sample or separate planes; None for others, which Pillow decodes.

    Raises:
      UnsupportedImageError: the file is of a kind that cannot be read.
      Exception: the file is damaged.
    """
    straight = tiff.get(_TIFF.FillOrder, 1) == 1
    if not tiff.planar and not (tiff.bits in (16, 32) and straight):
        return None
    photometric = tiff.get(_TIFF.PhotometricInterpretation, 0)
    colors, extra = _COLORS.get(photometric, 0), tiff.tags.get(_TIFF.ExtraSamples, ())
    if photometric == _RGB_COLORS and tiff.samples == 4 and not extra:
        extra = (_STRAIGHT_ALPHA,)
    bits = set(tiff.tags.get(_TIFF.BitsPerSample, (1,)))
    formats = set(tiff.tags.get(_TIFF.SampleFormat, (_UNSIGNED,)))
    compression, predictor = tiff.get(_TIFF.Compression, 1), tiff.get(_TIFF.Predictor, 1)
    if not (
        colors
        and colors <= tiff.samples <= (2 if colors == 1 else _MOST_SAMPLES)
        and bits in ({8}, {16}, {32})
        and formats in ({_UNSIGNED}, {_SIGNED}, {_FLOAT}, {_UNDEFINED})
        and compression in _BYTEWISE
        and predictor in (1, 2)
        and straight
    ):
        depths = "/".join(map(str, sorted(bits)))
        raise UnsupportedImageError(
            f"this kind of TIFF is not supported: {tiff.samples} samples of {depths} bits per pixel, "
            f"{'separate planes' if tiff.planar else 'interleaved'}, photometric interpretation "
            f"{photometric}, compression {compression}, predictor {predictor}. Save it as RGB, in PNG or "
            "uncompressed TIFF."
        )
    stored = tiff.size[0] * tiff.size[1] * tiff.samples * tiff.bits // 8
    if stored > len(tiff.data) * (1 if compression == _UNCOMPRESSED else _HIGHEST_RATIO):
        raise ValueError("the file is too short for the size of its image")  # before memory is allocated
    has_alpha = extra[:1] in ((_PREMULTIPLIED_ALPHA,), (_STRAIGHT_ALPHA,))
    values = _tiff_values(tiff, colors + has_alpha)
    full = 2 ** min(tiff.bits, 16) - 1  # 32-bit integers are treated as 16-bit samples
    if formats == {_FLOAT}:
        values, full = values.view(f"f{values.itemsize}"), 0
    elif formats == {_SIGNED}:
        values, full = values.view(f"i{values.itemsize}"), full if tiff.bits == 32 else full // 2
    return Samples(
        values[:, :, :colors],
        full,
        stated=max(tiff.tags.get(_TIFF.MaxSampleValue, (0,))),
        alpha=values[:, :, colors:] if has_alpha else None,
        premultiplied=extra[:1] == (_PREMULTIPLIED_ALPHA,),
        inverted=photometric == _WHITE_IS_ZERO,
    )


def _tiff_values(tiff: TiffFile, wanted: int) -> np.ndarray:
    """Return the first `wanted` samples of each pixel as unsigned integers [H, W, wanted]."""
    if tiff.planar:
        values = np.concatenate([_tiff_plane(tiff, plane, 1) for plane in range(wanted)], axis=2)
    else:
        values = _tiff_plane(tiff, 0, tiff.samples)[:, :, :wanted]
    if tiff.get(_TIFF.Predictor, 1) == 2:  # each row of a strip or tile holds differences
        width = tiff.size[0]
        step = tiff.get(_TIFF.TileWidth, width)
        for start in range(0, width, step):
            part = values[:, start : start + step]
            part[:] = np.cumsum(part, axis=1, dtype=part.dtype)
    return np.ascontiguousarray(values)


def _tiff_plane(tiff: TiffFile, plane: int, samples: int) -> np.ndarray:
    """Return one plane with `samples` samples per pixel, before its predictor: unsigned [H, W, samples]."""
    width, height = tiff.size
    depth = min(tiff.bits, 16)
    factor = samples * tiff.bits // depth  # decoded samples per pixel
    tiled = _TIFF.TileOffsets in tiff.tags
    offsets, counts = (
        (_TIFF.TileOffsets, _TIFF.TileByteCounts) if tiled else (_TIFF.StripOffsets, _TIFF.StripByteCounts)
    )
    number = len(tiff.tags[offsets]) // (tiff.samples if tiff.planar else 1)
    own = slice(plane * number, (plane + 1) * number)
    fields: dict[int, tuple[int, ...]] = {
        _TIFF.ImageWidth: (width * factor,),
        _TIFF.ImageLength: (height,),
        _TIFF.BitsPerSample: (depth,),
        _TIFF.Compression: (tiff.get(_TIFF.Compression, 1),),
        _TIFF.PhotometricInterpretation: (_BLACK_IS_ZERO,),
        _TIFF.SamplesPerPixel: (1,),
        offsets: tiff.tags[offsets][own],
    }
    if counts in tiff.tags:
        fields[counts] = tiff.tags[counts][own]
    if tiled:
        fields[_TIFF.TileWidth] = (tiff.get(_TIFF.TileWidth, 0) * factor,)
        fields[_TIFF.TileLength] = (tiff.get(_TIFF.TileLength, 0),)
    else:
        fields[_TIFF.RowsPerStrip] = (min(tiff.get(_TIFF.RowsPerStrip, height), height),)
    # Not by Image.open, whose limit of pixels would count each sample as one.
    with TiffImagePlugin.TiffImageFile(io.BytesIO(_with_directory(tiff, fields, offsets))) as image:
        words = np.asarray(image).reshape(height, width, samples, -1)
    if tiff.bits < 32:
        return words[..., 0].astype(np.uint8 if depth == 8 else np.uint16)
    first, second = words[..., 0].astype(np.uint32), words[..., 1].astype(np.uint32)
    return second << 16 | first if tiff.order == "<" else first << 16 | second


def _with_directory(tiff: TiffFile, fields: dict[int, tuple[int, ...]], offsets: int) -> bytes:
    """Return a TIFF file with these fields, followed by the contents of `tiff`, to which `offsets` refers.

    The contents come last, so that a file that was cut short still ends early.
    """
    lists = 8 + 2 + 12 * len(fields) + 4  # position of the values that do not fit into the directory
    shift = lists + sum(4 * len(values) for values in fields.values() if len(values) > 1)
    entries, long = b"", b""
    for tag, values in sorted(fields.items()):
        if tag == offsets:
            values = tuple(value + shift for value in values)
        packed = struct.pack(f"{tiff.order}{len(values)}I", *values)
        if len(values) > 1:
            packed, long = struct.pack(f"{tiff.order}I", lists + len(long)), long + packed
        entries += struct.pack(f"{tiff.order}HHI", tag, 4, len(values)) + packed
    start = tiff.data[:2] + struct.pack(f"{tiff.order}HI", 42, 8)
    count, end = struct.pack(f"{tiff.order}H", len(fields)), struct.pack(f"{tiff.order}I", 0)
    return start + count + entries + end + long + tiff.data
