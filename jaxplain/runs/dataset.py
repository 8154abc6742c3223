"""Data sets for batch runs: images from a folder, a list or any iterable, prefetched in threads.

Each image has an identity, which names its row in the results. Its random key is derived from its content.
"""

import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import chain, count, islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxplain.images import ImageError, ImageWarning, check_white_level, load_image
from jaxplain.runs.photos import left_out_line, photos_below
from jaxplain.runs.records import error_line
from jaxplain.runs.store import ResultStore, RowStatus
from jaxplain.runs.subject import Request, request


class Example(NamedTuple):
    """One image to explain."""

    identity: str  # unique within a run, and stable across runs
    image: np.ndarray  # [H, W, C]: float32 in model space, or uint8 pixels, which the classifier normalizes
    target: int | None = None  # class index; if None, the top prediction


class Dataset(Protocol):
    """A data set with random access, which multi-host runs and resuming require."""

    @property
    def identities(self) -> Sequence[str]:
        """The identities of all images."""
        ...

    def load(self, index: int) -> Example:
        """Read one image; called from several threads at once.

        Raises:
          Exception: the image cannot be read. The reason is recorded in its row, and the run continues.
        """
        ...


class Photos:
    """Photo files as a classifier from the zoo sees them; identities are paths relative to `root`.

    Args:
      paths: paths to the photos.
      classifier: any object with a method `crop_and_resize(rgb) -> rgb`.
      root: folder that identities are relative to. If None, identities are the paths as given.
      target: class index for all photos. If None, each photo's top prediction is explained.
      white_level: see `jaxplain.load_image`; recorded in the results.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        classifier: Any,
        *,
        root: Path | None = None,
        target: int | None = None,
        white_level: float | None = None,
    ) -> None:
        check_white_level(white_level)
        self._paths, self._classifier, self._target = list(paths), classifier, target
        self.white_level = white_level
        self.identities = [_relative(path, root) for path in self._paths]

    def load(self, index: int) -> Example:
        """Return the uint8 pixels of a photo as the classifier sees it.

        Raises:
          ImageError: the file cannot be used as a photo.
        """
        pixels = self._classifier.crop_and_resize(
            load_image(self._paths[index], white_level=self.white_level)
        )
        return Example(self.identities[index], pixels, self._target)


class _ExampleList:
    """A list of examples as a `Dataset`."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.identities = [example.identity for example in examples]

    def load(self, index: int) -> Example:
        return self._examples[index]


class Stream:
    """Examples from any iterable, in order; their number is unknown until the iterable ends."""

    def __init__(self, examples: Iterable[Example]) -> None:
        self._examples = examples

    def __iter__(self) -> Iterator[Example]:
        return iter(self._examples)


class ImageFormat(NamedTuple):
    """Shape and dtype shared by all images in a run."""

    shape: tuple[int, ...]  # (H, W, C)
    dtype: str  # "uint8" or "float32"


def as_dataset(dataset: Any, model: Any) -> Dataset | Stream:
    """Convert a folder, images in an array, a loader, or a list of paths or of `Example` to a data set.

    Images [N, H, W, C] in an array, a list of images, or whatever a loader yields (images, batches of them,
    pairs of a batch and its labels, dicts with "image" or "pixel_values") are numbered from 000000 in their
    order. Labels are ignored: each image's top prediction is explained. To choose targets, pass `Example`.

    Raises:
      TypeError: `dataset` is something else, or consists of photos and the model has no `crop_and_resize`.
      ValueError: there are no photos in the folder, the list is empty, or an identity is empty or repeated.
    """
    result: Dataset
    if hasattr(dataset, "identities") and hasattr(dataset, "load"):
        result = dataset
    elif isinstance(dataset, str | PathLike):
        root, left_out = Path(dataset), Counter[str]()
        result = Photos(photos_below(root, left_out), _check_crops(model), root=root)
        if left_out:
            warnings.warn(f"{root}: {left_out_line(left_out)}", ImageWarning, stacklevel=3)
    elif isinstance(dataset, Sequence) and all(isinstance(item, str | PathLike) for item in dataset):
        result = Photos(map(Path, dataset), _check_crops(model))
    elif isinstance(dataset, Sequence) and all(isinstance(item, Example) for item in dataset):
        result = _ExampleList(dataset)
    elif isinstance(dataset, Sequence) or getattr(dataset, "ndim", 0) == 4:
        result = _ExampleList(list(_as_examples(dataset)))
    elif isinstance(dataset, Iterable):
        return Stream(_as_examples(dataset))
    else:
        kinds = "a folder, images [N, H, W, C], a list of paths or of Example, a loader, or a Dataset"
        raise TypeError(f"dataset must be {kinds}, got {type(dataset).__name__}.")
    if not len(result.identities):
        raise ValueError("there are no images to explain: the data set is empty.")
    seen: set[str] = set()
    for identity in result.identities:
        _check_identity(identity, seen)
    return result


def _as_examples(items: Iterable[Any]) -> Iterator[Example]:
    """Yield the images of a loader as examples, numbered in their order; an `Example` is left as it is."""
    numbers = count()
    for item in items:
        if isinstance(item, Example):
            yield item
            continue
        images = np.asarray(_images_of(item))
        if images.dtype.kind not in "fiu" or images.ndim not in (3, 4):
            raise TypeError(
                "a data set must yield Example, images [H, W, C] or batches [N, H, W, C], alone or before "
                f"their labels; got {images.dtype} of shape {images.shape}."
            )
        for image in images if images.ndim == 4 else images[None]:
            yield Example(f"{next(numbers):06d}", image)


def _images_of(item: Any) -> Any:
    """Return the images of an item of a loader, without its labels."""
    if isinstance(item, tuple | list):
        return item[0]
    if isinstance(item, Mapping):
        return next((item[name] for name in ("image", "pixel_values") if name in item), item)
    return item


def _check_crops(model: Any) -> Any:
    if not hasattr(model, "crop_and_resize"):
        raise TypeError(
            "photo paths require a model with crop_and_resize and normalize, such as the models in "
            "jaxplain.zoo; for your own model, pass Example(identity, preprocessed image) instead of paths."
        )
    return model


def _check_identity(identity: str, seen: set[str]) -> None:
    """Raise a ValueError unless an identity is a non-empty string that is not in `seen`; then add it."""
    if not isinstance(identity, str) or not identity:
        raise ValueError(f"an identity must be a non-empty string, got {identity!r}.")
    if identity in seen:
        raise ValueError(f"two images have the same identity {identity!r}; identities must be unique.")
    seen.add(identity)


def _relative(path: Path, root: Path | None) -> str:
    """Return a path as text that can be stored, with bytes that are not valid Unicode escaped."""
    name = (path if root is None else path.relative_to(root)).as_posix()
    return name.encode("utf-8", "backslashreplace").decode()


# ---------------------------------------------------------------------------------------------------------
# Reading


class ReadTask(NamedTuple):
    """A pending row and how to read its image."""

    row: int
    identity: str
    load: Callable[[], Example]


class LoadedImage(NamedTuple):
    """A row's image, or the reason why it could not be loaded."""

    row: int
    request: Request | None
    reason: str = ""


class LoadedGroup(NamedTuple):
    """The images for one step, and the rows that failed while they were being read."""

    ready: list[LoadedImage]
    failed: list[LoadedImage]


def load_groups(
    tasks: Iterable[ReadTask], image_format: ImageFormat, size: int, threads: int
) -> Iterator[LoadedGroup]:
    """Read images in order, in groups of `size` readable images; at most two groups are held in memory."""
    ready: list[LoadedImage] = []
    failed: list[LoadedImage] = []
    for image in _read_ahead(tasks, image_format, threads, ahead=max(size, threads)):
        (failed if image.request is None else ready).append(image)
        if len(ready) == size or len(failed) == size:
            yield LoadedGroup(ready, failed)
            ready, failed = [], []
    if ready or failed:
        yield LoadedGroup(ready, failed)


def _read_ahead(
    tasks: Iterable[ReadTask], image_format: ImageFormat, threads: int, ahead: int
) -> Iterator[LoadedImage]:
    tasks = iter(tasks)
    with ThreadPoolExecutor(threads, thread_name_prefix="jaxplain-load") as pool:
        reading: deque[Future[LoadedImage]] = deque(
            pool.submit(load_task, task, image_format) for task in islice(tasks, ahead)
        )
        try:
            while reading:
                yield reading.popleft().result()
                reading.extend(pool.submit(load_task, task, image_format) for task in islice(tasks, 1))
        finally:
            for future in reading:
                future.cancel()


def load_task(task: ReadTask, image_format: ImageFormat | None) -> LoadedImage:
    """Read one image and check it against `image_format` (None for the first image); record any error."""
    try:
        example = task.load()
        actual = _format_of(example.image)
        reason = _mismatch(example.image, actual, image_format)
        prepared = None if reason else request(example.image, example.target)
    except ImageError as error:
        prepared, reason = None, str(error)
    except Exception as error:  # a custom data set may raise anything
        prepared, reason = None, error_line(error)
    return LoadedImage(task.row, prepared, reason)


def _format_of(image: Any) -> ImageFormat:
    image = np.asarray(image)
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"an image must be [H, W, C], got shape {image.shape}.")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"an image must be uint8 pixels or floats in model space, got {image.dtype}.")
    return ImageFormat(image.shape, "uint8" if image.dtype == np.uint8 else "float32")


def _mismatch(image: Any, actual: ImageFormat, expected: ImageFormat | None) -> str:
    if expected is not None and actual != expected:
        return (
            f"the image is {actual.dtype} {actual.shape}, but the first image in the run is {expected.dtype} "
            f"{expected.shape}"
        )
    if actual.dtype == "float32" and not np.isfinite(image).all():
        return "the image contains NaN or infinite values"
    return ""


def probe_format(source: Dataset | Stream) -> tuple[Dataset | Stream, ImageFormat]:
    """Return the data set, without consuming any image, and the format of its first usable image.

    Raises:
      ValueError: no image is usable.
    """
    if isinstance(source, Stream):
        rest = iter(source)
        head: list[Example] = []
        for example in rest:
            head.append(example)
            if load_task(_read_task(0, example), None).request is not None:
                return Stream(chain(head, rest)), _format_of(example.image)
        raise ValueError(
            f"no image is usable ({len(head)} tried): each must be an Example with a finite image."
        )
    reason = ""
    for index, identity in enumerate(source.identities):
        loaded = load_task(ReadTask(index, identity, partial(source.load, index)), None)
        if loaded.request is not None:
            return source, _format_of(loaded.request.image)
        reason = reason or loaded.reason
    raise ValueError(f"no image can be read ({len(source.identities)} tried): {reason}")


def _read_task(row: int, example: Example) -> ReadTask:
    return ReadTask(row, example.identity, lambda: example)


# ---------------------------------------------------------------------------------------------------------
# Pending work


class WorkPlan:
    """A store's pending rows, and the source of their images.

    Args:
      store: a store with a row for every image in the data set; for a stream, rows are added as images
        arrive.
      source: where the images come from.
      chunks: indices of the store's chunks that this process explains.
      retry_failed: whether to retry rows that failed in an earlier run.
    """

    def __init__(
        self, store: ResultStore, source: Dataset | Stream, chunks: range, *, retry_failed: bool
    ) -> None:
        self.store, self._source, self._chunks = store, source, chunks
        final = (RowStatus.OK,) if retry_failed else (RowStatus.OK, RowStatus.FAILED)
        self._done = {row for row, status in enumerate(store.status()) if status in final}
        self._rows = {identity: row for row, identity in enumerate(store.identities()) if identity}
        self._used = max(self._rows.values(), default=-1) + 1  # number of rows used by a stream
        self.before = 0  # rows finished by earlier runs
        self.total: int | None = None  # rows assigned to this process; None for a stream
        if not isinstance(source, Stream):
            own = [row for _, row in self._own(source)]
            self.total, self.before = len(own), sum(row in self._done for row in own)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.total is not None and self.before == self.total

    def tasks(self) -> Iterator[ReadTask]:
        """Yield the pending tasks in data set order."""
        if isinstance(self._source, Stream):
            yield from self._streamed(self._source)
            return
        for index, row in self._own(self._source):
            if row not in self._done:
                yield ReadTask(row, self._source.identities[index], partial(self._source.load, index))

    def _own(self, source: Dataset) -> Iterator[tuple[int, int]]:
        """Yield (index in the data set, row) for each image assigned to this process."""
        for index, identity in enumerate(source.identities):
            row = self._rows[identity]
            if row // self.store.chunk_rows in self._chunks:
                yield index, row

    def _streamed(self, stream: Iterable[Example]) -> Iterator[ReadTask]:
        seen: set[str] = set()
        for example in stream:
            _check_identity(example.identity, seen)
            row = self._rows.get(example.identity)
            if row is None:
                row = self._rows[example.identity] = self._new_row(example.identity)
            if row in self._done:
                self.before += 1
            else:
                yield _read_task(row, example)
        self.store.resize(self._used)

    def _new_row(self, identity: str) -> int:
        """Return a row for an image from a stream; the store grows by whole chunks."""
        row, self._used = self._used, self._used + 1
        if row >= len(self.store):
            self.store.resize(row + self.store.chunk_rows)
        self.store.write_identities({row: identity})
        return row
