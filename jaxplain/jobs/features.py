"""Features of a layer for folders of photos: extracted once, in batches, and kept on disk.

Every photo's features are kept under the digest of its file, in a folder named after the model's weights, its
input and the layer: a photo that is renamed, moved or copied is found again, one that changed is not. An
extraction that is interrupted goes on where it stopped.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxplain.files import check_writable, write_atomic
from jaxplain.images import ImageError, load_image
from jaxplain.jobs.photos import check_folder, photos_in
from jaxplain.jobs.records import npz
from jaxplain.xnn import Layer, Trunk
from jaxplain.zoo import Classifier

_CHUNK = 256  # photos a file of the store
_BATCH = {"cpu": 8}  # images a model call by platform
_LARGE_BATCH = 64


class LabelledPhoto(NamedTuple):
    """A photo of a folder of classes."""

    path: Path
    label: str  # name of its sub-folder
    sha256: str  # of the file


def class_folders(folder: Path) -> list[str]:
    """Names of the sub-folders that hold photos, in order.

    Raises:
      ValueError: no folder, or fewer than two sub-folders with photos.
    """
    check_folder(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and photos_in(path))
    if len(names) < 2:
        raise ValueError(
            f"{folder} must hold one sub-folder of photos a class, at least two; found {len(names)}. "
            "Sort the photos into sub-folders named after their classes."
        )
    return names


def labelled_photos(folder: Path, names: Iterable[str]) -> list[LabelledPhoto]:
    """All photos of the named sub-folders."""
    return [
        LabelledPhoto(path, name, hashlib.sha256(path.read_bytes()).hexdigest())
        for name in names
        for path in photos_in(folder / name)
    ]


def weights_digest(classifier: Classifier) -> str:
    """What tells a classifier's weights from others: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree_util.tree_leaves(classifier):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]


@dataclass
class Extraction:
    """Features of photos, in their order, and which photos could not be used."""

    photos: list[LabelledPhoto]
    features: np.ndarray  # float32 [N, D]
    failures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    extracted: int = 0  # photos that were not in the store


class FeatureStore:
    """Features by the digests of their photos' files, in a folder of its own a model and layer.

    Args:
      root: holds a folder for each model, weights and layer.
      classifier: whose features.
      layer: of `jaxplain.xnn.Trunk`.
    """

    def __init__(self, root: Path, classifier: Classifier, layer: Layer) -> None:
        self.classifier, self.layer = classifier, layer
        spec = hashlib.sha256(repr((classifier.spec, layer)).encode()).hexdigest()[:8]
        self.folder = root / f"{classifier.name}-{weights_digest(classifier)}-{layer}-{spec}"
        self.damaged: list[str] = []
        self._known: dict[str, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            # From bytes: numpy leaves a damaged file open.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as chunk:
                digests, features = chunk["sha256"], chunk["features"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            self.damaged.append(f"{path} is damaged ({error}); its photos are done again.")
            return
        self._known.update(zip(digests.tolist(), features, strict=True))

    def missing(self, photos: list[LabelledPhoto]) -> list[LabelledPhoto]:
        """Photos that must go through the model, each content once."""
        return list({photo.sha256: photo for photo in photos if photo.sha256 not in self._known}.values())

    def extract(
        self, photos: list[LabelledPhoto], done: Callable[[int], None] = lambda count: None
    ) -> Extraction:
        """Features of photos; those that the store lacks go through the model and into it.

        Whatever was extracted is on disk also when this is interrupted.

        Args:
          photos: in the order of the result.
          done: told after each batch how many photos it had.

        Raises:
          OutputError: the store cannot be written.
          ValueError: no photo could be read, or the model gives NaN or infinity.
        """
        missing = self.missing(photos)
        failures = self._add(missing, done) if missing else {}
        usable = [photo for photo in photos if photo.sha256 not in failures]
        if not usable:
            raise ValueError(f"none of {len(photos)} photos can be read: {next(iter(failures.values()))}")
        features = np.stack([self._known[photo.sha256] for photo in usable])
        bad = ~np.isfinite(features).all(1)
        if bad.any():
            raise ValueError(
                f"{self.classifier.name} gives NaN or infinite features for {bad.sum()} photos, "
                f"such as {usable[int(np.argmax(bad))].path}: check the weights, or leave these photos out."
            )
        extracted = len(missing) - len(failures)
        return Extraction(usable, features, list(failures.values()), list(self.damaged), extracted)

    def _add(self, photos: list[LabelledPhoto], done: Callable[[int], None]) -> dict[str, str]:
        check_writable(self.folder)
        failures: dict[str, str] = {}
        fresh: dict[str, np.ndarray] = {}
        try:
            for batch in batched_features(self.classifier, self.layer, photos, failures):
                fresh |= batch
                done(len(batch))
                if len(fresh) >= _CHUNK:
                    self._keep(fresh)
                    fresh = {}
        finally:
            self._keep(fresh)
        return failures

    def _keep(self, fresh: dict[str, np.ndarray]) -> None:
        if not fresh:
            return
        self._known |= fresh
        name = hashlib.sha256("".join(fresh).encode()).hexdigest()[:16]
        contents = npz(sha256=np.array(list(fresh)), features=np.stack(list(fresh.values())))
        write_atomic(self.folder / f"{name}.npz", contents)


def batched_features(
    classifier: Classifier, layer: Layer, photos: list[LabelledPhoto], failures: dict[str, str]
) -> Iterator[dict[str, np.ndarray]]:
    """Features by digest, a batch at a time; photos that cannot be read go into `failures`."""
    run = jax.jit(lambda trunk, images: trunk(images))
    trunk, size = Trunk(classifier, layer), _BATCH.get(jax.default_backend(), _LARGE_BATCH)
    blank = np.zeros((*classifier.spec.size, 3), np.float32)
    for start in range(0, len(photos), size):
        images = {}
        for photo in photos[start : start + size]:
            try:
                images[photo.sha256] = np.asarray(classifier.preprocess(load_image(photo.path)))
            except ImageError as error:
                failures[photo.sha256] = str(error)
        if images:
            full = np.stack([*images.values(), *[blank] * (size - len(images))])
            yield dict(zip(images, np.asarray(run(trunk, full)), strict=False))
