"""Classifiers of every kind work in a score, compiled and differentiated with respect to the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import strictness
from support.models import IMAGES, KINDS, TARGET, NnxNet, keras_net

from jaxplain.scores import as_pytree, class_score, from_pytree, top_class


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick():
    """Keras and Flax add biases [C] to maps [N, H, W, C] on purpose."""
    with strictness.strict_and_quick("allow"):
        yield


@pytest.mark.parametrize("make", KINDS)
def test_value_and_gradient_through_a_compiled_score(make):
    model = make()
    score = class_score(model, TARGET)
    assert all(isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(score))
    traces = []

    @jax.jit
    def value_and_gradient(score, images):
        traces.append(None)
        values, pull = jax.vjp(score, images)
        return values, pull(jnp.ones_like(values))[0]

    values, gradient = value_and_gradient(score, IMAGES)
    np.testing.assert_allclose(values, jax.nn.softmax(model(IMAGES))[:, TARGET], rtol=1e-4)
    assert gradient.shape == IMAGES.shape
    assert np.isfinite(gradient).all()

    direction = np.random.default_rng(1).standard_normal(IMAGES.shape).astype(np.float32)
    step = 1e-2 * direction
    slope = (value_and_gradient(score, IMAGES + step)[0] - value_and_gradient(score, IMAGES - step)[0]) / 2
    expected = (gradient * step).sum((1, 2, 3))
    np.testing.assert_allclose(slope, expected, rtol=0.1, atol=1e-5)
    assert np.abs(expected).max() > 1e-5

    value_and_gradient(class_score(model, TARGET + 1), IMAGES)
    assert len(traces) == 1  # another target is only another number


@pytest.mark.parametrize("make", KINDS)
def test_the_model_is_recovered_with_its_methods(make):
    model = make()
    adapted = as_pytree(model)
    recovered = from_pytree(adapted)
    assert type(recovered) is type(model)
    np.testing.assert_allclose(recovered(IMAGES), model(IMAGES), rtol=1e-5)


@pytest.mark.parametrize("make", KINDS[1:])
def test_weights_are_arguments_not_constants(make):
    score = class_score(make(), TARGET)
    closed = jax.make_jaxpr(lambda score, images: score(images))(score, IMAGES)
    assert sum(np.size(constant) for constant in closed.consts) <= 1
    assert len(jax.tree.leaves(score)) > 1


def test_nothing_callable_is_refused():
    with pytest.raises(TypeError, match="callable"):
        as_pytree(np.zeros(3))
    with pytest.raises(ValueError, match=r"must map images .* to logits"):
        class_score(lambda images: images, TARGET)(IMAGES)


@pytest.mark.parametrize("make", KINDS)
def test_models_in_evaluation_mode_raise_no_alarm(make, recwarn):
    top_class(make(), jnp.asarray(IMAGES[0]))
    assert [str(warning.message) for warning in recwarn if "logits" in str(warning.message)] == []


def test_an_nnx_model_in_training_mode_is_reported():
    model = NnxNet()
    model.train()
    with pytest.warns(UserWarning, match="change with the other images of its batch"):
        top_class(model, jnp.asarray(IMAGES[0]))


@pytest.mark.parametrize("make", [NnxNet, keras_net])
def test_scores_follow_models_that_are_changed_in_place(make):
    model = make()
    score = class_score(model, TARGET, "logit")
    compiled = jax.jit(lambda score, images: score(images))
    before = compiled(score, IMAGES)
    if make is NnxNet:
        model.dense.bias[...] += 5.0
    else:
        model.trainable_variables[-1].assign_add(jnp.full(5, 5.0))
    np.testing.assert_allclose(compiled(score, IMAGES), before + 5.0, rtol=1e-5)
    np.testing.assert_allclose(score(IMAGES), before + 5.0, rtol=1e-5)
