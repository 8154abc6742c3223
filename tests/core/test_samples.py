"""Samples with more than 8 bits and separate planes: what is read is what was written."""

import itertools
import struct
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image
from support.image_files import CHANNELS, encoded, png, scene

from jaxplain.images import ImageError, ImageWarning, load_image

KINDS = {  # channels, photometric interpretation, extra samples
    "gray": (1, "minisblack", []),
    "white is zero": (1, "miniswhite", []),
    "gray, alpha": (2, "minisblack", ["unassalpha"]),
    "rgb": (3, "rgb", []),
    "rgb, alpha": (4, "rgb", ["unassalpha"]),
    "rgb, premultiplied alpha": (4, "rgb", ["assocalpha"]),
    "rgb, extra": (4, "rgb", ["unspecified"]),
    "cmyk": (4, "separated", []),
}
WHITE = {"u1": 255, "u2": 65535, "i2": 32767, "u4": 65535, "i4": 65535, "f2": 1, "f4": 1}
LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 16)},
    "deflated strips": {"compression": "zlib", "rowsperstrip": 5},
    "deflated tiles": {"compression": "zlib", "tile": (16, 16)},
    "differences": {"compression": "zlib", "predictor": True, "rowsperstrip": 5},
    "differences in tiles": {"compression": "zlib", "predictor": True, "tile": (16, 16)},
}


def seen(picture, kind):
    """What a viewer shows of a picture [H, W, channels] from 0 to 1: RGB over white."""
    color, alpha = picture[..., :3], picture[..., -1:]
    if kind in ("gray", "gray, alpha"):
        color = picture[..., :1]
    elif kind == "white is zero":
        color = 1 - picture
    elif kind == "cmyk":
        color = (1 - picture[..., :3]) * (1 - alpha)
    if kind == "rgb, premultiplied alpha":
        color = color + 1 - alpha
    elif kind.endswith(", alpha"):
        color = color * alpha + 1 - alpha
    return np.broadcast_to(color, (*picture.shape[:2], 3))


def check_tiff(path, kind, dtype, planar, order, layout, *, big=False):
    channels, photometric, extra = KINDS[kind]
    picture = scene(channels=channels)
    if kind == "rgb, premultiplied alpha":
        picture[..., :3] *= picture[..., 3:]
    stored = picture * WHITE[dtype]
    stored = (stored if dtype[0] == "f" else np.rint(stored)).astype(dtype)
    options = {"extrasamples": extra} if extra else {}
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    tifffile.imwrite(
        path,
        np.moveaxis(stored, -1, 0) if planar else stored[..., 0] if channels == 1 else stored,
        photometric=photometric, byteorder=order, metadata=None, bigtiff=big, **options, **LAYOUTS[layout],
    )  # fmt: skip
    again = tifffile.imread(path)  # the second reader, of the file as a whole
    assert sorted(again.shape) == sorted(stored.squeeze().shape)
    loaded = load_image(path, white_level=1 if dtype[0] == "f" else None)
    difference = np.abs(loaded - 255 * seen(picture, kind)).max()
    # Alpha and ink are rounded once more.
    assert difference <= (0.6 if kind in ("gray", "rgb", "white is zero", "rgb, extra") else 2), (
        f"{kind} {dtype} {'planar' if planar else 'interleaved'} {order} {layout}: {difference:.1f}"
    )


def combinations():
    for kind, dtype, planar, order, layout in itertools.product(KINDS, WHITE, (False, True), "<>", LAYOUTS):
        if planar and KINDS[kind][0] == 1:
            continue
        if dtype[0] == "f" and "differences" in layout:
            continue  # the floating-point predictor is refused, see below
        yield kind, dtype, planar, order, layout


@pytest.mark.parametrize("kind", KINDS)
def test_tiffs_are_read_as_they_were_written(tmp_path, kind):
    for number, combination in enumerate(one for one in combinations() if one[0] == kind):
        check_tiff(tmp_path / "a.tif", *combination, big=bool(number % 3 == 0 and combination[1] != "u1"))


def test_the_planar_photo_of_the_report(tmp_path):
    """16-bit RGB in uncompressed separate planes, which Pillow silently reads as a scrambled picture."""
    deep = np.rint(scene() * 65535).astype(np.uint16)
    for name, planes in (("planar", np.moveaxis(deep, -1, 0)), ("contiguous", deep)):
        config = "separate" if name == "planar" else "contig"
        tifffile.imwrite(tmp_path / f"{name}.tif", planes, photometric="rgb", planarconfig=config)
    planar = load_image(tmp_path / "planar.tif")
    np.testing.assert_array_equal(planar, load_image(tmp_path / "contiguous.tif"))
    scrambled = np.asarray(Image.open(tmp_path / "planar.tif")).astype(int)
    assert np.abs(scrambled - planar).max() > 100  # if this fails, Pillow has been corrected


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((6, 4, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
        ((5, 6, 4), {"photometric": "minisblack", "planarconfig": "separate"}),
        ((3, 6, 4), {"photometric": "ycbcr", "planarconfig": "separate", "subsampling": (1, 1)}),
        ((3, 6, 4), {"photometric": "cielab", "planarconfig": "separate"}),
    ],
)
def test_kinds_without_a_picture_are_refused_by_name(tmp_path, shape, options):
    dtype = np.uint16 if options["photometric"] == "minisblack" else np.uint8
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, dtype), metadata=None, **options)
    with pytest.raises(ImageError, match=r"this kind of TIFF is not supported: .* samples of .* bits"):
        load_image(tmp_path / "a.tif")


def with_tags(data, **changed):
    """A little-endian TIFF with other values in fields of one number."""
    data = bytearray(data)
    [start] = struct.unpack_from("<I", data, 4)
    for entry in range(struct.unpack_from("<H", data, start)[0]):
        position = start + 2 + 12 * entry
        name = tifffile.TIFF.TAGS.get(struct.unpack_from("<H", data, position)[0])
        if name in changed:
            struct.pack_into("<HII", data, position + 2, 4, 1, changed.pop(name))
    assert not changed
    return bytes(data)


@pytest.mark.parametrize(
    "changed",
    [
        {"SamplesPerPixel": 65535},
        {"Compression": 7},
        {"Predictor": 3},
        {"BitsPerSample": 64},
        {"SampleFormat": 6},
    ],
)
def test_impossible_fields_are_refused(tmp_path, changed):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((8, 8), np.int16), metadata=None, compression="zlib", predictor=True
    )
    (tmp_path / "a.tif").write_bytes(with_tags((tmp_path / "a.tif").read_bytes(), **changed))
    with pytest.raises(ImageError, match=r"is not supported|not an image"):
        load_image(tmp_path / "a.tif")


def test_a_claimed_size_allocates_nothing(tmp_path):
    """A file of 200 bytes must not take gigabytes."""
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint16), metadata=None)
    data = with_tags((tmp_path / "a.tif").read_bytes(), ImageWidth=9000, ImageLength=9000)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(ImageError, match="cut short"):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("planar", [False, True])
def test_a_truncated_tiff_is_refused(tmp_path, planar, share):
    deep = np.rint(scene(64, 64) * 65535).astype(np.uint16)
    stored, config = (np.moveaxis(deep, -1, 0), "separate") if planar else (deep, "contig")
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=config, metadata=None)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: int(len(data) * share)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError):
            load_image(tmp_path / "a.tif")


def test_a_raw_file_is_not_its_preview(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.dng") as file:
        file.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        file.write(np.zeros((64, 64), np.uint16), photometric="minisblack", metadata=None)
    with pytest.raises(ImageError, match="only a preview"):
        load_image(tmp_path / "a.dng")


def test_an_uncompressed_tiff_with_subsampled_colors_is_refused(tmp_path):
    luma = np.asarray(Image.fromarray(np.rint(scene() * 255).astype(np.uint8)).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", luma, photometric="ycbcr", subsampling=(1, 1), metadata=None)
    assert np.abs(load_image(tmp_path / "a.tif") - 255 * scene()).max() <= 6
    data = (tmp_path / "a.tif").read_bytes()
    place = data.index(struct.pack("<HHIHH", 530, 3, 2, 1, 1))
    (tmp_path / "a.tif").write_bytes(data[: place + 8] + struct.pack("<HH", 2, 2) + data[place + 12 :])
    with pytest.raises(ImageError, match="subsampled"):
        load_image(tmp_path / "a.tif")


def test_orientation_of_a_planar_tiff(tmp_path):
    deep = np.rint(scene() * 65535).astype(np.uint16)
    tifffile.imwrite(
        tmp_path / "a.tif", np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate",
        metadata=None, extratags=[(274, 3, 1, 6, True)],
    )  # fmt: skip
    upright = np.rot90(np.rint(scene() * 255), -1)
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif"), upright)


# ------------------------------------------------------------------------------------------------------- PNG


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color_type", sorted(CHANNELS))
def test_pngs_of_every_kind(tmp_path, color_type, interlaced):
    channels = CHANNELS[color_type]
    for depth in {0: (1, 2, 4, 8, 16), 3: (1, 2, 4, 8)}.get(color_type, (8, 16)):
        stored = np.rint(scene(channels=channels) * (2**depth - 1)).astype(int)
        chunks = []
        picture = stored / (2**depth - 1)
        if color_type == 3:
            palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3), np.uint8)
            chunks, picture = [(b"PLTE", palette.tobytes())], palette[stored[..., 0]] / 255
        kind = {0: "gray", 2: "rgb", 3: "rgb", 4: "gray, alpha", 6: "rgb, alpha"}[color_type]
        (tmp_path / "a.png").write_bytes(png(stored, depth, color_type, *chunks, interlaced=interlaced))
        difference = np.abs(load_image(tmp_path / "a.png") - 255 * seen(picture, kind)).max()
        # Pillow keeps the upper 8 of 16 bits of colors, which is within one level.
        assert difference <= (0.6 if (depth < 16 and channels in (1, 3)) or color_type == 0 else 2.1), depth


@pytest.mark.filterwarnings("ignore::jaxplain.images.ImageWarning")
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_gray_value_of_a_png(tmp_path, depth):
    """Pillow compares it with scaled samples at 2 and 4 bits."""
    stored = np.arange(2**depth if depth < 16 else 9)[None, :, None]
    (tmp_path / "a.png").write_bytes(png(stored, depth, 0, (b"tRNS", struct.pack(">H", 1))))
    expected = np.rint(stored[0, :, 0] * 255 / (2**depth - 1))
    expected[1] = 255
    np.testing.assert_array_equal(load_image(tmp_path / "a.png")[0, :, 0], expected)


def test_the_transparent_color_of_a_deep_png(tmp_path):
    """Pillow compares the lower 8 bits of the color with the upper 8 bits of the samples."""
    stored = np.array([[[1, 2, 3], [256, 512, 768], [257, 512, 768], [65535, 0, 0]]])
    (tmp_path / "a.png").write_bytes(png(stored, 16, 2, (b"tRNS", struct.pack(">3H", 256, 512, 768))))
    expected = [[[0, 0, 0], [255, 255, 255], [1, 2, 3], [255, 0, 0]]]
    assert load_image(tmp_path / "a.png").tolist() == expected


# ----------------------------------------------------------------------------------------------- white level


def twelve_bits(channels=3):
    samples = np.rint(scene(channels=channels) * 3000).astype(np.uint16)
    samples[7, 7] = 3120
    return samples


def write(path, samples, *, stated=None):
    """Write 12-bit samples in 16 bits, as a PNG or a TIFF; `stated` is the number of significant bits."""
    if path.suffix == ".png":
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
        chunks = [] if stated is None else [(b"sBIT", bytes([stated] * samples.shape[2]))]
        path.write_bytes(png(samples, 16, kind, *chunks))
        return path
    extra = [] if stated is None else [(281, 3, 1, 2**stated - 1, True)]
    tifffile.imwrite(
        path, samples.squeeze(), photometric="rgb" if samples.shape[2] > 2 else "minisblack", metadata=None,
        extratags=extra, **({"extrasamples": ["unassalpha"]} if samples.shape[2] in (2, 4) else {}),
    )  # fmt: skip
    return path


@pytest.fixture(params=["a.png", "a.tif"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.mark.parametrize("channels", [1, 3])
def test_twelve_bit_data_is_warned_about(path, channels):
    write(path, twelve_bits(channels))
    with pytest.warns(ImageWarning) as caught:
        dark = load_image(path)
    assert dark.max() == 12
    [warning] = caught
    assert str(warning.message) == (
        f"{path}: samples reach 3,120 of 65,535: 12-bit data? If so, use --white-level 4095 (in Python, "
        "white_level=4095)."
    )
    assert warning.filename == __file__


@pytest.mark.parametrize("channels", [1, 3])
def test_a_white_level_scales_and_clips(path, channels):
    samples = twelve_bits(channels)
    write(path, samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, clipped = (load_image(path, white_level=level) for level in (4095, 1000.5))
    assert np.abs(loaded - np.broadcast_to(samples / 4095 * 255, loaded.shape)).max() <= 0.5
    expected = np.broadcast_to(np.minimum(samples / 1000.5, 1) * 255, loaded.shape)
    assert np.abs(clipped - expected).max() <= 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_a_stated_depth_is_respected(path, channels):
    samples = twelve_bits(channels)
    write(path, samples, stated=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(path)
    assert np.abs(loaded - np.broadcast_to(samples / 4095 * 255, loaded.shape)).max() <= 0.5
    # A level that is given counts more than a level that is stated.
    assert load_image(path, white_level=65535).max() == 12


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("opaque", [4095, 65535])
def test_alpha_of_twelve_bit_data(path, channels, opaque):
    samples = twelve_bits(channels)
    samples[..., -1] = opaque
    samples[0, 0, -1] = 0
    loaded = load_image(write(path, samples), white_level=4095)
    expected = np.broadcast_to(samples[..., :-1] / 4095 * 255, loaded.shape).copy()
    expected[0, 0] = 255
    assert np.abs(loaded - expected).max() <= 1


def test_significant_bits_of_a_png_that_follows_the_standard(tmp_path):
    """There, 12-bit samples are shifted to the upper bits."""
    for samples in (twelve_bits() << 4, (twelve_bits() // 16) << 4):
        (tmp_path / "a.png").write_bytes(png(samples, 16, 2, (b"sBIT", bytes([12] * 3))))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = load_image(tmp_path / "a.png")
        assert np.abs(loaded - samples / 65535 * 255).max() <= 1


@pytest.mark.parametrize("bits", [0, 16, 17, 255])
def test_impossible_significant_bits_do_not_cost_the_photo(tmp_path, bits):
    samples = np.rint(scene() * 65535)
    (tmp_path / "a.png").write_bytes(png(samples, 16, 2, (b"sBIT", bytes([bits] * 3))))
    assert np.abs(load_image(tmp_path / "a.png") - samples / 257).max() <= 1


def test_a_stated_level_that_samples_exceed_is_not_believed(tmp_path):
    samples = np.rint(scene() * 65535).astype(np.uint16)
    path = write(tmp_path / "a.tif", samples, stated=12)
    np.testing.assert_array_equal(load_image(path), np.rint(samples / 257))


@pytest.mark.parametrize(("high", "depth"), [(200, 8), (900, 10), (2047, 12), (16000, 14)])
def test_the_depth_that_is_guessed(tmp_path, high, depth):
    samples = np.full((4, 4), high, np.uint16)
    (tmp_path / "a.png").write_bytes(encoded(samples, "PNG"))
    with pytest.warns(ImageWarning, match=f"{depth}-bit data.*white-level {2**depth - 1} "):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("samples", [np.zeros((4, 4), np.uint16), np.full((4, 4), 16384, np.uint16)])
def test_black_and_dim_photos_are_not_warned_about(tmp_path, samples):
    (tmp_path / "a.png").write_bytes(encoded(samples, "PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(tmp_path / "a.png")


def test_signed_samples_have_half_the_range(tmp_path):
    samples = np.array([[0, 16384, 32767]], np.int16)
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", metadata=None)
    assert load_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]
    tifffile.imwrite(tmp_path / "a.tif", samples - 5, photometric="minisblack", metadata=None)
    with pytest.raises(ImageError, match=r"from -5 to .*--white-level"):
        load_image(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif", white_level=32767)[0, :, 0].tolist() == [0, 127, 255]


def test_a_white_level_admits_floating_point_and_large_integers(tmp_path):
    for dtype, white in ((np.float32, 0.25), (np.uint32, 2**31)):
        samples = (scene(channels=1)[..., 0] * white).astype(dtype)
        tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", metadata=None)
        with pytest.raises(ImageError, match=r"white level is unknown\. Give it with --white-level"):
            load_image(tmp_path / "a.tif")
        loaded = load_image(tmp_path / "a.tif", white_level=white)
        assert np.abs(loaded[..., 0] - samples / white * 255).max() <= 0.5
    samples = samples.astype(np.float32)
    samples[3, 3] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", metadata=None)
    with pytest.raises(ImageError, match="NaN"):
        load_image(tmp_path / "a.tif", white_level=1)


def test_eight_bit_photos_have_no_white_level(tmp_path):
    picture = np.rint(scene() * 255).astype(np.uint8)
    for kind in ("png", "tiff", "bmp"):
        (tmp_path / f"a.{kind}").write_bytes(encoded(picture, kind))
        np.testing.assert_array_equal(load_image(tmp_path / f"a.{kind}", white_level=100), picture)


@pytest.mark.parametrize("level", [0, -1, float("nan"), float("inf")])
def test_impossible_white_levels_are_refused(tmp_path, level):
    (tmp_path / "a.png").write_bytes(encoded(np.zeros((2, 2), np.uint8), "PNG"))
    with pytest.raises(ValueError, match="must be a positive number such as 4095"):
        load_image(tmp_path / "a.png", white_level=level)
