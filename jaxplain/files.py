"""Atomic writing of files and folders, with error messages that suggest a remedy.

After a crash, a full disk or Ctrl-C, the previous result is unchanged; readers never see a partial file.
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
    errno.ENOTDIR: "part of this path is a file, not a folder. Choose another folder.",
    errno.EEXIST: "a file exists where a folder is needed. Move it or choose another folder.",
    errno.EISDIR: "this is a folder, not a file. Choose another file name.",
    errno.ENOENT: "the folder does not exist. Create it first.",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
}


class OutputError(OSError):
    """Raised if results cannot be written to a path; the message gives the path, the reason and a remedy.

    Attributes:
      errno: the system's error number, or None if jaxplain itself rejected the path.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file atomically: readers see either the old or the new contents, never a partial file.

    The data is written and synced to a temporary file in the same folder, which is then renamed. After any
    failure, including Ctrl-C, the temporary file is removed and an existing file is unchanged. If `path` is a
    symbolic link, its target is replaced.

    Args:
      path: the file to write; its folder must exist.
      data: the complete contents.

    Raises:
      OutputError: if the folder is missing or not writable, the disk is full, or `path` is a folder.

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
    """Append data to a file and sync it to disk; after an error, the file is unchanged.

    Args:
      path: the file to append to; created if it does not exist.
      data: the bytes to append.

    Raises:
      OutputError: if the folder is missing or not writable, the disk is full, or `path` is a folder.

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
    """Write results to a temporary folder that replaces `final` only once everything has been written.

    The body of the `with` statement writes into a temporary sibling folder. If it succeeds, an existing
    folder is moved aside, the temporary folder is renamed to `final`, and the old folder is deleted; if the
    swap fails, the old folder is moved back. After any exception in the body, including Ctrl-C, the temporary
    folder is removed and `final` is unchanged. (No portable system call swaps two folders, so a power failure
    between the two renames leaves the old result next to `final`, under a name starting with `.jaxplain-`.)

    Args:
      final: the folder to create or replace; missing parents are created.
      marker: a file name (relative to the folder) that identifies a result folder. If given, a non-empty
        folder without this file is not replaced, so that a mistyped path cannot delete other data.

    Yields:
      The temporary folder to write to.

    Raises:
      OutputError: if `final` is a file, is or contains the current folder, or lacks the marker; if its parent
        is not writable; or if the disk fills up while the body is writing.

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
        # Only a full disk is certain to concern the output; other errors may come from the body itself.
        if error.errno in _FULL and not isinstance(error, OutputError):
            raise _output_error(final, error) from error
        raise
    finally:
        if aside.exists() and not final.exists():  # the swap stopped between its two renames
            os.rename(aside, final)
        for leftover in (staging, aside):
            shutil.rmtree(leftover, ignore_errors=True)


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Check that results can be written to a folder, before starting a long computation.

    Creates the folder if needed, then writes and removes a small file. Checking permission bits would not be
    enough: they are meaningless for root and on network drives, and do not reflect free space.

    Args:
      folder: the output folder.

    Returns:
      The folder as a `Path`.

    Raises:
      OutputError: if the folder cannot be created, is not a folder, is read-only or inaccessible, or the disk
        is full.

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
    """Check that a folder may be replaced because it is a previous result; called by `staged_folder`.

    Args:
      final: the folder to be replaced.
      marker: a file name that identifies a result folder. If None, any folder may be replaced.

    Raises:
      OutputError: if `final` is a file, is or contains the current folder, or lacks the marker.

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
            f"cannot replace {final}: it contains files but no {os.fspath(marker)}, so it is not a "
            "jaxplain result. Choose a new or empty folder."
        )


def _output_error(path: Path, error: OSError) -> OutputError:
    """Convert a system error to an `OutputError` that names the path, the reason and a remedy."""
    reason = _REASONS.get(error.errno or 0) or f"{error.strerror or error}. Choose another folder."
    return OutputError(f"cannot write {path}: {reason}", error.errno)


def _sibling(path: Path) -> Path:
    """Return a new hidden path next to `path`; it omits the name, which may already have maximum length."""
    return path.parent / f".jaxplain-{secrets.token_hex(8)}.tmp"


def _write_durably(path: Path, data: bytes) -> None:
    """Create and sync a new file with the usual permissions (tempfile would make it private)."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Sync a file's data or a folder's entries to disk.

    Some systems cannot sync a folder; this is ignored, and only errors that mean lost data are raised.
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
    """Sync all files in a folder before it is renamed; otherwise, the rename could reach the disk first."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent) / name for name in names):
            if path.is_file():  # opening a pipe would block forever
                _sync(path)
        _sync(Path(parent))


def _make_folder(staging: Path, final: Path) -> None:
    """Create the temporary folder and missing parents; errors name `final`, the path the user chose."""
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
