"""Results that appear whole or not at all, and output errors that say what to do.

A crash, a full disk or Ctrl-C leaves the previous result as it was; nobody ever reads half a file.
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
    errno.EEXIST: "a file stands where a folder is needed. Move it or choose another folder.",
    errno.EISDIR: "this is a folder, not a file. Choose another file name.",
    errno.ENOENT: "the folder does not exist. Create it first.",
    errno.ENAMETOOLONG: "the name is too long. Choose a shorter one.",
}


class OutputError(OSError):
    """A place that results cannot be written to. The message names the path, the reason and the way out.

    Attributes:
        errno: the system's error number, or None where jaxplain itself refuses the place.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.errno = number


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that readers see the old content or all of the new, never a part.

    The bytes go to a temporary name in the same folder, reach the disk, and only then take the final name.
    On any failure, Ctrl-C included, the temporary is removed and an existing file stays as it was. Where
    ``path`` is a symbolic link, the file it points to is replaced.

    Args:
        path: the file; its folder must exist.
        data: the whole content.

    Raises:
        OutputError: the folder is missing, not writable or full, or ``path`` is a folder.

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
            with contextlib.suppress(OSError):  # already renamed, or never made
                temporary.unlink()
        _sync(path.parent)
    except OSError as error:
        raise _output_error(path, error) from error


def append_durably(path: str | os.PathLike[str], data: bytes) -> None:
    """Add bytes to the end of a file: all of them, on the disk when this returns, or none.

    Args:
        path: the file; made if it is not there.
        data: what to add.

    Raises:
        OutputError: the folder is missing, not writable or full, or ``path`` is a folder.

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
    """Fill a folder of results that replaces the previous one only when all is written.

    The body of the ``with`` writes into a temporary sibling folder. When it ends well, an existing folder is
    moved aside, the new one takes its name, and the old one is deleted; should that swap fail, the old one
    is moved back. On any exception in the body, Ctrl-C included, the temporary is removed and ``final`` is
    untouched. (The system offers no exchange of two folders in one step: a power cut between the two
    renames leaves the old result beside ``final``, under a name starting with ``.jaxplain-``.)

    Args:
        final: the folder to make or replace; missing parents are created.
        marker: a file name (relative to the folder) that tells a result folder from any other. If given, an
            existing folder that is neither empty nor holds this file is refused, so that a mistyped output
            folder does not cost someone their holiday photos.

    Yields:
        The temporary folder to write into.

    Raises:
        OutputError: ``final`` is a file, the current folder or one around it, or lacks the marker; its parent
            cannot be written; or the disk filled up while the body wrote.

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
        # Only a full disk is surely about the output; other errors of the body are its own.
        if error.errno in _FULL and not isinstance(error, OutputError):
            raise _output_error(final, error) from error
        raise
    finally:
        if aside.exists() and not final.exists():  # the swap stopped between its two moves
            os.rename(aside, final)
        for leftover in (staging, aside):
            shutil.rmtree(leftover, ignore_errors=True)


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Make sure that results can be written, before hours of work depend on it.

    Creates the folder if needed and really writes (and removes) a small file in it: permission bits tell
    nothing to root, on network disks, or about free space.

    Args:
        folder: the output folder.

    Returns:
        The folder as a `Path`.

    Raises:
        OutputError: it cannot be made, is not a folder, or is read-only, forbidden or full.

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
    except FileNotFoundError as error:  # though it was just made, or in a place such as /proc
        raise OutputError(
            f"cannot write {folder}: nothing can be made there. Choose another folder.", error.errno
        ) from error
    except OSError as error:
        raise _output_error(folder, error) from error
    return folder


def check_replaceable(final: str | os.PathLike[str], marker: str | os.PathLike[str] | None) -> None:
    """Refuse to replace what is not, or may not be, an older result; `staged_folder` asks this itself.

    Args:
        final: the folder that a result would replace.
        marker: a file name that tells a result folder from any other.

    Raises:
        OutputError: ``final`` is a file, the current folder or one around it, or lacks the marker.

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
                f"cannot replace {final}: it is, or holds, the current folder. Name a new folder inside it."
            )
    if marker is not None and not (final / marker).exists() and any(final.iterdir()):
        raise OutputError(
            f"cannot replace {final}: it holds files but no {os.fspath(marker)}, so it is no older result. "
            "Choose a new or an empty folder."
        )


def _output_error(path: Path, error: OSError) -> OutputError:
    """The system's error as one that names the place, the reason and the way out."""
    reason = _REASONS.get(error.errno or 0) or f"{error.strerror or error}. Choose another folder."
    return OutputError(f"cannot write {path}: {reason}", error.errno)


def _sibling(path: Path) -> Path:
    """A fresh hidden name beside `path`; not built on its name, which may have the longest length allowed."""
    return path.parent / f".jaxplain-{secrets.token_hex(8)}.tmp"


def _write_durably(path: Path, data: bytes) -> None:
    """Create a file that must not exist, with the usual permissions (tempfile would make it private)."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Push a file's data or a folder's names to the disk.

    Some systems cannot sync a folder, and that is no reason to fail; lost data is.
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
    """A rename can reach the disk before the data it names; so the data goes first."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent) / name for name in names):
            if path.is_file():  # opening a pipe would wait for ever
                _sync(path)
        _sync(Path(parent))


def _make_folder(staging: Path, final: Path) -> None:
    """Make the temporary folder and its missing parents, blaming `final`, the name that the user knows."""
    try:
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.mkdir()
    except OSError as error:
        raise _output_error(final, error) from error


def _swap(staging: Path, final: Path, aside: Path) -> None:
    """Put `staging` in the place of `final`. If it stops halfway, the caller moves `aside` back."""
    try:
        _sync_tree(staging)
        if final.exists():
            os.rename(final, aside)
        os.rename(staging, final)
    except OSError as error:
        raise _output_error(final, error) from error
    _sync(final.parent)
