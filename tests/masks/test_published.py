"""The same mathematics as the published programs: their numbers on a real photo, with real weights.

tests/golden/photo01.json holds the numbers; benchmarks/published.py checks whole folders of them.
"""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.published import eight_bit_blur, foolbox_photos, squeezed

import jaxplain as jx
from jaxplain import paths
from jaxplain.masks import objective


@pytest.fixture(scope="module")
def golden():
    numbers = json.loads((Path(__file__).parents[1] / "golden" / "photo01.json").read_text())
    return {name: np.asarray(value) for name, value in numbers.items() if name != "about"}


@pytest.fixture(scope="module")
def scene():
    """(model, image, baseline) of foolbox's photo 01."""
    model = jx.zoo.load("efficientnet-lite0")
    rgb = squeezed(foolbox_photos()[1])
    return model, model.normalize(rgb), model.normalize(eight_bit_blur(rgb))


@pytest.mark.slow
def test_logits_are_the_published_ones(golden, scene):
    model, image, baseline = scene
    logits = jax.jit(lambda model, images: model(images))(model, jnp.stack([image, baseline]))
    np.testing.assert_allclose(logits[0][golden["top"]], golden["logits"], atol=1e-3)
    np.testing.assert_allclose(logits[1][golden["top_blurred"]], golden["logits_blurred"], atol=1e-3)
    assert int(logits[0].argmax()) == golden["target"]


def test_blur_in_model_space_is_the_8_bit_blur_but_for_its_rounding(scene):
    model, image, baseline = scene
    difference = model.denormalize(jx.blur_baseline(image)) - model.denormalize(baseline)
    assert np.abs(difference).max() < 1.2  # of 255; fixed-point weights and two roundings


def test_the_penalties_are_the_published_ones(golden, scene):
    mask = jnp.asarray(golden["mask"].reshape(28, 28), jnp.float32)
    edges = objective.edge_weights(scene[1])
    assert float(objective.total_variation(mask)) == pytest.approx(golden["tv"], abs=1e-6)
    assert float(objective.bilateral_total_variation(mask, edges)) == pytest.approx(golden["btv"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_path_means_and_gradients_are_the_published_ones(golden, scene, name):
    model, image, baseline = scene
    insertion = name == "insertion"
    form = objective.Objective(1, lambda masks: masks, (objective.Term(0, insertion),), "tv")
    numbers = objective.Coefficients(
        l1=0.0, l2=0.0, noise=None, score_weight=1.0, deletion=1.0, insertion=1.0
    )
    problem = objective.Problem(
        jx.class_score(model, int(golden["target"])),
        image,
        baseline[None],
        objective.edge_weights(image),
        paths.riemann(20),
        jax.tree_util.tree_map(jnp.float32, numbers),
    )
    mask = jnp.asarray(golden["mask"].reshape(1, 28, 28), jnp.float32)
    run = jax.jit(partial(objective.slopes, objective.Setup(form, None, needs_endpoint=False)))
    found = run(problem, mask, None, jnp.bool_(False))
    sign = -1 if insertion else 1  # insertion is to be made large, so it enters the loss negated
    expected = golden[f"{name}_path_gradient"].reshape(28, 28)
    error = np.linalg.norm(sign * found.grads[0] - expected) / np.linalg.norm(expected)
    assert float(sign * found.loss) == pytest.approx(golden[f"{name}_path_mean"], abs=1e-5)
    assert error < 1e-3


@pytest.mark.slow
def test_curves_are_the_published_ones(golden, scene):
    model, image, baseline = scene
    saliency = jnp.asarray(1.0 - golden["mask"].reshape(28, 28), jnp.float32)
    score = jx.class_score(model, int(golden["target"]))
    curves = jx.insertion_deletion(score, image, baseline, saliency)
    np.testing.assert_allclose(curves.deletion, golden["deletion_curve"], atol=1e-4)
    np.testing.assert_allclose(curves.insertion, golden["insertion_curve"], atol=1e-4)
