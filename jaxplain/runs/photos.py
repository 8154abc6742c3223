"""Find the photos in folders, and read each once, with the digest of its file."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxplain.images import ImageError, decode_image, read_image_file

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


class Photo(NamedTuple):
    """A decoded photo."""

    path: Path
    rgb: np.ndarray  # uint8 [H, W, 3], any size
    sha256: str  # digest of the file


class PhotoFile(NamedTuple):
    """A photo's file, not yet decoded."""

    path: Path
    data: bytes
    sha256: str

    def decode(self) -> Photo:
        """Decode the photo.

        Raises:
          ImageError: the file cannot be used as a photo.
        """
        return Photo(self.path, decode_image(self.data, self.path), self.sha256)


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


def read_photo(path: Path) -> Photo:
    """Read and decode a photo; its file is read once.

    Raises:
      ImageError: the file cannot be used as a photo.
    """
    return read_file(path).decode()


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
        raise ValueError(
            f"{folder} is a file, not a folder: name the folder that contains the photos."
            if folder.exists()
            else f"{folder} does not exist: check the spelling and the current folder."
        )


def no_photos(folder: Path) -> ValueError:
    """Return the error for a folder without photos."""
    endings = ", ".join(sorted(SUFFIXES))
    return ValueError(f"there are no photos in {folder}: choose a folder with photos ({endings}).")


def photos_in(folder: Path) -> list[Path]:
    """Return the photos in a folder, recognized by file extension, in alphabetical order."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def photos_below(folder: Path) -> list[Path]:
    """Return the photos in a folder and its sub-folders, sorted by path.

    Raises:
      ValueError: the path is not a folder, or the folder contains no photos.
    """
    check_folder(folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise no_photos(folder)
    return found


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Return each file once, even if it is given by several different paths."""
    first: dict[str, Path] = {}
    for path in paths:
        first.setdefault(os.path.abspath(path), path)
    return list(first.values())
