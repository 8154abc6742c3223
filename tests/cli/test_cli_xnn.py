"""The command line of explanation networks: fit, explain, report; and wrong input to each."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from support import tiny
from support.birds import SPECIES, quick_fit, write_birds
from support.image_files import png
from support.tiny import write_photo
from typer.testing import CliRunner

from jaxplain import masks, xnn, zoo
from jaxplain.cli import xnn_commands as commands
from jaxplain.explanation import finished
from jaxplain.runs import features as feature_module
from jaxplain.runs.network_runs import RECORD, load_networks

QUICK = ("--model", "tiny", "--epochs", "3", "--features", "kept")


def quick_map(score, image, baseline, *, key, size):
    """A method that compiles fast: how much the score drops where the baseline replaces a corner."""
    halves = jax.numpy.stack([image, image.at[:16].set(baseline[:16])])
    whole, without = score(halves)
    importance = jax.numpy.full((size, size), 0.1).at[: size // 2].add(whole - without)
    return finished(importance, halves, 2)


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with installed weights, fast fits and maps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(masks, "igos_pp", quick_map)
    monkeypatch.setattr(xnn, "fit", quick_fit)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of photos and networks that were fitted to them, shared by all tests."""
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
        tiny.write_package(folder / "site")
        patch.syspath_prepend(folder / "site")
        patch.setattr(xnn, "fit", quick_fit)
        result = run("fit", write_birds(), "--classes", "auk,crow", *QUICK, "--out", "nets")
    assert result.exit_code == 0, result.output
    return folder, result.stdout


@pytest.fixture
def fitted(results, tmp_path):
    """The networks and their photos in the current folder; returns what `fit` printed."""
    for name in ("nets", "birds", "kept"):
        shutil.copytree(results[0] / name, tmp_path / name)
    record = json.loads(Path("nets", RECORD).read_text())
    Path("nets", RECORD).write_text(json.dumps(record | {"photos": str(tmp_path / "birds")}))
    return results[1]


real_fit = xnn.fit


def run(*args):
    return CliRunner().invoke(commands.app, [*map(str, args)])


def lines(text):
    return " ".join(text.split())


@pytest.mark.slow
def test_fit_explain_and_report(fitted):
    assert "auk" in fitted
    assert "Measured on held-out photos" in lines(fitted)
    record = json.loads(Path("nets", RECORD).read_text())
    assert [entry["class"] for entry in record["classes"]] == ["auk", "crow"]
    assert record["counts"] == {"train": 27, "held_out": 9}
    networks = load_networks(Path("nets"))
    assert list(networks.explained) == ["auk", "crow"]

    photos = [Path("birds/crow/0.png"), Path("birds/auk/1.png")]
    result = run("explain", "nets", *photos, "--out", "sheets")
    assert result.exit_code == 0, result.output
    assert {path.name for path in Path("sheets").iterdir()} == {"0", "1"}
    for folder in Path("sheets").iterdir():
        assert {path.name for path in folder.iterdir()} == {"sheet.png", "sheet.html", "xnn-photo.json"}
    found = json.loads(Path("sheets/0/xnn-photo.json").read_text())
    network = networks.explained[found["class"]]
    image = networks.classifier.preprocess(np.asarray(Image.open(photos[0])))[None]
    np.testing.assert_allclose(found["contributions"], network.contributions(image)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["predicted_logit"], network.predict(image)[0, 0], rtol=1e-4)
    np.testing.assert_array_equal(found["significant"], np.flatnonzero(network.significant(image)[0]))

    result = run("report", "nets", "--out", "page")
    assert result.exit_code == 0, result.output
    names = {"report.html", "report.json", "class-0.png", "class-2.png", "pair-0-2.png"}
    assert {path.name for path in Path("page").iterdir()} == names
    page = Path("page/report.html").read_text()
    assert page.count("<section") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")  # needs no other file
    for measure in xnn.MEASURES:
        assert measure in page


def test_a_second_fit_takes_the_kept_features_and_gives_the_same_networks(fitted, monkeypatch):
    before = load_networks(Path("nets")).explained["crow"].srae
    monkeypatch.setattr(feature_module, "load_image", None)  # nothing is read again
    result = run("fit", "birds", "--classes", "auk,crow", *QUICK, "--out", "nets")
    assert result.exit_code == 0, result.output
    tiny.assert_bit_equal(before, load_networks(Path("nets")).explained["crow"].srae)


@pytest.mark.slow
def test_a_real_fit_gives_the_same_networks_twice(monkeypatch):
    monkeypatch.setattr(xnn, "fit", real_fit)
    networks = []
    for _ in range(2):
        result = run("fit", write_birds(), "--classes", "crow", *QUICK, "--out", "nets")
        assert result.exit_code == 0, result.output
        networks.append(load_networks(Path("nets")).explained["crow"].srae)
    tiny.assert_bit_equal(*networks)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("birds", "--classes", "auk,dodo"),
            f"unknown class of birds 'dodo': choose from {', '.join(SPECIES)}",
        ),
        (("nowhere",), "nowhere does not exist"),
        (("birds/auk",), "must have at least two sub-folders of photos, one per class; found 0"),
        (("birds", "--model", "tinny"), "unknown model 'tinny': did you mean 'tiny'"),
        (("birds", "--layer", "last"), "unknown layer 'last'"),
        (("birds", "--n-features", "0"), "n_features must be at least 1, got 0"),
        (("birds", "--n-features", "100"), "n_features must be less than the 100 units of the layer below"),
        (("birds", "--epochs", "0"), "epochs must be at least 1, got 0"),
        (("birds", "--holdout", "1.5"), "holdout must be between 0 and 1, got 1.5"),
        (("birds", "--out", "birds"), "it contains files but no xnn.json"),
    ],
)
def test_wrong_input_to_fit_is_explained(args, message):
    write_birds(count=1)
    result = run("fit", *args) if "--model" in args else run("fit", *args, "--model", "tiny")
    assert result.exit_code == 2
    assert message in lines(result.stderr)
    assert not Path("jaxplain-xnn", RECORD).exists()


def test_wrong_input_to_explain_and_report_is_explained(fitted):
    photo = "birds/auk/0.png"
    different = "--pairs must be pairs of different classes, such as A:B or A:B,A:C; got"
    for args, message in (
        (
            ("explain", "nowhere", photo),
            "nowhere contains no xnn.json: name a folder written by jaxplain xnn fit",
        ),
        (
            ("explain", "nets", photo, "--class", "dodo"),
            "unknown class with a network 'dodo': choose from auk, crow",
        ),
        (("report", "birds"), "birds contains no xnn.json"),
        (("report", "nets", "--pairs", "auk"), f"{different} 'auk'"),
        (("report", "nets", "--pairs", "auk:dodo"), "unknown class with a network 'dodo'"),
        (("report", "nets", "--pairs", "auk:auk"), different),
    ):
        result = run(*args)
        assert result.exit_code == 2, result.output
        assert message in lines(result.stderr)
    assert run("explain", "nets", "nothing.png", "--out", "sheets").exit_code == 1


def test_a_damaged_folder_is_explained(fitted):
    path = Path("nets/networks/0002.safetensors")
    whole, record = path.read_bytes(), Path("nets", RECORD).read_text()

    def message():
        result = run("report", "nets")
        assert result.exit_code == 2
        return lines(result.stderr)

    path.write_bytes(whole[:50])
    assert "cannot be read as a safetensors file" in message()
    path.unlink()
    assert "does not exist" in message()
    path.write_bytes(Path("nets/networks/0000.safetensors").read_bytes())
    assert "is not the network for 'crow'" in message()
    path.write_bytes(whole)
    Path("nets", RECORD).write_text(record[:40])
    assert "cannot be read" in message()
    Path("nets", RECORD).write_text("{}")
    assert "is damaged" in message()
    Path("nets", RECORD).write_text(record.replace('"weights_digest": "', '"weights_digest": "0'))
    assert "made with weights of tiny that differ" in message()


def test_missing_training_photos_are_skipped(fitted):
    Image.fromarray(tiny.photo(1)).save("new.png")
    shutil.rmtree("birds")
    result = run("explain", "nets", "new.png", "--out", "sheets")
    assert result.exit_code == 0, result.output
    assert run("report", "nets", "--out", "page").exit_code == 0


@pytest.mark.slow
def test_the_white_level_of_the_fit_is_kept(fitted):
    for path in Path("birds").glob("*/*.png"):
        deep = np.rint(np.asarray(Image.open(path)) * (4095 / 255))
        (Path("deep") / path.parent.name).mkdir(parents=True, exist_ok=True)
        (Path("deep") / path.relative_to("birds")).write_bytes(png(deep, 16, 2))
    Path("deep/auk/broken.png").symlink_to("nowhere.png")
    Path("deep/auk/notes.txt").touch()
    (Path("deep") / ".ipynb_checkpoints").mkdir()
    write_photo(Path("deep/.ipynb_checkpoints/0.png"))
    result = run("fit", "deep", "--classes", "auk,crow", *QUICK, "--out", "deeper", "--white-level", "4095")
    assert result.exit_code == 1, result.output  # the broken link
    assert "broken link" in result.stderr
    assert "1 other file left out (.txt)." in result.stderr
    assert json.loads(Path("deeper", RECORD).read_text())["white_level"] == 4095
    assert len(list(Path("kept").iterdir())) == 2  # features with another white level are others
    features = [
        {tuple(row) for path in folder.glob("*.npz") for row in np.load(path)["features"].tolist()}
        for folder in Path("kept").iterdir()
    ]
    assert features[0] == features[1]  # the same pictures
    for photos, networks in (("birds", "nets"), ("deep", "deeper")):
        assert run("explain", networks, Path(photos, "auk/1.png"), "--out", f"sheets-{photos}").exit_code == 0
    sheets = [Image.open(f"sheets-{photos}/1/sheet.png") for photos in ("birds", "deep")]
    assert np.asarray(sheets[0]).shape == np.asarray(sheets[1]).shape
    record = json.loads(Path("sheets-deep/1/xnn-photo.json").read_text())
    assert record["white_level"] == 4095
    assert run("report", "deeper", "--out", "page").exit_code == 0
