"""Features of photos in class folders, extracted in batches and cached on disk.

A photo's features are stored under the digest of its file, in a folder named after the model, its weights,
its input and the layer. A renamed, moved or copied photo is therefore recognized, while the features of a
changed photo are extracted again. An interrupted extraction resumes where it stopped.
"""

import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxplain.files import check_writable, write_atomic
from jaxplain.images import ImageError, load_image
from jaxplain.runs.photos import check_folder, photos_in, read_file, visible_folders
from jaxplain.runs.records import npz, weights_digest
from jaxplain.xnn import FeatureLayer, Trunk
from jaxplain.zoo import ZooClassifier

_CHUNK = 256  # photos per file
_BATCH = {"cpu": 8}  # images per model call, by platform
_LARGE_BATCH = 64


class LabelledPhoto(NamedTuple):
    """A photo in a class folder."""

    path: Path
    label: str  # name of the class folder
    sha256: str  # digest of the file


def class_folders(folder: Path) -> list[str]:
    """Return the names of the sub-folders that contain photos, in alphabetical order.

    Raises:
      ValueError: the path is not a folder, or fewer than two of its sub-folders contain photos.
    """
    check_folder(folder)
    names = [path.name for path in visible_folders(folder) if photos_in(path)]
    if len(names) < 2:
        raise ValueError(
            f"{folder} must have at least two sub-folders of photos, one per class; found {len(names)}. "
            "Sort the photos into sub-folders named after their classes."
        )
    return names


def labelled_photos(
    folder: Path, names: Iterable[str], left_out: Counter[str] | None = None
) -> list[LabelledPhoto]:
    """Return all photos in the named sub-folders; for `left_out`, see `jaxplain.runs.photos.photos_in`."""
    return [
        LabelledPhoto(path, name, _digest(path))
        for name in names
        for path in photos_in(folder / name, left_out)
    ]


def _digest(path: Path) -> str:
    """Return the digest of a file, or of its path if it cannot be read, which `load_image` then explains."""
    try:
        return read_file(path).sha256
    except ImageError:
        return hashlib.sha256(b"unreadable " + os.fsencode(path)).hexdigest()


@dataclass
class Extraction:
    """Features of photos, and the photos that could not be used."""

    photos: list[LabelledPhoto]  # in the order of the features
    features: np.ndarray  # float32 [N, D]
    failures: list[str]  # the reason for each photo that could not be used
    remarks: list[str]  # warnings about damaged files in the store
    extracted: int = 0  # photos that were not in the store


class FeatureStore:
    """Features keyed by the digest of the photo's file, in one folder per model, weights and layer.

    Args:
      root: folder of all stores.
      classifier: computes the features.
      layer: a layer of `jaxplain.xnn.Trunk`.
      white_level: with which the photos are read; see `jaxplain.load_image`.
    """

    def __init__(
        self, root: Path, classifier: ZooClassifier, layer: FeatureLayer, white_level: float | None = None
    ) -> None:
        self.classifier, self.layer, self.white_level = classifier, layer, white_level
        source = (classifier.spec, layer) if white_level is None else (classifier.spec, layer, white_level)
        spec = hashlib.sha256(repr(source).encode()).hexdigest()[:8]
        self.folder = root / f"{classifier.name}-{weights_digest(classifier)}-{layer}-{spec}"
        self.damaged: list[str] = []
        self._features: dict[str, np.ndarray] = {}  # [D] by digest
        for path in sorted(self.folder.glob("*.npz")):
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            # Load from bytes, because numpy would leave a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as chunk:
                digests, features = chunk["sha256"], chunk["features"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self.damaged.append(
                f"{path} is damaged ({error}); the features of its photos are extracted again."
            )
            return
        self._features.update(zip(digests.tolist(), features, strict=True))

    def missing(self, photos: list[LabelledPhoto]) -> list[LabelledPhoto]:
        """Return the photos that are not in the store, without duplicates."""
        return list({photo.sha256: photo for photo in photos if photo.sha256 not in self._features}.values())

    def extract(
        self, photos: list[LabelledPhoto], on_batch: Callable[[int], None] = lambda count: None
    ) -> Extraction:
        """Return the features of photos, extracting and storing those not yet in the store.

        If extraction is interrupted, the batches extracted so far remain on disk.

        Args:
          photos: photos, in the order in which their features are returned.
          on_batch: called with the number of photos after each batch.

        Raises:
          OutputError: the store cannot be written.
          ValueError: no photo can be read, or the model returns NaN or infinite features.
        """
        missing = self.missing(photos)
        failures = self._add(missing, on_batch) if missing else {}
        usable = [photo for photo in photos if photo.sha256 not in failures]
        if not usable:
            raise ValueError(f"no photo can be read ({len(photos)} tried): {next(iter(failures.values()))}")
        features = np.stack([self._features[photo.sha256] for photo in usable])
        bad = ~np.isfinite(features).all(1)
        if bad.any():
            raise ValueError(
                f"{self.classifier.name} returns NaN or infinite features for {bad.sum()} photos, "
                f"such as {usable[int(np.argmax(bad))].path}: check the weights, or remove these photos."
            )
        extracted = len(missing) - len(failures)
        return Extraction(usable, features, list(failures.values()), list(self.damaged), extracted)

    def _add(self, photos: list[LabelledPhoto], on_batch: Callable[[int], None]) -> dict[str, str]:
        """Extract and store the features of photos; return the reasons for unreadable photos, by digest."""
        check_writable(self.folder)
        failures: dict[str, str] = {}
        new: dict[str, np.ndarray] = {}
        try:
            for batch in self._batches(photos, failures):
                new |= batch
                on_batch(len(batch))
                if len(new) >= _CHUNK:
                    self._write(new)
                    new = {}
        finally:
            self._write(new)
        return failures

    def _batches(
        self, photos: list[LabelledPhoto], failures: dict[str, str]
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield features by digest, one batch at a time; record photos that cannot be read in `failures`."""
        run = jax.jit(lambda trunk, images: trunk(images))
        trunk, size = Trunk(self.classifier, self.layer), _BATCH.get(jax.default_backend(), _LARGE_BATCH)
        blank = np.zeros((*self.classifier.spec.size, 3), np.float32)
        for start in range(0, len(photos), size):
            images = {}
            for photo in photos[start : start + size]:
                try:
                    images[photo.sha256] = self._prepared(photo.path)
                except ImageError as error:
                    failures[photo.sha256] = str(error)
            if images:
                full = np.stack([*images.values(), *[blank] * (size - len(images))])
                yield dict(zip(images, np.asarray(run(trunk, full)), strict=False))

    def _prepared(self, path: Path) -> np.ndarray:
        return np.asarray(self.classifier.preprocess(load_image(path, white_level=self.white_level)))

    def _write(self, features: dict[str, np.ndarray]) -> None:
        if not features:
            return
        self._features |= features
        name = hashlib.sha256("".join(features).encode()).hexdigest()[:16]
        contents = npz(sha256=np.array(list(features)), features=np.stack(list(features.values())))
        write_atomic(self.folder / f"{name}.npz", contents)
