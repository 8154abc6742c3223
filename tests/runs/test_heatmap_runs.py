"""The job without the command line: what is explained, with which key, and what lies in the folder."""

import hashlib
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import (
    LABELS,
    QUICK,
    SIDE,
    Tiny,
    assert_bit_equal,
    compiled,
    photo,
    quick_job,
    tiny_model,
    write_photo,
)

import jaxplain as jx
from jaxplain.files import OutputError
from jaxplain.images import ImageError
from jaxplain.jobs.heatmap import Job, check_fits, compile_job, explain_photo
from jaxplain.jobs.heatmap_files import RECORD, save
from jaxplain.jobs.photos import read_photo
from jaxplain.jobs.shelf import Shelf, folder_names
from jaxplain.masks import Optax, Status, parameters

FILES = {"heatmap.png", "mask.npy", "overlay.png", "panel.png", "photo.png", "result.json", "saliency.npy"}

NOISY = {"options": {**QUICK, "preset": "paper", "steps": 3}, "baseline": "noise"}


def program(**changes):
    return compiled(quick_job(**changes), tiny_model())


def read_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# ---------------------------------------------------------------------------------------------------------
# The job


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"method": "igos+++"}, r"unknown method 'igos\+\+\+': did you mean 'igos\+\+'"),
        ({"baseline": "blurred"}, "unknown baseline 'blurred': did you mean 'blur'"),
        ({"kind": "probabilty"}, "unknown score kind 'probabilty': did you mean 'probability'"),
        ({"options": {"preset": "papre"}}, "unknown preset 'papre': did you mean 'paper'"),
        ({"options": {"stepps": 3}}, "unknown option 'stepps': did you mean 'steps'"),
        ({"options": {"steps": 0}}, "steps must be at least 1, got 0"),
        ({"options": {"iterations": -1}}, "iterations must be at least 1, got -1"),
        ({"options": {"batch_size": 0}}, "batch_size must be at least 1, got 0"),
        ({"options": {"size": 0}}, "size must be at least 1, got 0"),
        ({"curve_steps": 0}, "curve_steps must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in 0\.\.4294967295, got -1"),
        ({"seed": 2**32}, r"seed must be in 0\.\.4294967295, got 4294967296"),
    ],
)
def test_a_job_that_cannot_be_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        Job(**changes)


def test_the_parameters_of_a_job_are_the_resolved_preset():
    job = Job("igos", {"steps": 7, "preset": "paper"})
    assert job.parameters == parameters("igos", {"steps": 7, "preset": "paper"}) | {"batch_size": 1}
    assert Job(options={"batch_size": None}).parameters["batch_size"] == 1  # on a CPU
    assert Job(options={"batch_size": 9}).parameters["batch_size"] == 9


@pytest.mark.parametrize("target", [-1, -2, len(LABELS)])
def test_a_target_that_is_no_class_is_refused(target):
    with pytest.raises(ValueError, match=rf"target {target} is out of range.* 0\.\.999"):
        compile_job(quick_job(target=target), tiny_model())


@pytest.mark.parametrize("size", [SIDE + 1, (4, SIDE + 1)])
def test_a_mask_finer_than_the_input_is_refused(size):
    with pytest.raises(ValueError, match="is finer than the input of tiny, 32 x 32 pixels"):
        check_fits(quick_job(options={"size": size}), tiny_model())


# ---------------------------------------------------------------------------------------------------------
# The explanation


def test_it_is_the_library_s_own_explanation_with_the_recorded_key():
    model, job = tiny_model(), quick_job(**NOISY)
    found = explain_photo(compiled(job, model), photo())
    outcome = found.outcome
    image = model.preprocess(photo())
    np.testing.assert_array_equal(model.normalize(found.seen), image)

    top = int(jnp.argmax(model(image[None])[0]))
    base_key, mask_key = jax.random.split(jax.random.wrap_key_data(jnp.array(found.key, jnp.uint32)))
    base = jx.baseline("noise", image, normalize=model.normalize, key=base_key)
    score = jx.class_score(model, top)
    heatmap = jx.igos_pp(score, image, base, key=mask_key, **job.options)
    curves = jx.insertion_deletion(score, image, base, 1.0 - heatmap.mask, steps=50)

    assert (int(outcome.target), found.label, found.status) == (top, LABELS[top], Status.OK)
    np.testing.assert_allclose(outcome.probability, score(image[None])[0], rtol=1e-5)
    np.testing.assert_allclose(outcome.heatmap.mask, heatmap.mask, atol=1e-5)
    np.testing.assert_allclose(outcome.curves.deletion, curves.deletion, atol=1e-5)
    np.testing.assert_allclose(outcome.curves.insertion, curves.insertion, atol=1e-5)
    assert 0.0 < float(outcome.heatmap.mask.min()) < 0.9


def test_a_blurred_photo_is_the_baseline_of_the_top_class():
    model, found = tiny_model(), explain_photo(program(), photo())
    image = model.preprocess(photo())
    score = jx.class_score(model, int(found.outcome.target))
    blurred = score(jx.blur_baseline(image)[None])[0]
    np.testing.assert_allclose(found.outcome.heatmap.baseline_score, blurred, rtol=1e-4)
    assert float(found.outcome.heatmap.image_score) > float(blurred)


def test_a_chosen_target_is_explained():
    found = explain_photo(program(target=7), photo())
    assert (int(found.outcome.target), found.label) == (7, LABELS[7])
    np.testing.assert_allclose(
        found.outcome.probability,
        jx.class_score(tiny_model(), 7)(tiny_model().preprocess(photo())[None])[0],
        rtol=1e-4,
    )


def test_equal_photos_and_seeds_give_equal_bits_and_nothing_else_does():
    made = program(**NOISY)
    first, again, other = (explain_photo(made, photo(seed)) for seed in (0, 0, 1))
    reseeded = explain_photo(made._replace(job=quick_job(**NOISY, seed=1)), photo(0))  # it is not compiled in
    assert_bit_equal(first.outcome, again.outcome)
    assert len({first.key, other.key, reseeded.key}) == 3
    assert not np.array_equal(first.outcome.heatmap.mask, reseeded.outcome.heatmap.mask)


def test_a_program_is_traced_once_for_all_photos():
    Tiny.calls = 0
    made = compile_job(quick_job(), tiny_model())
    traced = Tiny.calls
    assert traced > 0
    for seed in range(3):
        explain_photo(made, photo(seed, height=30 + seed, width=50 - seed))
    assert Tiny.calls == traced
    assert made.compile_seconds > 0


# ---------------------------------------------------------------------------------------------------------
# The folder


def test_the_folder_holds_pictures_arrays_and_a_record(tmp_path):
    made, source = program(), read_photo(write_photo(tmp_path / "a photo.png"))
    found = explain_photo(made, source.rgb)
    save(tmp_path / "out", made, source, found)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES

    saliency, mask = (np.load(tmp_path / "out" / name) for name in ("saliency.npy", "mask.npy"))
    assert (saliency.shape, saliency.dtype) == ((SIDE, SIDE), np.float32)
    assert (mask.shape, mask.dtype) == ((4, 4), np.float32)
    np.testing.assert_allclose(saliency, 1 - jx.upsample(jnp.asarray(mask), (SIDE, SIDE)), atol=1e-6)
    sizes = {path.stem: Image.open(path).size for path in (tmp_path / "out").glob("*.png")}
    panel = sizes.pop("panel")
    assert sizes == dict.fromkeys(("photo", "heatmap", "overlay"), (SIDE, SIDE))
    assert panel[0] > 3 * panel[1] > 600


def test_the_record_says_how_it_was_made(tmp_path):
    made, source = program(), read_photo(write_photo(tmp_path / "a photo.png"))
    found = explain_photo(made, source.rgb)
    save(tmp_path / "out", made, source, found)
    record = read_json(tmp_path / "out" / "result.json")
    outcome = found.outcome

    def close(number):
        return pytest.approx(float(number), rel=1e-6, abs=1e-12)

    curves, history, chosen = record.pop("curves"), record.pop("history"), record.pop("parameters")
    assert record == {
        "jaxplain": jx.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "image": "a photo.png",
        "image_size": [40, 48],
        "image_sha256": hashlib.sha256(source.path.read_bytes()).hexdigest(),
        "method": "igos++",
        "model": "tiny",
        "input_size": [SIDE, SIDE],
        "target": {"index": int(outcome.target), "label": found.label},
        "score": "probability",
        "baseline": "blur",
        "seed": 0,
        "key": list(found.key),
        "status": "ok",
        "probability": close(outcome.probability),
        "image_score": close(outcome.heatmap.image_score),
        "baseline_score": close(outcome.heatmap.baseline_score),
        "loss": close(outcome.heatmap.loss),
        "deletion_area": close(outcome.curves.deletion_area),
        "insertion_area": close(outcome.curves.insertion_area),
        "model_evaluations": int(outcome.heatmap.evaluations),
        "seconds": {"compile": round(made.compile_seconds, 3), "run": round(found.seconds, 3)},
    }
    assert set(history) == set(outcome.heatmap.history._fields)
    assert all(len(row) == QUICK["iterations"] for row in history.values())
    assert curves.pop("steps") == 50
    assert (curves.pop("score"), curves.pop("baseline")) == ("probability", "blur")
    assert curves == {name: [close(v) for v in getattr(outcome.curves, name)] for name in curves}
    assert chosen.pop("descent")["name"] == type(made.job.parameters["descent"]).__name__
    assert chosen.pop("size") == [4, 4]
    resolved = made.job.parameters
    assert chosen.pop("l2") == close(resolved["l2"])  # in float32's digits
    assert chosen == {name: resolved[name] for name in resolved if name not in ("descent", "size", "l2")}


def test_every_kind_of_parameter_can_be_recorded(tmp_path):
    import optax

    options = {**QUICK, "descent": Optax(optax.adam(0.1)), "l1": jnp.float32(0.5), "size": (4, 6)}
    made, source = program(options=options), read_photo(write_photo(tmp_path / "a.png"))
    save(tmp_path / "out", made, source, explain_photo(made, source.rgb))
    chosen = read_json(tmp_path / "out" / "result.json")["parameters"]
    assert (chosen["l1"], chosen["size"], chosen["descent"]["name"]) == (0.5, [4, 6], "Optax")


def test_nan_is_null_in_the_record(tmp_path):
    made, source = program(), read_photo(write_photo(tmp_path / "a.png"))
    found = explain_photo(made, source.rgb)
    broken = jax.tree_util.tree_map(lambda leaf: np.full_like(leaf, np.nan), found.outcome.curves)
    save(tmp_path / "out", made, source, found._replace(outcome=found.outcome._replace(curves=broken)))
    record = read_json(tmp_path / "out" / "result.json")
    assert record["deletion_area"] is None
    assert set(record["curves"]["insertion"]) == {None}


def test_what_is_no_result_is_not_replaced(tmp_path):
    made, source = program(), read_photo(write_photo(tmp_path / "a.png"))
    found = explain_photo(made, source.rgb)
    mine = tmp_path / "out" / "diary.txt"
    mine.parent.mkdir()
    mine.write_text("dear diary")
    with pytest.raises(OutputError, match=r"it holds files but no result\.json"):
        save(mine.parent, made, source, found)
    assert [path.name for path in mine.parent.iterdir()] == ["diary.txt"]


def test_a_result_that_cannot_be_made_leaves_the_older_one(tmp_path, monkeypatch):
    made, source = program(), read_photo(write_photo(tmp_path / "a.png"))
    found = explain_photo(made, source.rgb)
    save(tmp_path / "out", made, source, found)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    write = Path.write_bytes

    def crash_at_the_panel(path, content):
        if path.name == "panel.png":
            raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", crash_at_the_panel)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path / "out", made, source, found._replace(label="other"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "out"}


# ---------------------------------------------------------------------------------------------------------
# Which folder


def test_folders_are_named_after_files():
    paths = [Path(p) for p in ("x/cat.jpg", "x/cat.png", "y/cat.png", "dog.jpg", "dog", "x/DOG.gif", "a.b.c")]
    assert list(folder_names(paths).values()) == [
        "cat.jpg",
        "cat.png",
        "cat.png-2",
        "dog.jpg",
        "dog",
        "DOG.gif",
        "a.b",
    ]


@given(st.lists(st.sampled_from(["cat", "CAT", "cat.png", "cat.png-2", "cat-2"]).map(Path), max_size=4))
def test_no_two_photos_share_a_folder(stems):
    paths = [Path(f"{i}", f"{stem}{kind}") for i, stem in enumerate(stems) for kind in ("", ".png")]
    names = [name.casefold() for name in folder_names(paths).values()]
    assert len(set(names)) == len(paths)


def test_a_later_run_replaces_results_of_the_same_photo_only(tmp_path):
    made = program()

    def explain(*paths):
        shelf = Shelf(tmp_path / "out", paths, RECORD)
        photos = [read_photo(path) for path in paths]
        for source in photos:
            save(shelf.folder(source), made, source, explain_photo(made, source.rgb))
        return [shelf.folder(source).name for source in photos]

    cat = write_photo(tmp_path / "x" / "cat.png", seed=0)
    other = write_photo(tmp_path / "y" / "cat.png", seed=1)
    planned = write_photo(tmp_path / "cat-2.png", seed=2)
    assert explain(cat) == ["cat"]
    assert explain(cat) == ["cat"]
    assert explain(other, planned) == ["cat-3", "cat-2"]  # a name of this run is not taken away
    assert explain(planned) == ["cat-2"]
    assert explain(Path(shutil.copy(other, tmp_path / "cat.png"))) == ["cat-3"]
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"image_sha256": null}', "\xff"])
def test_a_damaged_record_is_nobody_s_to_replace(tmp_path, content):
    source = read_photo(write_photo(tmp_path / "cat.png"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "result.json").write_text(content, encoding="latin-1")
    assert Shelf(tmp_path, [source.path], RECORD).folder(source) == tmp_path / "cat-2"


def test_reading_a_photo(tmp_path):
    source = read_photo(write_photo(tmp_path / "a.png", seed=3))
    np.testing.assert_array_equal(source.rgb, photo(3))
    assert source.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    with pytest.raises(ImageError, match=r"b\.png: no such file"):
        read_photo(tmp_path / "b.png")
