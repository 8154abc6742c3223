"""Scores against their formulas, and what can serve as a classifier."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.scores import (
    COMPARING_KINDS,
    KINDS,
    ClassScore,
    as_logits,
    as_pytree,
    class_score,
    from_pytree,
    top_class,
)

# ---------------------------------------------------------------------------------------------------------
# Class scores


def expected_score(logits, target, kind):
    logits = np.asarray(logits, np.float64)
    exponentials = np.exp(logits - logits.max())
    if kind == "probability":
        return exponentials[target] / exponentials.sum()
    if kind == "log_probability":
        return np.log(exponentials[target] / exponentials.sum())
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-logits[target]))
    if kind == "margin":
        return logits[target] - max(np.delete(logits, target))
    return logits[target]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_their_formulas(scene, kind):
    images = jnp.stack([scene.image, scene.baseline])
    for target in range(4):
        values = class_score(scene.net, target, kind)(images)
        assert values.dtype == jnp.float32
        rows = zip(values, scene.net(images), strict=True)
        for value, logits in rows:
            assert float(value) == pytest.approx(expected_score(logits, target, kind), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_large_logits_stay_finite(kind):
    logits = jnp.array([[1e4, -1e4, 0.0]])
    for target in range(3):
        score = class_score(lambda images: logits, target, kind)
        assert np.isfinite(score(jnp.zeros((1, 2, 2, 3)))).all()


def test_target_may_be_traced_and_mapped(scene):
    images = jnp.stack([scene.image, scene.baseline])

    def of(target):
        return class_score(scene.net, target)(images)

    expected = jax.nn.softmax(scene.net(images)).T
    np.testing.assert_allclose(jax.vmap(of)(jnp.arange(4)), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(of)(jnp.int32(2)), expected[2], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [-1, 4, 1000])
def test_target_out_of_range_is_nan_where_it_is_traced(scene, target, kind):
    values = jax.jit(lambda target: class_score(scene.net, target, kind)(scene.image[None]))(target)
    assert np.isnan(values).all()


class Labelled(NamedTuple):
    weights: jax.Array
    labels = ("cat", "dog")

    def __call__(self, images):
        return images.mean((1, 2)) @ self.weights


def test_concrete_target_out_of_range_is_refused():
    model = Labelled(jnp.ones((3, 2)))
    assert int(class_score(model, np.int64(1)).target) == 1
    for target in (-1, 2):
        with pytest.raises(ValueError, match=rf"target {target} is out of range: .* 0\.\.1"):
            class_score(model, target)


@pytest.mark.parametrize("target", [0.0, "cat", [0, 1], True, None])
def test_target_must_be_one_index(scene, target):
    with pytest.raises(TypeError, match="target must be a single class index"):
        class_score(scene.net, target)


def test_an_image_passed_as_the_target_is_described_by_its_shape(scene):
    with pytest.raises(
        TypeError, match=r"got an array of shape \(2, 4, 4, 3\); for several classes use jax.vmap"
    ):
        class_score(scene.net, jnp.zeros((2, 4, 4, 3)))


def test_unknown_kind_names_the_nearest(scene):
    with pytest.raises(ValueError, match="did you mean 'logit'"):
        class_score(scene.net, 0, "logits")


def test_a_classifier_of_the_wrong_shape_gets_a_plain_error(scene):
    for wrong in (lambda images: images.mean((1, 2, 3)), lambda images: jnp.zeros((1, 3))):
        with pytest.raises(ValueError, match=r"must map images \(2, 12, 12, 3\) to logits \[2, K\]"):
            class_score(wrong, 0)(jnp.zeros((2, 12, 12, 3)))


def test_top_class(scene):
    assert int(top_class(scene.net, scene.image)) == int(jnp.argmax(scene.net(scene.image[None])[0]))


def test_top_class_takes_one_image(scene):
    with pytest.raises(ValueError, match=r"one image \[H, W, C\], got shape \(1, 12, 12, 3\)"):
        top_class(scene.net, scene.image[None])


# ---------------------------------------------------------------------------------------------------------
# One logit, several labels


def one_logit(images):
    return images.mean((1, 2, 3), keepdims=True)[..., 0, 0]


@pytest.mark.parametrize("kind", COMPARING_KINDS)
def test_a_single_logit_has_no_other_class_to_compare_with(kind):
    score = class_score(one_logit, 0, kind)
    with pytest.raises(ValueError, match=f'"{kind}".*a single logit per image. Use kind="sigmoid"'):
        jax.eval_shape(score, jnp.zeros((2, 4, 4, 3)))  # already while tracing


def test_the_probability_of_a_single_logit():
    images = jnp.linspace(-2, 2, 3)[:, None, None, None] * jnp.ones((3, 4, 4, 3))
    score = class_score(one_logit, 0, "sigmoid")
    np.testing.assert_allclose(score(images), 1 / (1 + np.exp([2.0, 0.0, -2.0])), rtol=1e-6)
    two = lambda images: jnp.pad(one_logit(images), ((0, 0), (1, 0)))  # noqa: E731
    np.testing.assert_allclose(class_score(two, 1)(images), score(images), rtol=1e-6)
    np.testing.assert_allclose(class_score(two, 0)(images), 1 - score(images), rtol=1e-5)


def test_labels_do_not_compete_under_a_sigmoid():
    logits = jnp.array([[6.0, 6.0, -9.0]])
    score = class_score(lambda images: logits, 1, "sigmoid")
    assert float(score(jnp.zeros((1, 2, 2, 3)))[0]) == pytest.approx(0.99753, abs=1e-5)


# ---------------------------------------------------------------------------------------------------------
# What a classifier may return

ZEROS = jnp.zeros((2, 4, 4, 3))


class Output:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"logits": x, "features": x}, Output])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_logits_are_found_by_name_and_are_float32(wrap, dtype):
    logits = as_logits(wrap(jnp.ones((2, 3), dtype)), ZEROS)
    assert logits.dtype == jnp.float32
    score = class_score(lambda images: wrap(jnp.ones((2, 3), dtype)), 0)
    np.testing.assert_allclose(score(ZEROS), 1 / 3, rtol=1e-6)
    first = lambda images: wrap(jnp.array([[2.0, 1, 0]] * len(images), dtype))  # noqa: E731
    assert int(top_class(first, ZEROS[0])) == 0


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ((jnp.ones((2, 3)), {}), "got a tuple of 2. Select them in a wrapper.*model\\(images\\)\\[0\\]"),
        ([jnp.ones((2, 3)), jnp.ones((2, 3))], "got a list of 2"),
        ({"boxes": 1, "scores": 2}, "got a dict with the keys 'boxes', 'scores'"),
        (None, "got a NoneType"),
        (jnp.ones((2, 3), jnp.int32), "logits as floats, got int32"),
        (jnp.ones((2, 3), bool), "logits as floats, got bool"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(output, message):
    with pytest.raises(TypeError, match=message):
        class_score(lambda images: output, 0)(ZEROS)
    with pytest.raises((TypeError, ValueError), match=r"classifier must (return|map images)"):
        top_class(lambda images: output, ZEROS[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2,), "One number per image is a score"),
        ((2, 4, 4, 3), "Maps need a score that reduces them"),
        ((2, 3, 1), r"got shape \(2, 3, 1\)\.$"),
        ((5, 3), r"to logits \[2, K\], got shape \(5, 3\)\.$"),
        ((), r"got shape \(\)\.$"),
    ],
)
def test_logits_of_another_shape_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        class_score(lambda images: jnp.ones(shape), 0)(ZEROS)


# ---------------------------------------------------------------------------------------------------------
# Traps


def test_a_softmax_left_on_the_model_is_reported(scene):
    def twice(images):
        return jax.nn.softmax(scene.net(images))

    with pytest.warns(UserWarning, match=r"probabilities, not logits.*jnp\.log"):
        top_class(twice, scene.image)


def test_a_dependence_on_the_batch_is_reported(scene):
    def in_training(images):
        return scene.net(images - images.mean(0, keepdims=True))  # as batch norm does in training mode

    with pytest.warns(UserWarning, match=r"change with the other images of its batch.*model\.eval\(\)"):
        top_class(in_training, scene.image)


def test_no_false_alarm(scene, recwarn):
    for model in (scene.net, one_logit, lambda images: scene.net(images).astype(jnp.bfloat16)):
        top_class(model, scene.image)
        jax.jit(lambda image, model=model: top_class(model, image))(scene.image)
    assert [str(warning.message) for warning in recwarn] == []


# ---------------------------------------------------------------------------------------------------------
# Any model as a pytree


def test_plain_functions_are_static_and_equal(scene):
    one, two = as_pytree(total), as_pytree(total)
    assert jax.tree.leaves(one) == []
    assert jax.tree.structure(one) == jax.tree.structure(two)  # so that it compiles once
    np.testing.assert_array_equal(one(scene.image[None]), total(scene.image[None]))


def test_pytrees_of_arrays_are_themselves(scene):
    assert as_pytree(scene.net) is scene.net
    assert as_pytree(scene.score) is scene.score
    bound = jax.tree_util.Partial(lambda scale, images: scale * total(images), jnp.float32(2))
    assert as_pytree(bound) is bound


def total(images):
    return images.sum((1, 2, 3))


def test_a_function_inside_a_pytree_becomes_static(scene):
    raw = ClassScore(scene.net.__call__, jnp.int32(1), "logit")  # a bound method is a leaf but not an array
    adapted = as_pytree(raw)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(adapted))
    np.testing.assert_allclose(adapted(scene.image[None]), scene.net(scene.image[None])[:, 1], rtol=1e-6)
    assert isinstance(from_pytree(adapted), ClassScore)


def test_a_partial_with_arguments_is_its_own_model():
    bound = jax.tree_util.Partial(lambda scale, images: scale * total(images), jnp.float32(2))
    assert from_pytree(as_pytree(bound)) is bound
    assert from_pytree(as_pytree(total)) is total


def test_what_is_not_callable_is_refused():
    with pytest.raises(TypeError, match="callable, got ndarray"):
        as_pytree(np.zeros(3))
