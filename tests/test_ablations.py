"""Ablations of iGOS++: each is the full method but for what its name says."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import jaxplain as jx
from jaxplain import paths
from jaxplain.masks import ABLATIONS, FixedStep, LineSearch, Nesterov, Status

QUICK = {"size": (3, 4), "iterations": 3, "batch_size": 5, "l1": 0.2, "l2": 0.3, "sigma": 2.0}


def run(name, scene, **options):
    method = jx.igos_pp if name == "full" else ABLATIONS[name]
    return method(scene.score, scene.image, scene.baseline, **(QUICK | options))


def same(one, other):
    return np.array_equal(one.masks, other.masks)


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_is_a_run_that_ends_well(scene, name):
    found = run(name, scene, key=jax.random.key(0))
    assert Status(int(found.status)) is Status.OK
    assert found.masks.shape == (1 if "only" in name or name == "naive sum" else 2, 3, 4)
    assert np.ptp(found.mask) > 0
    if name != "no noise":  # the default preset has none
        assert not same(found, run("full", scene, key=jax.random.key(0)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("no noise", {"noise": 0.0}),
        ("with noise", {"noise": 0.2}),
        ("fixed step", {"descent": FixedStep()}),
        ("no BTV", {"l2": 0.0}),
    ],
)
@pytest.mark.parametrize("preset", ["default", "paper"])
def test_one_option_is_all_the_difference(scene, name, options, preset):
    settings = {"preset": preset, "steps": 2, "key": jax.random.key(0)}
    assert same(run(name, scene, **settings), run("full", scene, **settings, **options))
    loud = dict.fromkeys(options, LineSearch(3.0) if "descent" in options else 5.0)
    assert same(run(name, scene, **settings, **loud), run("full", scene, **settings, **options))


@pytest.mark.parametrize(
    ("name", "signs"),
    [("insertion only", [-1]), ("deletion only", [2]), ("naive sum", [2, -1])],
)
def test_the_objective_of_one_mask(scene, name, signs):
    """Loss and the size of the first step, by hand: iGOS++'s score weight 1/2, and twice the deletion."""
    found = run(name, scene, iterations=1, descent=Nesterov(1.0), search="path", steps=2, rule="riemann")
    mask = np.asarray(found.mask, np.float64)
    image, baseline = (np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline))

    def losses(mask):
        up = oracles.upsample(mask, (12, 12))
        total = 0.0
        for sign in signs:
            near, far = (image, baseline) if sign > 0 else (baseline, image)
            pictures = np.stack([oracles.blend(near, far, node * up) for node in (0.5, 1.0)])
            total += sign * float(scene.score(np.float32(pictures)).mean())
        small = 0.2 * oracles.l1(mask) + 0.3 * oracles.bilateral_total_variation(mask, image, 2.0)
        return total + small

    assert float(found.loss) == pytest.approx(losses(mask), abs=1e-4)
    # Where the mask starts the penalties have no slope, so the step is half that of the score terms.
    twice = run(name, scene, iterations=1, descent=Nesterov(1.0), steps=2, rule="riemann", score_weight=1.0)
    inside = np.asarray((twice.mask > 0) & (twice.mask < 1))
    np.testing.assert_allclose((1 - twice.mask)[inside], 2 * (1 - mask)[inside], rtol=1e-3)


def test_noise_needs_a_key(scene):
    with pytest.raises(ValueError, match="pass key="):
        run("with noise", scene)


def test_a_sweep_is_a_vmap(scene):
    explain = partial(run, "insertion only", scene)
    found = jax.vmap(lambda l1: explain(l1=l1).mask)(jnp.array([0.1, 5.0]))
    for row, l1 in enumerate((0.1, 5.0)):
        np.testing.assert_allclose(found[row], explain(l1=l1).mask, atol=1e-5)


# ------------------------------------------------------------------------------------------- fixed step


def test_a_fixed_step_is_fixed_by_the_first_move(scene):
    found = run("fixed step", scene, iterations=4, l1=0.0, l2=0.0)
    step = np.asarray(found.history.step)
    np.testing.assert_allclose(step, step[0])
    np.testing.assert_array_equal(found.history.trials, 1)
    numbers = oracles.Numbers(score_weight=0.5, deletion=2.0)
    pictures = np.asarray(scene.image, np.float64), np.asarray(scene.baseline, np.float64)[None]
    rule = map(np.asarray, paths.gauss_legendre(3))
    grads = oracles.objective("igos++", scene.score, np.ones((2, 3, 4)), *pictures, *rule, numbers).grads
    assert step[0] == pytest.approx(0.03 / np.abs(grads).mean(), rel=1e-3)


def test_a_fixed_step_of_a_flat_score_stays():
    move = FixedStep().move(
        jx.masks.descent.Start(jnp.ones((1, 2, 2)), jnp.zeros((1, 2, 2)), jnp.float32(0), jnp.int32(0)),
        FixedStep().init(jnp.ones((1, 2, 2))),
        lambda masks: jnp.zeros(len(masks)),
    )
    np.testing.assert_array_equal(move.masks, 1.0)
