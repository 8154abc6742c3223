"""Components of a result store: its location, lock, error messages and text columns."""

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorstore as ts

from jaxplain.files import OutputError, check_writable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

ROW = "row"  # name of the first axis
_DISK_FULL = ("No space left on device", "Disk quota exceeded")


class StoreError(ValueError):
    """Raised if a store does not match the run; the message states the difference and what to do."""


class StoreLocation:
    """Location of a store: a folder, or a URL that TensorStore supports ("gs://bucket/results.zarr")."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._store: ts.KvStore | None = None

    @property
    def folder(self) -> Path | None:
        """The folder, or None if the location is a URL."""
        return None if "://" in self.name else Path(self.name)

    def spec(self, array: str = "") -> dict[str, Any] | str:
        """Return the TensorStore spec of the whole store, or of one array in it."""
        ending = f"{array}/" if array else ""
        if "://" in self.name:
            return f"{self.name.rstrip('/')}/{ending}"
        # TensorStore's lock files are not safe: one left behind by a killed process is overwritten without
        # being truncated, and its last bytes end up in the chunk. Chunks have one writer, so need no lock.
        path = f"{Path(self.name).absolute()}/{ending}"
        return {"driver": "file", "path": path, "file_io_locking": {"mode": "none"}}

    def store(self) -> ts.KvStore:
        """Return the whole store as a mapping from keys to bytes."""
        if self._store is None:
            with plain_errors(self.name):
                self._store = ts.KvStore.open(self.spec()).result()
        return self._store


@contextmanager
def exclusively(path: str | os.PathLike[str]) -> Iterator[None]:
    """Lock a folder against writes by other runs, and remove incomplete files left by a killed run.

    Two runs writing to the same chunk would overwrite each other's rows. The operating system releases the
    lock when the process exits. URLs are not locked.

    Raises:
      StoreError: another run holds the lock.
      OutputError: the folder cannot be created.
    """
    folder = StoreLocation(path).folder
    if folder is None or fcntl is None:
        yield
        return
    handle = os.open(check_writable(folder), os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"another run is writing to {folder}; wait for it to finish, or stop it."
            ) from None
        for leftover in folder.rglob("*.__lock"):  # TensorStore's name for files being written
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def plain_errors(path: str) -> Iterator[None]:
    """Convert TensorStore's exceptions to an `OutputError` with a readable message."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        if any(message in text for message in _DISK_FULL):
            raise OutputError(
                f"cannot write {path}: the disk is full. Free some space; committed rows are safe."
            ) from error
        raise OutputError(
            f"cannot read or write {path}: {text.splitlines()[0].rstrip('.')}. Check the location and your "
            "write permission."
        ) from error


def finished_io(future: Any, path: str) -> Any:
    """Wait for a TensorStore operation; raise an `OutputError` if it failed."""
    with plain_errors(path):
        return future.result()


# ---------------------------------------------------------------------------------------------------------
# Columns of text


class TextColumn:
    """A text array [N] in a Zarr v3 store; TensorStore itself cannot write text.

    The format is Zarr's `string` data type with the `vlen-utf8` codec; see `encode_texts`. Unwritten rows
    are "".

    Args:
      store: the group's store.
      name: name of the array.
      chunk_rows: rows per chunk.
    """

    def __init__(self, store: ts.KvStore, name: str, chunk_rows: int) -> None:
        self._store, self._name, self._chunk_rows = store, name, chunk_rows

    def create(self) -> None:
        """Create the column with no rows, deleting any existing data."""
        self._store.delete_range(ts.KvStore.KeyRange(f"{self._name}/c/", f"{self._name}/c0")).result()
        self.resize(0)

    def resize(self, rows: int) -> None:
        """Set the number of rows."""
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows],
            "data_type": "string",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self._chunk_rows]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "",
            "codecs": [{"name": "vlen-utf8"}],
            "dimension_names": [ROW],
        }
        self._store.write(f"{self._name}/zarr.json", json.dumps(metadata).encode()).result()

    def read(self, rows: int) -> list[str]:
        """Return the text of rows 0..rows-1; "" for rows whose chunk is missing or damaged."""
        chunks = range(-(-rows // self._chunk_rows))
        return [text for chunk in chunks for text in self._chunk(chunk)][:rows]

    def write(self, texts: Mapping[int, str]) -> None:
        """Write the given rows."""
        by_chunk: dict[int, dict[int, str]] = {}
        for row, text in texts.items():
            by_chunk.setdefault(row // self._chunk_rows, {})[row % self._chunk_rows] = text
        for chunk, changes in by_chunk.items():
            before = self._chunk(chunk)
            after = [changes.get(index, text) for index, text in enumerate(before)]
            if after != before:  # most reasons are "" and never change
                self._store.write(self._key(chunk), encode_texts(after)).result()

    def _chunk(self, chunk: int) -> list[str]:
        answer = self._store.read(self._key(chunk)).result()
        texts = decode_texts(answer.value) if answer.state == "value" else None
        return texts if texts is not None and len(texts) == self._chunk_rows else [""] * self._chunk_rows

    def _key(self, chunk: int) -> str:
        return f"{self._name}/c/{chunk}"


def encode_texts(texts: Sequence[str]) -> bytes:
    """Encode a chunk: the number of strings, then the length and the UTF-8 bytes of each string.

    The count and the lengths are little-endian uint32.

    Example:
      >>> encode_texts(["a"])
      b'\\x01\\x00\\x00\\x00\\x01\\x00\\x00\\x00a'
    """
    contents = [text.encode() for text in texts]
    return struct.pack("<I", len(contents)) + b"".join(
        struct.pack("<I", len(content)) + content for content in contents
    )


def decode_texts(data: bytes) -> list[str] | None:
    """Decode a chunk into its strings; return None if it is damaged.

    Example:
      >>> decode_texts(encode_texts(["a", "ü"])), decode_texts(b"\\x01\\x00\\x00\\x00\\x05")
      (['a', 'ü'], None)
    """
    try:
        (count,) = struct.unpack_from("<I", data)
        texts, start = [], 4
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, start)
            content = data[start + 4 : start + 4 + length]
            if len(content) < length:
                return None
            texts.append(content.decode())
            start += 4 + length
    except (struct.error, UnicodeDecodeError):
        return None
    return texts if start == len(data) else None
