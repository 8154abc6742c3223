"""Photos of a run: found, read once, and refused with a reason."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from support.tiny import photo, write_photo

from jaxplain.images import ImageError, load_image
from jaxplain.runs import photos


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
    assert [path.name for path in photos.photos_in(tmp_path)] == ["a.jpeg", "b.PNG", "folder.png"]


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
