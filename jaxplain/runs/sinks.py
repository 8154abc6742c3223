"""Sinks for a run's results: one folder per photo, for people; rows and maps, for programs."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.files import append_durably, staged_folder, write_atomic
from jaxplain.runs.photos import Photo
from jaxplain.runs.records import npy

OK, FAILED = "ok", "failed"
RowKey = tuple[str, str, str, str, int]


# ---------------------------------------------------------------------------------------------------------
# Folders


def write_folder(folder: Path, contents: Mapping[str, bytes], marker: str) -> None:
    """Write a folder of results, atomically.

    Args:
      folder: the output folder; created, or replaced if it contains an earlier result.
      contents: the files, as a mapping from file name to bytes.
      marker: name of the file that marks a folder as a result.

    Raises:
      OutputError: the folder cannot be written, or exists and is not an earlier result.
    """
    with staged_folder(folder, marker=marker) as staging:
        for name, content in contents.items():
            (staging / name).write_bytes(content)


class PhotoFolders:
    """One output folder per photo; another photo's result is never replaced.

    A photo's folder is named after the file's stem, or after the full file name if two photos in the run have
    the same stem. If that folder contains another photo's result from an earlier run, a number is appended to
    the name. An earlier result for the same photo (compared by its bytes) is replaced.

    Args:
      root: parent folder.
      paths: the run's photos.
      record: name of the JSON file that marks a folder as a result and contains the photo's digest.
    """

    def __init__(self, root: Path, paths: Iterable[Path], record: str) -> None:
        self.root, self.record = root, record
        self._names = folder_names(paths)
        self._planned = {_same(name) for name in self._names.values()}

    def folder(self, photo: Photo) -> Path:
        """Return the folder for one of the run's photos."""
        name = self._names[photo.path]
        free = (other for other in _numbered(name) if other == name or _same(other) not in self._planned)
        return next(
            folder
            for folder in map(self.root.joinpath, free)
            if not _of_another(folder / self.record, photo.sha256)
        )


def folder_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a folder name for each path; names are unique, even ignoring case."""
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
    """Return whether a record belongs to a different photo; a damaged record is assumed to."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return False
    except ValueError:
        return True
    return not isinstance(record, dict) or record.get("image_sha256") != sha256


# ---------------------------------------------------------------------------------------------------------
# Rows


@dataclass(frozen=True)
class Row:
    """The measures of one map, or the reason why there are none."""

    photo: str  # file name
    sha256: str  # digest of the file
    model: str
    weights: str  # digest
    method: str
    size: int
    status: str  # "ok" or "failed"
    reason: str = ""  # reason for a failure
    label: str = ""  # name of the explained class
    probability: float | None = None
    seconds: float | None = None  # run time of the explanation, without compilation
    evaluations: int | None = None  # number of images passed through the model
    values: Mapping[str, float | None] = field(default_factory=dict)  # values by measure
    fraction: list[float | None] = field(default_factory=list)  # x values of the curves
    deletion: list[float | None] = field(default_factory=list)
    insertion: list[float | None] = field(default_factory=list)

    @property
    def key(self) -> RowKey:
        """Key that identifies the row within its run."""
        return self.sha256, self.model, self.weights, self.method, self.size


_FIELDS = {part.name for part in fields(Row)}


class RowFile:
    """A comparison's rows, in a JSON Lines file: a line with the settings, then one line per row.

    An interrupted run resumes with the missing rows; a row whose line is incomplete counts as missing.

    Args:
      path: path of the file; its folder must exist. If None, rows are kept in memory only.
      settings: the settings shared by all rows.

    Raises:
      ValueError: the file belongs to a run with other settings; the message names the difference.
      OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._rows: dict[RowKey, Row] = {}
        head = json.dumps({"jaxplain_comparison": dict(settings)})
        if path is None:
            return
        lines = _complete_lines(path)
        if not lines:
            write_atomic(path, (head + "\n").encode())
            return
        self._check_head(lines[0], json.loads(head)["jaxplain_comparison"])
        for row in filter(None, map(_parsed, lines[1:])):
            self._rows[row.key] = row
        write_atomic(path, "".join(line + "\n" for line in lines).encode())  # without the incomplete line

    def _check_head(self, line: str, expected: dict[str, Any]) -> None:
        try:
            head = json.loads(line)["jaxplain_comparison"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.path} is not a jaxplain results file; choose another name with --out."
            ) from None
        for name in {**expected, **head}:  # the version of jaxplain comes first
            if expected.get(name) != head.get(name):
                raise ValueError(
                    f"{self.path} was made with {name} {head.get(name)!r}, not {expected.get(name)!r}: "
                    "choose another name with --out, or delete the file to start over."
                )

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))  # a copy: an interrupted run may still be adding

    def done(self, key: RowKey) -> bool:
        """Return whether this row exists and does not need to be recomputed."""
        return key in self._rows and self._rows[key].status == OK

    def add(self, row: Row) -> None:
        """Add a row; it is on disk when this returns.

        Raises:
          OutputError: the file cannot be written; in that case it ends with the previous row.
        """
        if self.path is not None:
            append_durably(self.path, (json.dumps(asdict(row), allow_nan=False) + "\n").encode())
        self._rows[row.key] = row


def _complete_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return text[: text.rfind(b"\n") + 1].decode("utf-8", errors="replace").splitlines()


def _parsed(line: str) -> Row | None:
    """Parse a row; return None for a damaged line, so that its row is recomputed."""
    try:
        entry = json.loads(line)
        return Row(**{name: value for name, value in entry.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


# ---------------------------------------------------------------------------------------------------------
# Maps


class MapFolder:
    """Maps for contact sheets, in one file per row, or in memory if there is no path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._maps: dict[str, np.ndarray] = {}

    def add(self, key: RowKey, importance: np.ndarray) -> None:
        """Store a map [h, w] in half precision, scaled to a maximum of 1 because gradients may underflow."""
        name = _file_name(key)
        self._maps[name] = (importance / max(np.abs(importance).max(), 1e-30)).astype(np.float16)
        if self.path is not None:
            self.path.mkdir(exist_ok=True)
            write_atomic(self.path / name, npy(self._maps[name]))

    def get(self, key: RowKey) -> np.ndarray | None:
        """Return a row's map, or None if it was not stored."""
        name = _file_name(key)
        if name not in self._maps and self.path is not None:
            try:
                self._maps[name] = np.load(self.path / name, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
        return self._maps.get(name)


def _file_name(key: RowKey) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:24] + ".npy"
