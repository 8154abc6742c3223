"""Atomic writes of files and folders, and output errors that suggest a remedy.

A crash, a full disk or Ctrl-C leaves the previous result unchanged; readers never see a partial file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 4096

_REASONS = {
    errno.ENOSPC: "the disk is full. Free some space or choose another folder.",
    errno.EDQUOT: "your disk quota is used up. Free some space or choose another folder.",
    errno.EACCES: "no permission to write there. Change the permissions or choose another folder.",
    errno.EPERM: "no permission to write there. Change the permissions or choose another folder.",
    errno.EROFS: "the file system is read-only. Choose another folder.",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another folder.",
    errno.EEXIST: "a file exists where a folder is needed. Move it or choose another folder.",
    errno.EISDIR: "this is a folder, not a file. Choose another file name.",
    errno.ENOENT: "the folder does not exist. Create it first.",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
}


class OutputError(OSError):
    """Results cannot be written to a path. The message names the path, the reason and a remedy.

    Attributes:
      errno: the system's error number, or None if jaxplain itself refuses the path.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that readers see either the old or the new content, never part of it.

    The bytes are written and synced to a temporary file in the same folder, which is then renamed. After any
    failure, including Ctrl-C, the temporary file is removed and an existing file is unchanged. If `path` is a
    symbolic link, its target is replaced.

    Args:
      path: the file; its folder must exist.
      data: the complete content.

    Raises:
      OutputError: the folder is missing, not writable or full, or `path` is a folder.

    Example:
      >>> write_atomic("/tmp/mask.bin", b"abc")
    """
    path = Path(os.path.realpath(path))
    temporary = _sibling(path)
    try:
        try:
            _write_durably(temporary, data)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # already renamed, or never created
                temporary.unlink()
        _sync(path.parent)
    except OSError as error:
        raise _output_error(path, error) from error


def append_durably(path: str | os.PathLike[str], data: bytes) -> None:
    """Append bytes to a file: all of them, synced to the disk, or none.

    Args:
      path: the file; created if it is missing.
      data: the bytes to append.

    Raises:
      OutputError: the folder is missing, not writable or full, or `path` is a folder.

    Example:
      >>> append_durably("rows.txt", b"one more")
    """
    try:
        with open(path, "ab") as file:
            end = file.tell()
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                with contextlib.suppress(OSError):
                    os.truncate(path, end)
                raise
    except OSError as error:
        raise _output_error(Path(path), error) from error


@contextlib.contextmanager
def staged_folder(
    final: str | os.PathLike[str], *, marker: str | os.PathLike[str] | None = None
) -> Iterator[Path]:
    """Fill a folder that replaces the previous one only when everything is written.

    The body of the `with` statement writes into a temporary sibling folder. If it succeeds, an existing
    folder is moved aside, the new one takes its name, and the old one is deleted; if that swap fails, the old
    one is moved back. After any exception in the body, including Ctrl-C, the temporary folder is removed and
    `final` is unchanged. (No portable system call swaps two folders: a power failure between the two renames
    leaves the old result next to `final`, under a name starting with `.jaxplain-`.)

    Args:
      final: the folder to create or replace; missing parents are created.
      marker: a file name (relative to the folder) that identifies a result folder. If given, an existing
        folder that is neither empty nor holds this file is refused, so that a mistyped output folder
        cannot delete other data.

    Yields:
      The temporary folder to write into.

    Raises:
      OutputError: `final` is a file, contains or is the current folder, or lacks the marker; its parent
        is not writable; or the disk filled up while the body was writing.

    Example:
      >>> with staged_folder("/tmp/jaxplain-doc", marker="result.json") as folder:
      ...     _ = (folder / "result.json").write_text("{}")
    """
    final = Path(os.path.realpath(final))
    check_replaceable(final, marker)
    staging, aside = _sibling(final), _sibling(final)
    _make_folder(staging, final)
    try:
        yield staging
        _swap(staging, final, aside)
    except OSError as error:
        # Only a full disk certainly concerns the output; other errors are the body's own.
        if error.errno in _FULL and not isinstance(error, OutputError):
            raise _output_error(final, error) from error
        raise
    finally:
        if aside.exists() and not final.exists():  # the swap stopped between its two renames
            os.rename(aside, final)
        for leftover in (staging, aside):
            shutil.rmtree(leftover, ignore_errors=True)


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Check that results can be written, before hours of work depend on that.

    Creates the folder if needed, then writes and removes a small file: permission bits are meaningless for
    root and on network disks, and do not reflect free space.

    Args:
      folder: the output folder.

    Returns:
      The folder as a `Path`.

    Raises:
      OutputError: it cannot be created, is not a folder, or is read-only, inaccessible or full.

    Example:
      >>> check_writable("/tmp/jaxplain-doc").name
      'jaxplain-doc'
    """
    folder = Path(folder)
    probe = _sibling(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _write_durably(probe, bytes(_PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except FileNotFoundError as error:  # even though it was just created, or in a location such as /proc
        raise OutputError(
            f"cannot write {folder}: nothing can be created there. Choose another folder.", error.errno
        ) from error
    except OSError as error:
        raise _output_error(folder, error) from error
    return folder


def check_replaceable(final: str | os.PathLike[str], marker: str | os.PathLike[str] | None) -> None:
    """Refuse to replace anything but a previous result; `staged_folder` calls this itself.

    Args:
      final: the folder to be replaced.
      marker: a file name that identifies a result folder; None accepts any folder.

    Raises:
      OutputError: `final` is a file, contains or is the current folder, or lacks the marker.

    Example:
      >>> check_replaceable("/tmp/jaxplain-nothing-here", "result.json")
    """
    final = Path(os.path.realpath(final))
    if not final.exists():
        return
    if not final.is_dir():
        raise _output_error(final, FileExistsError(errno.EEXIST, "File exists"))
    with contextlib.suppress(FileNotFoundError):  # the current folder may itself be gone
        if Path.cwd().resolve().is_relative_to(final):
            raise OutputError(
                f"cannot replace {final}: it is, or contains, the current folder. Choose a folder inside it."
            )
    if marker is not None and not (final / marker).exists() and any(final.iterdir()):
        raise OutputError(
            f"cannot replace {final}: it holds files but no {os.fspath(marker)}, so it is not a result. "
            "Choose a new or an empty folder."
        )


def _output_error(path: Path, error: OSError) -> OutputError:
    """Convert a system error to an `OutputError` that names the path, the reason and a remedy."""
    reason = _REASONS.get(error.errno or 0) or f"{error.strerror or error}. Choose another folder."
    return OutputError(f"cannot write {path}: {reason}", error.errno)


def _sibling(path: Path) -> Path:
    """Return a new hidden path next to `path`; not derived from its name, which may have maximal length."""
    return path.parent / f".jaxplain-{secrets.token_hex(8)}.tmp"


def _write_durably(path: Path, data: bytes) -> None:
    """Create and sync a new file with the usual permissions (tempfile would make it private)."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Sync a file's data or a folder's entries to the disk.

    Some systems cannot sync a folder, which is ignored; only errors that mean lost data are raised.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in (*_FULL, errno.EIO):
            raise


def _sync_tree(folder: Path) -> None:
    """Sync all files of a folder: a rename may reach the disk before the data, so the data goes first."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent) / name for name in names):
            if path.is_file():  # opening a pipe would block forever
                _sync(path)
        _sync(Path(parent))


def _make_folder(staging: Path, final: Path) -> None:
    """Create the temporary folder and its missing parents; errors name `final`, which the user chose."""
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        raise _output_error(final, error) from error


def _swap(staging: Path, final: Path, aside: Path) -> None:
    """Replace `final` with `staging`. If this stops halfway, the caller moves `aside` back."""
    try:
        _sync_tree(staging)
        if final.exists():
            os.rename(final, aside)
        os.rename(staging, final)
    except OSError as error:
        raise _output_error(final, error) from error
    _sync(final.parent)
