"""Every error of the command line names the next step, and is reported before anything is compiled."""

import json
from pathlib import Path

import pytest
from support import tiny
from support.tiny import write_photo
from typer.testing import CliRunner

import jaxplain
from jaxplain import zoo
from jaxplain.cli import app as cli
from jaxplain.cli.run import with_advice


@pytest.fixture(autouse=True)
def small_world(tmp_path, monkeypatch):
    """A photo, a file, an empty folder, one of classes, damaged results; a model with shipped weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("photos/a.png", "classes/one/a.png", "classes/two/b.png"):
        write_photo(Path(name))
    Path("empty").mkdir()
    Path("file").write_text("text")
    for name, record in {"cut": "{", "bare": "{}", "list": "[]"}.items():
        Path(name).mkdir()
        Path(name, "xnn.json").write_text(record)
        Path(name, "zarr.json").write_text(record)
    Path("graphs/a").mkdir(parents=True)
    Path("graphs/a/sag.json").write_text("{")


PHOTO, TINY = "photos/a.png", ("--model", "tiny")
FOLDER = "check the spelling and the current folder"
FIT = "fit again with jaxplain xnn fit"
CASES = [
    (("compare", "missing"), FOLDER),
    (("batch", "missing"), FOLDER),
    (("sag-stats", "missing"), FOLDER),
    (("xnn", "fit", "missing"), FOLDER),
    (("compare", "file"), "name the folder that contains the photos"),
    (("batch", "file"), "name the folder that contains the photos"),
    (("compare", "empty"), "choose a folder with photos (.jpg, .png, .tif, ...)"),
    (("batch", "empty"), "choose a folder with photos (.jpg, .png, .tif, ...)"),
    (("sag-stats", "empty"), "choose a folder of photos or of results"),
    (("sag-stats", "graphs"), "recreate it with jaxplain sag, or remove its folder"),
    (("xnn", "fit", "empty"), "sort the photos into sub-folders"),
    (("xnn", "fit", "classes", *TINY, "--classes", "on"), "did you mean 'one'"),
    (("xnn", "fit", "classes", *TINY, "--classes", ","), "separate names with commas"),
    (("xnn", "fit", "classes", *TINY, "--layer", "map"), "did you mean 'maps'"),
    (("xnn", "fit", "classes", *TINY, "--epochs", "0"), "epochs must be at least 1, got 0"),
    (("xnn", "fit", "classes", *TINY, "--features", "file"), "move it or choose another folder"),
    (("xnn", "report", "missing"), "name a folder written by jaxplain xnn fit, or run that first"),
    (("xnn", "report", "file"), "name a folder written by jaxplain xnn fit, or run that first"),
    (("xnn", "report", "cut"), FIT),
    (("xnn", "explain", "bare", PHOTO), FIT),
    (("xnn", "explain", "list", PHOTO), FIT),
    (("batch-report", "missing"), "name the folder passed to jaxplain batch --out"),
    (("batch-report", "bare"), "name a new folder, or one from an earlier run"),
    (("explain", PHOTO, *TINY, "--size", "99"), "choose a smaller size"),
    (("report", PHOTO, *TINY, "--size", "99"), "choose a smaller size"),
    (("sag", PHOTO, *TINY, "--grid", "99"), "choose a smaller grid"),
    (("explain", PHOTO, *TINY, "--target", "5000"), "choose an index from 0"),
    (("predict", PHOTO, *TINY, "--weights", "missing.pth"), "check the path and its permissions"),
    (("predict", PHOTO, *TINY, "--weights", "file"), "copy or download it again, or pass another file"),
    (("predict", PHOTO, "--model", "resnet50"), "--weights on the command line"),
    (("demo", "--method", "gradcam"), "did you mean 'grad-cam'"),
    (("explain", PHOTO, *TINY, "--method", "grad-cam", "--size", "7"), "its options are: "),
]


@pytest.mark.parametrize(("args", "remedy"), CASES, ids=lambda value: " ".join(value[:3]))
def test_an_error_says_what_to_do(args, remedy):
    done = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, args)
    assert done.exit_code == 2, done.output
    message = " ".join(done.stderr.split())
    assert remedy in message.lower().partition("error ")[2]
    for word in ("Traceback", "compiling", "features of"):
        assert word not in done.output


def test_a_folder_among_photos_says_how_to_name_those_in_it():
    done = CliRunner().invoke(cli.app, ["predict", "photos", *TINY])
    assert done.exit_code == 1
    assert "Name the files in it, such as photos/*.jpg." in " ".join(done.stderr.split())


def test_every_status_says_what_to_do():
    for status in jaxplain.Status:
        assert status.name == "OK" or any(mark in status.message for mark in ":;"), status.message


def test_out_of_memory_says_what_to_do():
    assert "To use less memory" in with_advice(MemoryError("Unable to allocate 9 GiB"))
    assert (
        with_advice(ZeroDivisionError("x")) == "ZeroDivisionError: x (JAXPLAIN_DEBUG=1 shows the traceback)"
    )


def test_a_store_of_a_later_format_says_who_can_read_it():
    record = {"attributes": {"jaxplain": {"format": 99}}}
    Path("bare/zarr.json").write_text(json.dumps(record))
    done = CliRunner().invoke(cli.app, ["batch-report", "bare"])
    assert "or the version that wrote it" in " ".join(done.stderr.split())
