"""Find the photos in folders, and read each once, with the digest of its file."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxplain.images import (
    ImageError,
    decode_image,
    is_web_address,
    photo_suffixes,
    read_image_file,
    unread_advice,
)

# Files and folders that operating systems and storage devices add, in lower case; names that begin with a dot
# are hidden as well.
_SYSTEM_NAMES = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
    }
)
_NO_SUFFIX, _LINKED, _UNREADABLE = "no extension", "linked folder", "unreadable folder"


class Photo(NamedTuple):
    """A decoded photo."""

    path: Path
    rgb: np.ndarray  # uint8 [H, W, 3], any size
    sha256: str  # digest of the file
    white_level: float | None = None  # as given to `jaxplain.load_image`


class PhotoFile(NamedTuple):
    """A photo's file, not yet decoded."""

    path: Path
    data: bytes
    sha256: str

    def decode(self, white_level: float | None = None) -> Photo:
        """Decode the photo; for `white_level`, see `jaxplain.load_image`.

        Raises:
          ImageError: the file cannot be used as a photo.
        """
        return Photo(self.path, decode_image(self.data, self.path, white_level), self.sha256, white_level)


class Readable(NamedTuple):
    """The photos that could be read, and the reasons why others could not."""

    photos: list[Photo]
    failures: list[str]


def read_file(path: Path) -> PhotoFile:
    """Read a photo's file without decoding it.

    Raises:
      ImageError: the file cannot be read.
    """
    data = read_image_file(Path(path))
    return PhotoFile(Path(path), data, hashlib.sha256(data).hexdigest())


def read_photo(path: Path, white_level: float | None = None) -> Photo:
    """Read and decode a photo; its file is read once. For `white_level`, see `jaxplain.load_image`.

    Raises:
      ImageError: the file cannot be used as a photo.
    """
    return read_file(path).decode(white_level)


def read_photos(paths: Iterable[Path]) -> Readable:
    """Read photos, and collect the reason for each one that cannot be read."""
    readable = Readable([], [])
    for path in paths:
        try:
            readable.photos.append(read_photo(path))
        except ImageError as error:
            readable.failures.append(str(error))
    return readable


def check_folder(folder: Path) -> None:
    """Raise a ValueError if the path is a file or does not exist."""
    if not folder.is_dir():
        if is_web_address(folder):
            raise ValueError(f"{folder} is a web address, not a folder: download the photos first.")
        raise ValueError(
            f"{folder} is a file, not a folder: name the folder that contains the photos."
            if folder.exists()
            else f"{folder} does not exist: check the spelling and the current folder."
        )


def no_photos(folder: Path, left_out: Counter[str]) -> ValueError:
    """Return the error for a folder without photos; for `left_out`, see `photos_in`."""
    others = f" {left_out_line(left_out)}" if left_out else ""
    return ValueError(
        f"there are no photos in {folder}: choose a folder with photos (.jpg, .png, .tif, ...).{others}"
    )


def photos_in(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """Return the photos in a folder, recognized by file extension, in alphabetical order.

    Hidden files and those of the operating system are ignored.

    Args:
      folder: the folder; its sub-folders are ignored.
      left_out: a counter to which the extensions of all other files are added.
    """
    return sorted(_chosen((path for path in folder.iterdir() if not path.is_dir()), left_out))


def photos_below(folder: Path, left_out: Counter[str] | None = None) -> list[Path]:
    """Return the photos in a folder and its sub-folders, sorted by path.

    Hidden files and folders and those of the operating system are ignored; links to folders are not followed.

    Args:
      folder: the folder.
      left_out: a counter to which the extensions of all other files are added.

    Raises:
      ValueError: the path is not a folder, or the folder contains no photos.
    """
    check_folder(folder)
    others = Counter[str]() if left_out is None else left_out
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, onerror=lambda error: others.update([_UNREADABLE])):
        folders[:] = [name for name in folders if not _is_hidden(name)]  # the others are not entered
        others.update(_LINKED for name in folders if os.path.islink(os.path.join(parent, name)))
        found += _chosen((Path(parent, name) for name in files), others)
    if not found:
        raise no_photos(folder, others)
    return sorted(found)


def _is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden or belongs to the operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def visible_folders(folder: Path) -> list[Path]:
    """Return the sub-folders of a folder in alphabetical order, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path.name))


def _chosen(paths: Iterable[Path], left_out: Counter[str] | None) -> list[Path]:
    """Return the photos among files; count the others by extension."""
    photos, others = [], Counter[str]()
    for path in paths:
        suffix = path.suffix.lower()
        if _is_hidden(path.name):
            continue
        if suffix in photo_suffixes():
            photos.append(path)
        else:
            others[suffix or _NO_SUFFIX] += 1
    if left_out is not None:
        left_out.update(others)
    return photos


def left_out_line(left_out: Counter[str]) -> str:
    """Describe the files that a search for photos left out.

    Example:
      >>> left_out_line(Counter({".txt": 3, ".pdf": 1}))
      '4 other files left out (.txt, .pdf).'
    """
    files = [kind for kind, _ in left_out.most_common() if kind not in (_LINKED, _UNREADABLE)]
    count = sum(left_out[kind] for kind in files)
    parts = [f"{count} other file{'s' * (count != 1)} left out ({', '.join(files)})"] if files else []
    for kind in (_LINKED, _UNREADABLE):
        if number := left_out[kind]:
            parts.append(f"{number} {kind}{'s' * (number != 1)} not searched")
    return f"{'; '.join(filter(None, [*parts, unread_advice(left_out)]))}."


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Return each file once, even if it is given by several different paths."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(os.path.abspath(path), path)
    return list(first.values())
