"""What all attribution methods have in common: one result, batches, transformations, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attributed import BASELINE, IMAGE, KEY, NET, SHAPE, SMOOTH, TARGET, Net, close, normal

import jaxplain as jx
from jaxplain import attributions
from jaxplain.attributions import METHODS, Status


def explain(name, image, baseline=BASELINE, key=KEY, target=TARGET, net=NET, batch_size=4):
    """Any method with a few samples, on the network of which a class is explained."""
    score = jx.class_score(net, target)
    several = {"batch_size": batch_size}
    call = {
        "gradient": lambda: attributions.gradient(score, image),
        "input_x_gradient": lambda: attributions.input_x_gradient(score, image),
        "integrated_gradients": lambda: attributions.integrated_gradients(
            score, image, baseline, n_steps=6, **several
        ),
        "smooth_grad": lambda: attributions.smooth_grad(score, image, key=key, n_samples=7, **several),
        "var_grad": lambda: attributions.var_grad(score, image, key=key, n_samples=7, **several),
        "grad_cam": lambda: attributions.grad_cam(net, image, target),
        "grad_cam_pp": lambda: attributions.grad_cam_pp(net, image, target),
        "excitation_backprop": lambda: attributions.excitation_backprop(net, image, target),
        "rise": lambda: attributions.rise(score, image, baseline, key=key, n_masks=9, grid=2, **several),
        "occlusion": lambda: attributions.occlusion(score, image, baseline, window=3, **several),
    }
    return call[name]()


RAW = {
    "rise": (6, 8),
    "occlusion": (6, 8),
    "grad_cam": (3, 4),
    "grad_cam_pp": (3, 4),
    "excitation_backprop": (3, 4),
}
MANY = ["integrated_gradients", "smooth_grad", "var_grad", "rise", "occlusion"]


@pytest.mark.parametrize("name", METHODS)
def test_every_result_looks_alike(name):
    found = explain(name, IMAGE)
    assert found.attribution.shape == RAW.get(name, SHAPE)
    assert found.saliency.shape == (6, 8)
    assert found.saliency.dtype == found.attribution.dtype == found.error.dtype == jnp.float32
    assert found.status.dtype == found.evaluations.dtype == jnp.int32
    assert found.status.shape == found.evaluations.shape == found.error.shape == ()
    assert Status(int(found.status)) is Status.OK
    assert np.isfinite(found.error) == (name == "integrated_gradients")


@pytest.mark.parametrize("name", MANY)
def test_batch_size_changes_nothing(name):
    one = explain(name, IMAGE, batch_size=1)
    for batch_size in (3, 100):
        other = explain(name, IMAGE, batch_size=batch_size)
        close(one.attribution, other.attribution)
        assert int(one.evaluations) == int(other.evaluations)


@pytest.mark.parametrize("name", METHODS)
def test_rows_of_a_batch_are_the_single_calls(name):
    """Images, baselines, keys and targets all differ by row."""
    images, baselines = normal(10, 3, *SHAPE), normal(11, 3, *SHAPE)
    keys, targets = jax.random.split(KEY, 3), jnp.array([2, 0, 3])
    rows = (images, baselines, keys, targets)
    together = jax.jit(jax.vmap(lambda *row: explain(name, *row)))(*map(jnp.asarray, rows))
    for index in range(3):
        alone = explain(name, *(row[index] for row in rows))
        jax.tree.map(lambda one, row, index=index: close(row[index], one), alone, together)


@pytest.mark.parametrize("name", METHODS)
def test_the_target_may_be_traced(name):
    traces = []

    @jax.jit
    def saliency(target):
        traces.append(target)
        return explain(name, jnp.asarray(IMAGE), target=target).saliency

    for target in (0, 3):
        close(saliency(target), explain(name, IMAGE, target=target).saliency)
    assert len(traces) == 1


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("name", MANY)
def test_the_model_sees_no_more_images_than_a_batch(name, mapped):
    batches = []

    class Watched(Net):
        def __call__(self, images):
            batches.append(len(images))
            return super().__call__(images)

    def run(image):
        return explain(name, image, net=Watched(*NET), batch_size=4).saliency

    if mapped:
        jax.vmap(run)(jnp.stack([IMAGE] * 3))
    else:
        run(IMAGE)
    assert batches
    assert max(batches) <= 4


@pytest.mark.parametrize("name", METHODS)
def test_a_score_that_is_not_a_number_is_a_status(name):
    """Only in the row where it happens."""
    broken = jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.full_like(leaf, jnp.nan)]), NET)
    found = jax.vmap(lambda net: explain(name, jnp.asarray(IMAGE), net=net))(broken)
    assert found.status.tolist() == [Status.OK, Status.NOT_FINITE]
    assert "NaN" in Status(int(found.status[1])).message
    assert Status.OK.message == "ok"
    traced = jax.jit(lambda target: explain(name, IMAGE, target=target))(4)  # no such class
    assert int(traced.status) == Status.NOT_FINITE


def test_an_error_in_one_image_of_many_is_seen():
    def score(images):
        return jnp.where(images[:, 0, 0, 0] > 10, jnp.nan, images.sum((1, 2, 3)))

    marked = BASELINE.copy()
    marked[0, 0, 0] = 11
    found = attributions.occlusion(score, IMAGE, marked, window=2)
    assert int(found.status) == Status.NOT_FINITE


# ------------------------------------------------------------------------------------------ bad input

FLOATS = jnp.asarray(IMAGE)
GRADIENT, IG = attributions.gradient, attributions.integrated_gradients
SMOOTHED, RISE, OCCLUSION = attributions.smooth_grad, attributions.rise, attributions.occlusion
BAD = {
    "batch": (lambda: GRADIENT(SMOOTH, FLOATS[None]), ValueError, "one image at a time"),
    "8 bits": (lambda: GRADIENT(SMOOTH, FLOATS.astype(jnp.uint8)), TypeError, "8-bit photos"),
    "NaN": (lambda: GRADIENT(SMOOTH, FLOATS.at[0, 0].set(jnp.nan)), ValueError, "holds 3 NaN"),
    "reduce": (lambda: GRADIENT(SMOOTH, FLOATS, reduce="max"), ValueError, "did you mean 'abs_max'"),
    "score": (lambda: GRADIENT(NET, FLOATS), ValueError, "class_score"),
    "no score": (lambda: GRADIENT(3, FLOATS), TypeError, "callable"),
    "baseline": (lambda: IG(SMOOTH, FLOATS, FLOATS[:3]), ValueError, r"baseline \(3, 8, 3\) and image"),
    "no baseline": (lambda: IG(SMOOTH, FLOATS, None), TypeError, "baseline must be an array"),
    "rule": (lambda: IG(SMOOTH, FLOATS, FLOATS, rule="simpson"), ValueError, "unknown rule"),
    "steps": (lambda: IG(SMOOTH, FLOATS, FLOATS, n_steps=0), ValueError, "n_steps must be at least 1"),
    "batch size": (lambda: IG(SMOOTH, FLOATS, FLOATS, batch_size=0), ValueError, "batch_size must be"),
    "no key": (lambda: SMOOTHED(SMOOTH, FLOATS), TypeError, "smooth_grad is random: pass key="),
    "seed": (lambda: RISE(SMOOTH, FLOATS, key=3), TypeError, "rise is random: pass key="),
    "keys": (lambda: RISE(SMOOTH, FLOATS, key=jax.random.split(KEY)), ValueError, "one key"),
    "key and noise": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise=FLOATS[None]),
        ValueError,
        "not both",
    ),
    "noise": (lambda: SMOOTHED(SMOOTH, FLOATS, noise=FLOATS), ValueError, r"noise must be \[S, 6, 8, 3\]"),
    "level": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise_level=-0.1),
        ValueError,
        "noise_level must be at least 0, got -0.1",
    ),
    "levels": (
        lambda: SMOOTHED(SMOOTH, FLOATS, key=KEY, noise_level=jnp.ones(2)),
        ValueError,
        "jax.vmap for a sweep",
    ),
    "samples": (
        lambda: attributions.var_grad(SMOOTH, FLOATS, key=KEY, n_samples=2.5),
        TypeError,
        "n_samples must be a whole number",
    ),
    "probability": (
        lambda: RISE(SMOOTH, FLOATS, key=KEY, probability=1.5),
        ValueError,
        r"probability must be in 0\.\.1, got 1.5",
    ),
    "never": (lambda: RISE(SMOOTH, FLOATS, key=KEY, probability=0), ValueError, "must be above 0"),
    "masks": (lambda: RISE(SMOOTH, FLOATS, key=KEY, n_masks=0), ValueError, "n_masks must be at least 1"),
    "grid": (lambda: RISE(SMOOTH, FLOATS, key=KEY, grid=(2, 2, 2)), ValueError, r"\(rows, columns\)"),
    "window": (lambda: OCCLUSION(SMOOTH, FLOATS, FLOATS, window=7), ValueError, "larger than the image"),
    "stride": (
        lambda: OCCLUSION(SMOOTH, FLOATS, FLOATS, window=2, stride=3),
        ValueError,
        "pixels would be left out",
    ),
    "no maps": (lambda: attributions.grad_cam(SMOOTH, FLOATS), TypeError, "has no feature_maps and no pool"),
    "target": (lambda: attributions.grad_cam(NET, FLOATS, 1.0), TypeError, "one class index"),
    "kind": (lambda: attributions.grad_cam(NET, FLOATS, 1, kind="logits"), ValueError, "'logit'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def test_shapes_are_refused_while_tracing():
    with pytest.raises(ValueError, match="must have the same shape"):
        jax.eval_shape(lambda image: IG(SMOOTH, image, image[:3]), FLOATS)
