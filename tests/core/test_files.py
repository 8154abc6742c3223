"""Results appear whole or not at all: every way of failing leaves the previous state and no litter."""

import errno
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxplain import files
from jaxplain.files import OutputError, check_writable, staged_folder, write_atomic

FULL = OSError(errno.ENOSPC, "No space left on device")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def raiser(error):
    def fail(*_args, **_kwargs):
        raise error

    return fail


def fail_on_call(function, number, error):
    """`function`, but its call `number` (from 1) raises instead."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == number:
            raise error
        return function(*args, **kwargs)

    return wrapped


# ---------------------------------------------------------------- write_atomic


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_written_bytes_come_back_and_replace_older_ones(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("w") / "a.bin"
    for data in (first, second):
        write_atomic(path, data)
        assert path.read_bytes() == data
    assert names(path.parent) == ["a.bin"]


def test_str_paths_and_the_longest_name(tmp_path):
    path = tmp_path / ("n" * 255)
    write_atomic(str(path), b"x")
    assert path.read_bytes() == b"x"


def test_usual_permissions(tmp_path):
    """tempfile's private 0600 would keep a colleague from reading the result."""
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "atomic", b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_data_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (order.append("replace"), replace(*names))[1])
    write_atomic(tmp_path / "a", b"x")
    assert order == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, raiser(error))
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_readers_never_see_a_part(tmp_path):
    path = tmp_path / "a.bin"
    contents = [bytes([value]) * 200_000 for value in range(2)]
    write_atomic(path, contents[0])
    done = threading.Event()
    seen = set()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        write_atomic(path, contents[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(contents)


def message(call, *args):
    with pytest.raises(OutputError) as caught:
        call(*args)
    assert str(args[0]) in str(caught.value)
    return str(caught.value)


def test_write_errors_name_path_and_reason(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    assert "does not exist" in message(write_atomic, tmp_path / "no" / "a", b"")
    assert "a file, not a folder" in message(write_atomic, tmp_path / "file" / "a", b"")
    assert "folder, not a file" in message(write_atomic, tmp_path / "folder", b"")
    assert "too long" in message(write_atomic, tmp_path / ("n" * 256), b"")
    monkeypatch.setattr(os, "fsync", raiser(FULL))
    assert "disk is full" in message(write_atomic, tmp_path / "a", b"")
    assert names(tmp_path) == ["file", "folder"]


def test_output_error_is_an_os_error_with_number_and_cause(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(FULL))
    with pytest.raises(OSError, match="full") as caught:
        write_atomic(tmp_path / "a", b"")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is FULL


def test_an_error_without_a_ready_reason_is_still_clear(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(OSError(errno.EIO, "Input/output error")))
    assert "Input/output error" in message(write_atomic, tmp_path / "a", b"")


# ---------------------------------------------------------------- staged_folder


@pytest.fixture
def old(tmp_path):
    """An older result of two files."""
    final = tmp_path / "result"
    (final / "deep").mkdir(parents=True)
    (final / "a.txt").write_text("old")
    (final / "deep" / "b.txt").write_text("old too")
    return final


def fill(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "c.txt").write_text("new")


def fill_and_raise(folder, error):
    fill(folder)
    raise error


NEW = {"deep/c.txt": b"new"}


def test_new_folder_appears_only_at_the_end(tmp_path):
    final = tmp_path / "runs" / "today" / "result"
    with staged_folder(final) as staging:
        fill(staging)
        assert not final.exists()
        assert staging.parent == final.parent
    assert tree(final) == NEW
    assert names(final.parent) == ["result"]


def test_older_result_is_replaced_not_merged(old):
    before = tree(old)
    with staged_folder(old) as staging:
        assert names(staging) == []
        fill(staging)
        assert tree(old) == before
    assert tree(old) == NEW
    assert names(old.parent) == ["result"]


@pytest.mark.parametrize("error", [ValueError("body"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("exists", [True, False])
def test_any_exception_in_the_body_changes_nothing(old, error, exists):
    final = old if exists else old.parent / "other"
    before = tree(old)
    with pytest.raises(type(error)), staged_folder(final) as staging:
        fill_and_raise(staging, error)
    assert tree(old) == before
    assert names(old.parent) == ["result"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()], ids=["io", "ctrl-c"]
)
@pytest.mark.parametrize("move", [1, 2])
def test_a_failed_swap_restores_the_older_result(old, monkeypatch, move, error):
    before = tree(old)
    monkeypatch.setattr(os, "rename", fail_on_call(os.rename, move, error))
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected), staged_folder(old) as staging:
        fill(staging)
    assert tree(old) == before
    assert names(old.parent) == ["result"]


def test_a_failed_swap_of_a_first_result_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "rename", raiser(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OutputError, match="I/O error"), staged_folder(tmp_path / "r") as staging:
        fill(staging)
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_data_lost_on_the_way_to_the_disk_is_no_success(old, monkeypatch, number):
    """Some file systems report a full disk only when they are asked to sync."""
    before = tree(old)
    monkeypatch.setattr(os, "fsync", raiser(OSError(number, os.strerror(number))))
    with pytest.raises(OutputError), staged_folder(old) as staging:
        fill(staging)
    assert tree(old) == before
    assert names(old.parent) == ["result"]


def test_a_system_that_cannot_sync_folders_is_fine(old, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(OSError(errno.EINVAL, "Invalid argument")))
    with staged_folder(old) as staging:
        fill(staging)
    assert tree(old) == NEW


def test_ctrl_c_while_the_old_one_is_deleted_keeps_the_new_one_whole(old, monkeypatch):
    monkeypatch.setattr(shutil, "rmtree", fail_on_call(shutil.rmtree, 1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt), staged_folder(old) as staging:
        fill(staging)
    assert tree(old) == NEW


def test_a_full_disk_in_the_body_is_an_output_error(old):
    before = tree(old)
    with pytest.raises(OutputError, match="disk is full") as caught, staged_folder(old):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(old) in str(caught.value)
    assert tree(old) == before


def test_other_errors_of_the_body_pass_unchanged(tmp_path):
    error = FileNotFoundError(errno.ENOENT, "No such file", "input.png")
    with pytest.raises(FileNotFoundError) as caught, staged_folder(tmp_path / "r"):
        raise error
    assert caught.value is error


def test_an_output_error_of_the_body_passes_unchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", raiser(FULL))
    with pytest.raises(OutputError) as caught, staged_folder(tmp_path / "r") as staging:
        write_atomic(staging / "inner.png", b"x")
    assert "inner.png" in str(caught.value)


def test_a_linked_result_folder_stays_linked(tmp_path, old):
    link = tmp_path / "link"
    link.symlink_to(old)
    with staged_folder(link) as staging:
        fill(staging)
    assert link.is_symlink()
    assert tree(old) == NEW


def test_a_file_in_the_way_is_refused_and_kept(tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError, match="a file exists where"), staged_folder(tmp_path / "taken"):
        pytest.fail("the body must not run")
    with pytest.raises(OutputError, match="a file exists where"), staged_folder(tmp_path / "taken" / "r"):
        pytest.fail("the body must not run")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("up", [".", ".."])
def test_the_current_folder_is_never_replaced(old, monkeypatch, up):
    monkeypatch.chdir(old / "deep")
    before = tree(old)
    with pytest.raises(OutputError, match="current folder"), staged_folder(up):
        pytest.fail("the body must not run")
    assert tree(old) == before


def test_marker_guards_folders_that_are_not_results(old, tmp_path):
    before = tree(old)
    with pytest.raises(OutputError, match=r"no result\.json"), staged_folder(old, marker="result.json"):
        pytest.fail("the body must not run")
    assert tree(old) == before
    (old / "result.json").write_text("{}")
    with staged_folder(old, marker="result.json") as staging:
        fill(staging)
    assert tree(old) == NEW
    (tmp_path / "empty").mkdir()
    with staged_folder(tmp_path / "empty", marker="result.json") as staging:
        fill(staging)
    assert tree(tmp_path / "empty") == NEW


def test_two_at_once_do_not_disturb_each_other(tmp_path):
    with staged_folder(tmp_path / "r") as one, staged_folder(tmp_path / "s") as two:
        assert one != two
        (one / "x").write_text("1")
        (two / "x").write_text("2")
    assert tree(tmp_path) == {"r/x": b"1", "s/x": b"2"}


# ---------------------------------------------------------------- check_writable


def test_creates_the_folder_and_leaves_it_empty(tmp_path):
    folder = check_writable(str(tmp_path / "a" / "b"))
    assert folder == Path(tmp_path / "a" / "b")
    assert names(folder) == []
    (folder / "kept").write_text("x")
    check_writable(folder)
    assert names(folder) == ["kept"]


def test_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    assert "a file exists where" in message(check_writable, tmp_path / "file")
    assert "not a folder" in message(check_writable, tmp_path / "file" / "below")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
    ],
)
def test_the_probe_really_writes(tmp_path, monkeypatch, number, reason):
    """A folder that exists and looks fine, on which the write itself fails."""
    monkeypatch.setattr(files.os, "fsync", raiser(OSError(number, os.strerror(number))))
    assert reason in message(check_writable, tmp_path)
    assert names(tmp_path) == []
