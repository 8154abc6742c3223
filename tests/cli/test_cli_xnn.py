"""Explanation networks of folders of photos: the store of features, the command line, the sheets."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

from jaxplain import masks, xnn, zoo
from jaxplain.cli import app as cli
from jaxplain.jobs import features as feature_module
from jaxplain.jobs import xnn_look
from jaxplain.jobs.features import FeatureStore, class_folders, labelled_photos, weights_digest
from jaxplain.jobs.xnn import XnnJob, dataset, fit_networks, schedule
from jaxplain.jobs.xnn_files import RECORD, load_networks

SPECIES = ("auk", "bee eater", "crow")
COLORS = ((220, 40, 40), (40, 200, 40), (40, 40, 220))
QUICK = ("--model", "tiny", "--epochs", "3", "--features", "kept")
WIDTHS = (8,)


@pytest.fixture(autouse=True)
def quick_world(tmp_path, monkeypatch):
    """An empty current folder, a small model with shipped weights, short optimisations, one compilation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setitem(zoo.MODELS, "tiny", tiny.ENTRY)
    tiny.write_package(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setattr(xnn_look, "SIZE", 4)
    monkeypatch.setattr(xnn_look.masks, "igos_pp", _quick_igos_pp)


_igos_pp = masks.igos_pp


def _quick_igos_pp(*args, **options):
    return _igos_pp(*args, **options, iterations=1, steps=1)


def run(*args):
    return CliRunner().invoke(cli.app, ["xnn", *map(str, args)])


def lines(text):
    return " ".join(text.split())


def write_birds(folder=Path("birds"), count=12):
    """Noise with a block of the species' colour somewhere."""
    random = np.random.default_rng(0)
    for name, color in zip(SPECIES, COLORS, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            photo = random.integers(90, 160, (36, 36, 3)).astype(np.uint8)
            top, left = random.integers(0, 18, 2)
            photo[top : top + 18, left : left + 18] = color
            Image.fromarray(photo).save(folder / name / f"{number}.png")
    return folder


def fitted(*args):
    done = run("fit", write_birds(), "--classes", "auk,crow", *QUICK, "--out", "nets", *args)
    assert done.exit_code == 0, done.output
    return done


# ---------------------------------------------------------------------------------------------------------
# The store


def store(root="kept", state=None, layer="penultimate"):
    return FeatureStore(Path(root), tiny.tiny_model(state), layer)


def test_features_are_extracted_once_and_found_by_content(monkeypatch):
    photos = labelled_photos(write_birds(), SPECIES)
    seen = []
    found = store().extract(photos, seen.append)
    assert (found.extracted, sum(seen), found.failures) == (36, 36, [])
    model = tiny.tiny_model()
    images = np.stack([model.preprocess(np.asarray(Image.open(photo.path))) for photo in photos])
    np.testing.assert_allclose(found.features, model.features(images), rtol=1e-5, atol=1e-6)

    monkeypatch.setattr(feature_module, "load_image", None)  # nothing is read again
    shutil.move("birds/auk", "birds/renamed")
    again = store().extract(labelled_photos(Path("birds"), ["crow", "renamed"]))
    assert again.extracted == 0
    np.testing.assert_array_equal(again.features, np.concatenate([found.features[24:], found.features[:12]]))


def test_another_model_layer_or_photo_is_another_key():
    photos = labelled_photos(write_birds(), SPECIES)
    store().extract(photos)
    other = {name: 2 * value for name, value in tiny.weights().items()}
    assert len(store(state=other).missing(photos)) == 36
    assert len(store(layer="maps").missing(photos)) == 36
    assert weights_digest(tiny.tiny_model()) != weights_digest(tiny.tiny_model(other))
    Image.fromarray(tiny.photo(5)).save("birds/auk/3.png")
    assert [photo.path.name for photo in store().missing(labelled_photos(Path("birds"), SPECIES))] == [
        "3.png"
    ]


def test_an_interrupted_extraction_goes_on_where_it_stopped(monkeypatch):
    photos = labelled_photos(write_birds(), SPECIES)

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store().extract(photos, stop)
    left = store().missing(photos)
    assert len(left) == 36 - feature_module._BATCH["cpu"]
    assert store().extract(photos).extracted == len(left)


def test_a_damaged_file_of_the_store_is_done_again():
    photos = labelled_photos(write_birds(), SPECIES)
    whole = store().extract(photos).features
    chunk = next(Path("kept").rglob("*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:100])
    again = store().extract(photos)
    assert again.extracted == 36
    assert len(again.remarks) == 1
    assert str(chunk) in again.remarks[0]
    np.testing.assert_array_equal(again.features, whole)
    assert store().extract(photos).remarks == []  # mended


def test_photos_that_cannot_be_read_are_named_and_nan_is_refused():
    Path(write_birds(), "auk", "0.png").write_bytes(b"no photo")
    found = store().extract(labelled_photos(Path("birds"), SPECIES))
    assert len(found.features) == 35
    assert "0.png" in found.failures[0]
    bad = {"classify.weight": tiny.weights()["classify.weight"], "classify.bias": np.zeros(1000, np.float32)}
    broken = FeatureStore(Path("kept"), tiny.tiny_model(bad), "maps")
    broken._known = {photo.sha256: np.full(12, np.nan) for photo in found.photos}
    with pytest.raises(ValueError, match="NaN or infinite features for 35 photos"):
        broken.extract(found.photos)


# ---------------------------------------------------------------------------------------------------------
# The job


def test_the_split_follows_the_photos_and_leaves_every_class_some():
    photos = labelled_photos(write_birds(), SPECIES)
    names = list(SPECIES)
    data = dataset(photos, np.zeros((36, 2)), names, 0.25)
    assert [int(data.held[data.labels == at].sum()) for at in range(3)] == [3, 3, 3]
    few = dataset(photos[12:], np.zeros((24, 2)), names[1:], 0.25)
    np.testing.assert_array_equal(few.held, data.held[12:])
    with pytest.raises(ValueError, match="no photo of class 'auk' can be read"):
        dataset(photos[12:], np.zeros((24, 2)), names, 0.25)


def test_few_photos_get_more_epochs():
    assert schedule(5000) == {"epochs": 120, "decay_every": 40}
    assert schedule(100) == {"epochs": 3000, "decay_every": 1000}


def test_the_networks_learn_the_probe_and_the_record_is_of_their_training_photos():
    photos = labelled_photos(write_birds(count=40), SPECIES)
    found = store().extract(photos)
    data = dataset(found.photos, found.features, list(SPECIES), 0.25)
    job = XnnJob(("crow",), options={"widths": (16,), "n_features": 3, "epochs": 60, "decay_every": 30})
    fit = fit_networks(job, data)
    crow = fit.classes[0]
    assert fit.accuracy > 0.9
    assert crow.diagnosis.r2 > 0.5
    assert crow.recall.after > 0.7
    rows = np.flatnonzero(~data.held)
    activation = np.asarray(crow.found.srae.x_features(jax.numpy.asarray(data.features[rows])))
    for k, top in enumerate(crow.top):
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert top[0][1] == pytest.approx(float(activation[:, k].max()))
        assert not data.held[[row for row, _ in top]].any()
    own = crow.means[:, 2].sum()
    assert own > crow.means[:, 0].sum()
    assert all(data.labels[row] == 2 for row in crow.typical)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"explained": ()}, "at least one class"),
        ({"explained": ("a", "a")}, "each once"),
        ({"holdout": 1.0}, "holdout must be between 0 and 1"),
        ({"seed": -1}, "seed must be in"),
    ],
)
def test_a_job_that_cannot_be_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        XnnJob(**{"explained": ("auk",)} | changes)


# ---------------------------------------------------------------------------------------------------------
# The command line


def test_fit_explain_and_report(monkeypatch):
    done = fitted()
    assert "auk" in done.stdout
    assert "On photos held out" in lines(done.stdout)
    record = json.loads(Path("nets", RECORD).read_text())
    assert [entry["class"] for entry in record["classes"]] == ["auk", "crow"]
    assert record["counts"] == {"train": 27, "held_out": 9}
    networks = load_networks(Path("nets"))
    assert list(networks.explained) == ["auk", "crow"]

    photos = [Path("birds/crow/0.png"), Path("birds/auk/1.png")]
    done = run("explain", "nets", *photos, "--out", "sheets")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("sheets").iterdir()} == {"0", "1"}
    for folder in Path("sheets").iterdir():
        assert {path.name for path in folder.iterdir()} == {"sheet.png", "sheet.html", "xnn-photo.json"}
    found = json.loads(Path("sheets/0/xnn-photo.json").read_text())
    network = networks.explained[found["class"]]
    image = networks.classifier.preprocess(np.asarray(Image.open(photos[0])))[None]
    np.testing.assert_allclose(found["contributions"], network.contributions(image)[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["predicted_logit"], network.predict(image)[0, 0], rtol=1e-4)
    np.testing.assert_array_equal(found["significant"], np.flatnonzero(network.significant(image)[0]))

    done = run("report", "nets", "--out", "told")
    assert done.exit_code == 0, done.output
    names = {"report.html", "report.json", "class-0.png", "class-2.png", "pair-0-2.png"}
    assert {path.name for path in Path("told").iterdir()} == names
    page = Path("told/report.html").read_text()
    assert page.count("<section") == 3
    assert "http" not in page.replace("http-equiv", "")  # needs nothing else
    for measure in xnn.MEASURES:
        assert measure in page


def test_a_second_fit_takes_the_kept_features(monkeypatch):
    fitted()
    monkeypatch.setattr(feature_module, "load_image", None)
    fitted()
    assert json.loads(Path("nets", RECORD).read_text())["counts"]["train"] == 27


def test_the_same_seed_gives_the_same_networks():
    fitted()
    one = load_networks(Path("nets")).explained["crow"].srae
    fitted()
    tiny.assert_bit_equal(one, load_networks(Path("nets")).explained["crow"].srae)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (
            ("birds", "--classes", "auk,dodo"),
            "unknown class of birds 'dodo': choose from auk, bee eater, crow",
        ),
        (("nowhere",), "nowhere is no folder"),
        (("birds/auk",), "must hold one sub-folder of photos a class, at least two; found 0"),
        (("birds", "--model", "tinny"), "unknown model 'tinny': did you mean 'tiny'"),
        (("birds", "--layer", "last"), "unknown layer 'last'"),
        (("birds", "--n-features", "0"), "n_features must be at least 1, got 0"),
        (("birds", "--n-features", "100"), "n_features must be less than the 100 units of the layer below"),
        (("birds", "--epochs", "0"), "epochs must be at least 1, got 0"),
        (("birds", "--holdout", "1.5"), "holdout must be between 0 and 1, got 1.5"),
        (("birds", "--out", "birds"), "it holds files but no xnn.json"),
    ],
)
def test_wrong_input_to_fit_is_told(args, told):
    write_birds()
    done = run("fit", *args) if "--model" in args else run("fit", *args, "--model", "tiny")
    assert done.exit_code == 2
    assert told in lines(done.stderr)
    assert not Path("jaxplain-xnn", RECORD).exists()


def test_wrong_input_to_explain_and_report_is_told():
    fitted()
    photo = "birds/auk/0.png"
    for args, told in (
        (
            ("explain", "nowhere", photo),
            "nowhere holds no xnn.json: name a folder that jaxplain xnn fit wrote",
        ),
        (
            ("explain", "nets", photo, "--class", "dodo"),
            "unknown class with a network 'dodo': choose from auk, crow",
        ),
        (("report", "birds"), "birds holds no xnn.json"),
        (
            ("report", "nets", "--pairs", "auk"),
            "--pairs must be two classes each, such as A:B or A:B,A:C; got 'auk'",
        ),
        (("report", "nets", "--pairs", "auk:dodo"), "unknown class with a network 'dodo'"),
        (("report", "nets", "--pairs", "auk:auk"), "--pairs must be two classes each"),
    ):
        done = run(*args)
        assert done.exit_code == 2, done.output
        assert told in lines(done.stderr)
    done = run("explain", "nets", "nothing.png", "--out", "sheets")
    assert done.exit_code == 1


def test_a_damaged_folder_is_told():
    fitted()
    path = Path("nets/networks/0002.safetensors")
    whole, record = path.read_bytes(), Path("nets", RECORD).read_text()

    def told():
        done = run("report", "nets")
        assert done.exit_code == 2
        return lines(done.stderr)

    path.write_bytes(whole[:50])
    assert "cannot be read as a safetensors file" in told()
    path.unlink()
    assert "does not exist" in told()
    path.write_bytes(Path("nets/networks/0000.safetensors").read_bytes())
    assert "is not the network of 'crow'" in told()
    path.write_bytes(whole)
    Path("nets", RECORD).write_text(record[:40])
    assert "cannot be read" in told()
    Path("nets", RECORD).write_text("{}")
    assert "is damaged" in told()
    Path("nets", RECORD).write_text(record.replace('"weights_digest": "', '"weights_digest": "0'))
    assert "made with other weights of tiny" in told()


def test_training_photos_that_are_gone_are_left_out():
    fitted()
    Image.fromarray(tiny.photo(1)).save("new.png")
    shutil.rmtree("birds")
    done = run("explain", "nets", "new.png", "--out", "sheets")
    assert done.exit_code == 0, done.output
    assert run("report", "nets", "--out", "told").exit_code == 0


def test_class_folders_are_those_with_photos():
    write_birds()
    Path("birds/empty").mkdir()
    Path("birds/readme.txt").write_text("no class")
    assert class_folders(Path("birds")) == list(SPECIES)


@pytest.mark.parametrize(
    ("activation", "status", "caption"),
    [
        (0.0, None, "not active"),
        (0.5, masks.Status.OK, "0.50"),
        (0.5, masks.Status.NOT_ABOVE_BASELINE, "0.50, on a blur too"),
        (0.5, masks.Status.NOT_MOVED, "0.50, no mask lowers it"),
        (0.5, masks.Status.NOT_FINITE, "0.50, not finite"),
    ],
)
def test_a_caption_says_why_there_is_no_heatmap(activation, status, caption):
    saliency = np.ones((2, 2)) if status is masks.Status.OK else None
    assert xnn_look.Seen(np.zeros((2, 2, 3)), saliency, activation, status).caption == caption
