"""The rows of a comparison: one a photo, classifier, method and size; on disk as soon as they are known.

The file has one line of JSON a row, the first one says what the run is. A run that was cut off goes on with
the rows that are missing; a line that was cut off counts as missing.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxplain.files import append_durably, write_atomic
from jaxplain.jobs.records import npy

OK, FAILED = "ok", "failed"
Key = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class Row:
    """One map and its measures, or why there is none."""

    photo: str  # file name
    sha256: str  # of the file
    model: str
    weights: str  # digest
    method: str
    size: int
    status: str  # "ok" or "failed"
    reason: str = ""  # of a failure
    label: str = ""  # of the explained class
    probability: float | None = None
    seconds: float | None = None  # of the explanation, compiled
    evaluations: int | None = None  # images scored by the model
    values: Mapping[str, float | None] = field(default_factory=dict)  # by measure
    fraction: list[float | None] = field(default_factory=list)  # of the curves
    deletion: list[float | None] = field(default_factory=list)
    insertion: list[float | None] = field(default_factory=list)

    @property
    def key(self) -> Key:
        """What tells a row from others of its run."""
        return self.sha256, self.model, self.weights, self.method, self.size


_FIELDS = {one.name for one in fields(Row)}


class RowFile:
    """The rows of a run, in a file that grows by one line a row.

    Args:
      path: the file; its folder must exist. None keeps the rows in memory only.
      settings: what must be the same for all rows.

    Raises:
      ValueError: the file holds the rows of another run; names what differs.
      OSError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._rows: dict[Key, Row] = {}
        head = json.dumps({"jaxplain_comparison": dict(settings)})
        if path is None:
            return
        lines = _whole_lines(path)
        if not lines:
            write_atomic(path, (head + "\n").encode())
            return
        self._check_head(lines[0], json.loads(head))
        for row in filter(None, map(_parsed, lines[1:])):
            self._rows[row.key] = row
        write_atomic(path, "".join(line + "\n" for line in lines).encode())  # without the cut-off line

    def _check_head(self, line: str, expected: dict[str, Any]) -> None:
        try:
            found = json.loads(line)["jaxplain_comparison"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{self.path} is no file of rows; choose another name with --out.") from None
        wanted = expected["jaxplain_comparison"]
        for name in {**wanted, **found}:
            if wanted.get(name) != found.get(name):
                raise ValueError(
                    f"{self.path} was made with {name} {found.get(name)!r}, not {wanted.get(name)!r}: "
                    "choose another name with --out, or delete the file to start anew."
                )

    def __iter__(self) -> Iterator[Row]:
        return iter(list(self._rows.values()))  # a copy: an interrupted run may still be adding

    def done(self, key: Key) -> bool:
        """Is there a row that need not be tried again?"""
        return key in self._rows and self._rows[key].status == OK

    def add(self, row: Row) -> None:
        """Keep a row; when this returns it is on the disk.

        Raises:
          OutputError: the file cannot be written; it then ends with the row before.
        """
        if self.path is not None:
            append_durably(self.path, (json.dumps(asdict(row), allow_nan=False) + "\n").encode())
        self._rows[row.key] = row


def _whole_lines(path: Path) -> list[str]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    return text[: text.rfind(b"\n") + 1].decode("utf-8", errors="replace").splitlines()


def _parsed(line: str) -> Row | None:
    """A row; None for a damaged line, whose row is then made again."""
    try:
        entry = json.loads(line)
        return Row(**{name: value for name, value in entry.items() if name in _FIELDS})
    except (ValueError, TypeError, AttributeError):
        return None


class MapFolder:
    """Maps of some rows, for the contact sheets: one file each; None keeps them in memory."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._kept: dict[str, np.ndarray] = {}

    def add(self, key: Key, saliency: np.ndarray) -> None:
        """Keep a map [h, w], in half precision, scaled to 1: gradients may be smaller than that can hold."""
        name = _file_name(key)
        self._kept[name] = (saliency / max(np.abs(saliency).max(), 1e-30)).astype(np.float16)
        if self.path is not None:
            self.path.mkdir(exist_ok=True)
            write_atomic(self.path / name, npy(self._kept[name]))

    def get(self, key: Key) -> np.ndarray | None:
        """The map of a row; None if it was not kept."""
        name = _file_name(key)
        if name not in self._kept and self.path is not None:
            try:
                self._kept[name] = np.load(self.path / name, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
        return self._kept.get(name)


def _file_name(key: Key) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:24] + ".npy"
