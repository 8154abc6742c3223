"""Where results lie: a folder, or an address that TensorStore knows; its errors in plain words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorstore as ts

from jaxplain.files import OutputError, check_writable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FULL = ("No space left on device", "Disk quota exceeded")


class StoreError(ValueError):
    """A store that is not what the run needs; says what differs and what to do."""


class Place:
    """Where a store lies: a folder, or an address that TensorStore knows ("gs://bucket/results.zarr")."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._store: ts.KvStore | None = None

    def spec(self, below: str = "") -> dict[str, Any] | str:
        """What TensorStore opens: all of it, or an array below it."""
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
        """All of it, as keys and bytes."""
        if self._store is None:
            with plain_errors(self.name):
                self._store = ts.KvStore.open(self.spec()).result()
        return self._store


@contextmanager
def exclusively(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other runs out while this one may write, and clear away what a killed one left half written.

    Two runs that write to one chunk would undo each other's rows. The system forgets the lock with the
    process. Only for folders.

    Raises:
      StoreError: another run holds it.
      OutputError: the folder cannot be made.
    """
    folder = Place(path).folder
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


@contextmanager
def plain_errors(path: str) -> Iterator[None]:
    """What TensorStore raises becomes an error in plain words."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        if any(full in text for full in _FULL):
            raise OutputError(
                f"cannot write {path}: the disk is full. Free some space; what is committed stays."
            ) from error
        raise OutputError(
            f"cannot read or write {path}: {text.splitlines()[0].rstrip('.')}. Check the address, and "
            "that you may write there."
        ) from error


def done(future: Any, path: str) -> Any:
    """The result of a TensorStore operation.

    Raises:
      OutputError: it failed.
    """
    with plain_errors(path):
        return future.result()
