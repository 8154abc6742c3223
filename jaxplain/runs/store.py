"""Results of a batch run: a Zarr v3 group with one array per result leaf and one row per image.

    results.zarr/zarr.json      the run's configuration, in the group's attributes under "jaxplain"
    results.zarr/row_identity   [N] text         results.zarr/row_status   [N] a RowStatus
    results.zarr/row_reason     [N] text         results.zarr/row_target   [N] explained class
    results.zarr/<leaf>         [N, ...]         results.zarr/row_score    [N] score of the image

A row is committed when its status is written, which happens after its data has reached the disk. Files are
replaced atomically and chunks have checksums, so after a run is killed every row is either complete or
pending. All arrays are divided into the same chunks of rows; each chunk has one writer, so no two hosts
write to the same file.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore as ts

from jaxplain.files import check_writable
from jaxplain.runs.storage import ROW, StoreError, StoreLocation, TextColumn, finished_io, plain_errors

FORMAT = 2  # format 1 (jaxplain 0.1) had other array names, and derived keys from names, not contents
IDENTITY, REASON = "row_identity", "row_reason"
STATUS, TARGET, SCORE = "row_status", "row_target", "row_score"
_RESERVED = "row_"
_CHUNK_BYTES = 8 * 2**20
_CHUNK_ROWS = 512  # maximum
_CHUNKS_PER_WRITER = 4
_CODECS: list[dict[str, Any]] = [
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": 1}},
    {"name": "crc32c"},  # a damaged chunk raises an error instead of returning wrong numbers
]
_NORMAL_95 = 1.96  # in standard errors; the mean of thousands of rows is nearly normal
_FILLS = {"f": "NaN", "i": 0, "u": 0, "b": False}


class RowStatus(IntEnum):
    """Status of a row."""

    PENDING = 0
    OK = 1
    FAILED = 2  # no readable image, or no finite score; see `row_reason`


class LeafSpec(NamedTuple):
    """Shape and dtype of one result array, without the row axis."""

    shape: tuple[int, ...]
    dtype: str


class FinishedRows(NamedTuple):
    """Finished rows, in any order."""

    rows: np.ndarray  # int [R], row numbers
    status: np.ndarray  # int8 [R]
    target: np.ndarray  # int32 [R]; -1 if unknown
    score: np.ndarray  # float32 [R]
    reasons: dict[int, str]  # reasons by row; "" for rows that did not fail
    leaves: Mapping[str, np.ndarray]  # arrays [R, ...] by name; empty if all rows failed


# ---------------------------------------------------------------------------------------------------------
# The store


class ResultStore:
    """An open store; returned by `open_store`."""

    def __init__(self, location: StoreLocation, record: dict[str, Any]) -> None:
        self.path, self._location, self.record = location.name, location, record
        self.chunk_rows: int = record["chunk_rows"]
        self.leaves = {
            name: LeafSpec(tuple(shape), dtype) for name, (shape, dtype) in record["leaves"].items()
        }
        names = [STATUS, TARGET, SCORE, *self.leaves]
        futures = [ts.open({"driver": "zarr3", "kvstore": location.spec(name)}) for name in names]
        arrays = [finished_io(future, self.path) for future in futures]
        self._arrays = dict(zip(names, arrays, strict=True))
        self._identity = TextColumn(location.store(), IDENTITY, self.chunk_rows)
        self._reason = TextColumn(location.store(), REASON, self.chunk_rows)

    def __len__(self) -> int:
        return self._arrays[STATUS].shape[0]

    @property
    def config(self) -> dict[str, Any]:
        """Configuration of the run that created the store."""
        return self.record["config"]

    @property
    def chunks(self) -> range:
        """The indices of all chunks."""
        return range(-(-len(self) // self.chunk_rows))

    def rows_of(self, chunk: int) -> slice:
        """Return the rows in a chunk."""
        start = chunk * self.chunk_rows
        return slice(start, min(start + self.chunk_rows, len(self)))

    def read(self, name: str, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Read rows from an array (default: all, [N, ...]); unwritten values are NaN, 0 or False.

        Raises:
          StoreError: there is no array with this name.
          OutputError: the array cannot be read or is damaged.
        """
        if name in (IDENTITY, REASON):
            return np.array(self.identities() if name == IDENTITY else self.reasons())[rows]
        if name not in self._arrays:
            raise StoreError(f"{self.path} has no array {name!r}, only {', '.join(self._arrays)}.")
        return finished_io(self._arrays[name][rows].read(), self.path)

    def status(self) -> np.ndarray:
        """Return every row's `RowStatus`, int8 [N]; rows whose status cannot be read count as pending."""
        status = np.full(len(self), RowStatus.PENDING, np.int8)
        for rows in map(self.rows_of, self.chunks):
            view = self._arrays[STATUS][rows]
            if _is_readable(view):
                status[rows] = view.read().result()
        return status

    def identities(self) -> list[str]:
        """Return every row's identity, or "" if it cannot be read."""
        return self._identity.read(len(self))

    def reasons(self) -> list[str]:
        """Return the reason why each row failed, or "" if it did not fail."""
        return self._reason.read(len(self))

    def add(self, identities: Sequence[str]) -> int:
        """Assign rows to additional images: first rows that lost their identity, then new rows at the end.

        Returns:
          The number of finished rows that lost their identity to a damaged file and are now pending again.

        Raises:
          OutputError: the disk is full or not writable.
        """
        status = self.status()
        free = [row for row, identity in enumerate(self.identities()) if not identity]
        lost = np.array([row for row in free if status[row] != RowStatus.PENDING], int)
        if lost.size:
            self._finish(self._arrays[STATUS][lost].write(np.full(lost.size, RowStatus.PENDING, np.int8)))
        start = len(self)
        # Always resize, because a killed run may have grown only some of the arrays.
        self.resize(start + max(0, len(identities) - len(free)))
        self.write_identities(dict(zip([*free, *range(start, len(self))], identities, strict=False)))
        return lost.size

    def write_identities(self, identities: Mapping[int, str]) -> None:
        """Write the identities of rows; raise an `OutputError` if the disk is full or not writable."""
        self._plainly(self._identity.write, identities)

    def write(self, finished: FinishedRows) -> None:
        """Write rows: first their data and then, once the data is on disk, their status.

        Raises:
          OutputError: the disk is full or not writable; rows committed before are safe.
        """
        ok = finished.status == RowStatus.OK
        rows = finished.rows
        values = {name: np.asarray(leaf)[ok] for name, leaf in finished.leaves.items()} if ok.any() else {}
        writes = [self._arrays[name][rows[ok]].write(leaf) for name, leaf in values.items()]
        writes += [self._arrays[TARGET][rows].write(finished.target)]
        writes += [self._arrays[SCORE][rows].write(finished.score)]
        for future in writes:
            self._finish(future)
        self._plainly(self._reason.write, finished.reasons)
        self._finish(self._arrays[STATUS][rows].write(finished.status))

    def resize(self, rows: int) -> None:
        """Set the number of rows, by adding pending rows or removing unwritten ones at the end."""
        for name, array in self._arrays.items():
            shape = [rows, *array.shape[1:]]
            self._arrays[name] = self._finish(array.resize(exclusive_max=shape, expand_only=False))
        self._plainly(self._identity.resize, rows)
        self._plainly(self._reason.resize, rows)

    def repair(self, chunks: Iterable[int]) -> int:
        """Delete damaged chunks so that their rows are pending again; return the number of rows lost."""
        return sum(self._repair_chunk(chunk) for chunk in chunks)

    def _repair_chunk(self, chunk: int) -> int:
        rows = self.rows_of(chunk)
        damaged = [name for name, array in self._arrays.items() if not _is_readable(array[rows])]
        if not damaged:
            return 0
        size = rows.stop - rows.start
        lost = size if STATUS in damaged else int(np.count_nonzero(self.read(STATUS, rows)))
        for name in dict.fromkeys([STATUS, *damaged]):  # status first: no row may keep it without data
            zeros = ["0"] * (self._arrays[name].rank - 1)
            self._finish(self._location.store().write("/".join([name, "c", str(chunk), *zeros]), None))
        return lost

    def _finish(self, future: Any) -> Any:
        return finished_io(future, self.path)

    def _plainly(self, write: Callable[[Any], None], what: Any) -> None:
        with plain_errors(self.path):
            write(what)


def create_store(
    path: str | os.PathLike[str],
    leaves: Mapping[str, LeafSpec],
    config: Mapping[str, Any],
    *,
    chunk_rows: int,
) -> None:
    """Create an empty store; its metadata is written last, so an incomplete store counts as missing.

    Args:
      path: a folder, or a URL that TensorStore supports ("gs://bucket/results.zarr").
      leaves: shape and dtype of each array, by name.
      config: the run's configuration, JSON-serializable.
      chunk_rows: see `rows_per_chunk`.

    Raises:
      ValueError: a leaf's name or dtype cannot be stored.
      StoreError: the folder contains other files.
      OutputError: the location is not writable.
    """
    for name, leaf in leaves.items():
        if name.startswith(_RESERVED) or "/" in name:
            raise ValueError(f"a result array may not be named {name!r}; rename it.")
        if _kind(leaf.dtype) not in _FILLS:
            raise ValueError(
                f"the result array {name!r} has dtype {leaf.dtype}, but only numbers and booleans can be "
                "stored."
            )
    location = StoreLocation(path)
    _check_empty(location, {IDENTITY, REASON, STATUS, TARGET, SCORE, *leaves})
    table = {STATUS: LeafSpec((), "int8"), TARGET: LeafSpec((), "int32"), SCORE: LeafSpec((), "float32")}
    for name, leaf in (table | dict(leaves)).items():
        spec = {
            "driver": "zarr3",
            "kvstore": location.spec(name),
            "metadata": _metadata(name, leaf, chunk_rows),
        }
        finished_io(ts.open(spec, create=True, delete_existing=True), location.name)
    with plain_errors(location.name):
        for name in (IDENTITY, REASON):
            TextColumn(location.store(), name, chunk_rows).create()
    record = {
        "format": FORMAT,
        "chunk_rows": chunk_rows,
        "leaves": {name: [list(leaf.shape), leaf.dtype] for name, leaf in leaves.items()},
        "config": dict(config),
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"jaxplain": record}}
    finished_io(location.store().write("zarr.json", json.dumps(group, indent=1).encode()), location.name)


def open_store(path: str | os.PathLike[str]) -> ResultStore:
    """Open the results of a batch run.

    Raises:
      FileNotFoundError: the path does not exist, or creation of the store was interrupted.
      StoreError: the path contains something else, or a store in another format.
    """
    location = StoreLocation(path)
    answer = finished_io(location.store().read("zarr.json"), location.name)
    if answer.state != "value":
        raise FileNotFoundError(
            f"there are no results in {location.name}: name the folder passed to jaxplain batch --out."
        )
    try:
        record = json.loads(answer.value)["attributes"]["jaxplain"]
        stored_format = record["format"]
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{location.name} does not contain results from jaxplain batch; name a new folder, or one from "
            "an earlier run."
        ) from None
    if stored_format != FORMAT:
        writer = record.get("config", {}).get("jaxplain", "another version")
        raise StoreError(
            f"{location.name} has format {stored_format}, written by jaxplain {writer}; this version reads "
            f"and resumes format {FORMAT} only. Open it with zarr, xarray or the version that wrote it, or "
            "choose another folder to compute the results again."
        )
    return ResultStore(location, record)


def leaves_of(result: Any) -> dict[str, Any]:
    """Return a result's arrays by name; if the result is a single array, its name is "result".

    Example:
      >>> leaves_of({"map": 1, "curves": (2, 3)})
      {'curves.0': 2, 'curves.1': 3, 'map': 1}
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(result)
    return {jax.tree_util.keystr(path, simple=True, separator=".") or "result": leaf for path, leaf in flat}


def check_location(path: str | os.PathLike[str]) -> None:
    """Reject a location where no store can be created, as far as this can be checked without writing.

    Raises:
      StoreError: the location contains other files.
      OutputError: the location is not writable.
    """
    location = StoreLocation(path)
    if location.folder is not None:
        parents = (location.folder, *location.folder.parents)
        check_writable(next(folder for folder in parents if folder.exists()))
        _check_empty(location, known=None)


def rows_per_chunk(leaves: Mapping[str, LeafSpec], rows: int | None, writers: int = 1) -> int:
    """Return the number of rows per chunk.

    Chunks are sized so that the largest leaf's files are a few megabytes each and every writer gets several
    chunks, without creating more files than necessary. `rows` is the number of images in the run, or None if
    unknown.

    Example:
      >>> rows_per_chunk({"map": LeafSpec((224, 224), "float32")}, 50_000), rows_per_chunk({}, 80, writers=2)
      (41, 10)
    """
    largest = max((int(np.prod(leaf.shape)) * 4 for leaf in leaves.values()), default=1)
    share = _CHUNK_ROWS if rows is None or writers == 1 else -(-rows // (_CHUNKS_PER_WRITER * writers))
    return max(1, min(_CHUNK_BYTES // max(largest, 1), _CHUNK_ROWS, share))


def _check_empty(location: StoreLocation, known: set[str] | None) -> None:
    """Reject a folder that contains anything but arrays of an incomplete store (`known`, or any if None)."""
    if location.folder is None or not location.folder.is_dir():
        return
    names = {path.name for path in location.folder.iterdir() if known is not None or not path.is_dir()}
    others = sorted(names - (known or set()))
    if others:
        raise StoreError(
            f"{location.name} contains {others[0]!r} but no results; choose a new or empty folder."
        )


def _kind(dtype: str) -> str:
    try:
        return np.dtype(dtype).kind
    except TypeError:  # such as a random key
        return ""


def _metadata(name: str, leaf: LeafSpec, chunk_rows: int) -> dict[str, Any]:
    return {
        "shape": [0, *leaf.shape],
        "data_type": leaf.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk_rows, *leaf.shape]}},
        "fill_value": _FILLS[_kind(leaf.dtype)],
        "dimension_names": [ROW, *(f"{name}_{axis}" for axis in range(len(leaf.shape)))],
        "codecs": _CODECS,
    }


def _is_readable(view: Any) -> bool:
    try:
        view.read().result()
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------
# Summary


class MeanOfRows(NamedTuple):
    """A mean over rows and its 95% confidence interval."""

    mean: float
    low: float
    high: float
    rows: int  # number of rows with a finite value


class BatchReport(NamedTuple):
    """Summary of a store."""

    config: dict[str, Any]  # configuration of the run
    rows: dict[str, int]  # number of rows, by lower-case `RowStatus` name
    means: dict[str, MeanOfRows]  # means of the score and of every array with one number per row
    reasons: dict[str, int]  # number of failed rows by reason, most frequent first


def report_on(store: ResultStore) -> BatchReport:
    """Summarize a store, reading its scalars but no maps.

    Raises:
      OutputError: an array is damaged; running `explain_dataset` again repairs it.
    """
    status = store.status()
    ok = status == RowStatus.OK
    scalars = {name for name, leaf in store.leaves.items() if leaf.shape == () and "float" in leaf.dtype}
    failed = np.flatnonzero(status == RowStatus.FAILED)
    reasons = store.reasons() if failed.size else []
    return BatchReport(
        config=store.config,
        rows={state.name.lower(): int(np.sum(status == state)) for state in RowStatus},
        means={name: _mean(store.read(name)[ok]) for name in ("row_score", *sorted(scalars))},
        reasons=dict(Counter(reasons[row] for row in failed).most_common()),
    )


def _mean(values: np.ndarray) -> MeanOfRows:
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return MeanOfRows(np.nan, np.nan, np.nan, 0)
    mean = float(finite.mean())
    error = _NORMAL_95 * float(finite.std(ddof=1)) / finite.size**0.5 if finite.size > 1 else np.nan
    return MeanOfRows(mean, mean - error, mean + error, finite.size)
