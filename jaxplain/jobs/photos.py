"""The photos of a run: read from their files, and each with a random key of its own."""

import hashlib
import zlib
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.images import load_image
from jaxplain.scores import Classifier, check_target, top_class

SEEDS = 2**32  # JAX drops higher bits without a word, so that 2**32 would be seed 0 again
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
_TOP = -1  # stands for "the top prediction" inside a compiled program


class Photo(NamedTuple):
    """A photo as read from its file."""

    path: Path
    rgb: np.ndarray  # uint8 [H, W, 3], any size
    sha256: str  # of the file


def read_photo(path: Path) -> Photo:
    """Read a photo and take the digest that tells it from others of its name.

    Raises:
      ImageError: the file cannot be used as a photo.
    """
    rgb = load_image(path)
    with open(path, "rb") as file:
        return Photo(path, rgb, hashlib.file_digest(file, "sha256").hexdigest())


def check_folder(folder: Path) -> None:
    """Raise a ValueError unless it is a folder; says whether it is a file or nothing at all."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is no folder but a file: name the folder that holds the photos."
            if folder.exists()
            else f"{folder} is no folder, nothing has that name: check the spelling and the current folder."
        )


def no_photos(folder: Path) -> ValueError:
    """The error of a folder that has none."""
    endings = ", ".join(sorted(SUFFIXES))
    return ValueError(f"there are no photos in {folder}: name a folder with some ({endings}).")


def photos_in(folder: Path) -> list[Path]:
    """Photos of a folder, by the endings of their names and in the order of those."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)


def check_seed(seed: int) -> None:
    """Raise a ValueError unless the seed is one that JAX tells apart."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be in 0..{SEEDS - 1}, got {seed}.")


def photo_key(seed: int, seen: np.ndarray) -> Array:
    """A photo's key, from the seed and its pixels, so that results depend on no order or file name."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(seen.tobytes()))


def encode_target(target: int | None) -> Array:
    """A target as a compiled program takes it; None stands for each photo's top prediction."""
    return jnp.int32(_TOP if target is None else target)


def decode_target(target: Array, classifier: Classifier, image: Array) -> Array:
    """The class that `encode_target` stands for, inside the compiled program."""
    return jnp.where(target == _TOP, top_class(classifier, image), target)


def check_class(target: int | None, classes: int) -> None:
    """Raise a ValueError unless the target is a class, or None."""
    if target is not None:
        check_target(target, classes)
