"""A comparison: every method on every photo, at every size, for every classifier.

Methods are the outer loop and photos the inner one: one program at a time, compiled once.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxplain.checks import check_positive_int
from jaxplain.compare.bench import Bench, Stage
from jaxplain.compare.methods import DEFAULT_METHODS, Method, choose_methods
from jaxplain.compare.program import takes
from jaxplain.compare.rows import MapFolder, Row, RowFile
from jaxplain.compare.settings import Settings
from jaxplain.jobs.features import weights_digest
from jaxplain.zoo import Classifier


class Comparison(NamedTuple):
    """All rows of a comparison, in the order of classifiers, methods, sizes and photos."""

    settings: Settings
    rows: list[Row]
    maps: MapFolder
    photos: dict[str, Path]  # by the sha256 of their files
    sizes: tuple[int, ...]


def compare(
    photos: Iterable[Path],
    classifiers: Sequence[Classifier],
    methods: Mapping[str, Method] | None = None,
    *,
    sizes: Sequence[int] = (28,),
    settings: Settings | None = None,
    rows: RowFile | None = None,
    maps: MapFolder | None = None,
    keep_maps: int = 8,
    tell: Callable[[str, int], None] = lambda doing, steps: None,
) -> Comparison:
    """Run methods on photos and measure their maps.

    Args:
      photos: files; one that another is a copy of is left out.
      classifiers: of the zoo, or anything with the same attributes. The top prediction is explained.
      methods: by name; see `jaxplain.compare.Method` for what a function of your own must take and return.
        None: the default ones.
      sizes: rows and columns of the maps that are measured.
      settings: the measures, baseline and seed.
      rows: where rows are kept; those that it holds are not made again, unless they failed.
      maps: where the first photos' maps are kept, for contact sheets.
      keep_maps: of how many photos.
      tell: hears what is being done, and how many rows are through since the last time.

    Returns:
      The rows. A method that fails on a photo is a row of status "failed" with its reason; the others go on.

    Raises:
      ValueError, TypeError: no photo, an unknown name, or a size finer than a classifier's input.

    Example:
      >>> import jaxplain as jx
      >>> from jaxplain.compare import METHODS, compare, summarize
      >>> def brightness(score, image, baseline):
      ...     return image.mean(-1)
      >>> found = compare(  # doctest: +SKIP
      ...     ["cat.jpg"], [jx.zoo.load("efficientnet-lite0")], METHODS | {"brightness": brightness}
      ... )
    """
    settings = Settings() if settings is None else settings
    methods = choose_methods(DEFAULT_METHODS) if methods is None else methods
    sizes = tuple(dict.fromkeys(check_positive_int(size, "size") for size in sizes))
    check_sizes(sizes, classifiers)
    rows = RowFile(None, settings.record()) if rows is None else rows
    maps = MapFolder(None) if maps is None else maps
    files = _by_digest(photos)
    if not files:
        raise ValueError("there is no photo to compare on: photos must name at least one file.")
    for classifier in classifiers:
        bench = Bench(settings, classifier, rows, maps, frozenset(list(files)[:keep_maps]))
        for stage in _stages(classifier, methods, sizes):
            bench.run(stage, files, tell)
    return rows_of(files.values(), classifiers, methods, sizes=sizes, settings=settings, rows=rows, maps=maps)


def rows_of(
    photos: Iterable[Path],
    classifiers: Sequence[Classifier],
    methods: Mapping[str, Method],
    *,
    sizes: Sequence[int],
    settings: Settings,
    rows: RowFile,
    maps: MapFolder,
) -> Comparison:
    """What there is already of a comparison; see `compare` for the arguments."""
    files = _by_digest(photos)
    known = {row.key: row for row in rows}
    wanted = [
        (sha, classifier.name, digest, name, size)
        for classifier, digest in ((one, weights_digest(one)) for one in classifiers)
        for size in sizes
        for name in methods
        for sha in files
    ]
    found = [known[key] for key in wanted if key in known]
    return Comparison(settings, found, maps, files, tuple(sizes))


def check_sizes(sizes: Sequence[int], classifiers: Sequence[Classifier]) -> None:
    """Raise a ValueError unless there are sizes and classifiers, and the sizes fit all inputs."""
    if not sizes or not classifiers:
        raise ValueError("a comparison needs at least one size and one classifier.")
    for classifier in classifiers:
        finest = min(classifier.spec.size)
        if max(sizes) > finest:
            raise ValueError(
                f"size {max(sizes)} is finer than the input of {classifier.name}, {finest} pixels; choose at "
                "most that."
            )


def planned(
    methods: Mapping[str, Method], sizes: Sequence[int], classifiers: Sequence[Any], photos: int
) -> int:
    """How many rows a comparison has."""
    return len(methods) * len(sizes) * len(classifiers) * photos


def _by_digest(photos: Iterable[Path]) -> dict[str, Path]:
    """Each content once: sha256 of the file -> its first path."""
    files: dict[str, Path] = {}
    for path in map(Path, photos):
        with open(path, "rb") as file:
            files.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
    return files


def _stages(classifier: Classifier, methods: Mapping[str, Method], sizes: tuple[int, ...]) -> Iterator[Stage]:
    for name, method in methods.items():
        if takes(method, "size"):
            for size in sizes:
                yield Stage(classifier, name, method, size, (size,))
        else:
            yield Stage(classifier, name, method, None, sizes)
