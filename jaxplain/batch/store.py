"""The results of a run: a Zarr v3 group of one array for each leaf of what `explain` returns, a row an image.

    results.zarr/zarr.json      the run's configuration, in the group's attributes under "jaxplain"
    results.zarr/row_identity   [N] text         results.zarr/row_status   [N] a RowStatus
    results.zarr/row_reason     [N] text         results.zarr/row_target   [N] the explained class
    results.zarr/<leaf>         [N, ...]         results.zarr/row_score    [N] what the image scores

A row is committed when its status is written, which happens after its data reached the disk. Files are
replaced in one step and their chunks carry checksums, so a killed run leaves rows that are either whole or
pending. All arrays are cut alike into chunks of rows; a chunk has one writer, so hosts never meet in a file.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts

from jaxplain.batch.text import TextColumn
from jaxplain.files import OutputError, check_writable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

IDENTITY, STATUS, REASON, TARGET, SCORE = (
    "row_identity",
    "row_status",
    "row_reason",
    "row_target",
    "row_score",
)
ROW = "row"  # name of the first axis
_RESERVED = "row_"
_CHUNK_BYTES = 8 * 2**20
_MOST_ROWS = 512
_CHUNKS_A_WRITER = 4
_FULL = ("No space left on device", "Disk quota exceeded")
_CODECS: list[dict[str, Any]] = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 1}},
    {"name": "crc32c"},  # a damaged chunk is an error, not other numbers
]
_FILLS = {"f": "NaN", "i": 0, "u": 0, "b": False}


class RowStatus(IntEnum):
    """What became of a row."""

    PENDING = 0
    OK = 1
    FAILED = 2  # no image, or no finite score; the reason says which


class Leaf(NamedTuple):
    """One array of a result, without its rows."""

    shape: tuple[int, ...]
    dtype: str


class Rows(NamedTuple):
    """Finished rows, in any order."""

    rows: np.ndarray  # int [R], their places
    status: np.ndarray  # int8 [R]
    target: np.ndarray  # int32 [R]; -1 where there is none
    score: np.ndarray  # float32 [R]
    reasons: dict[int, str]  # by place, of those that failed
    leaves: Mapping[str, np.ndarray]  # [R, ...] by name; empty where all failed


class StoreError(ValueError):
    """A store that is not what the run needs; says what differs and what to do."""


class ResultStore:
    """An open store; made by `create_store` or `open_store`."""

    def __init__(self, where: "_Place", record: dict[str, Any]) -> None:
        self.path, self._where, self.record = where.name, where, record
        self.chunk_rows: int = record["chunk_rows"]
        self.leaves = {name: Leaf(tuple(shape), dtype) for name, (shape, dtype) in record["leaves"].items()}
        names = [STATUS, TARGET, SCORE, *self.leaves]
        futures = [ts.open({"driver": "zarr3", "kvstore": where.spec(name)}) for name in names]
        self._arrays = dict(zip(names, [_done(future, self.path) for future in futures], strict=True))
        self._identity = TextColumn(where.store(), IDENTITY, self.chunk_rows)
        self._reason = TextColumn(where.store(), REASON, self.chunk_rows)

    def __len__(self) -> int:
        return self._arrays[STATUS].shape[0]

    @property
    def config(self) -> dict[str, Any]:
        """What the run was made with."""
        return self.record["config"]

    @property
    def chunks(self) -> range:
        """Numbers of the chunks."""
        return range(-(-len(self) // self.chunk_rows))

    def rows_of(self, chunk: int) -> slice:
        """The rows of a chunk."""
        start = chunk * self.chunk_rows
        return slice(start, min(start + self.chunk_rows, len(self)))

    def read(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Some rows of an array (all: [N, ...]); what was not written is NaN, 0 or False.

        Raises:
          StoreError: there is no such array.
          OutputError: it cannot be read, or is damaged.
        """
        if name not in self._arrays:
            raise StoreError(f"{self.path} has no array {name!r}, only {', '.join(self._arrays)}.")
        return _done(self._arrays[name][rows].read(), self.path)

    def status(self) -> np.ndarray:
        """int8 [N] of `RowStatus`; rows whose status cannot be read are pending."""
        found = np.zeros(len(self), np.int8)
        for chunk in self.chunks:
            rows = self.rows_of(chunk)
            try:
                found[rows] = self._arrays[STATUS][rows].read().result()
            except ValueError:
                found[rows] = RowStatus.PENDING
        return found

    def identities(self) -> list[str]:
        """One a row; "" where it cannot be read."""
        return self._identity.read(len(self))

    def reasons(self) -> list[str]:
        """One a row; "" where nothing failed."""
        return self._reason.read(len(self))

    def add(self, identities: Sequence[str]) -> int:
        """Give further images rows: first those that have lost their identity, then new ones at the end.

        Returns:
          How many rows had lost theirs, to a damaged file, though they were done; they are pending again.

        Raises:
          OutputError: the disk is full or cannot be written.
        """
        free = [row for row, identity in enumerate(self.identities()) if not identity]
        nameless = [row for row in free if self.status()[row] != RowStatus.PENDING] if free else []
        if nameless:
            pending = np.zeros(len(nameless), np.int8)
            _done(self._arrays[STATUS][np.array(nameless)].write(pending), self.path)
        start = len(self)
        if len(identities) > len(free):
            self.grow(start + len(identities) - len(free))
        self.name(dict(zip([*free, *range(start, len(self))], identities, strict=False)))
        return len(nameless)

    def name(self, identities: Mapping[int, str]) -> None:
        """Write identities by row.

        Raises:
          OutputError: the disk is full or cannot be written.
        """
        self._text(self._identity.write, identities)

    def write(self, done: Rows) -> None:
        """Write rows: data first, then, when that is on the disk, their statuses.

        Raises:
          OutputError: the disk is full or cannot be written; what was committed before stays.
        """
        good = done.rows[done.status == RowStatus.OK]
        kept = done.status == RowStatus.OK
        values = {name: np.asarray(leaf)[kept] for name, leaf in done.leaves.items()} if good.size else {}
        writes = [self._arrays[name][good].write(leaf) for name, leaf in values.items()]
        writes += [self._arrays[TARGET][done.rows].write(done.target)]
        writes += [self._arrays[SCORE][done.rows].write(done.score)]
        for future in writes:
            _done(future, self.path)
        self._text(self._reason.write, done.reasons)
        _done(self._arrays[STATUS][done.rows].write(done.status), self.path)

    def grow(self, rows: int) -> None:
        """Make it longer, or cut rows off its end that nothing was written to."""
        for name, array in self._arrays.items():
            shape = [rows, *array.shape[1:]]
            self._arrays[name] = _done(array.resize(exclusive_max=shape, expand_only=False), self.path)
        self._text(self._identity.resize, rows)
        self._text(self._reason.resize, rows)

    def mend(self, chunks: Iterable[int]) -> int:
        """Throw damaged chunks away, their rows becoming pending; returns how many rows."""
        return sum(self._mend_chunk(chunk) for chunk in chunks)

    def _mend_chunk(self, chunk: int) -> int:
        rows = self.rows_of(chunk)
        damaged = [name for name, array in self._arrays.items() if not _readable(array[rows])]
        if not damaged:
            return 0
        size = rows.stop - rows.start
        lost = size if STATUS in damaged else int(np.count_nonzero(self.read(STATUS, rows)))
        self._delete(STATUS, chunk)  # first: no status without its data
        for name in damaged:
            self._delete(name, chunk)
        return lost

    def _text(self, write: Callable[[Any], None], what: Any) -> None:
        with _plain_errors(self.path):
            write(what)

    def _delete(self, name: str, chunk: int) -> None:
        rank = self._arrays[name].rank
        key = "/".join([name, "c", str(chunk), *["0"] * (rank - 1)])
        _done(self._where.store().write(key, None), self.path)


@contextmanager
def exclusively(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other runs out while this one may write, and clear away what a killed one left half written.

    Two runs that write to one chunk would undo each other's rows. The system forgets the lock with the
    process. Only for folders.

    Raises:
      StoreError: another run holds it.
      OutputError: the folder cannot be made.
    """
    folder = _Place(path).folder
    if folder is None or fcntl is None:
        yield
        return
    handle = os.open(check_writable(folder), os.O_RDONLY)
    try:
        _lock(handle, folder)
        for leftover in folder.rglob("*.__lock"):  # TensorStore's name for files that are being written
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StoreError(f"{folder} is being written to by another run; wait for it, or stop it.") from None


def create_store(
    path: str | os.PathLike[str], leaves: Mapping[str, Leaf], config: Mapping[str, Any], *, chunk_rows: int
) -> None:
    """Make an empty store; the configuration is written last, so that a half-made one counts as none.

    Args:
      path: a folder, or an address that TensorStore knows ("gs://bucket/results.zarr").
      leaves: the arrays, by name.
      config: what the run is made with, as JSON can hold it.
      chunk_rows: see `rows_a_chunk`.

    Raises:
      ValueError: a leaf's name cannot be that of an array.
      OutputError: the place cannot be written.
    """
    for name in leaves:
        if name.startswith(_RESERVED) or not name or "/" in name:
            raise ValueError(f"a result may not have a part called {name!r}; rename it.")
    where = _Place(path)
    table = {STATUS: Leaf((), "int8"), TARGET: Leaf((), "int32"), SCORE: Leaf((), "float32")}
    for name, leaf in (table | dict(leaves)).items():
        spec = {
            "driver": "zarr3",
            "kvstore": where.spec(name),
            "metadata": _metadata(name, leaf, chunk_rows),
        }
        _done(ts.open(spec, create=True, delete_existing=True), where.name)
    for name in (IDENTITY, REASON):
        with _plain_errors(where.name):
            TextColumn(where.store(), name, chunk_rows).create()
    record = {
        "format": 1,
        "chunk_rows": chunk_rows,
        "leaves": {name: [list(leaf.shape), leaf.dtype] for name, leaf in leaves.items()},
        "config": dict(config),
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"jaxplain": record}}
    _done(where.store().write("zarr.json", json.dumps(group, indent=1).encode()), where.name)


def open_store(path: str | os.PathLike[str]) -> ResultStore:
    """Open a store.

    Raises:
      FileNotFoundError: nothing is there, or a store that was never finished being made.
      StoreError: something else is there.
    """
    where = _Place(path)
    found = _done(where.store().read("zarr.json"), where.name)
    if found.state != "value":
        raise FileNotFoundError(f"there are no results in {where.name}.")
    try:
        record = json.loads(found.value)["attributes"]["jaxplain"]
        if record["format"] != 1:
            raise StoreError(f"{where.name} has format {record['format']}; this version reads format 1.")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{where.name} holds no results of jaxplain.") from None
    return ResultStore(where, record)


def check_config(store: ResultStore, leaves: Mapping[str, Leaf], config: Mapping[str, Any]) -> None:
    """Refuse to add rows that were made otherwise.

    Raises:
      StoreError: names the first setting that differs, and both values.
    """
    wanted, found = _settings(json.loads(json.dumps(dict(config)))), _settings(store.config)
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            raise StoreError(
                f"{store.path} was made with {name} {found.get(name)!r}, not {wanted.get(name)!r}: "
                "choose another place for the results, or delete this one to start anew."
            )
    if dict(leaves) != store.leaves:
        raise StoreError(
            f"{store.path} holds {_listed(store.leaves)}, but this run makes {_listed(leaves)}: "
            "choose another place for the results."
        )


def _settings(config: Any, name: str = "") -> dict[str, Any]:
    """A nested configuration as settings with names such as "explain.size"."""
    if not isinstance(config, dict):
        return {name: config}
    parts = (_settings(value, f"{name}.{key}" if name else key) for key, value in config.items())
    return {key: value for part in parts for key, value in part.items()}


def leaves_of(result: Any) -> dict[str, Any]:
    """The arrays of a result by name; a result that is one array is called "result".

    Example:
      >>> leaves_of({"map": 1, "curves": (2, 3)})
      {'curves.0': 2, 'curves.1': 3, 'map': 1}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(result)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "result": leaf for path, leaf in flat}


class _Place:
    """Where a store lies: a folder, or an address that TensorStore knows ("gs://bucket/results.zarr")."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._store: ts.KvStore | None = None

    def spec(self, below: str = "") -> dict[str, Any] | str:
        ending = f"{below}/" if below else ""
        if "://" in self.name:
            return f"{self.name.rstrip('/')}/{ending}"
        # TensorStore's lock files are not safe: one that a killed process left behind is written into without
        # being cut, and its last bytes end up in the chunk. A chunk has one writer here and needs no lock.
        locking = {"mode": "none"}
        path = f"{Path(self.name).absolute()}/{ending}"
        return {"driver": "file", "path": path, "file_io_locking": locking}

    @property
    def folder(self) -> Path | None:
        """Where it is a folder, that."""
        return None if "://" in self.name else Path(self.name)

    def store(self) -> ts.KvStore:
        if self._store is None:
            self._store = _done(ts.KvStore.open(self.spec()), self.name)
        return self._store


def _metadata(name: str, leaf: Leaf, chunk_rows: int) -> dict[str, Any]:
    kind = np.dtype(leaf.dtype).kind if leaf.dtype != "bfloat16" else "f"
    return {
        "shape": [0, *leaf.shape],
        "data_type": leaf.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *leaf.shape]}},
        "fill_value": _FILLS[kind],
        "dimension_names": [ROW, *(f"{name}_{axis}" for axis in range(len(leaf.shape)))],
        "codecs": _CODECS,
    }


def rows_a_chunk(leaves: Mapping[str, Leaf], rows: int | None, writers: int = 1) -> int:
    """Rows of a chunk: few enough that the largest leaf's file has a few megabytes and that every writer gets
    several chunks of a run of `rows`, many enough that files are not too many.

    Example:
      >>> rows_a_chunk({"saliency": Leaf((224, 224), "float32")}, 50_000), rows_a_chunk({}, 80, writers=2)
      (41, 10)
    """
    largest = max((int(np.prod(leaf.shape)) * 4 for leaf in leaves.values()), default=1)
    share = _MOST_ROWS if rows is None or writers == 1 else -(-rows // (_CHUNKS_A_WRITER * writers))
    return max(1, min(_CHUNK_BYTES // max(largest, 1), _MOST_ROWS, share))


def _readable(view: Any) -> bool:
    try:
        view.read().result()
    except ValueError:
        return False
    return True


def _listed(leaves: Mapping[str, Leaf]) -> str:
    return ", ".join(f"{name} {leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items())


@contextmanager
def _plain_errors(path: str) -> Iterator[None]:
    """What TensorStore raises becomes an error in plain words."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        if any(full in text for full in _FULL):
            raise OutputError(
                f"cannot write {path}: the disk is full. Free some space; what is committed stays."
            ) from error
        raise OutputError(f"cannot read or write {path}: {text.splitlines()[0]}") from error


def _done(future: Any, path: str) -> Any:
    """The result of a TensorStore operation."""
    with _plain_errors(path):
        return future.result()
