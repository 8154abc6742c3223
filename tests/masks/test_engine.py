"""Mask optimisation as a whole: against a loop, under vmap, at its edges; its programs and evaluations.

Every option is given, so that nothing here depends on a default.
"""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import oracles
from support.ids import stable

import jaxplain as jx
from jaxplain import Status, paths
from jaxplain.masks import BestStep, FixedStep, LineSearch, Nesterov, Optax, meaningful_perturbation
from jaxplain.masks.descent import Move

METHODS = {"igos": jx.igos, "igos+": jx.igos_plus, "igos++": jx.igos_pp}
SHAPE = (3, 4)
PLAIN = {
    "size": SHAPE,
    "iterations": 4,
    "n_steps": 3,
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
slow = partial(pytest.param, marks=pytest.mark.slow)


def run(method, score, image, baseline, **changes):
    return METHODS[method](score, image, baseline, **(PLAIN | changes))


def at(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


def assert_same(found, expected, atol=1e-4):
    np.testing.assert_allclose(found.importance, expected.importance, atol=atol, rtol=1e-4)
    for name in ("mask", "masks", "loss", "image_score", "baseline_score"):
        one, other = getattr(found.details, name), getattr(expected.details, name)
        np.testing.assert_allclose(one, other, atol=atol, rtol=1e-4, err_msg=name)
    assert int(found.status) == int(expected.status)


def status_of(found):
    return Status(int(found.status))


# --------------------------------------------------------------------------------------- against a loop


def whole_run(method, scene, baselines, options):
    """The optimisation in plain Python: the oracle's gradient and the oracle's descent, best mask kept."""
    chosen = PLAIN | options
    numbers = oracles.Numbers(**{name: chosen[name] for name in oracles.Numbers._fields})
    rule = paths.RULES[chosen["rule"]](chosen["n_steps"])
    nodes, weights = (np.asarray(part, np.float64) for part in rule)
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
        slow("igos", 1, {}),
        slow("igos+", 2, {"search": "path"}),
        slow("igos++", 1, {"search": "path"}),
        ("igos++", 2, {}),
        slow("igos++", 1, {"descent": Nesterov(5.0)}),  # too long a step: the best mask is not the last
    ],
    ids=stable,
)
def test_a_whole_run_is_the_loop(scene, method, baselines, options):
    several = jnp.stack([scene.baseline, jnp.zeros_like(scene.image)][:baselines])
    found = run(method, scene.score, scene.image, several, **options)
    (loss, masks), losses = whole_run(method, scene, several, options)
    details = found.details
    np.testing.assert_allclose(details.masks, masks, atol=1e-3)
    np.testing.assert_allclose(details.history.loss, losses, atol=1e-3)
    assert float(details.loss) == pytest.approx(loss, abs=1e-3)
    assert float(details.loss) == float(details.history.loss.min())

    np.testing.assert_allclose(details.mask, np.prod(details.masks, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(found.importance, 1 - details.mask)
    assert ((details.mask >= 0) & (details.mask <= 1)).all()
    assert np.ptp(details.mask) > 0.1
    values = scene.score(jnp.concatenate([scene.image[None], several]))
    assert float(details.image_score) == pytest.approx(float(values[0]), abs=1e-6)
    assert float(details.baseline_score) == pytest.approx(float(values[1:].mean()), abs=1e-6)
    assert status_of(found) is Status.OK


@pytest.mark.slow
def test_history_belongs_to_its_masks(scene):
    """Terms of the loss after each iteration, scores before it."""
    step = Nesterov(0.1)  # so small that the loss falls at every step and the last mask is the best
    found = run("igos+", scene.score, scene.image, scene.baseline, descent=step).details
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


def test_one_baseline_is_a_set_of_one_and_igos_has_no_insertion(scene):
    alone = run("igos", scene.score, scene.image, scene.baseline)
    assert_same(run("igos", scene.score, scene.image, scene.baseline[None]), alone)
    assert np.isnan(alone.details.history.insertion).all()
    assert np.isfinite(alone.details.history.deletion).all()


def test_the_default_baseline_is_the_blurred_image(scene):
    found = run("igos", scene.score, scene.image, None)
    blurred = run("igos", scene.score, scene.image, jx.blur_baseline(scene.image))
    np.testing.assert_array_equal(found.importance, blurred.importance)


# ------------------------------------------------------------------------------- best so far, and status


@partial(jax.tree_util.register_dataclass, data_fields=["values", "losses"], meta_fields=["measured"])
@dataclasses.dataclass(frozen=True)
class Visits:
    """Not a descent: goes to flat masks of given values, and measures or invents their losses."""

    values: jax.Array  # [T]
    losses: jax.Array  # [T]
    measured: bool = False

    def init(self, masks):
        return ()

    def move(self, start, state, measure):
        masks = jnp.full_like(start.masks, self.values[start.iteration])
        loss = measure(masks[None])[0] if self.measured else self.losses[start.iteration]
        return Move(masks, loss, jnp.float32(1), jnp.int32(1), state)


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
    ids=stable,
)
def test_the_lowest_loss_wins_and_nan_never_does(scene, losses, best):
    visits = Visits(jnp.array([0.2, 0.4, 0.6, 0.8]), jnp.array(losses, jnp.float32))
    found = run("igos", scene.score, scene.image, scene.baseline, descent=visits)
    np.testing.assert_array_equal(found.details.history.loss, jnp.array(losses, jnp.float32))
    if best is None:
        assert status_of(found) is Status.NOT_FINITE
        np.testing.assert_array_equal(found.importance, 0.0)  # the initial mask
    else:
        assert status_of(found) is Status.OK
        np.testing.assert_allclose(found.details.mask, visits.values[best])
        assert float(found.details.loss) == losses[best]


def test_status_when_the_score_is_nan(scene):
    nan = scene.score.classifier._replace(second=scene.score.classifier.second.at[0, 0].set(jnp.nan))
    found = run("igos", dataclasses.replace(scene.score, classifier=nan), scene.image, scene.baseline)
    assert status_of(found) is Status.NOT_FINITE


def nan_near(limit, images):
    sums = images.sum((1, 2, 3))
    return jnp.where(jnp.abs(sums - limit) < 1e-3, jnp.nan, jnp.tanh(images[:, :6].mean((1, 2, 3))))


@pytest.mark.parametrize("where", ["image", "baseline"])
def test_status_when_one_end_is_nan(scene, where):
    """The images between them may well have a score."""
    limit = getattr(scene, where).sum()
    score = jax.tree_util.Partial(nan_near, limit)
    found = run("igos", score, scene.image, scene.baseline)
    assert status_of(found) is Status.NOT_FINITE
    assert np.isnan(found.details.image_score) == (where == "image")


def test_status_when_there_is_nothing_to_explain(scene):
    for image, baseline in ((scene.baseline, scene.image), (scene.image, scene.image)):
        found = run("igos", scene.score, image, baseline)
        assert status_of(found) is Status.NOT_ABOVE_BASELINE
        assert np.isfinite(found.importance).all()


@pytest.mark.parametrize("method", ["igos", slow("igos+"), slow("igos++")])
def test_status_when_no_mask_is_better_than_the_start(scene, method):
    """The map is empty then, which is no explanation."""
    found = run(method, scene.score, scene.image, scene.baseline, l1=1e6)
    assert status_of(found) is Status.NOT_MOVED
    assert not np.any(found.importance)
    assert status_of(run(method, scene.score, scene.image, scene.baseline)) is Status.OK


# ------------------------------------------------------------------------------------------------- vmap


def test_a_row_of_a_vmap_is_the_image_alone(scene):
    """Other images, baselines, targets and keys; one image is bad, and the others do not notice."""
    images = jnp.stack([scene.image, -scene.image, scene.image[::-1], scene.image.at[0, 0].set(jnp.nan)])
    baselines = jnp.stack([scene.baseline, scene.image, jnp.zeros_like(scene.image), scene.baseline])
    targets, keys = jnp.array([0, 1, 2, 3]), jax.random.split(jax.random.key(0), 4)

    def explain(image, baseline, target, key):
        score = jx.class_score(scene.net, target)
        return run("igos", score, image, baseline, noise=0.2, key=key, iterations=3)

    found = jax.vmap(explain)(images, baselines, targets, keys)
    for row in range(3):
        alone = explain(images[row], baselines[row], targets[row], keys[row])
        assert_same(at(found, row), alone, atol=1e-3)
    assert status_of(at(found, 3)) is Status.NOT_FINITE


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


@pytest.mark.slow
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
        assert_same(at(found, place), explain(**row), atol=1e-3)
        if place:
            assert np.abs(found.importance[place] - found.importance[0]).max() > 1e-3, row


def test_every_iteration_draws_noise_of_its_own(scene):
    """If the masks stay, only the noise changes what is measured; without it nothing does."""
    options = {"descent": Nesterov(0.0), "search": "path", "key": jax.random.key(0), "l1": 0.0, "l2": 0.0}

    @jax.jit
    def history_of(noise):
        found = run("igos", scene.score, scene.image, scene.baseline, noise=noise, **options)
        return found.details.history

    history = history_of(0.3)
    assert len(set(history.deletion.tolist() + (history.loss / PLAIN["deletion"]).tolist())) == 8
    history = history_of(0.0)
    assert np.ptp(history.deletion) == np.ptp(history.loss) == 0


# --------------------------------------------------------------------------------------------- programs


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
    assert once == 2  # forward, and forward with backward
    explain(0.7)
    explain(1.5, init=jnp.full(SHAPE, 0.5))
    explain(1.5, l1=jnp.float32(3.0), descent=LineSearch(2.0, decay=0.5, beta=0.1, min_step=0.1))
    assert len(TRACES) == once


@pytest.mark.slow
def test_a_wrapped_score_is_compiled_once(scene):
    """A plain function is wrapped anew in every call, and must still be found in the cache."""
    traces = []

    def top_rows(images):
        traces.append(images.shape)
        return jnp.tanh(images[:, :5].mean((1, 2, 3)))

    run("igos+", top_rows, scene.image, scene.baseline, iterations=2)
    once = len(traces)
    run("igos+", top_rows, scene.image, scene.baseline, iterations=2)
    assert len(traces) == once > 0


def weight_products(lowered):
    """Matrix products with the first weights of the scene's network: 1 forward, 1 backward."""
    return sum("432x6" in line for line in lowered.as_text().splitlines() if "dot_general" in line)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("igos++", {"descent": BestStep()}),
        ("igos++", {"search": "path", "noise": 0.2}),  # a line search
        ("igos", {"search": "gradient", "descent": Nesterov(1.0)}),
        ("igos+", {"descent": Optax(optax.sgd(1.0)), "search": "path"}),
        ("igos+", {"descent": FixedStep()}),
    ],
    ids=stable,
)
def test_a_program_has_two_copies_of_the_model(scene, method, options):
    """One forward, one forward and backward: three times the products of a forward pass. See DESIGN, rule on
    program size."""

    def explain(score, image, baseline):
        return run(method, score, image, baseline, key=jax.random.key(0), **options)

    forward = jax.jit(lambda score, images: score(images)).lower(scene.score, scene.image[None])
    assert weight_products(forward) == 1
    assert weight_products(jax.jit(explain).lower(scene.score, scene.image, scene.baseline)) == 3


def test_the_result_is_not_differentiable(scene):
    def total(score):
        return run("igos", score, scene.image, scene.baseline).importance.sum()

    net = scene.score.classifier
    for derivative in (jax.grad, lambda f: jax.jit(jax.grad(f))):
        with pytest.raises(TypeError, match="an optimized mask is the result of a search"):
            derivative(lambda net: total(dataclasses.replace(scene.score, classifier=net)))(net)
    # As a constant it may stand in a differentiated function.
    slope = jax.grad(lambda scale: scale * total(jax.lax.stop_gradient(scene.score)))(1.0)
    assert float(slope) == pytest.approx(float(total(scene.score)), rel=1e-5)


# ----------------------------------------------------------------------------------------- evaluations


class Seen:
    """A score that records the images of each model call."""

    def __init__(self):
        self.calls = []

    def __call__(self, images):
        rows = images.shape[0]  # the callback takes no array, so it is not differentiated
        jax.debug.callback(lambda: self.calls.append(rows))
        return jnp.tanh(images[:, :6].mean((1, 2, 3)))

    def count(self, run):
        found = jax.block_until_ready(run())
        jax.effects_barrier()
        return found


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("igos++", {}),
        slow("igos++", {"search": "path", "descent": BestStep(5.0, candidates=3)}),
        slow("igos", {"descent": Nesterov(1.0), "search": "path"}),
        ("igos", {"descent": Nesterov(1.0), "search": "gradient"}),
    ],
    ids=stable,
)
def test_evaluations_are_the_images_that_the_model_saw(scene, method, options):
    seen = Seen()
    several = jnp.stack([scene.baseline, jnp.zeros_like(scene.image)])
    options = options | {"iterations": 2, "batch_size": 1}
    found = seen.count(lambda: run(method, seen.__call__, scene.image, several, **options))
    assert int(found.evaluations) == sum(seen.calls)


def test_evaluations_under_vmap_are_the_images_that_the_model_saw(scene):
    """Line searches of different lengths: rows that have ended, and images needed once, cost nothing."""
    seen, scales = Seen(), jnp.array([1.0, 30.0, 0.01])

    def explain(scale):
        descent = LineSearch(100.0 * scale)
        return run("igos", seen.__call__, scene.image, scene.baseline, descent=descent, batch_size=1)

    found = seen.count(lambda: jax.vmap(explain)(scales))
    assert len(set(found.details.history.trials.sum(1).tolist())) > 1
    assert int(found.evaluations.sum()) == sum(seen.calls)


def test_batches_fit_the_usual_iteration(scene):
    """The images needed once do not make the batches of all other iterations larger."""
    seen = Seen()
    options = {"descent": BestStep(), "batch_size": 64, "iterations": 3}
    seen.count(lambda: run("igos++", seen.__call__, scene.image, scene.baseline, **options))
    slopes, candidates = 4 * 3, 4 * 4
    assert sorted(seen.calls) == sorted([slopes] * 4 + [candidates] * 3)  # 18 images in the first iteration


# ------------------------------------------------------------------------------------- initial masks


@pytest.mark.slow
@pytest.mark.parametrize(("method", "count"), [("igos", 1), ("igos++", 2)])
def test_masks_start_at_init(scene, method, count):
    init = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, SHAPE), jnp.float32)
    found = run(method, scene.score, scene.image, scene.baseline, descent=Nesterov(0.0), init=init)
    np.testing.assert_array_equal(found.details.masks, jnp.stack([init] * count))
    unset = run(method, scene.score, scene.image, scene.baseline, descent=Nesterov(0.0))
    np.testing.assert_array_equal(unset.details.masks, 1.0)


# ---------------------------------------------------------------------------------------------- rescue


def mean_of_all(images):
    return images.mean((1, 2, 3))


def rescued_run(start, values):
    """Ten iterations over flat masks of these values, each with its true loss."""
    return run(
        "igos", mean_of_all, jnp.ones((12, 12, 3)), jnp.zeros((12, 12, 3)),
        iterations=10, descent=Visits(values, jnp.zeros(10), measured=True),
        l1=4.0, deletion=1.0, rescue=True, init=jnp.full(SHAPE, start),
    ).details  # fmt: skip


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
    found = rescued_run(start, jnp.array([then] * 10))
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


# ------------------------------------------------------------------ losses that come with the gradients


def explain_meaningful(scene, **options):
    return meaningful_perturbation(scene.score, scene.image, scene.baseline, **({"size": SHAPE} | options))


@pytest.mark.parametrize(
    "descent",
    [slow(FixedStep(0.3)), slow(Optax(optax.sgd(5.0))), slow(Nesterov(5.0))],
    ids=lambda d: type(d).__name__,
)
def test_losses_are_those_of_measuring_each_move(scene, descent):
    """But for the first masks, which are then seen too; and without an evaluation of their own."""
    options = {"descent": descent, "iterations": 5, "l1": 0.2, "rescue": True}
    free = explain_meaningful(scene, search="gradient", **options)
    paid = explain_meaningful(scene, search="path", **options)
    np.testing.assert_allclose(free.details.history.loss, paid.details.history.loss, rtol=1e-5)
    np.testing.assert_allclose(free.details.history.step, paid.details.history.step, rtol=1e-5)
    np.testing.assert_array_equal(free.details.masks, paid.details.masks)
    assert int(free.evaluations) == 2 + 5 + 1
    assert int(paid.evaluations) == 2 + 5 + 5


@pytest.mark.slow
def test_the_first_masks_may_be_the_best(scene):
    options = {"iterations": 2}
    found = explain_meaningful(scene, descent=Nesterov(1.0), deletion=-1.0, l1=0.0, l2=0.0, **options).details
    assert float(found.loss) <= -float(found.image_score) + 1e-5
    up = explain_meaningful(scene, descent=Nesterov(-50.0), init=jnp.full(SHAPE, 0.5), **options).details
    assert float(up.loss) < float(up.history.loss.min())
    np.testing.assert_array_equal(up.mask, 0.5)


# ----------------------------------------------------------------------------------------------- jitter


def corner(images):
    return images[:, 5, 5, 0]


@pytest.mark.slow
def test_jitter_shifts_the_image_under_the_mask_that_stays():
    """In a ramp, each shift shows as a value; the mask hides the right half wherever the image is."""
    ramp = 100.0 * np.arange(12)[:, None, None] + np.arange(12.0)[None, :, None] + np.zeros((1, 1, 3))
    ramp = jnp.asarray(ramp, jnp.float32)
    options = {"size": 12, "descent": Nesterov(0.0), "iterations": 60, "l1": 0.0, "l2": 0.0}
    init = jnp.ones((12, 12)).at[:, 6:].set(0.0)

    def values(**changes):
        found = meaningful_perturbation(corner, ramp, -ramp, init=init, **(options | changes))
        assert float(found.details.image_score) == 505  # without jitter
        return np.round(np.asarray(found.details.history.deletion)).astype(int)

    shifted = values(jitter=2, key=jax.random.key(0))
    expected = {505 - 100 * down - right for down in range(-2, 3) for right in range(-2, 3)}
    assert set(shifted) <= expected
    assert len(set(shifted)) > 15
    np.testing.assert_array_equal(values(), 505)
    np.testing.assert_array_equal(values(jitter=0, key=jax.random.key(0)), 505)


@pytest.mark.slow
def test_borders_are_repeated_and_jitter_may_be_traced():
    picture = jnp.arange(3.0)[:, None, None] * jnp.ones((1, 3, 3))

    def values(jitter):
        return meaningful_perturbation(
            lambda images: images[:, 0, 0, 0], picture, picture - 1, size=1, descent=Nesterov(0.0),
            iterations=40, jitter=jitter, key=jax.random.key(1), l1=0.0,
        ).details.history.deletion  # fmt: skip

    still, moving = jax.vmap(values)(jnp.array([0.0, 5.0]))
    assert set(np.asarray(still).tolist()) == {0.0}
    assert set(np.asarray(moving).tolist()) == {0.0, 1.0, 2.0}


# ------------------------------------------------------------------------------------- a planted square


def patch_score(images):
    """High while the pattern of ones is in its place; nothing else matters."""
    return jax.nn.sigmoid(8 * images[:, 2:6, 6:10].mean((1, 2, 3)) - 4)


def planted_image():
    image = np.random.default_rng(0).standard_normal((12, 12, 3)).astype(np.float32)
    image[2:6, 6:10] = 1.0
    return jnp.asarray(image)


@pytest.mark.parametrize(
    ("method", "search"), [slow("igos", "path"), slow("igos+", "endpoint"), slow("igos++", "path")]
)
def test_the_map_finds_the_only_square_that_matters(method, search):
    options = {"size": (6, 6), "iterations": 10, "l1": 3.0, "l2": 0.5, "search": search}
    found = run(method, patch_score, planted_image(), jnp.zeros((12, 12, 3)), **options)
    saliency = np.asarray(found.saliency(12, 12))
    inside = np.zeros((12, 12), bool)
    inside[1:7, 5:11] = True  # a pixel more on each side: a mask cell is two pixels wide
    assert saliency[inside].sum() > 0.9 * saliency.sum()
    assert saliency[2:6, 6:10].mean() > 0.2
    assert inside[np.unravel_index(saliency.argmax(), saliency.shape)]
    assert status_of(found) is Status.OK


# ------------------------------------------------------------------------------------- kinds of numbers


def test_images_of_other_precision_are_float32_inside(scene):
    expected = run("igos", scene.score, scene.image, scene.baseline)
    double = [np.asarray(picture, np.float64) for picture in (scene.image, scene.baseline)]
    assert_same(run("igos", scene.score, *double), expected)
    half = [picture.astype(jnp.bfloat16) for picture in (scene.image, scene.baseline)]
    found = run("igos", scene.score, *half)
    assert found.importance.dtype == found.details.loss.dtype == jnp.float32


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"search": "path", "descent": BestStep(5.0), "noise": 0.2, "rule": "midpoint"},
        {"descent": Optax(optax.adam(0.1)), "rescue": True},
        {"descent": Nesterov(1.0), "search": "gradient"},
    ],
    ids=["LineSearch", "BestStep", "Optax", "Nesterov"],
)
def test_a_process_in_double_precision_gets_float32_masks(scene, options):
    """For a user who enables x64 for a model of their own."""
    options = options | {"key": jax.random.key(0)}
    with jax.enable_x64(True):
        traced = jax.eval_shape(lambda: run("igos", scene.score, scene.image, scene.baseline, **options))
    dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(traced)}
    assert dtypes == {"float32", "int32"}
