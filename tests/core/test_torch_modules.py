"""PyTorch modules as classifiers: values, gradients, batches of a vmap and every method, against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain as jx
from jaxplain.methods import METHODS, apply

pytestmark = pytest.mark.slow  # PyTorch is not among the packages that the fast tests need

IMAGES = np.random.default_rng(0).standard_normal((3, 12, 12, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def torch():
    return pytest.importorskip("torch")


def torch_network(wrap=lambda logits: logits):
    from support.torch_network import Network

    return Network(wrap)


def same_in_jax(network):
    from support.torch_network import same_in_jax

    return same_in_jax(network)


def test_logits_and_gradients_are_those_of_the_same_network_in_jax():
    module = torch_network()

    @jax.jit
    def both(images, model):
        return jax.value_and_grad(lambda images: model(images)[:, 2].sum())(images)

    ours, expected = (
        both(IMAGES, jax.tree_util.Partial(model)) for model in (jx.from_torch(module), same_in_jax(module))
    )
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-6)
    assert np.abs(expected[1]).max() > 1e-2


def test_a_vmap_is_one_call_of_pytorch():
    calls = []

    def counted(logits):
        calls.append(len(logits))
        return logits

    model = jx.from_torch(torch_network(counted))
    stacks = jnp.stack([IMAGES, IMAGES + 1])
    values, gradients = jax.vmap(jax.value_and_grad(lambda images: model(images).max(1).sum()))(stacks)
    assert [count for count in calls if count > 1] == [6, 6]  # forward, and forward again for the backward
    for index, images in enumerate(stacks):
        np.testing.assert_allclose(values[index], model(images).max(1).sum(), rtol=1e-6)
        single = jax.grad(lambda images: model(images).max(1).sum())(images)
        np.testing.assert_allclose(gradients[index], single, atol=1e-6)


NEED_FEATURE_MAPS = {"grad-cam", "grad-cam++", "excitation-backprop", "contrastive-excitation-backprop"}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NEED_FEATURE_MAPS])
def test_each_method_gives_the_map_of_the_same_network_in_jax(name):
    module, image, key = torch_network(), jnp.asarray(IMAGES[0]), jax.random.key(0)
    options = {"size": 6, "iterations": 5, "n_samples": 50, "steps": 20}
    ours, expected = (
        apply(METHODS[name], jx.class_score(model, 2), image, image * 0, key=key, options=options)
        for model in (jx.from_torch(module), same_in_jax(module))
    )
    assert int(ours.status) == int(expected.status)
    assert int(ours.evaluations) == int(expected.evaluations)
    close = np.isclose(ours.importance, expected.importance, atol=1e-3 * np.ptp(expected.importance))
    assert close.mean() > 0.99  # a line search may decide differently where two candidates tie


@pytest.mark.parametrize("name", sorted(NEED_FEATURE_MAPS))
def test_methods_that_need_feature_maps_refuse(name):
    score = jx.class_score(jx.from_torch(torch_network()), 2)
    with pytest.raises(TypeError, match="feature_maps"):
        METHODS[name].function(score, jnp.asarray(IMAGES[0]))


def test_an_attention_graph_and_curves():
    module, image = torch_network(), jnp.asarray(IMAGES[0])
    ours, expected = (
        (
            jx.sag.search(jx.class_score(model, 2), image, image * 0, grid=3),
            jx.insertion_deletion(jx.class_score(model, 2), image, image * 0, image[..., 0]),
        )
        for model in (jx.from_torch(module), same_in_jax(module))
    )
    assert int(ours[0].evaluations) == int(expected[0].evaluations)
    np.testing.assert_allclose(ours[1].deletion, expected[1].deletion, rtol=1e-4)


def test_new_weights_are_used_at_once(torch):
    module = torch_network()
    model = jax.jit(jx.from_torch(module))
    before = model(IMAGES)
    with torch.no_grad():
        module.second.mul_(2)
    np.testing.assert_allclose(model(IMAGES), 2 * before, rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda logits: {"logits": logits}, lambda logits: logits.bfloat16()])
def test_named_logits_and_low_precision_are_understood(wrap):
    module = torch_network(wrap)
    logits = jx.from_torch(module)(IMAGES)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, same_in_jax(module)(IMAGES), rtol=2e-2, atol=2e-2)


def test_a_module_in_float64_takes_its_own_dtype():
    module = torch_network().double()
    np.testing.assert_allclose(jx.from_torch(module)(IMAGES), same_in_jax(module)(IMAGES), rtol=1e-5)


def test_an_output_that_ignores_the_images_has_a_gradient_of_zero():
    model = jx.from_torch(torch_network(lambda logits: logits.new_ones(logits.shape, requires_grad=True) * 3))
    gradient = jax.grad(lambda images: model(images).sum())(IMAGES)
    np.testing.assert_array_equal(gradient, 0)


def test_large_batches_do_not_hang(torch):
    """JAX's callbacks once waited for themselves when they read large arrays on a CPU."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    model = jx.from_torch(network.eval())
    logits = jax.jit(lambda images: model(images * 2))(jnp.ones((64, 224, 224, 3)))
    assert logits.shape == (64, 4)


@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (
            lambda logits: (logits, logits),
            TypeError,
            r"returns a tuple, not logits.*self\.model\(images\)\[0\]",
        ),
        (lambda logits: {"scores": logits}, TypeError, "returns a dict, not logits"),
        (lambda logits: logits[:, 0], ValueError, r"to logits \[1, K\], got shape \(1,\)"),
    ],
)
def test_outputs_that_are_not_logits_are_refused(wrap, error, message):
    with pytest.raises(error, match=message):
        jx.from_torch(torch_network(wrap))(IMAGES)


def test_a_module_in_training_mode_is_reported(torch):
    module = torch_network()
    module.dropout = torch.nn.Dropout()
    with pytest.warns(UserWarning, match=r"training mode \(part 'dropout'\).*module\.eval\(\)"):
        jx.from_torch(module)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module, got function"):
        jx.from_torch(lambda images: images)


def test_a_bare_module_is_refused_with_the_remedy():
    for refuse in (
        lambda: jx.class_score(torch_network(), 0),
        lambda: jx.igos_pp(torch_network(), jnp.asarray(IMAGES[0]), size=3),
    ):
        with pytest.raises(TypeError, match=r"Network is a PyTorch module.*from_torch\(module\.eval\(\)\)"):
            refuse()
