"""Heatmaps of photos without the command line: what is explained, and what is in the folder."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import LABELS, QUICK, SIDE, assert_bit_equal, photo, tiny_model, write_photo

import jaxplain as jx
from jaxplain.explanation import Status
from jaxplain.methods import METHODS, parameters
from jaxplain.runs.heatmap_runs import (
    RECORD,
    HeatmapSettings,
    check_fits,
    compile_heatmaps,
    explain_photo,
    heatmap_files,
)
from jaxplain.runs.photos import read_photo
from jaxplain.runs.subject import method_key

NOISY = {"options": QUICK | {"noise": 0.1, "n_steps": 3}, "baseline": "noise"}


def compiled(**changes):
    return compile_heatmaps(HeatmapSettings(**{"options": QUICK} | changes), tiny_model())


def read_json(content):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(content, parse_constant=refuse)


# ---------------------------------------------------------------------------------------------------------
# The settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "igos+++"}, r"unknown method 'igos\+\+\+': did you mean 'igos\+\+'"),
        ({"method": "grad_cam"}, "unknown method 'grad_cam': did you mean 'grad-cam'"),
        ({"baseline": "blurred"}, "unknown baseline 'blurred': did you mean 'blur'"),
        ({"kind": "probabilty"}, "unknown score kind 'probabilty': did you mean 'probability'"),
        ({"preset": "papre"}, "unknown preset 'papre': did you mean 'paper'"),
        (
            {"method": "grad-cam", "preset": "paper"},
            "no published settings exist for grad-cam, only for igos, ",
        ),
        ({"options": {"n_stepps": 3}}, "unknown option 'n_stepps': did you mean 'n_steps'"),
        ({"method": "gradient", "options": {"size": 4}}, "gradient has no option size; its options are: "),
        ({"options": {"n_steps": 0}}, "n_steps must be at least 1, got 0"),
        ({"options": {"iterations": -1}}, "iterations must be at least 1, got -1"),
        ({"options": {"batch_size": 0}}, "batch_size must be at least 1, got 0"),
        ({"options": {"size": 0}}, "size must be at least 1, got 0"),
        ({"curve_steps": 0}, "curve_steps must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in 0\.\.4294967295, got -1"),
        ({"seed": 2**32}, r"seed must be in 0\.\.4294967295, got 4294967296"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        HeatmapSettings(**changes)


def test_the_parameters_are_the_method_s_with_those_of_the_preset():
    settings = HeatmapSettings("igos", {"n_steps": 7}, "paper")
    expected = parameters(METHODS["igos"], jx.masks.PAPER["igos"] | {"n_steps": 7})
    assert settings.parameters == expected | {"batch_size": 1}  # on a CPU
    assert HeatmapSettings(options={"batch_size": 9}).parameters["batch_size"] == 9


def test_settings_that_do_not_fit_the_classifier_are_refused():
    for target in (-1, len(LABELS)):
        with pytest.raises(ValueError, match=rf"target {target} is out of range.* 0\.\.999"):
            compile_heatmaps(HeatmapSettings(target=target), tiny_model())
    for size in (SIDE + 1, (4, SIDE + 1)):
        with pytest.raises(ValueError, match="is finer than the input of tiny, 32 x 32 pixels"):
            check_fits(HeatmapSettings(options={"size": size}), tiny_model())


# ---------------------------------------------------------------------------------------------------------
# The explanation


def test_it_is_the_library_s_own_explanation_with_the_recorded_key():
    program = compiled(**NOISY)
    explained = explain_photo(program, photo())
    subject, options = explained.view.subject, NOISY["options"]
    score = jx.class_score(tiny_model(), explained.view.target)
    key = method_key(subject.key, "igos++")
    expected = jx.igos_pp(score, subject.image, subject.baseline, key=key, **options)
    curves = jx.insertion_deletion(score, subject.image, subject.baseline, expected.importance)
    assert (explained.label, explained.status) == (LABELS[explained.view.target], Status.OK)
    np.testing.assert_allclose(explained.view.probability, score(subject.image[None])[0], rtol=1e-5)
    np.testing.assert_allclose(explained.explanation.importance, expected.importance, atol=1e-4)
    np.testing.assert_allclose(explained.curves.deletion, curves.deletion, atol=1e-4)
    np.testing.assert_allclose(explained.curves.insertion, curves.insertion, atol=1e-4)
    assert np.ptp(explained.explanation.importance) > 0.1


def test_the_curves_are_measured_on_the_probability_whatever_is_explained():
    explained = explain_photo(compiled(method="gradient", kind="logit", options={}), photo())
    assert explained.curves.deletion[0] == pytest.approx(explained.view.probability, rel=1e-4)


@pytest.mark.parametrize("method", ["grad-cam", "integrated-gradients", "smooth-grad"])
def test_any_method_of_the_registry_is_explained_and_recorded(tmp_path, method):
    program, source = compiled(method=method, options={}), read_photo(write_photo(tmp_path / "a.png"))
    explained = explain_photo(program, source.rgb)
    record = read_json(heatmap_files(program, source, explained)[RECORD])
    assert (record["method"], record["status"]) == (method, "ok")
    assert 0 < record["deletion_auc"] < 1


def test_equal_photos_and_seeds_give_equal_bits_and_nothing_else_does():
    program, other_seed = compiled(**NOISY), compiled(**NOISY, seed=1)
    first, again, other = (explain_photo(program, photo(seed)) for seed in (0, 0, 1))
    reseeded = explain_photo(other_seed, photo(0))
    assert_bit_equal(first.explanation, again.explanation)
    maps = [one.explanation.importance.tobytes() for one in (first, other, reseeded)]
    assert len(set(maps)) == 3


# ---------------------------------------------------------------------------------------------------------
# The files


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """One explained photo and its files; its programs are its own, for other tests count compilations."""
    source = read_photo(write_photo(tmp_path_factory.mktemp("photos") / "a photo.png"))
    program = compiled()
    explained = explain_photo(program, source.rgb)
    return program, source, explained, heatmap_files(program, source, explained)


def test_the_files_hold_the_map_at_both_sizes(result):
    *_, contents = result
    assert set(contents) == {"importance.npy", "saliency.npy", RECORD}
    importance, saliency = (loaded(contents[f"{name}.npy"]) for name in ("importance", "saliency"))
    assert (importance.shape, importance.dtype) == ((4, 4), np.float32)
    assert (saliency.shape, saliency.dtype) == ((SIDE, SIDE), np.float32)
    np.testing.assert_allclose(saliency, jx.upsample(jnp.asarray(importance), (SIDE, SIDE)), atol=1e-6)


def loaded(content):
    import io

    return np.load(io.BytesIO(content))


def test_the_record_says_how_it_was_made(result):
    program, source, explained, contents = result
    record = read_json(contents[RECORD])

    def close(number):
        return pytest.approx(float(number), rel=1e-6, abs=1e-12)

    curves, details, chosen = record.pop("curves"), record.pop("details"), record.pop("parameters")
    assert record == {
        "jaxplain": jx.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "image": "a photo.png",
        "image_size": [40, 48],
        "image_sha256": hashlib.sha256(source.path.read_bytes()).hexdigest(),
        "method": "igos++",
        "preset": "default",
        "model": "tiny",
        "input_size": [SIDE, SIDE],
        "target": {"index": explained.view.target, "label": explained.label},
        "score": "probability",
        "baseline": "blur",
        "seed": 0,
        "key": jax.random.key_data(explained.view.subject.key).tolist(),
        "status": "ok",
        "probability": close(explained.view.probability),
        "deletion_auc": close(explained.curves.deletion_auc),
        "insertion_auc": close(explained.curves.insertion_auc),
        "model_evaluations": int(explained.explanation.evaluations),
        "seconds": {"compile": round(program.compile_seconds, 3), "run": round(explained.seconds, 3)},
    }
    assert curves.pop("n_steps") == 50
    assert (curves.pop("score"), curves.pop("baseline")) == ("probability", "blur")
    assert curves == {name: [close(v) for v in getattr(explained.curves, name)] for name in curves}
    history = explained.explanation.details.history._asdict()
    assert set(details["history"]) == set(history)
    assert all(len(values) == QUICK["iterations"] for values in details["history"].values())
    assert (chosen["size"], chosen["iterations"], chosen["batch_size"]) == (4, 1, 1)
    assert chosen["descent"]["name"] == type(program.settings.parameters["descent"]).__name__


def test_nan_is_null_in_the_record(result):
    program, source, explained, _ = result
    broken = jax.tree_util.tree_map(lambda leaf: np.full_like(leaf, np.nan), explained.curves)
    record = read_json(heatmap_files(program, source, explained._replace(curves=broken))[RECORD])
    assert record["deletion_auc"] is None
    assert set(record["curves"]["insertion"]) == {None}
