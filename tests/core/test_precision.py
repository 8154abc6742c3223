"""Lower precision and recomputed activations: what changes, what must not, and that both work everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from support import small, strictness
from support.models import equinox_net, linen_net

import jaxplain as jx
from jaxplain import attributions, metrics, sag, xnn, zoo
from jaxplain.methods import METHODS, apply
from jaxplain.precision import KNOWN, PARTS, LowPrecision, Rematerialized, lower_precision, rematerialize

SLOW = pytest.mark.slow
HEAVY = ("dot_general", "conv_general_dilated", "mul", "max", "add")
WAYS = (lower_precision, rematerialize, Rematerialized)
TINY = {"size": 4, "iterations": 2}


@pytest.fixture(autouse=True, scope="module")
def strict_and_quick():
    """The zoo and Flax add biases [C] to maps [N, H, W, C] on purpose."""
    with strictness.strict_and_quick("allow"):
        yield


@pytest.fixture(scope="module")
def scene():
    return small.scene()


@pytest.fixture(scope="module")
def images(scene):
    return jnp.stack([scene.image, scene.baseline])


def colours(kernel, images):
    return jnp.tanh(images.mean((1, 2)) @ kernel)


COLOURS = jax.tree_util.Partial(colours, np.eye(3, 4, dtype=np.float32))


def operations(function, *arguments):
    """Return all operations of the traced program, also inside calls, loops and conditionals."""

    def walk(program):
        for operation in program.eqns:
            yield operation
            for inner in jaxprs_in_params(operation.params):
                yield from walk(inner)

    return list(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


def dtypes(function, *arguments):
    """Return the dtypes of the floats that a network's heavy operations return."""
    return {
        str(var.aval.dtype)
        for operation in operations(function, *arguments)
        if operation.primitive.name in HEAVY
        for var in operation.outvars
        if jnp.issubdtype(var.aval.dtype, jnp.floating)
    }


# ---------------------------------------------------------------------------------------- lower precision


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=SLOW)])
def test_the_network_computes_in_the_dtype_and_returns_float32(scene, images, dtype):
    low = lower_precision(scene.model, dtype)
    assert dtypes(low, images) == {dtype}
    assert {str(leaf.dtype) for leaf in jax.tree_util.tree_leaves(low)} == {dtype}
    assert low(images).dtype == jnp.float32
    backward = dtypes(jax.grad(lambda images: low(images).sum()), images)
    assert backward == {dtype}
    np.testing.assert_allclose(low(images), scene.model(images), atol=0.03 * abs(low(images)).max())


@pytest.mark.parametrize(
    "name",
    [name if name == "squeezenet1_0" else pytest.param(name, marks=SLOW) for name in zoo.MODELS],
)
def test_every_network_of_the_zoo_computes_in_bfloat16(name):
    """Also at another image size than its own; no constant of the network raises the precision."""
    build = zoo.MODELS[name].build
    model = nnx.eval_shape(lambda: build(name, small.LABELS, rngs=nnx.Rngs(0)))
    low = jax.eval_shape(lower_precision, model)
    assert dtypes(lambda low, images: low(images), low, jnp.zeros((1, 96, 64, 3))) == {"bfloat16"}


def test_parameters_are_cast_once(scene, images):
    low = lower_precision(scene.model)
    shapes = {leaf.shape for leaf in jax.tree_util.tree_leaves(low)}
    casts = [one for one in operations(lambda low, x: low(x), low, images) if "convert" in str(one.primitive)]
    assert not {var.aval.shape for one in casts for var in one.outvars} & shapes


def test_float32_is_the_model_itself(scene, images):
    same = lower_precision(scene.model, jnp.float32)
    np.testing.assert_array_equal(jax.jit(same)(images), jax.jit(scene.model)(images))


@pytest.mark.slow
def test_softmax_of_a_class_score_stays_float32(scene, images):
    low = lower_precision(scene.score)
    assert isinstance(low, jx.ClassScore)
    assert isinstance(low.classifier, LowPrecision)
    assert low.target.dtype == jnp.int32
    exponentials = [one for one in operations(low, images) if one.primitive.name == "exp"]
    assert [str(one.outvars[0].aval.dtype) for one in exponentials] == ["float32"]
    np.testing.assert_allclose(low(images), scene.score(images), atol=0.02)


@pytest.mark.parametrize(
    ("dtype", "likeness"), [("bfloat16", 0.95), pytest.param("float16", 0.98, marks=SLOW)]
)
def test_gradients_are_near(scene, dtype, likeness):
    wanted, found = (
        attributions.gradient(score, scene.image).details.attribution
        for score in (scene.score, lower_precision(scene.score, dtype))
    )
    assert found.dtype == jnp.float32
    assert np.corrcoef(np.ravel(wanted), np.ravel(found))[0, 1] > likeness


@SLOW
@pytest.mark.parametrize("way", [lower_precision, rematerialize])
def test_masks_are_float32_and_near(scene, way):
    """With a vmap and a jit around it, and the wrapped score as its argument."""

    @jax.jit
    def explain(score, images):
        def one(image):
            key = jax.random.key(0)
            return apply(METHODS["igos++"], score, image, scene.baseline, key=key, options=TINY).importance

        return jax.vmap(one)(images)

    images = jnp.stack([scene.image, scene.image[::-1]])
    found, wanted = explain(way(scene.score), images), explain(scene.score, images)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=1e-4 if way is rematerialize else 0.3)


MODELS = [
    lambda: COLOURS,
    lambda: jnp.asarray,
    pytest.param(linen_net, marks=SLOW),
    pytest.param(equinox_net, marks=SLOW),
]


@pytest.mark.parametrize("make", MODELS, ids=["colours", "function", "linen", "equinox"])
def test_models_from_elsewhere(make):
    model, images = make(), jnp.linspace(0, 1, 3 * 8 * 8 * 3).reshape(3, 8, 8, 3)
    if model is jnp.asarray:  # a plain function: nothing to cast but the images

        def model(images):
            return images.mean((1, 2)) @ np.eye(3, dtype=np.float32)

    for way in (lower_precision, rematerialize):
        score = jx.class_score(way(model), 1, "logit")
        found = jax.jit(lambda score, x: score(x))(score, images)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, jx.class_score(model, 1, "logit")(images), atol=0.02)


def test_other_leaves_stay_as_they_are():
    leaves = {"kernel": np.ones((3, 2), np.float32), "step": jnp.int32(3), "key": jax.random.key(0)}
    model = jax.tree_util.Partial(lambda leaves, images: images, leaves)
    low = lower_precision(model, "float16").model.args[0]
    assert (low["kernel"].dtype, low["step"].dtype) == (jnp.float16, jnp.int32)
    assert jnp.issubdtype(low["key"].dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize("dtype", [jnp.float64, "float8_e4m3fn", jnp.int8, "half a float", None, "bfloat"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(ValueError, match="dtype must be bfloat16, float16 or float32, got"):
        lower_precision(COLOURS, dtype)


@pytest.mark.parametrize("way", [lower_precision, rematerialize])
def test_what_cannot_be_called_is_refused(way):
    with pytest.raises(TypeError, match="must be callable, got dict"):
        way({"kernel": jnp.ones(3)})


def test_keras_models_are_told_to_use_their_own_policy():
    class Keras:
        def stateless_call(self): ...

    with pytest.raises(TypeError, match="build the model with dtype='bfloat16'"):
        lower_precision(Keras())


def test_wrapping_again_changes_the_dtype_and_nests_nothing(scene):
    again = lower_precision(lower_precision(scene.score), "float16")
    assert isinstance(again.classifier.model, small.Small)
    assert again.classifier.dtype == jnp.float16


# ------------------------------------------------------------------------------------------- forwarding


@pytest.mark.parametrize(
    "way",
    [lower_precision, pytest.param(rematerialize, marks=SLOW), pytest.param(Rematerialized, marks=SLOW)],
)
def test_a_wrapped_classifier_replaces_the_classifier(scene, images, way):
    """With everything that the package reads from a classifier."""
    wrapped, model = way(scene.model), scene.model
    for name in KNOWN:
        if not callable(getattr(model, name)):
            assert getattr(wrapped, name) == getattr(model, name)
    photo = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    np.testing.assert_array_equal(wrapped.preprocess(photo), model.preprocess(photo))
    assert wrapped.normalize(photo).dtype == jnp.float32
    assert wrapped.denormalize(images).dtype == jnp.float32
    maps = wrapped.feature_maps(images)
    parts = wrapped.head(wrapped.pool(maps))
    assert maps.dtype == wrapped.features(images).dtype == parts.dtype == jnp.float32
    np.testing.assert_allclose(parts, wrapped(images), atol=1e-5)
    np.testing.assert_allclose(parts, model(images), atol=0.03 * abs(parts).max())
    assert not hasattr(wrapped, "stateless_call")
    with pytest.raises(ValueError, match="out of range"):
        jx.class_score(wrapped, len(small.LABELS))


def test_parts_are_only_there_where_the_model_has_them():
    assert not any(hasattr(lower_precision(COLOURS), name) for name in PARTS + KNOWN)
    with pytest.raises(TypeError, match="needs a classifier with feature_maps"):
        attributions.grad_cam(jx.class_score(lower_precision(COLOURS), 0), jnp.zeros((4, 4, 3)))


@pytest.mark.parametrize(
    "way",
    [lower_precision, pytest.param(rematerialize, marks=SLOW), pytest.param(Rematerialized, marks=SLOW)],
)
def test_methods_that_look_inside_work_with_it(scene, way):
    score = jx.class_score(way(scene.model), scene.target)
    for method in (attributions.grad_cam, attributions.excitation_backprop):
        found, wanted = (method(one, scene.image).saliency(16, 16) for one in (score, scene.score))
        assert np.corrcoef(np.ravel(found), np.ravel(wanted))[0, 1] > 0.99


@SLOW
@pytest.mark.parametrize("way", [lower_precision, rematerialize, Rematerialized])
def test_other_families_work_with_it(scene, way):
    model = way(scene.model)
    score = jx.class_score(model, scene.target)
    whole = attributions.excitation_backprop(score, scene.image, layer="image")
    assert 0.5 < whole.importance.sum() < 1.01
    assert sag.search(score, scene.image, scene.baseline, grid=2, beam_width=2).scores.dtype == jnp.float32
    layers = metrics.layer_names(model, scene.image)
    assert len(layers) == len(metrics.layer_names(scene.model, scene.image))
    trunk = xnn.Trunk(model)
    assert trunk(scene.image[None]).dtype == jnp.float32


@pytest.mark.slow
def test_equal_wrappers_compile_once(scene, images):
    calls = []

    @jax.jit
    def run(model, images):
        calls.append(1)
        return model(images)

    for way in (lower_precision, rematerialize, Rematerialized):
        calls.clear()
        for dtype in (jnp.bfloat16, "bfloat16"):
            run(way(scene.model, dtype) if way is lower_precision else way(scene.model), images)
        assert len(calls) == 1


# ------------------------------------------------------------------------------------------ recomputing


def combined(model):
    return rematerialize(lower_precision(model, "float32"))


@pytest.mark.parametrize(
    "way", [combined, pytest.param(rematerialize, marks=SLOW), pytest.param(Rematerialized, marks=SLOW)]
)
def test_values_and_gradients_are_the_same(scene, images, way):
    def both(model, images):
        return jax.value_and_grad(lambda images: (model(images) ** 2).sum())(images)

    found, wanted = jax.jit(both)(way(scene.model), images), jax.jit(both)(scene.model, images)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-5)


def checkpoints(model, images):
    program = jax.make_jaxpr(jax.grad(lambda images: model(images).sum()))(images)
    return str(program).count("checkpoint[") + str(program).count("remat2[")


@pytest.mark.slow
def test_blocks_are_found_wherever_they_are(scene, images):
    """In a score, in a wrapper, in a trunk; and the model itself does not change."""
    srae = xnn.SRAE(xnn.SRAEConfig(features=16, widths=(8,), n_features=3), rngs=nnx.Rngs(0))
    network = xnn.ExplanationNetwork(xnn.Trunk(scene.model), xnn.ClassifierHead(scene.model), srae, targets=1)
    blocks = checkpoints(rematerialize(scene.model), images)
    assert blocks >= len(scene.model.blocks)
    for model in (scene.score, lower_precision(scene.model), network, network.feature_score(0)):
        wrapped = rematerialize(model)
        assert type(wrapped) is type(model)
        assert checkpoints(wrapped, images) == blocks
        assert checkpoints(model, images) == 0


def test_other_models_keep_only_products():
    wrapped = rematerialize(jx.class_score(COLOURS, 1))
    assert isinstance(wrapped.classifier, Rematerialized)
    assert isinstance(rematerialize(wrapped).classifier.model, jax.tree_util.Partial)  # not twice
    images = jnp.ones((1, 4, 4, 3))
    program = str(jax.make_jaxpr(jax.grad(lambda images: wrapped(images).sum()))(images))
    assert "checkpoint[" in program or "remat2[" in program


def kept(model):
    """Return the bytes per image that the forward pass keeps for the backward pass."""

    def total(batch):
        images = jax.ShapeDtypeStruct((batch, 64, 64, 3), jnp.float32)
        left = jax.eval_shape(lambda model, images: jax.vjp(model, images)[1], model, images)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree_util.tree_leaves(left))

    return total(2) - total(1)  # without the parameters, which are kept once


# If ReLUs keep one byte per activation, the inputs of blocks at four bytes are half of the total.
SHARES = {"efficientnet-lite0": 0.15, "resnet50": 0.5, "vgg19": 0.35, "squeezenet1_0": 0.7}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name == "squeezenet1_0" else pytest.param(name, marks=SLOW) for name in SHARES],
)
def test_little_is_kept_for_the_backward_pass(name):
    build = zoo.MODELS[name].build
    model = nnx.eval_shape(lambda: build(name, small.LABELS, rngs=nnx.Rngs(0)))
    assert kept(rematerialize(model)) < SHARES[name] * kept(model)
    assert kept(Rematerialized(model)) < 0.95 * kept(model)
    assert kept(jax.eval_shape(lower_precision, model)) < 0.75 * kept(model)


@pytest.mark.parametrize("platform", ["cuda", pytest.param("tpu", marks=SLOW)])
def test_programs_for_accelerators_have_the_barriers(scene, images, platform):
    def barriers(model):
        traced = jax.jit(jax.grad(lambda images, model: model(images).sum())).trace(images, model)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("optimization_barrier")

    assert barriers(scene.model) == 0
    assert barriers(rematerialize(scene.model)) >= len(scene.model.blocks)
