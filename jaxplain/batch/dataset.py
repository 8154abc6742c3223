"""What a run explains: images with an identity each, from a folder, a list, or any iterable.

An identity names an image for good: it decides the image's random key and which row of the results is its.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxplain.images import load_image
from jaxplain.jobs.photos import SUFFIXES, check_folder, no_photos


class Example(NamedTuple):
    """One image to explain."""

    identity: str  # unlike any other's of the run, and the same in every run
    image: np.ndarray  # [H, W, C]: float32 in model space, or uint8 pixels, which the classifier normalises
    target: int | None = None  # class index; None: the top prediction


class Dataset(Protocol):
    """Images that can be asked for in any order, which is what several hosts and a restart need."""

    @property
    def identities(self) -> Sequence[str]:
        """One for each image; its place is its row in the results."""
        ...

    def load(self, row: int) -> Example:
        """Read one image; several threads call this at once.

        Raises:
          Exception: it cannot be read. Its row then says why, and the run goes on.
        """
        ...


class Photos:
    """Photo files as a classifier of the zoo sees them; identities are paths within the folder.

    Args:
      paths: the files.
      classifier: anything with `crop_and_resize(rgb) -> rgb`.
      root: identities are paths relative to it.
      target: class index for all; None: each photo's top prediction.
    """

    def __init__(
        self, paths: Iterable[Path], classifier: Any, *, root: Path | None = None, target: int | None = None
    ) -> None:
        self._paths, self._classifier, self._target = list(paths), classifier, target
        self.identities = [_relative(path, root) for path in self._paths]

    def load(self, row: int) -> Example:
        """The part of the photo that the classifier sees: uint8 pixels; they are normalised on the device.

        Raises:
          ImageError: the file cannot be used as a photo.
        """
        seen = self._classifier.crop_and_resize(load_image(self._paths[row]))
        return Example(self.identities[row], seen, self._target)


class _Examples:
    """A list of examples."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.identities = [example.identity for example in examples]

    def load(self, row: int) -> Example:
        return self._examples[row]


class Stream:
    """Examples of any iterable, one after the other; how many is known only at its end."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._examples = examples

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)


class Task(NamedTuple):
    """A row that is not there yet, and how its image is read."""

    row: int
    identity: str
    load: Callable[[], Example]


def given(row: int, example: Example) -> Task:
    """A task whose image is there already."""
    return Task(row, example.identity, lambda: example)


def photos_below(folder: Path) -> list[Path]:
    """All photos of a folder and of the folders in it, in the order of their paths.

    Raises:
      ValueError: it is no folder, or holds none.
    """
    check_folder(folder)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise no_photos(folder)
    return found


def as_dataset(dataset: Any, model: Any) -> Dataset | Stream:
    """A folder, a list of `Example` or of paths, or an iterable of `Example` as what a run reads.

    Raises:
      TypeError: none of these; or a folder for a model that does not know how it sees photos.
      ValueError: a folder without photos, an empty list, or an identity that comes twice.
    """
    if hasattr(dataset, "identities") and hasattr(dataset, "load"):
        found = dataset
    elif isinstance(dataset, str | PathLike):
        root = Path(dataset)
        found = Photos(photos_below(root), _seeing(model), root=root)
    elif isinstance(dataset, Sequence) and all(isinstance(one, str | PathLike) for one in dataset):
        found = Photos(map(Path, dataset), _seeing(model))
    elif isinstance(dataset, Sequence) and all(isinstance(one, Example) for one in dataset):
        found = _Examples(dataset)
    elif isinstance(dataset, Iterable) and not isinstance(dataset, Sequence):
        return Stream(dataset)
    else:
        kinds = "a folder, a list of paths or of Example, an iterable of Example, or a Dataset"
        raise TypeError(f"dataset must be {kinds}, got {type(dataset).__name__}.")
    _check_identities(found.identities)
    return found


def _seeing(model: Any) -> Any:
    if not hasattr(model, "crop_and_resize"):
        raise TypeError(
            "photos need a model that knows how it sees them (crop_and_resize, normalize), as those of "
            "jaxplain.zoo do; for your own, pass Example(identity, image in model space) instead of paths."
        )
    return model


def check_identity(identity: str, seen: set[str]) -> None:
    """Raise a ValueError unless an identity is a text like none seen before, to which it is then added."""
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"an identity must be a text that is not empty, got {identity!r}.")
    if identity in seen:
        raise ValueError(f"two images have the identity {identity!r}; each must have its own.")
    seen.add(identity)


def _check_identities(identities: Sequence[str]) -> None:
    if not len(identities):
        raise ValueError("there is no image to explain: the data set is empty.")
    seen: set[str] = set()
    for identity in identities:
        check_identity(identity, seen)


def _relative(path: Path, root: Path | None) -> str:
    """As text that can be stored: bytes of a file name that are no Unicode are escaped."""
    name = (path if root is None else path.relative_to(root)).as_posix()
    return name.encode("utf-8", "backslashreplace").decode()
