"""`jaxplain report` as its users meet it."""

import re
from pathlib import Path

import numpy as np
import pytest
from support import report_runs, tiny
from support.page_reader import PageReader, assert_self_contained
from support.tiny import write_photo
from typer.testing import CliRunner

from jaxplain import zoo
from jaxplain.cli import report_commands as command
from jaxplain.files import OutputError
from jaxplain.methods import METHODS, MethodSpec

QUICK = ("--model", "tiny", "--size", "4", "--methods", "gradient,smooth-grad")
PLAIN = (*QUICK[:4], "--methods", "gradient", "--no-sag", "--no-sanity")


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with installed weights, and no program compiled twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    report_runs.make_quick(monkeypatch)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")


def run(*args):
    return CliRunner(env={"COLUMNS": "160"}).invoke(command.app, list(map(str, args)))


def words(text):
    return " ".join(text.split())


def read(path="report.html"):
    return PageReader(Path(path).read_text(encoding="utf-8"))


def test_one_file_has_everything():
    write_photo(Path("a.png"))
    model = tiny.tiny_model()
    label = tiny.LABELS[int(np.argmax(model(model.preprocess(tiny.photo())[None])[0]))]
    done = run("a.png", *QUICK)
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path().iterdir()} == {"a.png", "report.html", "site"}
    text = Path("report.html").read_text(encoding="utf-8")
    page = assert_self_contained(text)
    assert "<script" not in text
    assert len(text) < 1_000_000
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert f"Why tiny predicts {label}" in page.text
    assert page.classes.count("card") == page.classes.count("curves") == 2
    assert page.classes.count("check") == 3  # with the control
    assert page.classes.count("graph") == 1
    row = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["a.png"])
    assert row.split()[1:2] == label.split()[:1]
    assert " 2 of 2 " in row
    assert "Open report.html in a browser" in words(done.stdout)


def test_several_photos_are_sections_and_one_that_cannot_be_read_is_named():
    write_photo(Path("a.png")), write_photo(Path("b.png"), 1)
    Path("bad.png").write_text("no photo")
    done = run("a.png", "bad.png", "b.png", "a.png", *PLAIN, "--out", "new/page.html")
    assert done.exit_code == 1
    assert "1 of 3 photos failed" in done.stderr
    assert "Traceback" not in done.output
    page = assert_self_contained(Path("new/page.html").read_text(encoding="utf-8"))
    assert page.classes.count("photo") == 2
    assert page.addresses.count("#photo-1") == page.addresses.count("#photo-2") == 1
    assert "Not on this page: bad.png" in page.text
    assert [path.name for path in Path("new").iterdir()] == ["page.html"]


def test_nothing_is_written_where_nothing_can_be_read():
    Path("bad.png").write_text("no photo")
    assert run("bad.png", *PLAIN).exit_code == 1
    assert not Path("report.html").exists()


def test_what_failed_is_on_the_page_and_on_the_screen(monkeypatch):
    write_photo(Path("a.png"))
    flat = MethodSpec(lambda score, image, baseline: image[:4, :4, 0] * 0, "Flat", "A method of your own.")
    monkeypatch.setitem(METHODS, "flat", flat)
    monkeypatch.setattr("jaxplain.runs.report_runs.graph_view", lambda *args: 1 / 0)
    done = run("a.png", *PLAIN[:4], "--methods", "flat,gradient", "--no-sanity")
    assert done.exit_code == 0, done.output
    assert "Failed on this photo: Flat." in read().text
    assert "a.png: flat: the map is constant" in words(done.stderr)
    assert "a.png: attention graph: ZeroDivisionError: division by zero" in words(done.stderr)
    assert " 1 of 2 " in done.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--methods", "gradent"), "did you mean 'gradient'"),
        (("--methods", ","), "--methods needs at least one name"),
        (("--size", "0"), "size must be at least 1, got 0"),
        (("--size", "33"), "finer than the input of tiny"),
        (("--baseline", "blak"), "did you mean 'black'"),
        (("--seed", "-1"), "seed must be in 0.."),
        (("--target", "tabbby"), "tabby"),
        (("--target", "1000"), "1000"),
        (("--model", "tinny"), "tinny"),
        (("--out", "page.png"), "--out must be a file that ends in .html, got page.png"),
        (("--out", "folder.html"), "--out must be a file that ends in .html, got folder.html"),
        (("--out", "diary.html"), "diary.html exists and is not a jaxplain report"),
        (("--out", "a.png/page.html"), "a.png"),
    ],
)
def test_a_wrong_command_is_refused_before_any_work(monkeypatch, args, message):
    write_photo(Path("a.png"))
    Path("diary.html").write_text("mine")
    Path("folder.html").mkdir()
    monkeypatch.setattr(command, "compile_report", None)
    done = run("a.png", "--model", "tiny", "--methods", "gradient", *args)
    assert done.exit_code == 2
    assert message in words(done.stderr)
    assert "Traceback" not in done.output
    assert Path("diary.html").read_text() == "mine"
    assert not Path("report.html").exists()


def test_its_own_page_is_replaced_and_ctrl_c_keeps_the_photos_that_are_done(monkeypatch):
    for seed, name in enumerate("abc"):
        write_photo(Path(f"{name}.png"), seed)
    assert run("a.png", "b.png", *PLAIN).exit_code == 0
    real, calls = command.report_photo, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(command, "report_photo", interrupted)
    done = run("c.png", "a.png", "b.png", *PLAIN)
    assert done.exit_code == 130
    assert "1 of 3 photos done" in words(done.stderr)
    page = read()
    assert page.classes.count("photo") == 1
    assert "c.png" in page.text


def test_a_disk_that_is_full_fails_the_photo_and_keeps_the_older_page(monkeypatch):
    write_photo(Path("a.png"))
    assert run("a.png", *PLAIN).exit_code == 0
    before = Path("report.html").read_bytes()

    def full(path, data):
        raise OutputError("cannot write report.html: the disk is full.")

    monkeypatch.setattr(command, "write_atomic", full)
    done = run("a.png", *PLAIN, "--seed", "1")
    assert done.exit_code == 1
    assert "the disk is full" in done.stderr
    assert Path("report.html").read_bytes() == before


def test_progress_is_shown_and_help_has_examples():
    write_photo(Path("a.png"))
    done = run("a.png", *QUICK)
    lines = [line for line in done.stderr.splitlines() if line.startswith("[1/1]")]
    assert "[1/1] compiling smooth-grad" in lines
    assert "[1/1] compiling the attention graph" in lines
    assert "[1/1] a.png: smooth-grad" in lines
    assert "[1/1] a.png: attention graph" in lines
    assert re.search(r"Examples:.*jaxplain report ", run("--help").stdout, re.DOTALL)


def test_a_hostile_file_name_is_only_a_name():
    name = "<b onload='x'>&amp;$a{{ b }}\x1b\udcff.png"
    try:
        write_photo(Path(name))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    done = run(name, *PLAIN)
    assert done.exit_code == 0, done.output
    shown = "<b onload='x'>&amp;$a{{ b }}\x1b\\udcff.png"
    assert read().text.count(shown) == 2  # heading and facts; it is quoted in the command
    assert "\x1b" not in done.output


def test_the_white_level_is_on_the_page():
    tiny.write_deep_photo(Path("deep.png"))
    assert run("deep.png", *PLAIN, "--white-level", "4095").exit_code == 0
    text = words(read().text)
    assert re.search("white level ?4095", text)
    assert "--white-level 4095" in text
