"""`jaxplain sag` and `jaxplain sag-stats` as their users meet them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import tiny
from support.tiny import write_photo
from typer.testing import CliRunner

from jaxplain import zoo
from jaxplain.cli import app as cli
from jaxplain.cli import sag_commands as commands

FILES = {"history.svg", "logic.txt", "photo.png", "sag.dot", "sag.html", "sag.json", "sag.png", "sag.svg"}
QUICK = ("--grid", "3", "--candidates", "0", "--max-size", "9")


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder and a small model with shipped weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")


def run(*args):
    return CliRunner(env={"COLUMNS": "160"}).invoke(cli.app, [str(arg) for arg in args])


def sag(*args):
    return run("sag", *args, "--model", "tiny", *QUICK)


def record(folder):
    return json.loads(Path(folder, "sag.json").read_text())


def words(text):
    return " ".join(text.split())


def test_each_photo_gets_a_folder_and_a_row():
    paths = [write_photo(Path(f"{name}.png"), seed) for seed, name in enumerate(("first", "second"))]
    done = sag(*paths, "--out", "graphs", "--target", "tabby")
    assert done.exit_code == 0, done.output
    for path in paths:
        folder = Path("graphs", path.stem)
        assert {one.name for one in folder.iterdir()} == FILES
        found = record(folder)
        assert found["target"] == {"index": 281, "label": "tabby"}
        assert found["image"] == path.name
        row = next(line.split() for line in done.stdout.splitlines() if line.split()[:1] == [path.name])
        assert row[1:3] == ["tabby", f"{found['probability']:.3f}"]
        assert str(found["model_evaluations"]) in row
    assert "Open sag.html in the folders of graphs" in words(done.stdout)


def test_every_option_reaches_the_record():
    write_photo(Path("a.png"))
    done = run(
        *("sag", "a.png", "--model", "tiny", "--grid", "2", "--beam-width", "3", "--candidates", "4"),
        *("--threshold", "0.8", "--max-size", "4", "--max-explanations", "6", "--baseline", "black"),
        *("--max-overlap", "0", "--shown", "2", "--seed", "9", "--batch-size", "4", "--target", "17"),
    )
    assert done.exit_code == 0, done.output
    found = record("jaxplain-sag/a")
    assert found["parameters"] | {"batch_size": 4} == {
        "grid": [2, 2], "beam_width": 3, "candidates": 4, "threshold": 0.8, "max_size": 4,
        "max_explanations": 6, "max_overlap": 0, "shown": 2, "baseline": "black",
        "kind": "probability", "batch_size": 4,
    }  # fmt: skip
    assert (found["seed"], found["target"]["index"], found["graph"]["grid"]) == (9, 17, [2, 2])


def test_a_photo_that_fails_does_not_stop_the_others():
    good, bad = write_photo(Path("good.png")), Path("bad.png")
    bad.write_text("no photo")
    done = sag(bad, good)
    assert done.exit_code == 1
    assert record("jaxplain-sag/good")["image"] == "good.png"
    assert "bad.png" in done.stderr
    assert "1 of 2 photos failed" in done.stderr
    assert "Traceback" not in done.output


def test_a_photo_without_explanations_is_remarked():
    write_photo(Path("a.png"))
    done = run("sag", "a.png", "--model", "tiny", "--grid", "3", "--candidates", "0", "--max-size", "1")
    assert done.exit_code == 0
    assert "a.png" in done.stderr
    assert "max_size" in done.stderr
    assert record("jaxplain-sag/a")["status"] == "none_found"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--grid", "0"), "grid must be at least 1, got 0"),
        (("--grid", "33"), "grid of 33 x 33 is finer than the input of tiny"),
        (("--threshold", "0"), "threshold must be above 0 and at most 1"),
        (("--threshold", "1.5"), "threshold must be above 0 and at most 1"),
        (("--threshold", "nan"), "threshold must be above 0 and at most 1"),
        (("--beam-width", "0"), "beam_width must be at least 1"),
        (("--max-explanations", "-3"), "max_explanations must be at least 1"),
        (("--max-overlap", "-1"), "max_overlap must be at least 0"),
        (("--baseline", "blak"), "unknown baseline 'blak': did you mean 'black'"),
        (("--target", "tabbby"), "tabby"),
        (("--target", "1000"), "1000"),
        (("--model", "tinny"), "tinny"),
    ],
)
def test_a_wrong_command_is_refused_before_any_work(monkeypatch, args, message):
    write_photo(Path("a.png"))
    monkeypatch.setattr(commands, "compile_graphs", None)
    done = run("sag", "a.png", "--model", "tiny", *args)
    assert done.exit_code == 2
    assert message in words(done.stderr)
    assert "Traceback" not in done.output
    assert not Path("jaxplain-sag").exists()


def test_a_candidate_number_below_zero_and_a_word_for_a_number_are_refused():
    for wrong in (("--candidates", "-1"), ("--grid", "seven")):
        assert run("sag", "a.png", *wrong).exit_code == 2
    assert run("sag").exit_code == 2


def test_results_of_others_are_not_overwritten():
    write_photo(Path("a.png"))
    Path("jaxplain-sag/a").mkdir(parents=True)
    Path("jaxplain-sag/a/diary.txt").write_text("mine")
    done = sag("a.png")
    assert done.exit_code != 0
    assert Path("jaxplain-sag/a/diary.txt").read_text() == "mine"
    shutil.rmtree("jaxplain-sag")
    assert sag("a.png").exit_code == 0
    assert sag("a.png").exit_code == 0  # its own results are


# ---------------------------------------------------------------------------------------------------------
# Statistics


def stats(*args):
    return run("sag-stats", *args, *QUICK)


def photos(folder, count=2):
    for seed in range(count):
        write_photo(Path(folder, f"{seed}.png"), seed)
    return folder


def test_statistics_of_photos_equal_those_of_their_results():
    photos("photos")
    one = stats("photos", "--model", "tiny")
    assert one.exit_code == 0, one.output
    from_photos = json.loads(Path("jaxplain-sag-stats/statistics.json").read_text())
    assert sag(*sorted(Path("photos").iterdir()), "--out", "results").exit_code == 0
    shutil.copytree("results/0", "results/.ipynb_checkpoints")  # hidden folders do not count
    assert stats("results", "--out", "second").exit_code == 0
    from_results = json.loads(Path("second/statistics.json").read_text())
    (a,), (b,) = from_photos.values(), from_results.values()
    assert a == b
    assert a["images"] == 2
    means = [record(f"results/{seed}")["summary"]["sizes"] for seed in range(2)]
    assert a["explanations"] == pytest.approx(np.mean([len(sizes) for sizes in means]))
    assert "explanations per photo" in words(one.stdout)
    assert "explained with at most 5 patches" in words(one.stdout)
    assert np.asarray(Image.open("second/explained.png")).std() > 5


def test_folders_and_models_are_columns():
    photos("one"), photos("two", 1)
    done = stats("one", "two", "--model", "tiny", "--limit", "1")
    assert done.exit_code == 0, done.output
    found = json.loads(Path("jaxplain-sag-stats/statistics.json").read_text())
    assert list(found) == ["tiny one", "tiny two"]
    assert [one["images"] for one in found.values()] == [1, 1]


def test_a_broken_photo_is_told_and_left_out():
    photos("photos")
    Path("photos", "2.jpg").write_text("no photo")
    done = stats("photos", "--model", "tiny")
    assert done.exit_code == 1
    assert "2.jpg" in done.stderr
    assert (
        next(iter(json.loads(Path("jaxplain-sag-stats/statistics.json").read_text()).values()))["images"] == 2
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: None, "does not exist"),
        (lambda: Path("it").write_text("x"), "is a file, not a folder"),
        (lambda: Path("it").mkdir(), "contains neither photos nor results"),
        (lambda: (Path("it/a").mkdir(parents=True), Path("it/a/sag.json").write_text("{")), "cannot be read"),
    ],
)
def test_a_folder_of_nothing_is_refused(make, message):
    make()
    done = stats("it", "--model", "tiny")
    assert done.exit_code == 2
    assert message in words(done.stderr)
    assert not Path("jaxplain-sag-stats").exists()


def test_a_white_level_reaches_graphs_and_statistics():
    write_photo(Path("a.png")), tiny.write_deep_photo(Path("deep/a.png"))
    Path("deep/notes.txt").touch()
    assert (
        sag("a.png").exit_code
        == sag("deep/a.png", "--white-level", "4095", "--out", "deep-sag").exit_code
        == 0
    )
    one, two = record("jaxplain-sag/a"), record("deep-sag/a")
    assert one["summary"] == two["summary"]
    assert two["white_level"] == 4095
    done = stats("deep", "--model", "tiny", "--white-level", "4095")
    assert done.exit_code == 0, done.output
    assert "1 other file left out (.txt)." in done.stderr
