"""`jaxplain compare` as its users meet it."""

import errno
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from support import tiny
from support.tiny import write_photo
from typer.testing import CliRunner

from jaxplain import files, zoo
from jaxplain.cli import app as cli
from jaxplain.cli import compare_commands as command
from jaxplain.methods import METHODS

QUICK = ("--models", "tiny", "--size", "4", "--steps", "4")


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with shipped weights, and two photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for seed, name in enumerate("ab"):
        write_photo(Path("photos", f"{name}.png"), seed)


def run(*args):
    return CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["compare", *map(str, args)])


def replace_random(monkeypatch, function):
    """Put a function in the place of the registry's "random"; the shared program is not its own."""
    monkeypatch.setitem(METHODS, "random", METHODS["random"]._replace(function=function))
    tiny.forget_programs(lambda name: name == "random")


def words(text):
    return " ".join(text.split())


def test_one_command_makes_the_table():
    done = run("photos", *QUICK, "--methods", "random,gradient", "--size", "4,8", "--out", "out/table.md")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("out").iterdir()} == {
        "table.md", "table.csv", "table.json", "table-photos.csv", "table-rows.jsonl", "table-maps",
        "table-sheet-4.png", "table-sheet-8.png", "table-curves-4.png", "table-curves-8.png",
    }  # fmt: skip
    record = json.loads(Path("out/table.json").read_text())
    assert [(one["method"], one["size"], one["photos"]) for one in record["summaries"]] == [
        ("random", 4, 2), ("gradient", 4, 2), ("random", 8, 2), ("gradient", 8, 2),
    ]  # fmt: skip
    shown = next(line.split() for line in done.stdout.splitlines() if line.split()[:1] == ["gradient"])
    mean = record["summaries"][1]["measures"]["deletion"]["mean"]
    assert shown[1] == f"{mean:.3f}".lstrip("0")
    assert "tiny, 4 x 4" in done.stdout


def test_a_second_run_makes_nothing_again(monkeypatch):
    first = run("photos", *QUICK, "--methods", "random")
    assert first.exit_code == 0, first.output
    replace_random(monkeypatch, lambda score, image, baseline: 1 / 0)
    again = run("photos", *QUICK, "--methods", "random,gradient")
    assert again.exit_code == 0, again.output
    assert "gradient" in again.stdout


def test_an_unreadable_photo_and_a_failing_method_cost_only_themselves(monkeypatch):
    Path("photos", "c.png").write_bytes(b"no photo")
    replace_random(monkeypatch, lambda score, image, baseline: jnp.ones(image.shape[:2]))
    done = run("photos", *QUICK, "--methods", "random,gradient")
    assert done.exit_code == 1
    assert "photos/c.png" in done.stderr
    assert "failed random: the map is constant (2 rows: a.png, b.png)" in words(done.stderr)
    assert "gradient" in done.stdout
    assert "| random | 4 | a.png | the map is constant |" in Path("comparison.md").read_text()


def test_ctrl_c_keeps_what_is_done_and_the_next_run_resumes(monkeypatch):
    true, calls = command.run.interruptible, []

    def pressed(work):
        calls.append(true(work))
        raise KeyboardInterrupt

    monkeypatch.setattr(command.run, "interruptible", pressed)
    done = run("photos", *QUICK, "--methods", "random")
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1].startswith(
        "interrupted finished rows are kept; run the same command again to resume"
    )
    assert Path("comparison.md").exists()
    monkeypatch.setattr(command.run, "interruptible", true)
    assert run("photos", *QUICK, "--methods", "random").exit_code == 0


def test_a_full_disk_ends_the_run_and_leaves_whole_rows(monkeypatch):
    true, calls = files.os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:  # after the head, a map and a row or two
            raise OSError(errno.ENOSPC, "No space left on device")
        true(descriptor)

    monkeypatch.setattr(files.os, "fsync", full)
    done = run("photos", *QUICK, "--methods", "random,gradient")
    assert done.exit_code == 2
    assert "the disk is full" in words(done.stderr)
    lines = Path("comparison-rows.jsonl").read_text().splitlines()
    assert all(json.loads(line) for line in lines)
    monkeypatch.setattr(files.os, "fsync", true)
    assert run("photos", *QUICK, "--methods", "random,gradient").exit_code == 0
    assert Path("comparison-rows.jsonl").read_text().splitlines()[: len(lines)] == lines


def test_all_methods_are_named_by_all(monkeypatch):
    for name in [name for name in METHODS if name not in ("gradient", "random")]:
        monkeypatch.delitem(METHODS, name)
    done = run("photos", *QUICK, "--methods", "all", "--limit", "1")
    assert done.exit_code == 0, done.output
    found = json.loads(Path("comparison.json").read_text())["summaries"]
    assert [one["method"] for one in found] == list(METHODS)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("photos", "--methods", "igoss"), "unknown method 'igoss': did you mean 'igos"),
        (("photos", "--methods", ","), "--methods needs at least one name"),
        (("photos", "--measures", "deletio"), "unknown measure 'deletio': did you mean 'deletion'"),
        (("photos", "--models", "tinny"), "unknown model 'tinny'"),
        (("photos", "--models", "tiny", "--size", "33"), "size 33 x 33 is finer than the input of tiny"),
        (("photos", "--models", "tiny", "--size", "x"), "--size must be positive integers"),
        (("photos", "--models", "tiny", "--size", "0"), "--size must be positive integers"),
        (("photos", "--models", "tiny,tiny2", "--weights", "w.pth"), "--weights applies to one model only"),
        (("photos", "--baseline", "gray"), "unknown baseline 'gray'"),
        (("photos", "--seed", "-1"), "seed must be in 0"),
        (("photos", "--steps", "0"), "Invalid value for '--steps'"),
        (("nowhere",), "nowhere does not exist"),
        (("site",), "there are no photos in site"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(options, complaint):
    done = run(*options)
    assert done.exit_code == 2
    assert complaint in words(done.stderr)
    assert "Traceback" not in done.output


def test_another_seed_needs_another_name():
    assert run("photos", *QUICK, "--methods", "random").exit_code == 0
    done = run("photos", *QUICK, "--methods", "random", "--seed", "1")
    assert done.exit_code == 2
    assert "made with seed 0, not 1" in words(done.stderr)


def test_photos_that_cannot_be_read_at_all():
    for path in Path("photos").iterdir():
        path.write_bytes(b"")
    done = run("photos", *QUICK)
    assert done.exit_code == 2
    assert "no photo can be read (2 tried)" in words(done.stderr)


def test_the_white_level_belongs_to_the_settings():
    for seed, name in enumerate("ab"):
        tiny.write_deep_photo(Path("deep", f"{name}.png"), seed)
    for extra in ("a.heic", "b.txt", "c.txt"):
        Path("deep", extra).touch()
    quick = (*QUICK, "--methods", "gradient", "--sheet", "1", "--out")
    assert run("photos", *quick, "plain").exit_code == 0
    done = run("deep", *quick, "deeper", "--white-level", "4095")
    assert done.exit_code == 0, done.output
    assert "3 other files left out (.txt, .heic); to read .heic, run pip install pillow-heif." in words(
        done.stderr
    )
    assert Path("plain-sheet-4.png").read_bytes() == Path("deeper-sheet-4.png").read_bytes()
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("plain", "deeper"))
    for a, b in zip(one["summaries"], two["summaries"], strict=True):
        assert a["measures"] == b["measures"]
    assert (
        json.loads(Path("deeper-rows.jsonl").read_text().splitlines()[0])["jaxplain_comparison"][
            "white_level"
        ]
        == 4095
    )
    again = run("deep", *quick, "deeper", "--white-level", "1023")
    assert again.exit_code == 2
    assert "white_level 4095, not 1023" in words(again.stderr)
