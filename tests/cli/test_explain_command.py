"""The command as its users meet it: results, tables, messages, exit status; nothing lost or half done."""

import errno
import json
import os
import pickle
import re
import shutil
import time
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from safetensors.numpy import save_file
from support import tiny
from support.tiny import photo, write_photo
from typer.testing import CliRunner

import jaxplain
from jaxplain import zoo
from jaxplain.cli import app as cli
from jaxplain.cli import explain_commands as commands
from jaxplain.cli import screen
from jaxplain.report import figures

QUICK = ("--model", "tiny", "--size", "4", "--iterations", "1", "--steps", "1")
KEPT = (
    "1 of 3 photos done. Their results are in jaxplain-out. "
    "To continue, run the command on the remaining photos."
)
FILES = {
    "heatmap.png",
    "importance.npy",
    "overlay.png",
    "panel.png",
    "photo.png",
    "result.json",
    "saliency.npy",
}


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with shipped weights, and panels that are drawn quickly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    monkeypatch.setattr(figures, "panel", lambda *args, **names: Figure((1, 1)))
    ship(monkeypatch, tmp_path)


def ship(monkeypatch, folder, state=None):
    tiny.write_package(folder / "site", state)
    monkeypatch.syspath_prepend(folder / "site")


def run(*args, env=None):
    return CliRunner(env=env).invoke(cli.app, [str(arg) for arg in args])


def explained(*args):
    done = run("explain", *args, *QUICK)
    assert done.exit_code == 0, done.output
    return done


def record(folder):
    return json.loads(Path(folder, "result.json").read_text())


def saved(out="jaxplain-out"):
    """Names of the results, each of them whole; nothing else lies there, hidden or not."""
    folders = list(Path(out).iterdir())
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == FILES
    return sorted(folder.name for folder in folders)


def three_photos():
    return [write_photo(Path(f"{name}.png"), seed) for seed, name in enumerate(("a", "b", "c"))]


def counting(monkeypatch, target, name, fail_at=0, error=None):
    """The list of calls of a function of a module or class; call number `fail_at` (from 1) raises."""
    real, calls = getattr(target, name), []

    def wrapped(*args):
        calls.append(args)
        if len(calls) == fail_at:
            raise error
        return real(*args)

    monkeypatch.setattr(target, name, wrapped)
    return calls


def lines(text):
    """One string for each message, wherever it was wrapped."""
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------
# What comes out


def test_each_photo_gets_a_folder_and_a_row():
    paths = [write_photo(Path(f"{name}.png"), seed) for seed, name in enumerate(("first", "second"))]
    done = explained(*paths, "--out", "results", "--target", "tabby", "--seed", "5")
    assert saved("results") == ["first", "second"]
    for row, path in zip(done.stdout.splitlines()[-5:-3], paths, strict=True):
        found = record(Path("results", path.stem))
        assert (found["image"], found["seed"]) == (path.name, 5)
        assert found["target"] == {"index": 281, "label": "tabby"}
        assert found["parameters"]["size"] == 4
        numbers = [found[name] for name in ("probability", "deletion_auc", "insertion_auc")]
        seconds = found["seconds"]["run"]
        assert row.split() == [path.name, "tabby", *(f"{n:.3f}" for n in numbers), f"{seconds:.1f}"]
    assert "image class p deletion insertion seconds" in lines(done.stdout)
    assert "Results in results" in lines(done.stdout)


def test_every_option_reaches_the_record():
    write_photo(Path("a.png"))
    done = run(
        *("explain", "a.png", "--model", "tiny", "--method", "igos", "--preset", "paper", "--size", "3"),
        *("--steps", "2", "--iterations", "3", "--batch-size", "4", "--baseline", "black", "--seed", "9"),
        *("--target", "17"),
    )
    assert done.exit_code == 0, done.output
    found = record("jaxplain-out/a")
    chosen = found["parameters"]
    published = jaxplain.masks.PAPER["igos"]
    assert (found["method"], found["baseline"], found["seed"], found["target"]["index"]) == (
        "igos",
        "black",
        9,
        17,
    )
    assert (chosen["n_steps"], chosen["iterations"], chosen["batch_size"], chosen["size"]) == (2, 3, 4, 3)
    assert (found["preset"], chosen["noise"], chosen["search"]) == ("paper", 0.2, published["search"])


def test_any_method_of_the_registry_explains():
    write_photo(Path("a.png"))
    for method in ("grad-cam", "integrated-gradients"):
        done = run("explain", "a.png", "--model", "tiny", "--method", method, "--out", method)
        assert done.exit_code == 0, done.output
        assert saved(method) == ["a"]
        assert record(f"{method}/a")["method"] == method


def test_the_panel_shows_the_method_and_its_numbers(monkeypatch):
    monkeypatch.undo()  # of the quick panel, too
    program, explained = a_program_and_a_photo()
    drawn = commands.pictures(program, explained)
    assert set(drawn) == {"photo.png", "heatmap.png", "overlay.png", "panel.png"}
    import io

    sizes = {name: Image.open(io.BytesIO(content)).size for name, content in drawn.items()}
    panel = sizes.pop("panel.png")
    assert panel[0] > 3 * panel[1] > 600
    assert set(sizes.values()) == {(tiny.SIDE, tiny.SIDE)}


def a_program_and_a_photo():
    from jaxplain.runs.heatmap_runs import HeatmapSettings, compile_heatmaps, explain_photo

    program = compile_heatmaps(HeatmapSettings("gradient"), tiny.tiny_model())
    return program, explain_photo(program, photo())


def test_explain_and_compare_agree_on_a_photo():
    """The same photo, method and seed give the same numbers in both commands."""
    write_photo(Path("photos/a.png"))
    explained("photos/a.png", "--baseline", "noise", "--seed", "2")
    from jaxplain.runs.compare import CompareSettings, compare
    from jaxplain.runs.photos import read_photo
    from jaxplain.runs.step import Engine, explain_step

    options = {"size": 4, "n_steps": 1, "iterations": 1}
    model = zoo.load("tiny")
    one = Engine(model, baseline="noise", seed=2)
    step = explain_step("igos++", jaxplain.methods.METHODS["igos++"], options)
    view = one.view(read_photo(Path("photos/a.png")).rgb)
    np.testing.assert_array_equal(
        np.load("jaxplain-out/a/importance.npy"), one.run(step, view).value.importance
    )
    settings = CompareSettings(("deletion",), "noise", 2)
    row = compare([Path("photos/a.png")], [model], ["gradient"], sizes=(4,), settings=settings).rows[0]
    run(
        "explain",
        "photos/a.png",
        "--model",
        "tiny",
        "--method",
        "gradient",
        "--baseline",
        "noise",
        "--seed",
        "2",
    )
    found = record("jaxplain-out/a")
    assert row.probability == found["probability"]
    assert row.deletion[0] == pytest.approx(found["curves"]["deletion"][0], rel=1e-5)
    assert row.deletion[-1] == pytest.approx(found["curves"]["deletion"][-1], rel=1e-5)  # of the baseline


def test_neither_order_nor_name_changes_a_result():
    write_photo(Path("a.png"), 0), write_photo(Path("b.png"), 1)
    noise = ("--baseline", "noise")
    explained("a.png", "b.png", *noise, "--out", "one")
    Path("a.png").rename("z.png")
    explained("b.png", "z.png", *noise, "--out", "two")
    explained("z.png", *noise, "--out", "three", "--seed", "1")

    def importance(folder):
        return np.load(Path(folder, "importance.npy"))

    np.testing.assert_array_equal(importance("one/a"), importance("two/z"))
    np.testing.assert_array_equal(importance("one/b"), importance("two/b"))
    assert not np.array_equal(importance("one/a"), importance("one/b"))
    assert record("one/a")["key"] == record("two/z")["key"] != record("three/z")["key"]
    assert record("one/a")["curves"]["insertion"][0] != record("three/z")["curves"]["insertion"][0]


def test_many_photos_share_one_compilation(monkeypatch):
    calls = counting(monkeypatch, commands, "compile_heatmaps")
    explained(*three_photos())  # test_run_engine.py: no program is traced again for any
    assert len(calls) == 1


def test_the_same_path_is_explained_once():
    write_photo(Path("x/a.png"))
    done = explained("x/a.png", "x/../x/a.png", Path("x/a.png").absolute(), "./x/a.png")
    assert saved() == ["a"]
    assert done.stderr.splitlines()[-1] == "[1/1] a.png"


def test_photos_of_one_name_keep_apart():
    write_photo(Path("x/a.png"), 0), write_photo(Path("y/a.png"), 1), write_photo(Path("y/a.jpg"), 2)
    done = explained("x/a.png", "y/a.png", "y/a.jpg")
    assert saved() == ["a.jpg", "a.png", "a.png-2"]
    assert "x/a.png" in done.stdout
    assert "y/a.png" in done.stdout
    explained("x/a.png", "--out", "one")
    explained("y/a.png", "--out", "one")
    assert saved("one") == ["a", "a-2"]


# ---------------------------------------------------------------------------------------------------------
# Photos of every kind


def write_kinds(folder):
    """The same photo as files of many kinds."""
    folder.mkdir()
    picture = Image.fromarray(photo())
    grey = np.asarray(picture.convert("L"))
    picture.convert("L").save(folder / "grey.png")
    picture.convert("P").save(folder / "palette.png")
    picture.convert("RGBA").save(folder / "rgba.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "grey16.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown turned clockwise
    picture.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=turned)
    picture.save(folder / "plain.png")
    return sorted(folder.iterdir())


def test_photos_of_every_kind_are_read():
    explained(*write_kinds(Path("kinds")))
    assert saved() == ["cmyk", "grey", "grey16", "palette", "plain", "rgba", "turned"]

    def seen(name):
        return np.asarray(Image.open(f"jaxplain-out/{name}/photo.png")).astype(int)

    np.testing.assert_array_equal(seen("turned"), seen("plain"))
    np.testing.assert_array_equal(seen("rgba"), seen("plain"))
    np.testing.assert_array_equal(seen("grey16"), seen("grey"))
    assert np.abs(seen("cmyk") - seen("plain")).mean() < 10
    assert np.abs(seen("palette") - seen("plain")).mean() < 20


def write_broken(folder):
    """Files that are no photos, and what is said of each."""
    folder.mkdir()
    whole = write_photo(folder / "whole.png").read_bytes()
    (folder / "whole.png").unlink()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "folder.png").mkdir()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tif")
    no_width = whole[:16] + bytes(4) + whole[20:]
    (folder / "nopixels.png").write_bytes(no_width)
    return {
        "cut.png": "cut short",
        "empty.jpg": "the file is empty",
        "text.png": "is not an image",
        "folder.png": "is a folder",
        "float.tif": "floating point",
        "nopixels.png": "damaged",
        "missing.png": "no such file",
    }


def test_broken_files_are_named_and_the_others_finish():
    broken = write_broken(Path("broken"))
    good = [write_photo(Path(f"good{seed}.png"), seed) for seed in range(2)]
    done = run("explain", *(f"broken/{name}" for name in broken), *good, *QUICK)
    assert done.exit_code == 1
    assert saved() == ["good0", "good1"]
    message = [line for line in done.stderr.splitlines() if line.startswith("failed")]
    for line, (name, reason) in zip(message, broken.items(), strict=True):
        assert line.startswith(f"failed broken/{name}: ")
        assert reason in line
    assert done.stderr.splitlines()[-1] == "7 of 9 photos failed."
    assert "Traceback" not in done.output


def test_without_a_readable_photo_nothing_is_compiled(monkeypatch):
    calls = counting(monkeypatch, commands, "compile_heatmaps")
    done = run("explain", "missing.png", *QUICK)
    assert (done.exit_code, calls) == (1, [])
    assert done.stderr.splitlines()[-1] == "1 of 1 photo failed."
    assert done.stdout == ""
    assert saved() == []


# ---------------------------------------------------------------------------------------------------------
# Commands that cannot run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "igso"], "unknown method 'igso': did you mean 'igos'"),
        (["--method", "gradcam"], "unknown method 'gradcam': did you mean 'grad-cam'"),
        (["--method", "grad-cam", "--size", "7"], "grad-cam has no option size"),
        (
            ["--method", "grad-cam", "--preset", "paper"],
            "no published settings exist for",
        ),
        (["--model", "resnet-18"], "unknown model 'resnet-18': did you mean 'resnet18'"),
        (["--baseline", "blurry"], "unknown baseline 'blurry': did you mean 'blur'"),
        (["--preset", "papers"], "unknown preset 'papers': did you mean 'paper'"),
        (["--target", "taby"], "unknown class 'taby': did you mean 'tabby' (281)"),
        (["--target", "1000"], "class 1000 is out of range: choose an index from 0 to 999"),
        (["--target", "-1"], "class -1 is out of range: choose an index from 0 to 999"),
        (["--size", "33"], "size 33 x 33 is finer than the input of tiny, 32 x 32 pixels"),
        (["--size", "0"], "size must be at least 1, got 0"),
        (["--steps", "0"], "n_steps must be at least 1, got 0"),
        (["--iterations", "-2"], "iterations must be at least 1, got -2"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--seed", "-1"], "seed must be in 0..4294967295, got -1"),
        (["--seed", str(2**64)], f"seed must be in 0..4294967295, got {2**64}"),
        (["--seed", "one"], "Invalid value for '--seed'"),
        (["--stepps", "3"], "No such option: --stepps"),
        (["--model", "resnet18"], "no package ships weights for resnet18"),
        (["--weights", "missing.pth"], "weights file missing.pth cannot be read"),
        (["--weights", "."], "is not a regular file"),
        (["--weights", "a.png"], "weights file a.png is neither a PyTorch nor a safetensors file"),
        (["--out", "a.png"], "cannot write a.png: a file exists where a folder is needed"),
        (["--out", "a.png/x"], "cannot write a.png/x: part of this path is a file"),
    ],
)
def test_wrong_options_are_told_and_leave_nothing(options, message):
    write_photo(Path("a.png"))
    done = run("explain", "a.png", "--model", "tiny", *options)
    assert done.exit_code == 2
    assert message in lines(done.stderr.replace("│", ""))
    assert "Traceback" not in done.output
    assert not Path("jaxplain-out").exists()


def test_weights_that_do_not_fit_are_refused():
    write_photo(Path("a.png"))
    save_file(tiny.weights() | {"classify.bias": np.zeros(7, np.float32)}, "other.safetensors")
    done = run("explain", "a.png", *QUICK, "--weights", "other.safetensors")
    assert done.exit_code == 2
    assert "classify.bias" in done.stderr
    assert "other.safetensors" in done.stderr


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_pickle_that_executes_is_refused():
    write_photo(Path("a.png"))
    Path("evil.pth").write_bytes(pickle.dumps({"classify.weight": Exploit()}))
    for command in ("explain", "predict"):
        done = run(command, "a.png", "--model", "tiny", "--weights", "evil.pth")
        assert done.exit_code == 2
        assert "evil.pth" in done.stderr
    assert not Path("executed").exists()


def test_a_missing_demo_photo_is_told(monkeypatch):
    monkeypatch.setitem(zoo.MODELS, "efficientnet-lite0", tiny.ENTRY)
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    done = run("demo")
    assert done.exit_code == 2
    assert 'pip install "jaxplain[demo]"' in done.stderr


def test_a_program_that_cannot_be_compiled_is_told_once(monkeypatch):
    error = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.\nBuffer 1 ...\nBuffer 2 ...")
    calls = counting(monkeypatch, commands, "compile_heatmaps", 1, error)
    write_photo(Path("a.png")), write_photo(Path("b.png"))
    done = run("explain", "a.png", "b.png", *QUICK)
    assert done.exit_code == 2
    message = done.stderr.splitlines()[-1]
    assert message.startswith(
        "error JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory. To use less memory, reduce --batch-size"
    )
    assert len(calls) == 1


# ---------------------------------------------------------------------------------------------------------
# Trouble in the middle of a run


def test_a_full_disk_costs_the_photo_that_did_not_fit(monkeypatch):
    write = Path.write_bytes

    def full_at_the_panel_of_b(path, content):
        if path.name == "panel.png" and len(list(path.parent.parent.glob("[!.]*"))) == 1:
            path.touch()
            monkeypatch.setattr(Path, "write_bytes", write)  # then someone makes room
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full_at_the_panel_of_b)
    done = run("explain", *three_photos(), *QUICK)
    assert done.exit_code == 1
    assert saved() == ["a", "c"]
    assert re.search("failed cannot write .*/jaxplain-out/b: the disk is full", done.stderr)
    assert "1 of 3 photos failed." in done.stderr


def test_a_foreign_folder_of_the_same_name_is_left_alone():
    Path("out/b").mkdir(parents=True)
    Path("out/b/diary.txt").write_text("dear diary")
    done = run("explain", *three_photos(), *QUICK, "--out", "out")
    assert done.exit_code == 1
    assert "it contains files but no result.json" in done.stderr
    assert [path.name for path in Path("out/b").iterdir()] == ["diary.txt"]
    shutil.rmtree("out/b")
    assert saved("out") == ["a", "c"]


def test_an_unexpected_error_costs_one_photo(monkeypatch):
    counting(monkeypatch, commands, "explain_photo", 2, ZeroDivisionError("division by zero\nmore"))
    done = run("explain", *three_photos(), *QUICK)
    assert done.exit_code == 1
    assert saved() == ["a", "c"]
    message = (
        "failed b.png: unexpected ZeroDivisionError: division by zero (JAXPLAIN_DEBUG=1 shows the traceback)"
    )
    assert message in done.stderr.splitlines()


def test_unexpected_errors_show_where_on_demand(monkeypatch):
    counting(monkeypatch, commands, "explain_photo", 2, ZeroDivisionError("division by zero"))
    done = run("explain", *three_photos(), *QUICK, env={"JAXPLAIN_DEBUG": "1"})
    assert isinstance(done.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "where",
    [
        (commands, "explain_photo", 2),
        (commands, "write_folder", 2),
        (Path, "write_bytes", len(FILES) + 4),
    ],
)
def test_ctrl_c_keeps_what_is_done(monkeypatch, where):
    paths = three_photos()
    counting(monkeypatch, *where, KeyboardInterrupt())
    done = run("explain", *paths, *QUICK)
    assert done.exit_code == 130
    assert saved() == ["a"]
    assert "a.png" in done.stdout
    assert done.stderr.splitlines()[-1] == f"interrupted {KEPT}"


def test_ctrl_c_before_the_first_photo_is_told_too(monkeypatch):
    counting(monkeypatch, zoo, "load", 1, KeyboardInterrupt())
    monkeypatch.setattr(zoo, "load", lambda name, weights, labels, load=zoo.load: load(name))
    done = run("explain", write_photo(Path("a.png")), *QUICK)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "interrupted run the same command again to start over."


# ---------------------------------------------------------------------------------------------------------
# Scores with nothing to explain


def test_a_score_that_is_nan_is_a_status_and_a_warning(monkeypatch, tmp_path):
    ship(monkeypatch, tmp_path, tiny.weights() | {"classify.bias": np.full(tiny.CLASSES, np.nan, np.float32)})
    write_photo(Path("a.png"))
    done = explained("a.png")
    found = record("jaxplain-out/a")
    assert found["status"] == "not_finite"
    assert (found["probability"], found["deletion_auc"]) == (None, None)
    assert saved() == ["a"]
    assert "warning a.png: a score or the result is NaN or infinite" in done.stderr


def test_a_score_not_above_its_baseline_s_is_a_status_and_a_warning():
    Image.new("RGB", (40, 40), (200, 30, 60)).save("flat.png")
    write_photo(Path("a.png"))
    done = explained("flat.png", "a.png")
    assert record("jaxplain-out/flat")["status"] == "not_above_baseline"
    assert record("jaxplain-out/a")["status"] == "ok"
    message = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert len(message) == 1
    assert message[0].startswith("warning flat.png: the score of the image is not above")


# ---------------------------------------------------------------------------------------------------------
# The screen


def test_help_shows_examples():
    assert "explain" in run("--help").stdout
    for command in ("explain", "predict", "demo"):
        done = run(command, "--help")
        assert done.exit_code == 0
        assert re.search(rf"Examples?:.*jaxplain {command} ", done.stdout, re.DOTALL)


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_screen_and_lose_nothing(columns):
    name = "a photo with quite a long name, taken on the 23rd of November, copy 2.png"
    write_photo(Path(name)), write_photo(Path("b.png"))
    done = run("explain", name, "b.png", *QUICK, "--target", "American coot", env={"COLUMNS": str(columns)})
    assert done.exit_code == 0
    table = done.stdout.splitlines()
    assert max(map(len, table)) <= columns
    assert "…" not in done.stdout
    assert lines(table[1]) == "image class p deletion insertion seconds"
    first_column = "".join(line[: table[1].index("class")] for line in table[3:])
    assert "".join(name.split()) in "".join(first_column.split())


def test_a_screen_too_narrow_for_a_table_loses_nothing():
    write_photo(Path("a photo.png"))
    done = run("predict", "a photo.png", "--model", "tiny", "--top", "1", env={"COLUMNS": "20"})
    words = lines(done.stdout)
    assert "image class index p" in words
    assert "photo.pn" in words
    assert re.search(r"\d+ 0\.\d{4}", words)


def test_names_cannot_write_to_the_terminal():
    name = "[red]\x1b[2J\udcff\n.png"
    try:
        write_photo(Path(name))
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    done = explained(name)
    assert "\x1b" not in done.output
    assert "[red]\\x1b[2J\\udcff" in done.stdout
    assert "[red]\\x1b[2J\\udcff" in done.stderr
    assert record(next(Path("jaxplain-out").iterdir()))["image"] == name


def test_a_log_gets_a_line_a_step():
    done = explained(*three_photos())
    assert done.stderr.splitlines() == [
        "loading tiny",
        "[1/3] compiling",
        "[1/3] a.png",
        "[2/3] b.png",
        "[3/3] c.png",
    ]


def test_a_long_step_is_not_taken_for_dead(monkeypatch, capsys):
    monkeypatch.setattr(screen, "_LOG_SECONDS", 0.05)
    with screen.ProgressBar(2) as bar:
        bar.tell("compiling")
        time.sleep(0.3)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "[1/2] compiling"
    assert len(said) > 2
    assert set(said[1:]) == {"[1/2] compiling: 0 s"}


def test_a_terminal_gets_a_bar():
    write_photo(Path("a.png"))
    done = run("explain", "a.png", *QUICK, env={"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": None})
    assert done.exit_code == 0
    assert "compiling" in done.stderr
    assert "1/1" in done.stderr
    assert "[1/1] a.png" not in done.stderr


def test_names_are_shortened_in_the_middle():
    assert screen.shortened("short.png", 9) == "short.png"
    assert screen.shortened("IMG_20241123_copy.png", 13) == "IMG_2...y.png"


# ---------------------------------------------------------------------------------------------------------
# Predictions and the demo


def test_predictions_are_sorted_and_sum_to_one():
    write_photo(Path("a.png"))
    done = run("predict", "a.png", "--model", "tiny", "--top", "1000")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()[3:-1]]
    probabilities = [float(row[-1]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=0.05)
    assert sorted(int(row[-2]) for row in rows) == list(range(1000))
    model = tiny.tiny_model()
    top = int(np.argmax(model(model.preprocess(photo())[None])[0]))
    assert rows[0][0] == "a.png"
    assert rows[0][1:-2] == zoo.imagenet_labels()[top].split()
    assert int(rows[0][-2]) == top


def test_predictions_survive_a_broken_file():
    write_photo(Path("a.png"))
    done = run("predict", "missing.png", "a.png", "--model", "tiny", "--top", "2")
    assert done.exit_code == 1
    assert len(done.stdout.splitlines()[3:-1]) == 2
    assert "failed missing.png: no such file" in done.stderr
    assert run("predict", "a.png", "--model", "tiny", "--top", "0").exit_code == 2


def test_the_demo_explains_a_cat(monkeypatch):
    monkeypatch.setattr(zoo, "load", lambda name, weights, labels: tiny.tiny_model())
    done = run("demo", "--method", "gradient", "--out", "somewhere")
    assert done.exit_code == 0, done.output
    assert saved("somewhere") == ["chelsea"]


@pytest.mark.slow
def test_the_whole_way_with_real_weights(monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(os.getcwd())
    cat = commands._demo_photo()
    done = run("explain", cat, "--iterations", "1", "--steps", "1", "--out", "out")
    assert done.exit_code == 0, done.output
    found = record("out/chelsea")
    assert found["target"]["label"] in ("tabby", "tiger cat", "Egyptian cat")
    assert found["status"] == "ok"
    assert found["model"] == "efficientnet-lite0"
    assert 0 < found["deletion_auc"] < found["insertion_auc"] < 1
    assert np.load("out/chelsea/importance.npy").shape == (28, 28)
    assert np.load("out/chelsea/saliency.npy").shape == (224, 224)
    assert found["seconds"]["compile"] > found["seconds"]["run"] > 0


# ------------------------------------------------------------------------------------------------ white level


def test_a_white_level_gives_the_picture_of_eight_bits_and_is_recorded():
    write_photo(Path("a.png")), tiny.write_deep_photo(Path("deep.png"))
    explained("a.png"), explained("deep.png", "--white-level", "4095")
    for name in ("photo.png", "importance.npy"):
        assert Path("jaxplain-out/a", name).read_bytes() == Path("jaxplain-out/deep", name).read_bytes()
    assert record("jaxplain-out/deep")["white_level"] == 4095
    assert "white_level" not in record("jaxplain-out/a")
    levels = [
        run("predict", name, "--model", "tiny", "--white-level", "4095").stdout
        for name in ("a.png", "deep.png")
    ]
    assert levels[0].replace("a.png", "").split() == levels[1].replace("deep.png", "").split()


def test_a_photo_that_is_too_dark_is_named_once_as_a_warning():
    tiny.write_deep_photo(Path("deep.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        others = []
        warnings.showwarning = lambda message, *where, **rest: others.append(str(message))
        screen.show_warnings()
        warnings.warn("another package's", UserWarning, stacklevel=1)
        done = run("predict", "deep.png", "--model", "tiny", env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert others == ["another package's"]
    lines = [line for line in done.stderr.splitlines() if "samples reach" in line]
    assert lines == [
        "warning deep.png: samples reach 3,983 of 65,535: 12-bit data? If so, use --white-level 4095 "
        "(in Python, white_level=4095)."
    ]


def test_impossible_white_levels_are_refused():
    write_photo(Path("a.png"))
    for level in ("0", "-3", "nan", "bright"):
        done = run("explain", "a.png", "--white-level", level, env={"COLUMNS": "200"})
        assert done.exit_code == 2
        assert "--white-level" in done.stderr
    assert not Path("jaxplain-out").exists()


def fine_tuned(path, classes):
    """Write a checkpoint of a fine-tuned network, as a training script would."""
    state = {name: array[:classes] for name, array in tiny.weights().items()}
    save_file({f"model.{name}": np.ascontiguousarray(array) for name, array in state.items()}, path)


def test_fine_tuned_weights_and_their_labels():
    write_photo(Path("a.png"))
    fine_tuned("tuned.safetensors", 3)
    Path("labels.json").write_text('{"id2label": {"0": "great egret, white", "1": "dog", "2": "zebra"}}')
    tuned = ("--model", "tiny", "--weights", "tuned.safetensors")
    generic = run("predict", "a.png", *tuned)
    assert generic.exit_code == 0, generic.output
    assert all(f"class {index}" in generic.stdout for index in range(3))
    named = run("predict", "a.png", *tuned, "--labels", "labels.json", env={"COLUMNS": "100"})
    assert "great egret, white" in named.stdout
    done = run(
        "explain", "a.png", *tuned, *QUICK, "--labels", "labels.json", "--target", "Great egret, white"
    )
    assert done.exit_code == 0, done.output
    assert record("jaxplain-out/a")["target"] == {"index": 0, "label": "great egret, white"}

    Path("labels.txt").write_text("one\ntwo\n")
    refused = run("predict", "a.png", *tuned, "--labels", "labels.txt", env={"COLUMNS": "500"})
    assert refused.exit_code == 2
    assert "has 3 classes, but there are 2 labels" in refused.stderr
    assert "--labels on the command line" in refused.stderr


def test_a_single_logit_is_explained_by_its_sigmoid():
    write_photo(Path("a.png"))
    fine_tuned("one.safetensors", 1)
    one = ("--model", "tiny", "--weights", "one.safetensors")
    shown = run("predict", "a.png", *one)
    done = run("explain", "a.png", *one, *QUICK)
    assert (shown.exit_code, done.exit_code) == (0, 0), done.output
    found = record("jaxplain-out/a")
    assert (found["score"], found["curves"]["score"]) == ("sigmoid", "sigmoid")
    assert 0 < found["probability"] < 1
    assert f"{found['probability']:.4f}" in shown.stdout
