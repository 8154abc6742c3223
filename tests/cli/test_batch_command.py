"""`jaxplain batch` and `jaxplain batch-report` as their users meet them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import tiny
from support.batch_job import assert_same, contents, environment, photos, share_steps
from typer.testing import CliRunner

from jaxplain import zoo
from jaxplain.cli import app as cli
from jaxplain.cli.batch_commands import _duration, _StopRequest
from jaxplain.runs import batch as batches

QUICK = ("--model", "tiny", "--method", "gradient", "--size", "4")


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with shipped weights, ten photos, one of them broken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    photos(10, tmp_path / "photos")
    share_steps(monkeypatch)


def run(*args):
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, list(map(str, args)))


def flat(text):
    return " ".join(text.split())


def test_a_folder_becomes_results_and_a_report():
    Path("photos/deep").mkdir()
    tiny.write_photo(Path("photos/deep/more.png"), 77)
    done = run("batch", "photos", *QUICK, "--out", "results.zarr", "--per-device-batch", "3")
    assert done.exit_code == 1  # one photo failed
    assert "10 of 11 photos explained" in flat(done.stderr)
    assert "batch-report results.zarr" in flat(done.stderr)
    found = contents("results.zarr")
    assert found["deep/more.png"]["row_status"] == 1
    shown = run("batch-report", "results.zarr")
    assert shown.exit_code == 0, shown.output
    assert "10 ok, 1 failed" in flat(shown.output)
    assert "photo006.png" in shown.output
    record = json.loads(run("batch-report", "results.zarr", "--json").stdout)
    good = [row["insertion_auc"] for row in found.values() if row["row_status"] == 1]
    assert record["means"]["insertion_auc"]["mean"] == pytest.approx(np.mean(good), rel=1e-5)
    assert record["means"]["insertion_auc"]["rows"] == 10
    assert record["rows"] == {"pending": 0, "ok": 10, "failed": 1}
    assert record["config"]["explain"]["method"] == "gradient"
    again = run("batch", "photos", *QUICK, "--out", "results.zarr")
    assert "10 of 11 photos explained, 0 of them by this run" in flat(again.stderr)


def test_progress_shows_pace_and_measures():
    done = run("batch", "photos", *QUICK)
    line = next(line for line in done.stderr.splitlines() if "images/s, " in line)
    assert "left, deletion 0." in line
    assert "insertion 0." in line


def test_options_reach_the_results():
    done = run(
        *("batch", "photos", *QUICK, "--baseline", "black", "--target", "tabby", "--seed", "7"),
        *("--limit", "3", "--out", "o"),
    )
    assert done.exit_code == 0, done.output
    record = json.loads(run("batch-report", "o", "--json").stdout)
    assert record["config"]["explain"]["baseline"] == "black"
    assert (record["config"]["seed"], record["config"]["target"]) == (7, 281)
    assert {int(row["row_target"]) for row in contents("o").values()} == {281}
    assert record["rows"]["ok"] == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--method", "igoss"), "igos"),
        (("--size", "0"), "size"),
        (("--mesh", "99"), "devices"),
        (("--model", "tinny"), "tiny"),
        (("--baseline", "blurr"), "blur"),
        (("--target", "no such class"), "no such class"),
        (("--processes", "2"), "must be given together"),
        (("--coordinator", "here", "--processes", "2", "--process", "0"), "must be host:port, such as"),
        (("--coordinator", "a:1", "--processes", "2", "--process", "2"), "process must be in 0..1"),
        (("--dtype", "float8"), "unknown dtype 'float8': did you mean 'float32'"),
        (("--seed", "-1"), "seed must be in 0..4294967295"),
        (
            ("--out", "photos"),
            "photos contains 'photo000.png' but no results; choose a new or empty folder",
        ),
        (("--out", "photos/photo000.png"), "a file exists where a folder is needed. Move it or choose"),
        (("--out", "nosuch://x"), "cannot read or write nosuch://x"),
        (("--size", "33"), "finer than the image of 32 x 32 pixels; choose a coarser size"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_compiled(monkeypatch, args, message):
    monkeypatch.setattr(batches, "compile_step", None)
    method = ("--method", "igos") if "--size" in args else ()
    done = run("batch", "photos", *QUICK, *method, *args)
    assert done.exit_code == 2, done.output
    assert message in flat(done.stderr)
    assert "compiling" not in done.output
    assert "Traceback" not in done.output
    assert not Path("results.zarr").exists()


def test_too_many_failures_end_it():
    done = run("batch", "photos", *QUICK, "--max-failures", "0")
    assert done.exit_code == 1
    assert "1 image failed, more than max_failures = 0; 9 images explained, saved in results.zarr" in flat(
        done.stderr
    )
    assert "Run jaxplain batch-report to see the reasons" in flat(done.stderr)


def test_folders_that_cannot_be():
    Path("empty").mkdir()
    for folder, message in (("empty", "no photos"), ("missing", "missing does not exist")):
        done = run("batch", folder, *QUICK)
        assert done.exit_code == 2
        assert message in flat(done.stderr)
    done = run("batch-report", "missing")
    assert done.exit_code == 2
    assert "no results in missing" in flat(done.stderr)


def test_other_settings_are_refused_by_name(monkeypatch):
    assert run("batch", "photos", *QUICK, "--limit", "2").exit_code == 0
    monkeypatch.setattr(batches, "result_leaves", None)  # before the method is traced
    done = run("batch", "photos", *QUICK, "--limit", "2", "--baseline", "black")
    assert done.exit_code == 2
    assert "explain.baseline 'blur', not 'black'" in flat(done.stderr)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_after_the_step(number, status):
    """In a process of its own, which reads its photos slowly."""
    command = ["batch", "photos", *QUICK, "--out", "results.zarr"]
    code = (
        "import sys, time; sys.path.insert(0, 'site'); from support import tiny;"
        "from jaxplain import zoo; zoo.MODELS['tiny'] = tiny.ENTRY;"
        "from jaxplain.runs import dataset; load = dataset.load_image;"
        "dataset.load_image = lambda *a, **k: (time.sleep(1.0), load(*a, **k))[1];"
        "from jaxplain.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "images/s" in line:  # the first step is committed
            process.send_signal(number)
            break
    lines += process.stderr.readlines()
    assert process.wait(timeout=60) == status, lines
    output = flat("".join(lines))
    assert f"resume with: jaxplain {' '.join(command)}" in output
    done = sum(row["row_status"] == 1 for row in contents("results.zarr").values())
    assert 0 < done < 9
    assert run(*command).exit_code == 1  # the broken photo
    assert sum(row["row_status"] == 1 for row in contents("results.zarr").values()) == 9


def test_durations():
    assert [_duration(seconds) for seconds in (0.4, 59, 61, 3599, 7260)] == [
        "0 s", "59 s", "1 min", "59 min", "2 h 01 min",
    ]  # fmt: skip


def test_ctrl_c_waits_only_for_a_step():
    stop = _StopRequest()
    with pytest.raises(KeyboardInterrupt):  # while it checks or compiles
        stop(signal.SIGINT, None)
    stop.after_step = True
    stop(signal.SIGINT, None)
    assert stop.event.is_set()
    with pytest.raises(KeyboardInterrupt):  # pressed again
        stop(signal.SIGINT, None)


@pytest.mark.filterwarnings("ignore::jaxplain.images.ImageWarning")
def test_the_white_level_belongs_to_the_settings():
    for seed in range(3):
        tiny.write_deep_photo(Path("deep", f"photo00{seed}.png"), seed)
    Path("deep/notes.txt").touch()
    Path("deep/.ipynb_checkpoints").mkdir()
    tiny.write_photo(Path("deep/.ipynb_checkpoints/photo000-checkpoint.png"))
    assert run("batch", "photos", *QUICK, "--limit", "3", "--out", "plain").exit_code == 0
    done = run("batch", "deep", *QUICK, "--white-level", "4095", "--out", "deeper")
    assert done.exit_code == 0, done.output
    assert flat(done.stderr).count("1 other file left out (.txt).") == 1
    assert_same(contents("deeper"), contents("plain"))
    assert json.loads(run("batch-report", "deeper", "--json").stdout)["config"]["white_level"] == 4095
    for other in ((), ("--white-level", "1023")):
        again = run("batch", "deep", *QUICK, *other, "--out", "deeper")
        assert again.exit_code == 2
        assert "was made with white_level 4095, not" in flat(again.stderr)
