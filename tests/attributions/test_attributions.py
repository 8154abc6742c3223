"""What all attribution methods have in common: contract, batches, transformations, invalid input."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.attributed import (
    BASELINE,
    IMAGE,
    KEY,
    METHODS,
    NET,
    SAMPLING,
    SHAPE,
    SMOOTH,
    MapNet,
    close,
    explain,
    normal,
)

import jaxplain as jx
from jaxplain import attributions
from jaxplain.explanation import Explanation, Status
from jaxplain.methods import METHODS as REGISTRY
from jaxplain.methods import MethodSpec, apply

COARSE = ["grad_cam", "grad_cam_pp", "excitation_backprop", "contrastive_excitation_backprop"]
PIXELWISE = ["rise", "occlusion"]
CONTROLS = ["random_map", "edges"]
ROWS = ["gradient", "var_grad", "grad_cam", "excitation_backprop", "occlusion"]


@pytest.mark.parametrize("name", METHODS)
def test_every_result_has_the_same_structure(name):
    found = explain(name, IMAGE)
    assert isinstance(found, Explanation)
    assert found.importance.shape == ((3, 4) if name in COARSE else (6, 8))
    raw = found.details.attribution
    assert raw.shape == ((3, 4) if name in COARSE else (6, 8) if name in PIXELWISE else SHAPE)
    assert found.importance.dtype == raw.dtype == jnp.float32
    assert found.status.dtype == found.evaluations.dtype == jnp.int32
    assert found.status.shape == found.evaluations.shape == ()
    assert Status(int(found.status)) is Status.OK
    assert found.saliency(6, 8).shape == (6, 8)
    if name in COARSE:
        np.testing.assert_array_equal(found.importance, np.maximum(raw, 0))
    elif name in PIXELWISE:
        np.testing.assert_array_equal(found.importance, raw)
    else:
        close(found.importance, np.abs(raw).sum(-1))


@pytest.mark.parametrize("name", [*METHODS, *CONTROLS])
def test_every_signature_is_the_contract(name):
    parameters = inspect.signature(getattr(attributions, name)).parameters
    assert list(parameters)[:5] == ["score", "image", "baseline", "key", "batch_size"]
    kinds = [parameter.kind for parameter in parameters.values()]
    assert kinds[:3] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 3
    assert set(kinds[3:]) == {inspect.Parameter.KEYWORD_ONLY}
    assert all(parameter.default is None for parameter in list(parameters.values())[2:5])


def test_the_registry_has_every_method():
    functions = {spec.function for spec in REGISTRY.values()}
    assert {getattr(attributions, name) for name in [*METHODS, *CONTROLS]} <= functions
    for spec in REGISTRY.values():
        if spec.function.__module__.startswith("jaxplain.attributions"):
            assert spec.title
            assert spec.description.endswith(".")
            assert spec.reference or spec.title == "Random numbers"


def test_rise_in_a_run_shows_zeros_as_published():
    score = jx.class_score(NET, 1)
    options = {"n_samples": 9, "grid": 2, "batch_size": 4, "window": 3}
    found = apply(REGISTRY["rise"], score, IMAGE, BASELINE, key=KEY, options=options)
    zeros = explain("rise", IMAGE, np.zeros(SHAPE, np.float32))
    close(found.importance, zeros.importance)
    occluded = apply(REGISTRY["occlusion"], score, IMAGE, BASELINE, key=KEY, options=options)
    close(occluded.importance, explain("occlusion", IMAGE).importance)
    assert isinstance(REGISTRY["rise"], MethodSpec)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion"])
def test_no_baseline_is_the_blurred_image(name):
    blurred = jx.blur_baseline(jnp.asarray(IMAGE))
    close(explain(name, IMAGE, None).importance, explain(name, IMAGE, blurred).importance)


@pytest.mark.parametrize(
    "name",
    ["var_grad", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLING if name != "var_grad")],
)
def test_the_batch_size_does_not_change_the_result(name):
    some = explain(name, IMAGE)
    one = explain(name, IMAGE, batch_size=1)
    close(one.details.attribution, some.details.attribution)
    assert int(one.evaluations) == int(some.evaluations)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLING)
def test_odd_and_large_batches_do_not_change_the_result(name):
    some = explain(name, IMAGE)
    for batch_size in (3, 100):
        close(explain(name, IMAGE, batch_size=batch_size).details.attribution, some.details.attribution)


@pytest.mark.parametrize(
    "name",
    [name if name in ROWS else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_rows_of_a_batch_are_the_single_calls(name):
    """Images, baselines, keys and targets differ between rows; one target is no class, which gives NaN."""
    images, baselines = normal(10, 3, *SHAPE), normal(11, 3, *SHAPE)
    keys, targets = jax.random.split(KEY, 3), jnp.array([2, 4, 3])
    rows = (jnp.asarray(images), jnp.asarray(baselines), keys, targets)
    together = jax.jit(jax.vmap(lambda *row: explain(name, *row)))(*rows)
    assert together.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.OK]
    for index in (0, 2):
        alone = explain(name, *(row[index] for row in rows))
        jax.tree.map(lambda one, row, index=index: close(row[index], one), alone, together)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", SAMPLING)
def test_the_model_sees_at_most_one_batch(name, mapped):
    batches = []

    class Watched(MapNet):
        def __call__(self, images):
            batches.append(len(images))
            return super().__call__(images)

    def run(image):
        return explain(name, image, net=Watched(*NET), batch_size=4).importance

    traced = jax.vmap(run) if mapped else run
    jax.make_jaxpr(traced)(jnp.stack([IMAGE] * 3) if mapped else IMAGE)
    assert batches
    assert max(batches) <= 4


@pytest.mark.parametrize("name", METHODS)
def test_a_nan_network_sets_the_status(name):
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), NET)
    assert int(explain(name, IMAGE, net=broken).status) == Status.NOT_FINITE


def test_a_nan_in_one_of_many_images_is_noticed():
    def score(images):
        return jnp.where(images[:, 0, 0, 0] > 10, jnp.nan, images.sum((1, 2, 3)))

    marked = BASELINE.copy()
    marked[0, 0, 0] = 11
    found = attributions.occlusion(score, IMAGE, marked, window=2)
    assert int(found.status) == Status.NOT_FINITE


# ---------------------------------------------------------------------------------------------------------
# Controls


def test_random_numbers_depend_on_the_key_only():
    one, other = (attributions.random_map(None, IMAGE, key=jax.random.key(seed)) for seed in (0, 1))
    assert one.importance.shape == (28, 28)
    assert 0.4 < one.importance.mean() < 0.6
    assert (one.importance != other.importance).any()
    assert (int(one.status), int(one.evaluations)) == (Status.OK, 0)
    again = attributions.random_map(SMOOTH, -IMAGE, BASELINE, key=jax.random.key(0), size=28)
    np.testing.assert_array_equal(one.importance, again.importance)


def test_edges_are_the_sobel_filter():
    found = attributions.edges(None, IMAGE)
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)), mode="edge")
    kernel = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    expected = np.zeros(SHAPE[:2])
    for row, col in np.ndindex(6, 8):
        patch = padded[row : row + 3, col : col + 3]
        across, along = ((k[..., None] * patch).sum((0, 1)) for k in (kernel, kernel.T))
        expected[row, col] = np.hypot(across, along).sum()
    close(found.importance, expected, 1e-5)
    assert (int(found.status), int(found.evaluations)) == (Status.OK, 0)


# ---------------------------------------------------------------------------------------------------------
# Invalid input

FLOATS = jnp.asarray(IMAGE)
GRADIENT, IG = attributions.gradient, attributions.integrated_gradients
SMOOTHED, RISE, OCCLUSION = attributions.smooth_grad, attributions.rise, attributions.occlusion
CAM, EXCITATION = attributions.grad_cam, attributions.excitation_backprop
INVALID = {
    "batch": (lambda: GRADIENT(SMOOTH, FLOATS[None]), ValueError, "one image at a time"),
    "8 bits": (lambda: GRADIENT(SMOOTH, FLOATS.astype(jnp.uint8)), TypeError, "8-bit photos"),
    "NaN": (lambda: GRADIENT(SMOOTH, FLOATS.at[0, 0].set(jnp.nan)), ValueError, "contains 3 NaN"),
    "reduce": (lambda: GRADIENT(SMOOTH, FLOATS, reduce="max"), ValueError, "did you mean 'abs_max'"),
    "score": (lambda: GRADIENT(NET, FLOATS), ValueError, "class_score"),
    "no score": (lambda: GRADIENT(3, FLOATS), TypeError, "callable"),
    "baseline": (lambda: IG(SMOOTH, FLOATS, FLOATS[:3]), ValueError, r"baseline \(3, 8, 3\) and image"),
    "rule": (lambda: IG(SMOOTH, FLOATS, rule="simpson"), ValueError, "unknown rule"),
    "steps": (lambda: IG(SMOOTH, FLOATS, n_steps=0), ValueError, "n_steps must be at least 1"),
    "batch size": (lambda: IG(SMOOTH, FLOATS, batch_size=0), ValueError, "batch_size must be"),
    "no key": (lambda: SMOOTHED(SMOOTH, FLOATS), TypeError, "smooth_grad is random: pass key="),
    "no key for rise": (lambda: RISE(SMOOTH, FLOATS), TypeError, "rise is random: pass key="),
    "seed": (lambda: RISE(SMOOTH, FLOATS, key=3), TypeError, "rise is random: pass key="),
    "control": (lambda: attributions.random_map(SMOOTH, FLOATS), TypeError, "random_map is random"),
    "keys": (lambda: RISE(SMOOTH, FLOATS, key=jax.random.split(KEY)), ValueError, "single key"),
    "key and noise": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise_samples=FLOATS[None]),
        ValueError,
        "either key or noise_samples, not both",
    ),
    "noise samples": (
        lambda: SMOOTHED(SMOOTH, FLOATS, noise_samples=FLOATS),
        ValueError,
        r"noise_samples must be \[S, 6, 8, 3\]",
    ),
    "noise": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise=-0.1),
        ValueError,
        "noise must be at least 0, got -0.1",
    ),
    "several noises": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise=jnp.ones(2)),
        ValueError,
        "jax.vmap for several values",
    ),
    "samples": (
        lambda: attributions.var_grad(SMOOTH, FLOATS, key=KEY, n_samples=2.5),
        TypeError,
        "n_samples must be an integer",
    ),
    "probability": (
        lambda: RISE(SMOOTH, FLOATS, key=KEY, probability=1.5),
        ValueError,
        r"probability must be in 0\.\.1, got 1.5",
    ),
    "never": (lambda: RISE(SMOOTH, FLOATS, key=KEY, probability=0), ValueError, "must be above 0"),
    "masks": (lambda: RISE(SMOOTH, FLOATS, key=KEY, n_samples=0), ValueError, "n_samples must be at least 1"),
    "grid": (lambda: RISE(SMOOTH, FLOATS, key=KEY, grid=(2, 2, 2)), ValueError, r"\(rows, columns\)"),
    "window": (lambda: OCCLUSION(SMOOTH, FLOATS, window=7), ValueError, "larger than the image"),
    "stride": (
        lambda: OCCLUSION(SMOOTH, FLOATS, window=2, stride=3),
        ValueError,
        "pixels would be skipped",
    ),
    "no class score": (
        lambda: CAM(SMOOTH, FLOATS),
        TypeError,
        r"Grad-CAM uses feature maps and needs a class score.*class_score.*got SmoothScore",
    ),
    "a classifier": (lambda: EXCITATION(NET, FLOATS), TypeError, "excitation backprop uses feature maps"),
    "no maps": (
        lambda: CAM(jx.class_score(lambda images: images.mean((1, 2)), 0), FLOATS),
        TypeError,
        "has no feature_maps and no pool and no head",
    ),
    "kind": (lambda: CAM(jx.class_score(NET, 1), FLOATS, kind="logits"), ValueError, "'logit'"),
    "layer": (
        lambda: EXCITATION(jx.class_score(NET, 1), FLOATS, layer="map"),
        ValueError,
        "unknown layer 'map': did you mean 'maps'",
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_input_is_refused(name):
    call, error, words = INVALID[name]
    with pytest.raises(error, match=words):
        call()


def test_shapes_are_refused_while_tracing():
    with pytest.raises(ValueError, match="must have the same shape"):
        jax.eval_shape(lambda image: IG(SMOOTH, image, image[:3]), FLOATS)
