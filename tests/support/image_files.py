"""Image files of many kinds, written without the code that reads them."""

import contextlib
import io
import itertools
import struct
import zlib

import numpy as np
import tifffile
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


def whole():
    """Intact files by name, of all formats that Pillow writes and of the kinds that are assembled here."""
    picture = np.rint(scene() * 255).astype(np.uint8)
    image, deep = Image.fromarray(picture), np.rint(scene() * 65535).astype(np.uint16)
    kinds = [
        "PNG",
        "JPEG",
        "GIF",
        "WEBP",
        "BMP",
        "TIFF",
        "PPM",
        "JPEG2000",
        "AVIF",
        "QOI",
        "TGA",
        "PCX",
        "SGI",
        "ICO",
        "DDS",
    ]
    files = {f"rgb-{kind}": encoded(image, kind) for kind in kinds}
    modes = {mode: image.convert(mode) for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "LAB")}
    modes["I;16"] = Image.fromarray(deep[..., 0])
    for mode, kind in itertools.product(modes, ("PNG", "TIFF", "GIF", "JPEG", "WEBP", "PPM", "TGA", "BMP")):
        with contextlib.suppress(OSError, ValueError):  # not every format has every mode
            files[f"{mode.replace(';', '')}-{kind}"] = encoded(modes[mode], kind)
    for kind, depth, interlaced in itertools.product(CHANNELS, (8, 16), (False, True)):
        if kind == _PALETTE:
            continue
        samples = np.rint(scene(channels=CHANNELS[kind]) * (2**depth - 1))
        files[f"kind{kind}-{depth}-{interlaced}-PNG"] = png(samples, depth, kind, interlaced=interlaced)
    for planar, packed in itertools.product((False, True), (None, "zlib")):
        buffer, config = io.BytesIO(), "separate" if planar else "contig"
        stored = np.moveaxis(deep, -1, 0) if planar else deep
        tifffile.imwrite(buffer, stored, photometric="rgb", planarconfig=config, compression=packed)
        files[f"deep-{config}-{packed}-TIFF"] = buffer.getvalue()
    files["one-PNG"] = encoded(picture[:1, :1], "PNG")
    files["wide-PNG"] = encoded(np.zeros((1, 30_000, 3), np.uint8), "PNG")
    files["tall-JPEG"] = encoded(np.zeros((30_000, 1, 3), np.uint8), "JPEG")
    return files


def damaged(files, seed=0):
    """Damaged variants of intact files, by name: always the same for the same seed."""
    random = np.random.default_rng(seed)
    variants = {}
    for name, data in files.items():
        for share in random.random(2):
            variants[f"cut-{share:.2f}-{name}"] = data[: int(share * len(data))]
        variants[f"short-{name}"] = data[:-1]
        for number in range(2):
            flipped = np.frombuffer(data, np.uint8).copy()
            places = random.integers(0, min(len(data), 10 ** (number + 2)), 3)  # first of all in the header
            flipped[places] ^= (1 << random.integers(0, 8, 3)).astype(np.uint8)
            variants[f"flipped-{number}-{name}"] = flipped.tobytes()
        variants[f"zeroed-{name}"] = data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
        other = list(files)[random.integers(len(files))]
        head = int(random.integers(4, 64))
        variants[f"{name}-headed-{other}"] = data[:head] + files[other][head:]
    for name, data in files.items():
        for width, height in ((60_000, 60_000), (4_000, 4_000), (0, 7)):
            if (claimed := _claiming(data, width, height)) is not None:
                variants[f"claims-{width}-{name}"] = claimed
    junk = random.integers(0, 256, 3000, np.uint8).tobytes()
    variants |= {"zeros": bytes(3000), "junk": junk, "byte": b"\xff", "text": b"not a photo " * 50}
    for magic in (
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"II*\0",
        b"MM\0*",
        b"II+\0\x08\0\0\0",
        b"BM",
        b"RIFF\x10\0\0\0WEBP",
        b"\0\0\0\x1cftypheic",
        b"\0\0\0\x1cftypavif",
        b"P6 9 9 65535\n",
    ):
        variants[f"junk-after-{magic[:4].hex()}"] = magic + junk
    return variants


def _claiming(data, width, height):
    """The file with another size in its header, where the place is known."""
    for magic, place, code in (
        (b"\x89PNG", 16, ">II"),
        (b"GIF8", 6, "<HH"),
        (b"BM", 18, "<ii"),
        (b"qoif", 4, ">II"),
    ):
        if data.startswith(magic):
            body = data[:place] + struct.pack(code, width, height) + data[place + struct.calcsize(code) :]
            return (
                body[:29] + struct.pack(">I", zlib.crc32(body[12:29])) + body[33:]
                if magic == b"\x89PNG"
                else body
            )
    if data.startswith(b"II*\0"):
        [start] = struct.unpack_from("<I", data, 4)
        body = bytearray(data)
        for entry in range(struct.unpack_from("<H", data, start)[0]):
            tag = struct.unpack_from("<H", data, start + 2 + 12 * entry)[0]
            if tag in (256, 257):
                struct.pack_into("<HII", body, start + 4 + 12 * entry, 4, 1, width if tag == 256 else height)
        return bytes(body)
    return None
