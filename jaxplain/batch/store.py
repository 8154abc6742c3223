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
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts

from jaxplain.batch.place import Place, StoreError, done, plain_errors
from jaxplain.batch.text import TextColumn
from jaxplain.files import check_writable

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


class ResultStore:
    """An open store; made by `create_store` or `open_store`."""

    def __init__(self, where: Place, record: dict[str, Any]) -> None:
        self.path, self._where, self.record = where.name, where, record
        self.chunk_rows: int = record["chunk_rows"]
        self.leaves = {name: Leaf(tuple(shape), dtype) for name, (shape, dtype) in record["leaves"].items()}
        names = [STATUS, TARGET, SCORE, *self.leaves]
        futures = [ts.open({"driver": "zarr3", "kvstore": where.spec(name)}) for name in names]
        self._arrays = dict(zip(names, [done(future, self.path) for future in futures], strict=True))
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
        return done(self._arrays[name][rows].read(), self.path)

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
        status = self.status()
        free = [row for row, identity in enumerate(self.identities()) if not identity]
        nameless = [row for row in free if status[row] != RowStatus.PENDING]
        if nameless:
            pending = np.zeros(len(nameless), np.int8)
            done(self._arrays[STATUS][np.array(nameless)].write(pending), self.path)
        start = len(self)
        self.grow(
            start + max(0, len(identities) - len(free))
        )  # always: a killed run may have grown only some
        self.name(dict(zip([*free, *range(start, len(self))], identities, strict=False)))
        return len(nameless)

    def name(self, identities: Mapping[int, str]) -> None:
        """Write identities by row.

        Raises:
          OutputError: the disk is full or cannot be written.
        """
        self._text(self._identity.write, identities)

    def write(self, ready: Rows) -> None:
        """Write rows: data first, then, when that is on the disk, their statuses.

        Raises:
          OutputError: the disk is full or cannot be written; what was committed before stays.
        """
        good = ready.rows[ready.status == RowStatus.OK]
        kept = ready.status == RowStatus.OK
        values = {name: np.asarray(leaf)[kept] for name, leaf in ready.leaves.items()} if good.size else {}
        writes = [self._arrays[name][good].write(leaf) for name, leaf in values.items()]
        writes += [self._arrays[TARGET][ready.rows].write(ready.target)]
        writes += [self._arrays[SCORE][ready.rows].write(ready.score)]
        for future in writes:
            done(future, self.path)
        self._text(self._reason.write, ready.reasons)
        done(self._arrays[STATUS][ready.rows].write(ready.status), self.path)

    def grow(self, rows: int) -> None:
        """Make it longer, or cut rows off its end that nothing was written to."""
        for name, array in self._arrays.items():
            shape = [rows, *array.shape[1:]]
            self._arrays[name] = done(array.resize(exclusive_max=shape, expand_only=False), self.path)
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
        with plain_errors(self.path):
            write(what)

    def _delete(self, name: str, chunk: int) -> None:
        rank = self._arrays[name].rank
        key = "/".join([name, "c", str(chunk), *["0"] * (rank - 1)])
        done(self._where.store().write(key, None), self.path)


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
    for name, leaf in leaves.items():
        if name.startswith(_RESERVED) or "/" in name:
            raise ValueError(f"a result may not have a part called {name!r}; rename it.")
        if _kind(leaf.dtype) not in _FILLS:
            raise ValueError(
                f"a result may not hold {leaf.dtype}, as {name!r} does: only numbers and booleans are kept."
            )
    where = Place(path)
    _check_empty(where, {IDENTITY, REASON, STATUS, TARGET, SCORE, *leaves})
    table = {STATUS: Leaf((), "int8"), TARGET: Leaf((), "int32"), SCORE: Leaf((), "float32")}
    for name, leaf in (table | dict(leaves)).items():
        spec = {
            "driver": "zarr3",
            "kvstore": where.spec(name),
            "metadata": _metadata(name, leaf, chunk_rows),
        }
        done(ts.open(spec, create=True, delete_existing=True), where.name)
    for name in (IDENTITY, REASON):
        with plain_errors(where.name):
            TextColumn(where.store(), name, chunk_rows).create()
    record = {
        "format": 1,
        "chunk_rows": chunk_rows,
        "leaves": {name: [list(leaf.shape), leaf.dtype] for name, leaf in leaves.items()},
        "config": dict(config),
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"jaxplain": record}}
    done(where.store().write("zarr.json", json.dumps(group, indent=1).encode()), where.name)


def open_store(path: str | os.PathLike[str]) -> ResultStore:
    """Open a store.

    Raises:
      FileNotFoundError: nothing is there, or a store that was never finished being made.
      StoreError: something else is there.
    """
    where = Place(path)
    found = done(where.store().read("zarr.json"), where.name)
    if found.state != "value":
        raise FileNotFoundError(
            f"there are no results in {where.name}: name the folder that jaxplain batch --out wrote."
        )
    try:
        record = json.loads(found.value)["attributes"]["jaxplain"]
        if record["format"] != 1:
            raise StoreError(
                f"{where.name} has format {record['format']}; this version of jaxplain reads format 1. "
                "Read it with the version that wrote it."
            )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{where.name} holds no results of jaxplain; name a new folder, or one of an earlier run."
        ) from None
    return ResultStore(where, record)


def leaves_of(result: Any) -> dict[str, Any]:
    """The arrays of a result by name; a result that is one array is called "result".

    Example:
      >>> leaves_of({"map": 1, "curves": (2, 3)})
      {'curves.0': 2, 'curves.1': 3, 'map': 1}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(result)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "result": leaf for path, leaf in flat}


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a place that no store can be made in, as far as that can be told without making anything.

    Raises:
      StoreError: something else is there.
      OutputError: nothing can be written there.
    """
    where = Place(path)
    if where.folder is not None:
        check_writable(next(folder for folder in (where.folder, *where.folder.parents) if folder.exists()))
        _check_empty(where, known=None)


def _check_empty(where: Place, known: set[str] | None) -> None:
    """Nothing may be there but arrays, those that are known, of a store that was not finished being made."""
    if where.folder is None or not where.folder.is_dir():
        return
    names = {path.name for path in where.folder.iterdir() if known is not None or not path.is_dir()}
    other = sorted(names - (known or set()))
    if other:
        raise StoreError(f"{where.name} holds {other[0]!r} and no results; choose a new or an empty folder.")


def _kind(dtype: str) -> str:
    try:
        return np.dtype(dtype).kind
    except TypeError:  # a random key, for one
        return ""


def _metadata(name: str, leaf: Leaf, chunk_rows: int) -> dict[str, Any]:
    return {
        "shape": [0, *leaf.shape],
        "data_type": leaf.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *leaf.shape]}},
        "fill_value": _FILLS[_kind(leaf.dtype)],
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
