"""Image files of many kinds, written without the code that reads them."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}  # by color type of a PNG
_PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def scene(height=23, width=37, channels=3):
    """Smooth colors and noise, in which any permutation shows: float [height, width, channels]."""
    row, column = np.mgrid[0:height, 0:width]
    planes = [row / height, column / width, (row + column) / (height + width), (row - column) % 11 / 10]
    picture = np.stack(planes[:channels], -1)
    picture[5:9, 3:20] = np.random.default_rng(0).random((4, 17, channels))
    return picture


def png(samples, depth, color_type, *chunks, interlaced=False):
    """A PNG of whole samples [H, W, channels], each row with another filter."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    passes = [samples[y::dy, x::dx] for y, x, dy, dx in _PASSES] if interlaced else [samples]
    rows = b"".join(_png_rows(part, depth) for part in passes if part.size)
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + end


def _png_rows(samples, depth):
    """The filtered rows of a PNG (or of one pass): filter 0 to 4 in turn."""
    height, width, channels = samples.shape
    if depth == 16:
        rows = np.ascontiguousarray(samples.astype(">u2")).view(np.uint8).reshape(height, -1)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(height, -1)
    else:
        bits = samples.reshape(height, width, 1) >> np.arange(depth - 1, -1, -1) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    step, rows = max(1, channels * depth // 8), rows.astype(np.int64)
    up = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    left, corner = (
        np.hstack([np.zeros((height, step), int), one[:, :-step]])[:, : rows.shape[1]] for one in (rows, up)
    )
    guess = left + up - corner
    near = np.argmin(np.abs(np.stack([guess - left, guess - up, guess - corner])), axis=0)
    predictions = [0 * rows, left, up, (left + up) // 2, np.choose(near, [left, up, corner])]
    filtered = [
        bytes([row % 5]) + ((rows[row] - predictions[row % 5][row]) % 256).astype(np.uint8).tobytes()
        for row in range(height)
    ]
    return b"".join(filtered)


def encoded(picture, kind, **options):
    """A picture as Pillow writes it."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()
