"""Photos of a run: found, read once, and refused with a reason."""

import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.image_files import encoded
from support.tiny import photo, tiny_model, write_photo

from jaxplain import images
from jaxplain.images import ImageError, ImageWarning, load_image, photo_suffixes
from jaxplain.runs import photos
from jaxplain.runs.dataset import as_dataset
from jaxplain.runs.features import class_folders, labelled_photos


def test_a_photo_is_read_once_with_the_digest_of_its_bytes(tmp_path, monkeypatch):
    path = write_photo(tmp_path / "a.png", seed=3)
    read, calls = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda self: calls.append(self) or read(self))
    found = photos.read_photo(path)
    assert calls == [path]
    np.testing.assert_array_equal(found.rgb, photo(3))
    np.testing.assert_array_equal(found.rgb, load_image(path))
    assert found.sha256 == hashlib.sha256(read(path)).hexdigest()


def test_a_file_is_decoded_only_when_asked(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"not a photo")
    file = photos.read_file(path)
    assert file.sha256 == hashlib.sha256(b"not a photo").hexdigest()
    with pytest.raises(ImageError, match=r"a\.png: this is not an image"):
        file.decode()


def test_unreadable_photos_are_collected_with_their_reasons(tmp_path):
    good = write_photo(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    found = photos.read_photos([tmp_path / "missing.png", good, tmp_path / "empty.png", tmp_path])
    assert [one.path for one in found.photos] == [good]
    reasons = ["no such file", "the file is empty", "is a folder"]
    assert all(reason in failure for reason, failure in zip(reasons, found.failures, strict=True))


def test_photos_are_found_by_their_endings(tmp_path):
    for name in ("b.PNG", "a.jpeg", "below/c.png", "below/deeper/a.gif", "notes.txt"):
        write_photo(tmp_path / "x.png").rename(
            (tmp_path / name).parent.mkdir(exist_ok=True) or tmp_path / name
        )
    (tmp_path / "folder.png").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in photos.photos_below(tmp_path)]
    assert names == ["a.jpeg", "b.PNG", "below/c.png", "below/deeper/a.gif"]
    assert [path.name for path in photos.photos_in(tmp_path)] == ["a.jpeg", "b.PNG"]  # no folder is a photo


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist: check the spelling"),
        (Path.touch, "is a file, not a folder"),
        (Path.mkdir, "there are no photos in .*choose a folder with photos"),
    ],
)
def test_a_folder_without_photos_is_refused(tmp_path, make, message):
    make(tmp_path / "it")
    with pytest.raises(ValueError, match=message):
        photos.photos_below(tmp_path / "it")


def test_each_file_counts_once_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("x/a.png"), Path("x/../x/a.png"), Path("x/a.png").absolute(), Path("x/b.png")]
    assert photos.distinct(paths) == [Path("x/a.png"), Path("x/b.png")]


# ------------------------------------------------------------------------------------------ what is left out

HIDDEN = [
    ".hidden.png",
    "._a.png",
    ".ipynb_checkpoints/a.png",
    ".git/objects/a.png",
    "__MACOSX/a.png",
    "__macosx/a.png",
    "@eaDir/a.png",
    "$RECYCLE.BIN/a.png",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    ".DS_Store",
]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_files_are_no_photos_and_no_other_files(tmp_path, name):
    folder = tmp_path / ".home" / "photos"  # where the folder itself lies does not matter
    for label in ("auk", "crow"):
        write_photo(folder / label / "a.png")
    for place in (folder, folder / "auk"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_photo(tmp_path / "x.png").replace(place / name)
    left_out = Counter()
    assert photos.photos_below(folder, left_out) == [folder / "auk" / "a.png", folder / "crow" / "a.png"]
    assert photos.photos_in(folder / "auk", left_out) == [folder / "auk" / "a.png"]
    assert class_folders(folder) == ["auk", "crow"]
    assert [one.path.name for one in labelled_photos(folder, ["auk"], left_out)] == ["a.png"]
    assert as_dataset(folder, tiny_model()).identities == ["auk/a.png", "crow/a.png"]
    assert not left_out


def test_other_files_are_counted_by_extension(tmp_path):
    for name in ("a.png", "a.txt", "b.TXT", "b.pdf", "README", "deep/c.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    below, inside = Counter(), Counter()
    photos.photos_below(tmp_path, below)
    photos.photos_in(tmp_path, inside)
    assert below == {".txt": 2, ".pdf": 1, "no extension": 1, ".svg": 1}
    assert inside == {".txt": 2, ".pdf": 1, "no extension": 1}
    assert photos.left_out_line(Counter({".txt": 1})) == "1 other file left out (.txt)."
    with pytest.warns(ImageWarning, match=r"photos.*: 5 other files left out \(\.txt, "):
        as_dataset(tmp_path.rename(tmp_path.with_name("photos")), tiny_model())


def test_folders_that_are_not_searched_are_counted(tmp_path, monkeypatch):
    write_photo(tmp_path / "photos" / "a.png")
    write_photo(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "around").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):  # root reads everything, so the refusal of the system is played
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    left_out = Counter()
    assert photos.photos_below(tmp_path / "photos", left_out) == [tmp_path / "photos" / "a.png"]
    line = photos.left_out_line(left_out)
    assert line == "2 linked folders not searched; 1 unreadable folder not searched."


def test_links_that_lead_nowhere_are_photos_that_cannot_be_read(tmp_path):
    (tmp_path / "auk").mkdir()
    (tmp_path / "auk" / "broken.png").symlink_to(tmp_path / "missing.png")
    (tmp_path / "auk" / "loop.png").symlink_to(tmp_path / "auk" / "loop.png")
    assert [path.name for path in photos.photos_below(tmp_path)] == ["broken.png", "loop.png"]
    found = labelled_photos(tmp_path, ["auk"])
    assert len({one.sha256 for one in found}) == 2
    reasons = photos.read_photos([one.path for one in found]).failures
    assert all("broken link" in reason for reason in reasons)


# -------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    "suffix", ["jpg", "jfif", "jpe", "jp2", "j2k", "avif", "webp", "apng", "mpo", "tga", "qoi"]
)
def test_what_can_be_read_is_found(tmp_path, suffix):
    kind = {"jfif": "JPEG", "jpe": "JPEG", "jpg": "JPEG", "mpo": "MPO", "jp2": "JPEG2000", "j2k": "JPEG2000"}
    path = tmp_path / f"a.{suffix.upper()}"
    path.write_bytes(encoded(photo(), kind.get(suffix, {"apng": "PNG"}.get(suffix, suffix.upper()))))
    assert photos.photos_below(tmp_path) == [path]
    assert load_image(path).shape == (40, 48, 3)


def test_every_format_that_is_found_can_be_opened_and_is_a_picture():
    formats = Image.registered_extensions()
    found = {formats.get(suffix) for suffix in photo_suffixes()} - {None}
    assert found <= {*Image.OPEN, "MPO"}
    assert {"JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "AVIF", "JPEG2000"} <= found
    assert not found & {"PDF", "EPS", "WMF", "MPEG", "HDF5", "FITS", "GRIB", "BUFR", "PALM"}


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(range(200))


@pytest.fixture
def forget_heif(monkeypatch):
    """Forget what is known about pillow-heif, before and after the test, and what it has added to Pillow."""
    for mapping in (Image.OPEN, Image.EXTENSION):
        for name, value in mapping.items():
            monkeypatch.setitem(mapping, name, value)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    for function in (photo_suffixes, images._add_heif):
        function.cache_clear()
    yield
    sys.modules.pop("pillow_heif", None)  # a module of a test; monkeypatch brings an installed one back
    for mapping in (Image.OPEN, Image.EXTENSION):
        for name in [name for name, value in mapping.items() if "HEIF" in (name, value)]:
            monkeypatch.delitem(mapping, name, raising=False)
    for function in (photo_suffixes, images._add_heif):
        function.cache_clear()


def test_without_pillow_heif_the_messages_name_it(tmp_path, monkeypatch, forget_heif):
    monkeypatch.setattr(images, "heif_installed", lambda: False)
    write_photo(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(HEIC)
    (tmp_path / "c.jpg").write_bytes(HEIC)  # as some phones export them
    left_out = Counter()
    assert [path.name for path in photos.photos_below(tmp_path, left_out)] == ["a.png", "c.jpg"]
    line = photos.left_out_line(left_out)
    assert line == "1 other file left out (.heic); to read .heic, run pip install pillow-heif."
    for name in ("b.heic", "c.jpg"):
        with pytest.raises(
            ImageError, match=r"HEIC photo, which requires pillow-heif: run pip install pillow-heif"
        ):
            load_image(tmp_path / name)
    (tmp_path / "a.png").unlink()
    (tmp_path / "c.jpg").unlink()
    with pytest.raises(ValueError, match=r"no photos in .* left out \(\.heic\); to read .heic, run pip"):
        photos.photos_below(tmp_path)


def test_with_pillow_heif_heic_is_read(tmp_path, monkeypatch, forget_heif):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "pillow_heif.py").write_text(
        "from PIL import Image\n"
        "class HeifImageFile(Image.Image):\n"
        "    format = 'HEIF'\n"
        "    def __init__(self, fp, filename):\n"
        "        super().__init__()\n"
        "        self._mode, self._size = 'RGB', (6, 4)\n"
        "        self.im = Image.core.fill('RGB', (6, 4), (1, 2, 3))\n"
        "def register_heif_opener():\n"
        "    Image.register_open('HEIF', HeifImageFile, lambda prefix: prefix[8:12] == b'heic')\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    (tmp_path / "b.heic").write_bytes(HEIC)
    assert photos.photos_below(tmp_path) == [tmp_path / "b.heic"]
    assert load_image(tmp_path / "b.heic").tolist() == [[[1, 2, 3]] * 6] * 4
