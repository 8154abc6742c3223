"""Where the results of a run go: one folder a photo, and never the one of another photo."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from jaxplain.jobs.photos import Photo


class Shelf:
    """Where the results of a run go: a folder for each photo, and never the one of another photo.

    A photo's folder is named after the file's stem, or its whole name where the run holds that stem twice.
    Where an earlier run left the result of a different photo under that name, a number is added; the older
    result of the same photo (by its bytes) is replaced. `record` is the file that marks a folder as a result;
    it is JSON and has the photo's digest.
    """

    def __init__(self, root: Path, paths: Iterable[Path], record: str) -> None:
        self.root, self.record = root, record
        self._names = folder_names(paths)
        self._planned = {_same(name) for name in self._names.values()}

    def folder(self, photo: Photo) -> Path:
        """The folder for a photo of this run."""
        name = self._names[photo.path]
        free = (other for other in _numbered(name) if other == name or _same(other) not in self._planned)
        return next(
            folder
            for folder in map(self.root.joinpath, free)
            if not _of_another(folder / self.record, photo.sha256)
        )


def folder_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A folder name for each path, all different also where upper and lower case are the same."""
    paths = list(dict.fromkeys(paths))
    stems = Counter(_same(path.stem) for path in paths)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        wanted = path.stem if stems[_same(path.stem)] == 1 else path.name
        names[path] = next(name for name in _numbered(wanted) if _same(name) not in taken)
        taken.add(_same(names[path]))
    return names


def _same(name: str) -> str:
    return name.casefold()


def _numbered(name: str) -> Iterator[str]:
    return itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))


def _of_another(path: Path, sha256: str) -> bool:
    """Is this the record of a different photo? One that cannot be read may well be."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return True
    return not isinstance(record, dict) or record.get("image_sha256") != sha256
