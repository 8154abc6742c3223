"""The recipes: their defaults and published options, the ablations, meaningful perturbation against a loop,
and what is refused."""

import inspect
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles

import jaxplain as jx
from jaxplain import Status, paths
from jaxplain.masks import (
    ABLATIONS,
    PAPER,
    BestStep,
    FixedStep,
    LineSearch,
    Nesterov,
    Optax,
    meaningful_perturbation,
)
from jaxplain.masks.recipes import MaskOptions, _coefficients
from jaxplain.methods import METHODS

RECIPES = {"igos": jx.igos, "igos+": jx.igos_plus, "igos++": jx.igos_pp}
SHAPE = (3, 4)
slow = partial(pytest.param, marks=pytest.mark.slow)


def defaults(method):
    parameters = inspect.signature(method).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


# ------------------------------------------------------------------------------------ defaults, PAPER


MEASURED = {
    "key": None,
    "batch_size": None,
    "size": 28,
    "rule": "gauss_legendre",
    "search": "endpoint",
    "descent": BestStep(),
    "l1": 1.0,
    "l2": None,
    "noise": 0.0,
    "score_weight": 1.0,
    "deletion": 2.0,
    "insertion": 1.0,
    "jitter": 0.0,
    "sigma": 0.01,
    "rescue": False,
    "init": None,
}


def test_every_default_stands_in_the_signature():
    assert defaults(jx.igos) == MEASURED | {"iterations": 15, "n_steps": 5, "l1": 0.1}
    assert defaults(jx.igos_plus) == MEASURED | {"iterations": 10, "n_steps": 3}
    assert defaults(jx.igos_pp) == MEASURED | {"iterations": 8, "n_steps": 3, "score_weight": 0.5}
    found = defaults(meaningful_perturbation)
    assert isinstance(found.pop("descent"), Optax)
    expected = MEASURED | {"iterations": 300, "n_steps": 1, "rule": "riemann", "search": "gradient"}
    expected |= {"l1": 0.01, "l2": 0.2, "deletion": 1.0}
    assert found == {name: value for name, value in expected.items() if name != "descent"}


@pytest.mark.parametrize("method", RECIPES)
def test_the_published_options_are_the_papers(method):
    options = PAPER[method]
    assert options.keys() <= defaults(RECIPES[method]).keys()
    expected = {"iterations": 15, "n_steps": 20, "rule": "riemann", "l2": 20.0, "noise": 0.2, "sigma": 0.01}
    expected |= {"search": "path", "score_weight": 0.5 if method == "igos++" else 1.0}
    expected |= {"deletion": 1.0, "insertion": 1.0, "rescue": False, "jitter": 0.0}
    expected |= {"descent": LineSearch(1000.0, decay=0.2, beta=1e-4, min_step=1e-5), "l1": None}
    assert options == expected


def test_weights_that_depend_on_the_size():
    """l1 as published, 10 from 224 on; l2 grows with the longer side."""
    options = MaskOptions(**defaults(jx.igos_pp))
    for side, l1, l2 in ((7, 1.0, 0.625), (28, 1.0, 2.5), (223, 1.0, 19.91), (224, 10.0, 20.0)):
        found = _coefficients(options._replace(l1=None), side)
        assert float(found.l1) == l1
        assert float(found.l2) == pytest.approx(l2, abs=1e-2)
    assert float(_coefficients(options._replace(l1=3.0, l2=4.0), 7).l2) == 4.0


def test_the_registry_holds_them_all():
    for name, method in RECIPES.items():
        assert METHODS[name].function is method
    for name, method in ABLATIONS.items():
        assert METHODS[f"igos++-{name}"].function is method
    assert {"meaningful-perturbation", "extremal-perturbation"} <= METHODS.keys()


# ---------------------------------------------------------------------------------------- ablations


QUICK = {"size": SHAPE, "iterations": 3, "n_steps": 2, "batch_size": 5, "l1": 0.2, "l2": 0.3, "sigma": 2.0}
FIXED = {
    "insertion-only": {"search": "path"},
    "deletion-only": {},
    "naive-sum": {},
    "no-noise": {"noise": 0.0},
    "with-noise": {"noise": 0.2},
    "fixed-step": {"descent": FixedStep()},
    "no-btv": {"l2": 0.0},
}


def run(name, scene, **options):
    method = jx.igos_pp if name == "full" else ABLATIONS[name]
    quick = {name: value for name, value in QUICK.items() if name in defaults(method)}
    return method(scene.score, scene.image, scene.baseline, **(quick | options))


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_has_the_options_that_it_does_not_fix(name):
    method = ABLATIONS[name]
    assert list(ABLATIONS) == list(FIXED)
    assert defaults(method) == {k: v for k, v in defaults(jx.igos_pp).items() if k not in FIXED[name]}
    assert list(inspect.signature(method).parameters)[:3] == ["score", "image", "baseline"]
    assert name in method.__doc__
    for option in FIXED[name]:
        with pytest.raises(TypeError, match=f"{name}' fixes {option} = "):
            method(None, IMAGE, BASELINE, **{option: 1.0})
    with pytest.raises(TypeError, match="unexpected keyword argument 'iteration'"):
        method(None, IMAGE, BASELINE, iteration=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no-noise", "with-noise", "fixed-step", "no-btv"])
def test_one_option_is_all_the_difference(scene, name):
    settings = {"key": jax.random.key(0)}
    found = run(name, scene, **settings)
    assert Status(int(found.status)) is Status.OK
    same = run("full", scene, **settings, **FIXED[name])
    np.testing.assert_array_equal(found.details.masks, same.details.masks)
    if name != "no-noise":  # there is none by default
        full = run("full", scene, **settings)
        assert not np.array_equal(found.details.masks, full.details.masks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "signs"), [("insertion-only", [-1]), ("deletion-only", [2]), ("naive-sum", [2, -1])]
)
def test_the_objective_of_one_mask(scene, name, signs):
    """Loss and the size of the first step, by hand: iGOS++'s score weight 1/2, and twice the deletion."""
    search = {} if name == "insertion-only" else {"search": "path"}
    options = {"iterations": 1, "descent": Nesterov(1.0), "rule": "riemann"} | search
    found = run(name, scene, **options).details
    assert found.masks.shape == (1, *SHAPE)
    mask = np.asarray(found.mask, np.float64)
    image, baseline = (np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline))

    def loss_of(mask):
        up = oracles.upsample(mask, (12, 12))
        total = 0.0
        for sign in signs:
            near, far = (image, baseline) if sign > 0 else (baseline, image)
            pictures = np.stack([oracles.blend(near, far, node * up) for node in (0.5, 1.0)])
            total += sign * float(scene.score(np.float32(pictures)).mean())
        small = 0.2 * oracles.l1(mask) + 0.3 * oracles.bilateral_total_variation(mask, image, 2.0)
        return total + small

    assert float(found.loss) == pytest.approx(loss_of(mask), abs=1e-4)
    # Where the mask starts the penalties have no slope, so the step is half that of the score terms.
    twice = run(name, scene, **options, score_weight=1.0).details.mask
    inside = np.asarray((twice > 0) & (twice < 1))
    np.testing.assert_allclose((1 - twice)[inside], 2 * (1 - mask)[inside], rtol=1e-3)


@pytest.mark.slow
def test_an_ablation_may_be_mapped(scene):
    explain = partial(run, "insertion-only", scene)
    found = jax.vmap(lambda l1: explain(l1=l1).importance)(jnp.array([0.1, 5.0]))
    for row, l1 in enumerate((0.1, 5.0)):
        np.testing.assert_allclose(found[row], explain(l1=l1).importance, atol=1e-5)


@pytest.mark.slow
def test_a_fixed_step_is_fixed_by_the_first_move(scene):
    found = run("fixed-step", scene, iterations=4, n_steps=3, l1=0.0, l2=0.0).details
    step = np.asarray(found.history.step)
    np.testing.assert_allclose(step, step[0])
    np.testing.assert_array_equal(found.history.trials, 1)
    numbers = oracles.Numbers(score_weight=0.5, deletion=2.0)
    pictures = np.asarray(scene.image, np.float64), np.asarray(scene.baseline, np.float64)[None]
    rule = map(np.asarray, paths.gauss_legendre(3))
    grads = oracles.objective("igos++", scene.score, np.ones((2, *SHAPE)), *pictures, *rule, numbers).grads
    assert step[0] == pytest.approx(0.03 / np.abs(grads).mean(), rel=1e-3)


# ------------------------------------------------------------------------- meaningful perturbation


def penalty(mask, l1, l2):
    return l1 * oracles.l1(mask) + l2 * oracles.total_variation(mask, 3.0)


def adam(all_grads, rate=0.1, decays=(0.9, 0.999)):
    """The update after these gradients, from all of them anew."""
    count = len(all_grads)
    shares = [[(1 - b) * b ** (count - 1 - at) / (1 - b**count) for at in range(count)] for b in decays]
    mean = sum(share * grads for share, grads in zip(shares[0], all_grads, strict=True))
    square = sum(share * grads**2 for share, grads in zip(shares[1], all_grads, strict=True))
    return -rate * mean / (np.sqrt(square) + 1e-8)


def adam_loop(scene, iterations, **weights):
    """The optimisation in plain Python: masks and losses 0..T."""
    image, baseline = (np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline))
    mask, masks, losses, all_grads = np.ones(SHAPE), [], [], []
    for _ in range(iterations + 1):
        picture = oracles.blend(image, baseline, oracles.upsample(mask, (12, 12)))
        value, grad = oracles.one(np.float32(picture), scene.score)
        slope = (np.asarray(grad, np.float64) * (image - baseline)).sum(-1)
        grads = oracles.upsample_transposed(slope, SHAPE)
        for place in np.ndindex(SHAPE):
            moved = [mask.copy(), mask.copy()]
            moved[0][place] += 1e-5
            moved[1][place] -= 1e-5
            grads[place] += (penalty(moved[0], **weights) - penalty(moved[1], **weights)) / 2e-5
        masks.append(mask)
        losses.append(float(value) + penalty(mask, **weights))
        all_grads.append(grads)
        mask = np.clip(mask + adam(all_grads), 0, 1)
    return masks, losses


def test_meaningful_perturbation_is_the_loop(scene):
    found = meaningful_perturbation(
        scene.score, scene.image, scene.baseline, size=SHAPE, iterations=6, l1=0.3, l2=2.0
    ).details
    masks, losses = adam_loop(scene, 6, l1=0.3, l2=2.0)
    np.testing.assert_allclose(found.history.loss, losses[1:], atol=1e-3)
    best = int(np.argmin(losses))
    np.testing.assert_allclose(found.mask, masks[best], atol=1e-2)
    assert float(found.loss) == pytest.approx(losses[best], abs=1e-3)
    assert np.ptp(found.mask) > 0.1
    assert int(found.history.trials.sum()) == 6


def patch_score(images):
    return jax.nn.sigmoid(8 * images[:, 2:6, 6:10].mean((1, 2, 3)) - 4)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "jitter"), [(6, 0), (12, 0), (6, 1)])
def test_meaningful_perturbation_finds_the_planted_square(size, jitter):
    image = np.random.default_rng(0).standard_normal((12, 12, 3)).astype(np.float32)
    image[2:6, 6:10] = 1.0
    options = {"size": size, "iterations": 60, "l1": 0.2, "l2": 0.02, "jitter": jitter}
    found = meaningful_perturbation(
        patch_score, jnp.asarray(image), jnp.zeros((12, 12, 3)), key=jax.random.key(0), **options
    )
    saliency = np.asarray(found.saliency(12, 12))
    assert Status(int(found.status)) is Status.OK
    assert saliency[2:6, 6:10].mean() > 3 * saliency[:, :4].mean()


# ------------------------------------------------------------------------------------- initial masks


@pytest.mark.parametrize("size", [slow(6), 7, slow((4, 9))])
def test_diverse_init_lowers_one_cell_of_a_grid(size):
    shape = (size, size) if isinstance(size, int) else size
    covered = np.zeros(shape)
    for row in range(3):
        for col in range(3):
            mask = np.asarray(jx.diverse_init(size, 3, (row, col), 0.4))
            assert mask.shape == shape
            assert mask.dtype == np.float32
            assert set(np.unique(mask)) == {np.float32(1), np.float32(0.6)}
            lowered = mask < 1
            covered += lowered
            rows, cols = (np.flatnonzero(lowered.any(axis)) for axis in (1, 0))
            assert lowered[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].sum() == lowered.sum()
    np.testing.assert_array_equal(covered, 1)  # every cell of the mask belongs to one cell of the grid


def test_diverse_init_may_be_mapped():
    found = jax.vmap(lambda col: jx.diverse_init(SHAPE, 2, (0, col)))(jnp.arange(2))
    np.testing.assert_array_equal(found, [jx.diverse_init(SHAPE, 2, (0, col)) for col in range(2)])


# -------------------------------------------------------------------------------------------- refusals


def mean_of_all(images):
    return images.mean((1, 2, 3))


IMAGE, BASELINE = np.ones((12, 12, 3), np.float32), np.zeros((12, 12, 3), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iteration": 3}, TypeError, "unexpected keyword argument 'iteration'"),
        ({"rule": "rieman"}, ValueError, "unknown rule 'rieman': did you mean 'riemann'"),
        ({"search": "ends"}, ValueError, "unknown search 'ends'"),
        ({"search": "gradient"}, ValueError, "BestStep requires search='endpoint'"),
        (
            {"search": "gradient", "descent": LineSearch()},
            ValueError,
            "LineSearch requires search=",
        ),
        ({"descent": "nesterov"}, TypeError, "descent must be a LineSearch.*got 'nesterov'"),
        ({"size": 13}, ValueError, "size of 13 x 13 is finer than the image of 12 x 12"),
        ({"size": (3, 13)}, ValueError, "size of 3 x 13 is finer"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 7.0}, TypeError, "size must be an integer, got 7.0"),
        ({"size": (3, 4, 5)}, ValueError, r"size must be an integer or \(rows, columns\)"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
        ({"iterations": 2.5}, TypeError, "iterations must be an integer"),
        ({"n_steps": -1}, ValueError, "n_steps must be at least 1"),
        ({"n_steps": True}, TypeError, "n_steps must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": "8"}, TypeError, "batch_size must be an integer"),
        ({"noise": 0.2}, TypeError, r"noise \(off with noise=0\) is random: pass key="),
        ({"jitter": 4}, TypeError, r"jitter \(off with jitter=0\) is random: pass key="),
        ({"l1": jnp.ones(3)}, ValueError, r"l1 must be one number, got shape \(3,\).*jax.vmap"),
        ({"l2": np.nan}, ValueError, "l2 contains 1 NaN"),
        ({"sigma": jnp.ones((1, 1))}, ValueError, "sigma must be one number"),
        ({"sigma": 0.0}, ValueError, "sigma must be above 0"),
        ({"init": jnp.ones((4, 3))}, ValueError, r"init must be a mask of shape \(3, 4\), got \(4, 3\)"),
        ({"init": 0.5}, ValueError, "init must be a mask"),
        ({"init": np.full(SHAPE, 1.5)}, ValueError, r"init must lie in 0\.\.1"),
        ({"init": np.full(SHAPE, -0.1)}, ValueError, r"init must lie in 0\.\.1"),
        ({"init": np.full(SHAPE, np.nan)}, ValueError, "init contains 12 NaN"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["igos", "igos++"])
def test_options_that_cannot_be_are_refused(method, options, error, message):
    with pytest.raises(error, match=message):
        RECIPES[method](mean_of_all, IMAGE, BASELINE, **({"size": SHAPE} | options))


@pytest.mark.parametrize(
    ("image", "baseline", "error", "message"),
    [
        (IMAGE[None], BASELINE, ValueError, r"image must be one image \[H, W, C\].*use jax.vmap"),
        (IMAGE.astype(np.uint8), BASELINE, TypeError, r"floating-point.*uint8.*preprocess"),
        (np.full_like(IMAGE, np.nan), BASELINE, ValueError, "image contains 432 NaN"),
        (IMAGE, BASELINE[:11], ValueError, r"baseline must have the image's shape \(12, 12, 3\)"),
        (IMAGE, BASELINE[None][:0], ValueError, "baseline must have"),
        (IMAGE, 0.0, ValueError, "baseline must have .* got shape float"),
    ],
)
def test_pictures_that_cannot_be_are_refused(image, baseline, error, message):
    """All cases: tests of `checks` and `perturb`."""
    with pytest.raises(error, match=message):
        jx.igos_pp(mean_of_all, image, baseline, size=SHAPE)


def test_scores_that_cannot_be_are_refused(scene):
    with pytest.raises(
        ValueError, match=r"one number per image, \[\d+\] for images .*, got \(\d+, 4\).*class_score"
    ):
        jx.igos_pp(scene.net, scene.image, scene.baseline, size=SHAPE)
    with pytest.raises(TypeError, match="must be callable, got float"):
        jx.igos_pp(0.5, scene.image, scene.baseline, size=SHAPE)
