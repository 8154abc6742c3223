"""Explanation networks of class folders: the store of features, the split, fits, and looking at photos."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from support import birds, tiny

from jaxplain import masks, perturb, xnn
from jaxplain.explanation import Explanation, Status, finished
from jaxplain.report import networks as pages
from jaxplain.runs import features as feature_module
from jaxplain.runs import network_runs as runs
from jaxplain.runs import subject
from jaxplain.runs.features import FeatureStore, class_folders, labelled_photos
from jaxplain.runs.records import weights_digest

SPECIES = birds.SPECIES


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---------------------------------------------------------------------------------------------------------
# The store


def store(root="kept", state=None, layer="penultimate"):
    return FeatureStore(Path(root), tiny.tiny_model(state), layer)


def test_features_are_extracted_once_and_found_by_content(monkeypatch):
    photos = labelled_photos(birds.write_birds(), SPECIES)
    counts = []
    found = store().extract(photos, counts.append)
    assert (found.extracted, sum(counts), found.failures) == (36, 36, [])
    model = tiny.tiny_model()
    images = np.stack([model.preprocess(np.asarray(Image.open(photo.path))) for photo in photos])
    np.testing.assert_allclose(found.features, model.features(images), rtol=1e-5, atol=1e-6)

    monkeypatch.setattr(feature_module, "load_image", None)  # nothing is read again
    shutil.move("birds/auk", "birds/renamed")
    again = store().extract(labelled_photos(Path("birds"), ["crow", "renamed"]))
    assert again.extracted == 0
    np.testing.assert_array_equal(again.features, np.concatenate([found.features[24:], found.features[:12]]))


def test_another_model_layer_or_photo_is_extracted_again():
    photos = labelled_photos(birds.write_birds(), SPECIES)
    store().extract(photos)
    other = {name: 2 * value for name, value in tiny.weights().items()}
    assert len(store(state=other).missing(photos)) == 36
    assert len(store(layer="maps").missing(photos)) == 36
    assert weights_digest(tiny.tiny_model()) != weights_digest(tiny.tiny_model(other))
    Image.fromarray(tiny.photo(5)).save("birds/auk/3.png")
    missing = store().missing(labelled_photos(Path("birds"), SPECIES))
    assert [photo.path.name for photo in missing] == ["3.png"]


def test_an_interrupted_extraction_resumes():
    photos = labelled_photos(birds.write_birds(), SPECIES)

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store().extract(photos, stop)
    left = store().missing(photos)
    assert len(left) == 36 - feature_module._BATCH["cpu"]
    assert store().extract(photos).extracted == len(left)


def test_photos_of_a_damaged_file_of_the_store_are_extracted_again():
    photos = labelled_photos(birds.write_birds(), SPECIES)
    whole = store().extract(photos).features
    chunk = next(Path("kept").rglob("*.npz"))
    chunk.write_bytes(chunk.read_bytes()[:100])
    again = store().extract(photos)
    assert again.extracted == 36
    assert len(again.remarks) == 1
    assert str(chunk) in again.remarks[0]
    np.testing.assert_array_equal(again.features, whole)
    assert store().extract(photos).remarks == []  # repaired


def test_unreadable_photos_are_named_and_nan_is_refused():
    Path(birds.write_birds(), "auk", "0.png").write_bytes(b"no photo")
    found = store().extract(labelled_photos(Path("birds"), SPECIES))
    assert len(found.features) == 35
    assert "0.png" in found.failures[0]
    broken = store(layer="maps")
    broken._features = {photo.sha256: np.full(12, np.nan) for photo in found.photos}
    with pytest.raises(ValueError, match="NaN or infinite features for 35 photos"):
        broken.extract(found.photos)


def test_class_folders_are_those_with_photos():
    birds.write_birds()
    Path("birds/empty").mkdir()
    Path("birds/readme.txt").write_text("no class")
    assert class_folders(Path("birds")) == list(SPECIES)


# ---------------------------------------------------------------------------------------------------------
# The fit


def test_the_split_follows_the_photos_and_leaves_training_photos_of_every_class():
    photos = labelled_photos(birds.write_birds(), SPECIES)
    names = list(SPECIES)
    data = runs.dataset(photos, np.zeros((36, 2)), names, 0.25)
    assert [int(data.held[data.labels == at].sum()) for at in range(3)] == [3, 3, 3]
    few = runs.dataset(photos[12:], np.zeros((24, 2)), names[1:], 0.25)
    np.testing.assert_array_equal(few.held, data.held[12:])
    with pytest.raises(ValueError, match="no photo of class 'auk' can be read"):
        runs.dataset(photos[12:], np.zeros((24, 2)), names, 0.25)


def test_few_photos_get_more_epochs():
    assert runs.schedule(5000) == {"epochs": 120, "decay_every": 40}
    assert runs.schedule(100) == {"epochs": 3000, "decay_every": 1000}


def fit_crow(**options):
    photos = labelled_photos(birds.write_birds(count=40), SPECIES)
    found = store().extract(photos)
    data = runs.dataset(found.photos, found.features, list(SPECIES), 0.25)
    options = {"widths": (16,), "n_features": 3, "epochs": 60} | options
    return runs.fit_networks(runs.FitSettings(("crow",), options=options), data), data


@pytest.mark.slow
def test_the_record_lists_training_photos(monkeypatch):
    monkeypatch.setattr(xnn, "fit", birds.quick_fit)
    fitted, data = fit_crow()
    crow = fitted.classes[0]
    assert fitted.accuracy > 0.9
    activation = np.asarray(crow.fit.srae.x_features(jnp.asarray(data.features[~data.held])))
    for k, top in enumerate(crow.top):
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
        assert max((value for _, value in top), default=0) == pytest.approx(float(activation[:, k].max()))
        assert not data.held[[row for row, _ in top]].any()
    contributions = np.asarray(crow.fit.srae.contributions(jnp.asarray(data.features)))
    for label in range(3):
        own = contributions[(data.labels == label) & ~data.held]
        np.testing.assert_allclose(crow.means[:, label], own.mean(0), rtol=1e-4, atol=1e-6)
    assert len(crow.typical) == 3
    assert all(data.labels[row] == 2 and not data.held[row] for row in crow.typical)


@pytest.mark.slow
def test_networks_predict_the_probe():
    crow = fit_crow(decay_every=30)[0].classes[0]
    assert crow.diagnosis.r2 > 0.5
    assert crow.recall.after > 0.7
    assert crow.means[:, 2].sum() > crow.means[:, 0].sum()


@pytest.mark.slow
def test_an_x_feature_is_explained_by_igos_pp():
    networks = loaded()
    photo = networks.prepare("a", tiny.photo(3))
    found = [networks.look("auk", k, photo) for k in range(3)]
    assert all(one.saliency.shape == (32, 32) for one in found if one.status is Status.OK)
    assert all((one.status is None) == (one.activation <= 0) for one in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"explained": ()}, "at least one class"),
        ({"explained": ("a", "a")}, "each class only once"),
        ({"holdout": 1.0}, "holdout must be between 0 and 1"),
        ({"seed": -1}, "seed must be in"),
        ({"layer": "map"}, "did you mean 'maps'"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        runs.FitSettings(**{"explained": ("auk",)} | changes)


# ---------------------------------------------------------------------------------------------------------
# Looking at photos


def loaded():
    """Networks of two classes, not fitted."""
    model, probe = tiny.tiny_model(), xnn.Probe(jnp.ones((48, 3)) / 48, jnp.arange(3.0))
    trunk, explained = xnn.Trunk(model), {}
    for index, name in enumerate(("auk", "crow")):
        srae = xnn.SRAE(xnn.SRAEConfig(features=48, widths=(8,), n_features=3), rngs=nnx.Rngs(index))
        explained[name] = xnn.ExplanationNetwork(trunk, probe, srae, index)
    return runs.LoadedNetworks(model, probe, SPECIES, explained, Path("birds"), {})


def test_key_and_baseline_of_a_photo_are_those_of_every_run(monkeypatch):
    networks, given = loaded(), []

    def record(score, image, baseline, *, key, size):
        given.append((image, baseline, key, size))
        return finished(jnp.ones((size, size)), jnp.zeros(1), 1)

    monkeypatch.setattr(masks, "igos_pp", record)
    photo = networks.prepare("a", tiny.photo(3))
    monkeypatch.setattr(runs, "_explain", runs._explain.__wrapped__)  # not compiled
    found = [networks.look("crow", k, photo) for k in range(3)]
    asked, make = subject.request(photo.pixels), jax.jit(subject.make_subject, static_argnames="baseline")
    expected = make(networks.classifier, jnp.uint32(0), asked, baseline="blur")
    image, baseline, key, size = given[0]
    assert size == 14
    np.testing.assert_array_equal(image, expected.image)
    np.testing.assert_allclose(baseline, perturb.blur_baseline(expected.image), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        jax.random.key_data(key), jax.random.key_data(subject.method_key(expected.key, "igos++"))
    )
    assert len(given) == sum(one.activation > 0 for one in found)
    assert {one.status for one in found} <= {None, Status.OK}


def test_the_class_with_the_highest_logit_is_read(monkeypatch):
    networks = loaded()
    monkeypatch.setattr(
        runs, "_explain", lambda score, subject, size: Explanation(jnp.ones((size, size)), jnp.int32(1), 1)
    )
    photo = networks.prepare("a", tiny.photo(3))
    reading = networks.read(photo)
    assert reading.name == "crow"  # index 1; class 2, with a higher logit, has no network
    network, image = networks.explained["crow"], networks.classifier.preprocess(tiny.photo(3))[None]
    np.testing.assert_allclose(reading.contributions, network.contributions(image)[0], rtol=1e-4)
    np.testing.assert_allclose(reading.predicted, network.predict(image)[0, 0], rtol=1e-4)
    np.testing.assert_array_equal(reading.significant, network.significant(image)[0])
    assert set(reading.maps) == set(np.flatnonzero(reading.significant))
    assert all(one.status is Status.NOT_FINITE and one.saliency is None for one in reading.maps.values())


@pytest.mark.parametrize(
    ("activation", "status", "caption"),
    [
        (0.0, None, "not active"),
        (0.5, Status.OK, "0.50"),
        (0.5, Status.NOT_ABOVE_BASELINE, "0.50, not above blur"),
        (0.5, Status.NOT_MOVED, "0.50, no mask lowers it"),
        (0.5, Status.NOT_FINITE, "0.50, not finite"),
    ],
)
def test_a_caption_says_why_there_is_no_heatmap(activation, status, caption):
    saliency = np.ones((2, 2)) if status is Status.OK else None
    assert pages.caption(runs.FeatureMap(activation, status, saliency)) == caption
