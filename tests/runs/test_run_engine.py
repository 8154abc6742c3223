"""The run engine: subjects, programs and measures; the same photo, method and seed give the same map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import LABELS, Tiny, photo, tiny_model, weights

import jaxplain as jx
from jaxplain.explanation import Status
from jaxplain.methods import METHODS
from jaxplain.runs.records import details, error_line, number, plain, weights_digest
from jaxplain.runs.step import Engine, Step, explain_step
from jaxplain.runs.subject import content_words, image_key, method_key


def noise_map(score, image, baseline=None, *, key, batch_size=None):
    return jax.random.uniform(key, (4, 4))


def brightness(score, image, baseline=None):
    return image.mean(-1)


def test_a_view_is_the_library_s_own_image_baseline_target_and_key():
    model = tiny_model()
    view = Engine(model, baseline="noise", seed=5).view(photo())
    image = model.preprocess(photo())
    np.testing.assert_array_equal(view.pixels, model.crop_and_resize(photo()))
    np.testing.assert_allclose(view.subject.image, image, atol=1e-6)
    baseline_key, key = jax.random.split(image_key(5, content_words(view.pixels)))
    expected = jx.baseline("noise", image, normalize=model.normalize, key=baseline_key)
    np.testing.assert_allclose(view.subject.baseline, expected, atol=1e-5)
    assert (jax.random.key_data(view.subject.key) == jax.random.key_data(key)).all()
    probabilities = jax.nn.softmax(model(image[None])[0])
    assert view.target == int(jnp.argmax(probabilities))
    assert view.probability == pytest.approx(float(probabilities.max()), rel=1e-4)


def test_a_chosen_target_is_the_subject_s_and_others_are_refused():
    engine = Engine(tiny_model())
    view = engine.view(photo(), 7)
    assert (view.target, engine.label(view)) == (7, LABELS[7])
    for wrong in (-1, len(LABELS)):
        with pytest.raises(ValueError, match=rf"target {wrong} is out of range.* 0\.\.999"):
            engine.view(photo(), wrong)


def test_a_step_is_the_method_with_the_subject_s_key():
    model = tiny_model()
    engine = Engine(model)
    view = engine.view(photo())
    value, seconds = engine.run(explain_step("smooth-grad", METHODS["smooth-grad"], {"n_samples": 2}), view)
    score = jx.class_score(model, view.target)
    key = method_key(view.subject.key, "smooth-grad")
    expected = METHODS["smooth-grad"].function(score, view.subject.image, key=key, n_samples=2)
    np.testing.assert_allclose(value.importance, expected.importance, rtol=1e-3, atol=1e-6)
    assert (Status(int(value.status)), value.importance.shape) == (Status.OK, (32, 32))
    assert seconds > 0
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree_util.tree_leaves(value))


def test_keys_come_from_seed_photo_and_name_alone():
    step, other = explain_step("noise", noise_map, {}), explain_step("other", noise_map, {})

    def mapped(step, seed, which):
        engine = Engine(tiny_model(), seed=seed)
        return engine.run(step, engine.view(photo(which))).value.importance

    np.testing.assert_array_equal(mapped(step, 0, 0), mapped(step, 0, 0))
    maps = [mapped(step, 0, 0), mapped(step, 1, 0), mapped(step, 0, 1), mapped(other, 0, 0)]
    assert len({one.tobytes() for one in maps}) == 4


def test_the_baseline_of_a_photo_is_one_for_all_steps():
    """With baseline "noise", a heatmap and a graph of one photo must see the same noise."""
    engine = Engine(tiny_model(), baseline="noise", seed=3)
    seen = [
        engine.run(Step(name, lambda classifier, subject: subject.baseline), engine.view(photo())).value
        for name in ("one", "two")
    ]
    np.testing.assert_array_equal(*seen)


def test_a_program_is_traced_once_for_all_photos(monkeypatch):
    engine = Engine(tiny_model())
    monkeypatch.setattr(engine, "_programs", {})
    Tiny.calls = 0
    step = explain_step("gradient", METHODS["gradient"], {})
    program = engine.compile(step, n_steps=4)
    traced = Tiny.calls
    assert traced > 0
    assert not engine.knows(explain_step("other", METHODS["gradient"], {}))
    for seed in range(3):
        view = engine.view(photo(seed, height=30 + seed, width=50 - seed))
        engine.measure(view, engine.run(step, view).value.importance, 4, confidence=False)
    assert Tiny.calls == traced
    assert program.shapes.importance.shape == (32, 32)
    assert program.compile_seconds > 0
    assert engine.compile_seconds > 0


def test_another_classifier_of_the_same_structure_runs_through_the_same_program():
    engine, step = Engine(tiny_model()), explain_step("gradient", METHODS["gradient"], {})
    view = engine.view(photo())
    shuffled = tiny_model({name: value[::-1].copy() for name, value in weights().items()})
    one, other = (engine.run(step, view, model).value.importance for model in (None, shuffled))
    assert not np.array_equal(one, other)


def test_measures_are_the_library_s_own():
    model = tiny_model()
    engine = Engine(model)
    view = engine.view(photo())
    importance = np.random.default_rng(0).uniform(size=(4, 4))
    found = engine.measure(view, importance, 5)
    scene = jx.class_score(model, view.target), view.subject.image, view.subject.baseline
    curves = jx.metrics.insertion_deletion(*scene, jnp.asarray(importance, jnp.float32), n_steps=5)
    for one, two in zip(found.curves, curves, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    confidence = jx.metrics.confidence_on_explanation(*scene, jnp.asarray(importance, jnp.float32))
    np.testing.assert_allclose(found.confidence.after, confidence.after, rtol=1e-4)
    assert engine.measure(view, importance, 5, confidence=False).confidence is None


def test_what_tracing_raises_is_raised_again_and_again():
    def refuses(score, image, baseline):
        raise RuntimeError("no such layer")

    engine = Engine(tiny_model())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such layer"):
            engine.compile(explain_step("refuses", refuses, {}))
    with pytest.raises(ValueError, match="one map"):
        engine.compile(explain_step("pixels", lambda score, image, baseline: image, {}))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="unknown baseline 'blurred': did you mean 'blur'"):
        Engine(tiny_model(), baseline="blurred")
    with pytest.raises(ValueError, match=r"seed must be in 0\.\.4294967295, got -1"):
        Engine(tiny_model(), seed=-1)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        Engine(tiny_model(), batch_size=0)
    with pytest.raises(ValueError, match="unknown score kind 'probabilty': did you mean 'probability'"):
        explain_step("m", brightness, {}, kind="probabilty")


# ---------------------------------------------------------------------------------------------------------
# Records


def test_numbers_are_json_s():
    assert number(np.float32(0.1)) == 0.1
    assert number(np.nan) is None
    assert number(np.inf) is None


def test_details_hold_numbers_and_short_series_by_name():
    curves = jx.metrics.Curves(np.array([0.0, 1.0]), np.array([1.0, np.nan]), np.zeros((2, 3)), 0.5, 0.25)
    found = details({"curves": curves, "count": np.int32(3), "masks": np.zeros((2, 2)), "nothing": ()})
    assert found["curves"]["fraction"] == [0.0, 1.0]
    assert found["curves"]["deletion"] == [1.0, None]
    assert "insertion" not in found["curves"]
    assert found["count"] == 3.0
    assert "masks" not in found


def test_every_kind_of_option_can_be_recorded():
    from jaxplain.masks import LineSearch

    options = {
        "descent": LineSearch(),
        "l1": jnp.float32(0.5),
        "size": (4, 6),
        "preset": None,
        "f": brightness,
    }
    found = plain(options)
    assert (found["descent"]["name"], found["l1"], found["size"]) == ("LineSearch", 0.5, [4, 6])
    assert found["preset"] is None
    assert "brightness" in found["f"]


def test_a_digest_of_weights_changes_with_a_single_number():
    state = weights()
    changed = {name: value.copy() for name, value in state.items()}
    changed["classify.bias"][3] += 1e-6
    digests = [weights_digest(tiny_model(one)) for one in (state, state, changed)]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16


def test_an_error_is_one_line():
    assert error_line(RuntimeError("no such layer\nand more")) == "RuntimeError: no such layer"
    cut = "the carry types differ:\n\n  one has float32,\n  the other has float64.\nRevise it"
    whole = "TypeError: the carry types differ: one has float32, the other has float64."
    assert error_line(TypeError(cut)) == whole
    assert len(error_line(TypeError("a:\n" * 1000))) < 400
    assert error_line(RuntimeError()) == "RuntimeError"
