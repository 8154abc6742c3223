"""Mask optimisation as a whole: against a loop, under vmap, at its edges; what it reports and refuses.

Every setting is given, so that nothing here depends on a preset.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

import jaxplain as jx
from jaxplain import paths
from jaxplain.masks import METHODS, BestStep, LineSearch, Nesterov, Optax, Status, parameters

SHAPE = (3, 4)
PLAIN = {
    "size": SHAPE,
    "iterations": 4,
    "steps": 3,
    "rule": "gauss_legendre",
    "search": "endpoint",
    "descent": LineSearch(5.0),
    "l1": 0.2,
    "l2": 0.3,
    "noise": 0.0,
    "score_weight": 0.5,
    "deletion": 1.2,
    "insertion": 0.9,
    "sigma": 2.0,
    "rescue": False,
    "batch_size": 5,
}
STATIC = ("size", "iterations", "steps", "rule", "search", "rescue", "batch_size")


def run(method, score, image, baseline, **changes):
    return METHODS[method](score, image, baseline, **(PLAIN | changes))


def at(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


def assert_same_heatmap(found, expected, atol=1e-4):
    for name in ("mask", "saliency", "masks", "loss", "image_score", "baseline_score"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, atol=atol, rtol=1e-4, err_msg=name)
    assert int(found.status) == int(expected.status)


# --------------------------------------------------------------------------------------- against a loop


def whole_run(method, scene, baselines, options):
    """The optimisation in plain Python: the oracle's gradient and the oracle's descent, best mask kept."""
    chosen = PLAIN | options
    numbers = oracles.Numbers(**{name: chosen[name] for name in oracles.Numbers._fields})
    nodes, weights = (np.asarray(part, np.float64) for part in paths.RULES[chosen["rule"]](chosen["steps"]))
    end = (nodes, weights) if chosen["search"] == "path" else ([1.0], [1.0])
    pictures = np.asarray(scene.image, np.float64), np.asarray(baselines, np.float64)
    masks = np.ones((2 if method == "igos++" else 1, *SHAPE))

    def loss_of(masks):
        return oracles.objective(method, scene.score, masks, *pictures, *end, numbers).loss

    best, losses, ahead, loss = (np.inf, masks), [], masks, loss_of(masks)
    for iteration in range(chosen["iterations"]):
        found = oracles.objective(method, scene.score, masks, *pictures, nodes, weights, numbers)
        descent = chosen["descent"]
        if isinstance(descent, Nesterov):
            previous, ahead = ahead, masks - descent.step * found.grads
            momentum = iteration / (iteration + 3)
            masks = np.clip(ahead + momentum * (ahead - previous), 0, 1)
            loss = loss_of(masks)
        else:
            step = oracles.line_search(masks, found.grads, loss, loss_of, first=descent.first_step)
            masks, loss = step.masks, step.loss
        losses.append(loss)
        best = min(best, (loss, masks), key=lambda pair: pair[0])
    return best, losses


@pytest.mark.parametrize(
    ("method", "baselines", "options"),
    [
        ("igos", 1, {}),
        ("igos+", 2, {"search": "path"}),
        ("igos++", 1, {"search": "path"}),
        ("igos++", 2, {}),
        ("igos++", 1, {"descent": Nesterov(5.0)}),  # too long a step: the best mask is not the last
    ],
    ids=str,
)
def test_a_whole_run_is_the_loop(scene, method, baselines, options):
    several = jnp.stack([scene.baseline, jnp.zeros_like(scene.image)][:baselines])
    found = run(method, scene.score, scene.image, several, **options)
    (loss, masks), losses = whole_run(method, scene, several, options)
    np.testing.assert_allclose(found.masks, masks, atol=1e-3)
    np.testing.assert_allclose(found.history.loss, losses, atol=1e-3)
    assert float(found.loss) == pytest.approx(loss, abs=1e-3)
    assert float(found.loss) == float(found.history.loss.min())

    np.testing.assert_allclose(found.mask, np.prod(found.masks, axis=0), rtol=1e-6)
    expected = 1 - oracles.upsample(np.asarray(found.mask, np.float64), (12, 12))
    np.testing.assert_allclose(found.saliency, expected, atol=1e-5)
    assert ((found.mask >= 0) & (found.mask <= 1)).all()
    assert np.ptp(found.mask) > 0.1
    values = scene.score(jnp.concatenate([scene.image[None], several]))
    assert float(found.image_score) == pytest.approx(float(values[0]), abs=1e-6)
    assert float(found.baseline_score) == pytest.approx(float(values[1:].mean()), abs=1e-6)
    assert Status(int(found.status)) is Status.OK


def test_history_belongs_to_its_masks(scene):
    """Terms of the loss after each iteration, scores before it."""
    step = Nesterov(0.1)  # so small that the loss falls at every step and the last mask is the best
    found = run("igos+", scene.score, scene.image, scene.baseline, descent=step)
    history = found.history
    assert (np.diff(history.loss) < 0).all()
    mask = np.asarray(found.mask, np.float64)
    assert float(history.l1[-1]) == pytest.approx(oracles.l1(mask), abs=1e-5)
    rough = oracles.bilateral_total_variation(mask, np.asarray(scene.image, np.float64), PLAIN["sigma"])
    assert float(history.smoothness[-1]) == pytest.approx(rough, abs=1e-5)
    pictures = np.asarray(scene.image, np.float64), np.asarray(scene.baseline, np.float64)[None]
    rule = map(np.asarray, paths.gauss_legendre(3))
    first = oracles.objective("igos+", scene.score, np.ones((1, *SHAPE)), *pictures, *rule, oracles.Numbers())
    assert float(history.deletion[0]) == pytest.approx(first.deletion, abs=1e-5)
    assert float(history.insertion[0]) == pytest.approx(first.insertion, abs=1e-5)
    np.testing.assert_allclose(history.step, 0.1, rtol=1e-6)
    np.testing.assert_array_equal(history.trials, 1)


def test_insertion_has_no_history_where_there_is_no_insertion(scene):
    found = run("igos", scene.score, scene.image, scene.baseline)
    assert np.isnan(found.history.insertion).all()
    assert np.isfinite(found.history.deletion).all()


def test_one_baseline_is_a_set_of_one(scene):
    alone = run("igos", scene.score, scene.image, scene.baseline)
    assert_same_heatmap(run("igos", scene.score, scene.image, scene.baseline[None]), alone)


# ------------------------------------------------------------------------------- best so far, and status


@partial(jax.tree_util.register_dataclass, data_fields=["values", "losses"], meta_fields=["measured"])
@dataclasses.dataclass(frozen=True)
class Visits:
    """Not a descent: goes to flat masks of given values, and measures or says what losses they have."""

    values: jax.Array  # [T]
    losses: jax.Array  # [T]
    measured: bool = False

    def init(self, masks):
        return ()

    def move(self, start, state, measure):
        masks = jnp.full_like(start.masks, self.values[start.iteration])
        loss = measure(masks[None])[0] if self.measured else self.losses[start.iteration]
        return jx.masks.descent.Move(masks, loss, jnp.float32(1), jnp.int32(1), state)


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3, 1, 2, 1], 1),  # the first of equals
        ([np.nan, 3, np.nan, 2], 3),
        ([1, np.nan, np.nan, np.nan], 0),
        ([4, 3, np.inf, 5], 1),
        ([np.nan, np.nan, np.nan, np.inf], None),
        ([np.nan] * 4, None),
    ],
    ids=str,
)
def test_the_lowest_loss_wins_and_nan_never_does(scene, losses, best):
    visits = Visits(jnp.array([0.2, 0.4, 0.6, 0.8]), jnp.array(losses, jnp.float32))
    found = run("igos", scene.score, scene.image, scene.baseline, descent=visits)
    np.testing.assert_array_equal(found.history.loss, jnp.array(losses, jnp.float32))
    if best is None:
        assert Status(int(found.status)) is Status.NOT_FINITE
        np.testing.assert_array_equal(found.mask, 1.0)  # where it started: a picture without importance
    else:
        assert Status(int(found.status)) is Status.OK
        np.testing.assert_allclose(found.mask, visits.values[best])
        assert float(found.loss) == losses[best]


def test_status_when_the_score_is_nan(scene):
    nan = scene.score.classifier._replace(second=scene.score.classifier.second.at[0, 0].set(jnp.nan))
    found = run("igos", dataclasses.replace(scene.score, classifier=nan), scene.image, scene.baseline)
    assert Status(int(found.status)) is Status.NOT_FINITE
    assert "NaN or infinite" in Status(int(found.status)).message


@pytest.mark.parametrize("where", ["image", "baseline"])
def test_status_when_one_end_is_nan(scene, where):
    """The images between them may well have a score."""
    limit = getattr(scene, where).sum()
    score = jax.tree_util.Partial(nan_near, limit)
    found = run("igos", score, scene.image, scene.baseline)
    assert Status(int(found.status)) is Status.NOT_FINITE
    assert np.isnan(found.image_score) == (where == "image")


def nan_near(limit, images):
    sums = images.sum((1, 2, 3))
    return jnp.where(jnp.abs(sums - limit) < 1e-3, jnp.nan, jnp.tanh(images[:, :6].mean((1, 2, 3))))


def test_status_when_there_is_nothing_to_explain(scene):
    for image, baseline in ((scene.baseline, scene.image), (scene.image, scene.image)):
        found = run("igos", scene.score, image, baseline)
        assert Status(int(found.status)) is Status.NOT_ABOVE_BASELINE
        assert np.isfinite(found.mask).all()
    assert "another target or baseline" in Status(int(found.status)).message


@pytest.mark.parametrize("method", METHODS)
def test_status_when_no_mask_is_better_than_the_start(scene, method):
    """The map is empty then, which is no explanation."""
    found = run(method, scene.score, scene.image, scene.baseline, l1=1e6)
    assert Status(int(found.status)) is Status.NOT_MOVED
    assert not np.any(found.saliency)
    assert "smaller l1" in Status(int(found.status)).message
    assert Status(int(run(method, scene.score, scene.image, scene.baseline).status)) is Status.OK


# ------------------------------------------------------------------------------------------------- vmap


def test_a_row_of_a_vmap_is_the_image_alone(scene):
    """Other images, baselines, targets and keys; one image is bad, and the others do not notice."""
    images = jnp.stack([scene.image, -scene.image, scene.image[::-1], scene.image.at[0, 0].set(jnp.nan)])
    baselines = jnp.stack([scene.baseline, scene.image, jnp.zeros_like(scene.image), scene.baseline])
    targets, keys = jnp.array([0, 1, 2, 3]), jax.random.split(jax.random.key(0), 4)

    def explain(image, baseline, target, key):
        score = jx.class_score(scene.net, target)
        return run("igos++", score, image, baseline, noise=0.2, key=key, iterations=3)

    found = jax.vmap(explain)(images, baselines, targets, keys)
    for row in range(3):
        alone = explain(images[row], baselines[row], targets[row], keys[row])
        assert_same_heatmap(at(found, row), alone, atol=1e-3)
    assert Status(int(found.status[3])) is Status.NOT_FINITE


SWEPT = {
    "l1": 2.0,
    "l2": 3.0,
    "noise": 0.5,
    "score_weight": 2.0,
    "deletion": 0.3,
    "insertion": 3.0,
    "sigma": 0.1,
    "first_step": 0.5,
}


def test_a_sweep_over_every_number_is_a_vmap(scene):
    """Row 0 has the plain numbers, each other row changes one; every row is what a run of its own finds,
    and every number matters."""
    first = {name: PLAIN.get(name, 0.0) for name in SWEPT} | {"noise": 0.1, "first_step": 5.0}
    rows = [first, *(first | {name: value} for name, value in SWEPT.items()), first | {"noise": 0.0}]
    columns = {name: jnp.array([row[name] for row in rows], jnp.float32) for name in SWEPT}

    def explain(first_step, **numbers):
        return run(
            "igos++", scene.score, scene.image, scene.baseline,
            key=jax.random.key(0), search="path", descent=LineSearch(first_step), **numbers,
        )  # fmt: skip

    found = jax.vmap(lambda row: explain(**row))(columns)
    for place, row in enumerate(rows):
        assert_same_heatmap(at(found, place), explain(**row), atol=1e-3)
        if place:
            assert np.abs(found.mask[place] - found.mask[0]).max() > 1e-3, row


def test_every_iteration_draws_noise_of_its_own(scene):
    """Of masks that stay, only the noise changes what is measured; without it nothing does."""
    options = {"descent": Nesterov(0.0), "search": "path", "key": jax.random.key(0), "l1": 0.0, "l2": 0.0}
    history = run("igos", scene.score, scene.image, scene.baseline, noise=0.3, **options).history
    assert len(set(history.deletion.tolist() + (history.loss / PLAIN["deletion"]).tolist())) == 8
    history = run("igos", scene.score, scene.image, scene.baseline, noise=0.0, **options).history
    assert np.ptp(history.deletion) == np.ptp(history.loss) == 0


# ---------------------------------------------------------------------------------------- compilations


class Counting(NamedTuple):
    """Counts its own traces."""

    scale: jax.Array

    def __call__(self, images):
        TRACES.append(images.shape)
        return jnp.tanh(self.scale * images[:, :5].mean((1, 2, 3)))


TRACES: list = []


def test_other_numbers_compile_nothing_anew(scene):
    def explain(number, **changes):
        options = dict.fromkeys(("l1", "l2", "noise", "score_weight", "deletion", "insertion"), number)
        options |= {"sigma": number, "key": jax.random.key(int(10 * number)), "descent": LineSearch(number)}
        score, image = Counting(jnp.float32(number)), number * scene.image
        return run("igos+", score, image, scene.baseline + number, **(options | changes))

    TRACES.clear()
    explain(0.5)
    once = len(TRACES)
    assert once > 0
    explain(0.7)
    explain(1.5, preset="paper", init=jnp.full(SHAPE, 0.5))
    explain(1.5, l1=jnp.float32(3.0), descent=LineSearch(2.0, decay=0.5, beta=0.1, min_step=0.1))
    assert len(TRACES) == once


def test_a_wrapped_score_is_compiled_once(scene):
    """A plain function is wrapped anew in every call, and must still be found in the cache."""
    for _ in range(2):
        run("igos+", top_rows, scene.image, scene.baseline, iterations=2)
        TRACES_OF_FUNCTION.append(len(TRACES_OF_FUNCTION))
    counts = [count for count in TRACES_OF_FUNCTION if isinstance(count, tuple)]
    assert TRACES_OF_FUNCTION[len(counts)] == len(counts)  # all traces came before the first run ended


TRACES_OF_FUNCTION: list = []


def top_rows(images):
    TRACES_OF_FUNCTION.append(images.shape)
    return jnp.tanh(images[:, :5].mean((1, 2, 3)))


# ----------------------------------------------------------------------------------------- evaluations


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("igos++", {}),
        ("igos++", {"search": "path", "descent": BestStep(5.0, candidates=3)}),
        ("igos", {"descent": Nesterov(1.0), "search": "path"}),
    ],
    ids=str,
)
def test_evaluations_are_the_images_that_the_model_saw(scene, method, options):
    seen = []

    def score(images):
        rows = images.shape[0]  # the callback takes no array, so it is not differentiated
        jax.debug.callback(lambda: seen.append(rows))
        return jnp.tanh(images[:, :6].mean((1, 2, 3)))

    several = jnp.stack([scene.baseline, jnp.zeros_like(scene.image)])
    found = run(method, score, scene.image, several, iterations=2, batch_size=1, **options)
    jax.block_until_ready(found)
    jax.effects_barrier()
    assert int(found.evaluations) == sum(seen)


# ------------------------------------------------------------------------------------- starting masks


def test_masks_start_at_init(scene):
    init = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, SHAPE), jnp.float32)
    for method, count in (("igos", 1), ("igos++", 2)):
        found = run(method, scene.score, scene.image, scene.baseline, descent=Nesterov(0.0), init=init)
        np.testing.assert_array_equal(found.masks, jnp.stack([init] * count))
        unset = run(method, scene.score, scene.image, scene.baseline, descent=Nesterov(0.0))
        np.testing.assert_array_equal(unset.masks, 1.0)


@pytest.mark.parametrize("size", [6, 7, (4, 9)])
def test_diverse_init_lowers_one_cell_of_a_grid(size):
    shape = (size, size) if isinstance(size, int) else size
    covered = np.zeros(shape)
    for row in range(3):
        for col in range(3):
            mask = np.asarray(jx.diverse_init(size, 3, (row, col), 0.4))
            assert mask.shape == shape
            assert set(np.unique(mask)) == {np.float32(1), np.float32(0.6)}
            lowered = mask < 1
            covered += lowered
            rows, cols = (np.flatnonzero(lowered.any(axis)) for axis in (1, 0))
            assert lowered[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].sum() == lowered.sum()
    np.testing.assert_array_equal(covered, 1)  # every cell of the mask belongs to one cell of the grid


def test_diverse_init_may_be_mapped(scene):
    def explain(col):
        init = jx.diverse_init(SHAPE, 2, (0, col))
        still = Nesterov(0.0)
        return run("igos", scene.score, scene.image, scene.baseline, init=init, descent=still).mask

    found = jax.vmap(explain)(jnp.arange(2))
    np.testing.assert_array_equal(found, [jx.diverse_init(SHAPE, 2, (0, col)) for col in range(2)])


# ---------------------------------------------------------------------------------------------- rescue


def mean_of_all(images):
    return images.mean((1, 2, 3))


def rescued_run(start, values):
    """Ten iterations over flat masks of these values, each with its true loss."""
    return run(
        "igos", mean_of_all, jnp.ones((12, 12, 3)), jnp.zeros((12, 12, 3)),
        iterations=10, descent=Visits(values, jnp.zeros(10), measured=True),
        l1=4.0, deletion=1.0, rescue=True, init=jnp.full(SHAPE, start),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("start", "then", "rescued"),
    [
        (0.5, 0.5, True),  # nothing moves
        (0.75, 0.25, False),  # the score has fallen
        (0.25, 0.75, False),  # it has risen, which is also a move
    ],
)
def test_rescue_lowers_l1_where_the_score_has_hardly_moved(start, then, rescued):
    """l1 / 10 after iteration T // 2 and / 5 after T / 1.25."""
    found = rescued_run(start, jnp.full(10, then))
    factor = np.array([1.0] * 6 + [0.1] * 3 + [0.02]) if rescued else np.ones(10)
    np.testing.assert_allclose(found.history.loss, then + 4.0 * factor * (1 - then), rtol=1e-5)
    assert float(found.loss) == pytest.approx(float(found.history.loss[-1]), rel=1e-5)
    np.testing.assert_allclose(found.mask, then)


def test_losses_kept_are_restated_with_the_lower_l1():
    """Where l1 is high the emptier mask is the better one; with the lowest l1 it is the worse one, though its
    loss is below all that were measured before."""
    found = rescued_run(0.5, jnp.array([0.5] * 9 + [0.502]))
    assert float(found.history.loss[-1]) < float(found.history.loss[:-1].min())
    np.testing.assert_allclose(found.mask, 0.5)
    assert float(found.loss) == pytest.approx(0.5 + 4.0 * 0.02 * 0.5, rel=1e-5)


# ------------------------------------------------------------------------------------- a planted square


def patch_score(images):
    """High while the pattern of ones is in its place; nothing else matters."""
    return jax.nn.sigmoid(8 * images[:, 2:6, 6:10].mean((1, 2, 3)) - 4)


@pytest.mark.parametrize(("method", "search"), [("igos", "path"), ("igos+", "endpoint"), ("igos++", "path")])
def test_the_heatmap_finds_the_only_square_that_matters(method, search):
    image = np.random.default_rng(0).standard_normal((12, 12, 3)).astype(np.float32)
    image[2:6, 6:10] = 1.0
    options = {"size": (6, 6), "iterations": 10, "l1": 3.0, "l2": 0.5}
    found = run(method, patch_score, jnp.asarray(image), jnp.zeros((12, 12, 3)), **options, search=search)
    saliency = np.asarray(found.saliency)
    inside = np.zeros((12, 12), bool)
    inside[1:7, 5:11] = True  # a pixel more on each side: a mask cell is two pixels wide
    assert saliency[inside].sum() > 0.9 * saliency.sum()
    assert saliency[2:6, 6:10].mean() > 0.2
    assert inside[np.unravel_index(saliency.argmax(), saliency.shape)]
    assert Status(int(found.status)) is Status.OK


# ------------------------------------------------------------------------------------- kinds of numbers


def test_images_of_other_precision_are_float32_inside(scene):
    expected = run("igos", scene.score, scene.image, scene.baseline)
    double = [np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline)]
    assert_same_heatmap(run("igos", scene.score, *double), expected)
    half = [picture.astype(jnp.bfloat16) for picture in (scene.image, scene.baseline)]
    found = run("igos", scene.score, *half)
    assert found.mask.dtype == found.loss.dtype == jnp.float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"search": "path", "descent": BestStep(5.0), "noise": 0.2, "rule": "midpoint"},
        {"descent": Optax(optax.adam(0.1)), "rescue": True},
        {"descent": Nesterov(1.0)},
    ],
    ids=["LineSearch", "BestStep", "Optax", "Nesterov"],
)
def test_a_process_in_double_precision_gets_float32_masks(scene, options):
    """Of a user who enables x64 for a model of their own."""
    options = options | {"key": jax.random.key(0)}
    with jax.enable_x64(True):
        traced = jax.eval_shape(lambda: run("igos", scene.score, scene.image, scene.baseline, **options))
        curves = jax.eval_shape(
            lambda: jx.insertion_deletion(scene.score, scene.image, scene.baseline, jnp.ones(SHAPE))
        )
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(traced)}
    assert dtypes == {"float32", "int32"}
    assert curves.deletion.dtype == curves.insertion.dtype == jnp.float32


# -------------------------------------------------------------------------------------------- refusals


IMAGE, BASELINE = np.ones((12, 12, 3), np.float32), np.zeros((12, 12, 3), np.float32)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iteration": 3}, ValueError, "unknown option 'iteration': did you mean 'iterations'"),
        ({"preset": "papers"}, ValueError, "unknown preset 'papers': did you mean 'paper'"),
        ({"rule": "rieman"}, ValueError, "unknown rule 'rieman': did you mean 'riemann'"),
        ({"search": "ends"}, ValueError, "unknown search 'ends'"),
        ({"descent": "nesterov"}, TypeError, "descent must be a LineSearch.*got 'nesterov'"),
        ({"size": 13}, ValueError, "size of 13 x 13 is finer than the image of 12 x 12"),
        ({"size": (3, 13)}, ValueError, r"size \(3, 13\) is finer"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 7.0}, TypeError, "size must be a whole number, got 7.0"),
        ({"size": (3, 4, 5)}, ValueError, r"size must be one whole number or \(rows, columns\)"),
        ({"iterations": 0}, ValueError, "iterations must be at least 1"),
        ({"iterations": 2.5}, TypeError, "iterations must be a whole number"),
        ({"steps": -1}, ValueError, "steps must be at least 1"),
        ({"steps": True}, TypeError, "steps must be a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": "8"}, TypeError, "batch_size must be a whole number"),
        ({"noise": 0.2}, ValueError, "path noise is random: pass key="),
        ({"l1": jnp.ones(3)}, ValueError, r"l1 must be one number, got shape \(3,\).*jax.vmap"),
        ({"l2": np.nan}, ValueError, "l2 holds 1 NaN"),
        ({"sigma": jnp.ones((1, 1))}, ValueError, "sigma must be one number"),
        ({"init": jnp.ones((4, 3))}, ValueError, r"init must be a mask of shape \(3, 4\), got \(4, 3\)"),
        ({"init": 0.5}, ValueError, "init must be a mask"),
        ({"init": np.full(SHAPE, 1.5)}, ValueError, r"init must lie in 0\.\.1"),
        ({"init": np.full(SHAPE, -0.1)}, ValueError, r"init must lie in 0\.\.1"),
        ({"sigma": 0.0}, ValueError, "sigma must be above 0"),
        ({"init": np.full(SHAPE, np.nan)}, ValueError, "init holds 12 NaN"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["igos", "igos++"])
def test_options_that_cannot_be_are_refused(method, options, error, message):
    with pytest.raises(error, match=message):
        run(method, mean_of_all, IMAGE, BASELINE, **options)


@pytest.mark.parametrize(
    ("image", "baseline", "error", "message"),
    [
        (IMAGE[None], BASELINE, ValueError, r"image must be one image \[H, W, C\].*use jax.vmap"),
        (IMAGE[0], BASELINE, ValueError, "image must be one image"),
        (
            np.zeros((3, 32, 32), np.float32),
            BASELINE,
            ValueError,
            r"channels first: image.transpose\(1, 2, 0\)",
        ),
        (IMAGE.astype(np.uint8), BASELINE, TypeError, r"floating point.*uint8.*preprocess"),
        (IMAGE.tolist(), BASELINE, TypeError, "image must be an array of floats, got list"),
        (np.full_like(IMAGE, np.nan), BASELINE, ValueError, "image holds 432 NaN"),
        (IMAGE, BASELINE[:11], ValueError, r"baseline must be \(12, 12, 3\) like the image"),
        (IMAGE, BASELINE[0], ValueError, r"baseline must be .* got shape \(12, 3\)"),
        (IMAGE, BASELINE[None, None], ValueError, "baseline must be"),
        (IMAGE, BASELINE[None][:0], ValueError, "baseline must be"),
        (IMAGE, 0.0, ValueError, "baseline must be .* got shape float"),
        (IMAGE, BASELINE.astype(np.int32), TypeError, "baseline must be floating point"),
        (IMAGE, np.full_like(BASELINE, np.inf)[None], ValueError, "baseline holds 432 NaN"),
    ],
)
def test_pictures_that_cannot_be_are_refused(image, baseline, error, message):
    with pytest.raises(error, match=message):
        run("igos++", mean_of_all, image, baseline)


def test_scores_that_cannot_be_are_refused(scene):
    with pytest.raises(ValueError, match=r"one number each \[\d\], got \(\d, 4\).*class_score"):
        run("igos++", scene.net, scene.image, scene.baseline)
    with pytest.raises(TypeError, match="must be callable, got float"):
        run("igos++", 0.5, scene.image, scene.baseline)


# ------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_everything_that_a_record_needs(method):
    found = parameters(method, {"preset": "paper", "l2": 3.0, "key": jax.random.key(0), "init": None})
    assert found["l2"] == 3.0
    assert {"key", "init"}.isdisjoint(found)
    assert set(PLAIN) - {"batch_size"} <= set(found)
    assert not any(callable(value) for value in found.values())
    with pytest.raises(ValueError, match="unknown method"):
        parameters("mask", {})


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_preset_is_the_papers(method):
    expected = {"iterations": 15, "steps": 20, "rule": "riemann", "l2": 20.0, "noise": 0.2, "sigma": 0.01}
    for size, l1 in ((7, 1.0), (28, 1.0), (224, 10.0), ((28, 224), 10.0)):
        found = parameters(method, {"preset": "paper", "size": size})
        assert expected.items() <= found.items()
        assert found["l1"] == l1
    assert found["score_weight"] == (0.5 if method == "igos++" else 1.0)
    assert found["search"] == "path"
    assert found["descent"] == LineSearch(1000.0, decay=0.2, beta=1e-4, min_step=1e-5)
