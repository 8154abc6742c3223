"""Every odd and every bad image file: the right pixels, or one clear error."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, UnidentifiedImageError

from jaxplain.images import ImageError, center_crop, load_image, resize

RNG = np.random.default_rng(7)
PHOTO = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def save(image, path, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def png(width, height, depth, color_type, rows, *chunks):
    """A PNG written by hand, for the kinds Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def tiff(width, height, strip, *, bits, samples=1, extra=()):
    """A little-endian, uncompressed grayscale TIFF of one strip, written by hand."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, bits), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(strip)), *extra]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II\x2a\0" + struct.pack("<I", 8 + len(strip)) + strip + directory


# ---------------------------------------------------------------- what must load


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_rgb_round_trip(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    loaded = load_image(save(PHOTO, tmp_path / f"photo.{suffix}", **options))
    assert loaded.dtype == np.uint8
    assert loaded.flags.c_contiguous
    assert loaded.flags.writeable
    np.testing.assert_array_equal(loaded, PHOTO)


def test_accepts_str_and_odd_file_names(tmp_path):
    path = save(PHOTO, tmp_path / "ein Föto, mit # und 日本.png")
    np.testing.assert_array_equal(load_image(str(path)), PHOTO)


def test_the_content_decides_not_the_suffix(tmp_path):
    path = save(PHOTO, tmp_path / "photo.png")
    path.rename(tmp_path / "photo.jpg")
    np.testing.assert_array_equal(load_image(tmp_path / "photo.jpg"), PHOTO)


def test_jpeg_is_close(tmp_path):
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], (48, 1, 3))
    loaded = load_image(save(smooth, tmp_path / "a.jpg", quality=95)).astype(int)
    assert np.abs(loaded - smooth).max() <= 4


def test_grayscale_and_one_bit(tmp_path):
    gray = PHOTO[:, :, 0]
    np.testing.assert_array_equal(
        load_image(save(gray, tmp_path / "l.png")), np.repeat(gray[:, :, None], 3, 2)
    )
    bits = gray > 128
    loaded = load_image(save(Image.fromarray(bits), tmp_path / "1.png"))
    np.testing.assert_array_equal(loaded, np.repeat(bits[:, :, None] * np.uint8(255), 3, 2))


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([200, 10, 20, 0, 0, 0, 30, 40, 250])
    image.putdata([0, 1, 2])
    plain = load_image(save(image, tmp_path / "p.png"))
    assert plain.tolist() == [[[200, 10, 20], [0, 0, 0], [30, 40, 250]]]
    keyed = load_image(save(image, tmp_path / "pt.png", transparency=1))
    assert keyed.tolist() == [[[200, 10, 20], [255, 255, 255], [30, 40, 250]]]
    half = load_image(save(image, tmp_path / "pa.png", transparency=bytes([255, 128, 0])))
    assert half.tolist() == [[[200, 10, 20], [127, 127, 127], [255, 255, 255]]]


def test_alpha_is_composited_over_white(tmp_path):
    rgba = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    rgba[0, :, 3], rgba[1, :, 3] = 0, 255
    alpha = rgba[:, :, 3:] / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    loaded = load_image(save(rgba, tmp_path / "rgba.png"))
    assert np.abs(loaded - expected).max() <= 1
    assert (loaded[0] == 255).all()
    np.testing.assert_array_equal(loaded[1], rgba[1, :, :3])


def test_gray_with_alpha(tmp_path):
    la = Image.fromarray(np.array([[[0, 0], [0, 255], [100, 255], [0, 51]]], np.uint8), "LA")
    loaded = load_image(save(la, tmp_path / "la.png"))
    assert loaded[0, :, 0].tolist() == [255, 0, 100, 204]
    assert (loaded == loaded[:, :, :1]).all()


def test_premultiplied_gray_tiff(tmp_path):
    pixels = bytes([200, 255, 0, 0, 50, 128])  # gray times alpha, alpha
    (tmp_path / "la.tiff").write_bytes(
        tiff(3, 1, pixels, bits=8 | 8 << 16, samples=2, extra=[(338, 3, 1, 1)])
    )
    try:
        assert Image.open(tmp_path / "la.tiff").mode == "La"
    except UnidentifiedImageError:
        pytest.skip("this Pillow does not know the kind yet")
    assert load_image(tmp_path / "la.tiff")[0, :, 0].tolist() == [200, 255, 177]  # the last: 50 + (255 - 128)


def test_color_key_in_true_color_png(tmp_path):
    path = save(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8), tmp_path / "k.png", transparency=(1, 2, 3))
    assert load_image(path).tolist() == [[[255, 255, 255], [9, 9, 9]]]


def test_cmyk_jpeg_and_tiff(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    for name in ("c.jpg", "c.tiff"):
        pixel = load_image(save(cmyk, tmp_path / name))[8, 8].astype(int)
        assert np.abs(pixel - (255, 0, 0)).max() <= 3, name
    white = load_image(save(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), tmp_path / "w.jpg"))
    assert white.min() >= 252  # an inversion forgotten would be black


def test_ycck_jpeg(tmp_path):
    """Adobe's other four-color JPEG: YCC and K. Pillow writes none, so its marker is patched."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[..., 1:3] = 255  # red, as above
    # Adobe stores inverted inks, and the standard takes YCC of inverted samples: the two inversions cancel.
    ycc = np.asarray(Image.fromarray(inks[..., :3]).convert("YCbCr"))
    planes = np.concatenate([ycc, 255 - inks[..., 3:]], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(255 - planes, "CMYK").save(buffer, "JPEG", quality=100)  # Pillow inverts on writing
    data = bytearray(buffer.getvalue())
    at = data.index(b"Adobe") + 11
    assert data[at] == 0  # transform 0: CMYK as it stands
    data[at] = 2  # transform 2: YCCK
    (tmp_path / "ycck.jpg").write_bytes(data)
    pixel = load_image(tmp_path / "ycck.jpg")[8, 8].astype(int)
    assert np.abs(pixel - (255, 0, 0)).max() <= 4


SIXTEEN = np.array([[0, 128, 256, 257, 32768, 65278, 65535]], np.uint16)
EIGHT = np.rint(SIXTEEN / 257).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm", "jp2"])
def test_sixteen_bit_gray_is_rescaled(tmp_path, suffix):
    loaded = load_image(save(SIXTEEN, tmp_path / f"deep.{suffix}"))
    np.testing.assert_array_equal(loaded[:, :, 0], EIGHT)
    assert (loaded == loaded[:, :, :1]).all()


def test_sixteen_bit_big_endian_tiff(tmp_path):
    big = Image.frombytes("I;16B", (SIXTEEN.shape[1], 1), SIXTEEN.astype(">u2").tobytes())
    path = save(big, tmp_path / "mm.tiff")
    assert Image.open(path).mode == "I;16B"
    np.testing.assert_array_equal(load_image(path)[:, :, 0], EIGHT)


def test_sixteen_bit_tiff_where_white_is_zero(tmp_path):
    path = save(SIXTEEN, tmp_path / "inverse.tiff", tiffinfo={262: 0})
    np.testing.assert_array_equal(load_image(path)[:, :, 0], 255 - EIGHT)


def test_sixteen_bit_gray_with_a_transparent_value(tmp_path):
    rows = [SIXTEEN.astype(">u2").tobytes()]
    (tmp_path / "k.png").write_bytes(png(7, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 128))))
    expected = EIGHT.copy()
    expected[0, 1] = 255
    np.testing.assert_array_equal(load_image(tmp_path / "k.png")[:, :, 0], expected)


def test_twelve_bit_tiff_has_white_at_4095(tmp_path):
    packed = "".join(f"{value:012b}" for value in (0, 4095, 2048, 16))
    strip = int(packed, 2).to_bytes(len(packed) // 8, "big")
    (tmp_path / "12.tiff").write_bytes(tiff(4, 1, strip, bits=12))
    assert load_image(tmp_path / "12.tiff")[0, :, 0].tolist() == [0, 255, 128, 1]


def test_pgm_with_an_odd_maximum(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 1000\n" + struct.pack(">3H", 0, 500, 1000))
    assert load_image(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 128, 255]


def test_thirty_two_bit_integers_within_sixteen_bits(tmp_path):
    path = save(SIXTEEN.astype(np.int32), tmp_path / "i.tiff")
    assert Image.open(path).mode == "I"
    np.testing.assert_array_equal(load_image(path)[:, :, 0], EIGHT)


def test_sixteen_bit_rgb_and_rgba_png(tmp_path):
    row = struct.pack(">6H", 65535, 32768, 256, 0, 65535, 128)
    (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, [row]))
    assert load_image(tmp_path / "rgb.png").tolist() == [[[255, 128, 1], [0, 255, 0]]]
    row = struct.pack(">8H", 65535, 0, 0, 65535, 0, 0, 0, 0)
    (tmp_path / "rgba.png").write_bytes(png(2, 1, 16, 6, [row]))
    assert load_image(tmp_path / "rgba.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]


def upright_to_stored(upright, orientation):
    """What a camera stores so that a viewer, by the EXIF table, sees `upright`, pixel by pixel."""
    height, width = upright.shape[:2]
    shape = (width, height, 3) if orientation >= 5 else (height, width, 3)
    stored = np.zeros(shape, np.uint8)
    for row in range(height):
        for column in range(width):
            # (which visual side row 0 is, which visual side column 0 is), EXIF 2.3, tag 0x0112
            at = {
                1: (row, column),  # top, left
                2: (row, width - 1 - column),  # top, right
                3: (height - 1 - row, width - 1 - column),  # bottom, right
                4: (height - 1 - row, column),  # bottom, left
                5: (column, row),  # left, top
                6: (width - 1 - column, row),  # right, top
                7: (width - 1 - column, height - 1 - row),  # right, bottom
                8: (column, height - 1 - row),  # left, bottom
            }[orientation]
            stored[at] = upright[row, column]
    return stored


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(upright_to_stored(PHOTO, orientation), tmp_path / f"o.{suffix}", exif=exif, **options)
    np.testing.assert_array_equal(load_image(path), PHOTO)


@pytest.mark.parametrize("suffix", ["jpg", "avif"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation_of_a_lossy_photo(tmp_path, orientation, suffix):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255  # a white patch at the top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(upright_to_stored(upright, orientation), tmp_path / f"o.{suffix}", exif=exif, quality=95)
    assert np.abs(load_image(path).astype(int) - upright).mean() < 2


def test_exif_orientation_of_sixteen_bit_gray(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load_image(save(SIXTEEN, tmp_path / "deep.png", exif=exif))
    assert loaded.shape == (7, 1, 3)
    np.testing.assert_array_equal(loaded[:, 0, 0], EIGHT[0])


@pytest.mark.parametrize("value", [0, 9, 77])
def test_unknown_orientation_is_upright(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_array_equal(load_image(save(PHOTO, tmp_path / "o.png", exif=exif)), PHOTO)


def test_damaged_exif_does_not_cost_the_photo(tmp_path):
    path = save(PHOTO, tmp_path / "o.png", exif=b"Exif\0\0garbage, not a TIFF header")
    np.testing.assert_array_equal(load_image(path), PHOTO)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_animation_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 3
    np.testing.assert_array_equal(load_image(path), np.full((6, 8, 3), (255, 0, 0)))


def test_gif_with_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 250, 0, 0])
    image.putdata([0, 1])
    path = save(image, tmp_path / "t.gif", transparency=0)
    assert load_image(path).tolist() == [[[255, 255, 255], [250, 0, 0]]]


def test_one_pixel(tmp_path):
    assert load_image(save(np.uint8([[[1, 2, 3]]]), tmp_path / "1.png")).tolist() == [[[1, 2, 3]]]


def test_lab_tiff(tmp_path):
    loaded = load_image(save(Image.new("LAB", (4, 4), (255, 128, 128)), tmp_path / "lab.tiff"))
    assert loaded.min() >= 250  # lightness at its maximum, no color: white


# ---------------------------------------------------------------- what must be refused


def refusal(path):
    with pytest.raises(ImageError) as caught:
        load_image(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) > len(str(path)) + 25  # a reason and an advice, not only the name
    return message


def test_missing_folder_empty_and_not_an_image(tmp_path):
    assert "no such file" in refusal(tmp_path / "nothing.png")
    assert "folder" in refusal(tmp_path)
    (tmp_path / "empty.jpg").touch()
    assert "empty" in refusal(tmp_path / "empty.jpg")
    (tmp_path / "notes.png").write_text("not a picture at all, just words " * 20)
    assert "not an image" in refusal(tmp_path / "notes.png")
    (tmp_path / "page.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert "not an image" in refusal(tmp_path / "page.svg")


def test_paths_below_a_file_broken_links_and_pipes(tmp_path):
    photo = save(PHOTO, tmp_path / "p.png")
    assert "no such file" in refusal(photo / "below.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    assert "broken link" in refusal(tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe")  # opening it would block forever
    assert "broken link" in refusal(tmp_path / "pipe")
    refusal("\0.png")


def test_image_error_is_a_value_error_with_its_cause(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"junk" * 9)
    with pytest.raises(ValueError, match=r"bad\.png") as caught:
        load_image(tmp_path / "bad.png")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tiff", "ppm", "jp2"])
def test_truncated(tmp_path, suffix):
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(noise, tmp_path / f"t.{suffix}")
    data = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow mutters about truncated TIFF directories first
            refusal(path)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def encoded(suffix):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


ENCODED = {suffix: encoded(suffix) for suffix in ("PNG", "JPEG", "GIF", "WEBP", "BMP")}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ENCODED)), st.floats(0, 1))
def test_a_file_cut_anywhere_is_whole_or_refused(tmp_path_factory, suffix, share):
    data = ENCODED[suffix]
    path = tmp_path_factory.getbasetemp() / "cut"
    path.write_bytes(data)
    whole = load_image(path)
    path.write_bytes(data[: int(share * len(data))])
    try:
        cut = load_image(path)
    except ImageError:
        return
    np.testing.assert_array_equal(cut, whole)  # only bytes after the pixels were missing


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ENCODED)), st.integers(0, 10**6), st.integers(0, 255))
def test_a_flipped_byte_gives_pixels_or_an_image_error(tmp_path_factory, suffix, where, value):
    data = bytearray(ENCODED[suffix])
    data[where % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = load_image(path)
        except ImageError:
            return
    assert loaded.dtype == np.uint8
    assert loaded.ndim == 3
    assert loaded.shape[2] == 3


def test_zero_sized(tmp_path):
    (tmp_path / "zero.png").write_bytes(png(0, 1, 8, 2, [b""]))
    refusal(tmp_path / "zero.png")
    (tmp_path / "zero.ppm").write_bytes(b"P6 0 1 255\n")
    refusal(tmp_path / "zero.ppm")


def test_float_samples_are_refused_by_name(tmp_path):
    path = save(Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)), tmp_path / "f.tiff")
    assert "floating point" in refusal(path)


@pytest.mark.parametrize("extreme", [-5, 65536, 2**31 - 1])
def test_integers_of_unknown_range_are_refused(tmp_path, extreme):
    path = save(Image.fromarray(np.array([[0, extreme]], np.int32)), tmp_path / "i.tiff")
    assert str(extreme) in refusal(path)


def test_vector_drawings_are_refused_without_running_ghostscript(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: pytest.fail("started Ghostscript"))
    assert "vector" in refusal(save(PHOTO, tmp_path / "d.eps"))


@pytest.mark.parametrize("limit", [30, 10])  # 35 pixels: above the limit (a warning), above twice the limit
@pytest.mark.parametrize("action", ["ignore", "error"])
def test_decompression_bomb(tmp_path, monkeypatch, limit, action):
    path = save(PHOTO, tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action, Image.DecompressionBombWarning)
        message = refusal(path)
    assert "MAX_IMAGE_PIXELS" in message
    assert "limit" in message


def test_limit_can_be_lifted(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    np.testing.assert_array_equal(load_image(save(PHOTO, tmp_path / "p.png")), PHOTO)


def test_unreadable(tmp_path, monkeypatch):
    """Root reads everything, so the refusal of the system is played."""
    path = save(PHOTO, tmp_path / "p.png")

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", refuse)
    assert "permission" in refusal(path)


# ---------------------------------------------------------------- resize and crop


def test_resize_takes_height_before_width():
    assert resize(PHOTO, (3, 11)).shape == (3, 11, 3)


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "lanczos", "nearest"])
def test_resize_keeps_a_flat_color_and_a_size(method):
    flat = np.full((9, 6, 3), (10, 200, 30), np.uint8)
    np.testing.assert_array_equal(resize(flat, (4, 13), method=method), np.full((4, 13, 3), (10, 200, 30)))
    same = resize(PHOTO, PHOTO.shape[:2], method=method)
    np.testing.assert_array_equal(same, PHOTO)
    assert not np.shares_memory(same, PHOTO)


def test_resize_methods_do_what_their_names_say():
    checker = np.indices((8, 8)).sum(0) % 2 * np.uint8(255)
    checker = np.repeat(checker[:, :, None].astype(np.uint8), 3, 2)
    shrunk = {name: resize(checker, (4, 4), method=name) for name in ("bilinear", "nearest")}
    assert np.abs(shrunk["bilinear"].astype(int) - 128).max() <= 4  # antialiased
    assert set(np.unique(shrunk["nearest"])) <= {0, 255}
    step = np.zeros((1, 8, 3), np.uint8)
    step[:, 4:] = 200
    assert resize(step, (1, 32), method="bilinear").max() == 200
    assert resize(step, (1, 32), method="bicubic").max() > 200  # overshoots beside an edge


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_resize_refuses_bad_sizes(size):
    with pytest.raises(ValueError, match="size must be"):
        resize(PHOTO, size)


def test_resize_and_crop_refuse_other_arrays():
    with pytest.raises(TypeError, match="float32"):
        resize(PHOTO.astype(np.float32), (2, 2))
    with pytest.raises(TypeError, match="list"):
        resize(PHOTO.tolist(), (2, 2))
    with pytest.raises(ValueError, match=r"\(7, 5\)"):
        center_crop(PHOTO[:, :, 0], 1.0)
    with pytest.raises(ValueError, match="method"):
        resize(PHOTO, (2, 2), method="area")


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 1.0))
def test_center_crop_is_central_and_of_the_stated_side(height, width, fraction):
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 0] = np.arange(height)[:, None]
    image[:, :, 1] = np.arange(width)[None]
    crop = center_crop(image, fraction)
    side = max(1, round(fraction * min(height, width)))
    assert crop.shape == (side, side, 3)
    for channel, length in ((0, height), (1, width)):
        before = int(crop[0, 0, channel])
        after = length - 1 - int(crop[-1, -1, channel])
        assert 0 <= after - before <= 1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_center_crop_refuses_other_fractions(fraction):
    with pytest.raises(ValueError, match="fraction"):
        center_crop(PHOTO, fraction)


@pytest.mark.parametrize(
    "path", ["https://example.com/cat.jpg", "gs://bucket/cat.jpg", "S3://bucket/cat.jpg"]
)
def test_a_web_address_is_no_path(path):
    with pytest.raises(ImageError, match="is a web address, not a file"):
        load_image(path)
