"""Every way of moving masks against plain Python, and one contract for all of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import oracles

from jaxplain.masks import BestStep, FixedStep, LineSearch, Nesterov, Optax
from jaxplain.masks.descent import Start

SHAPE = (2, 3, 4)
CENTRE = np.random.default_rng(0).uniform(0.1, 0.9, SHAPE).astype(np.float32)
ADAM = Optax(optax.adam(0.1))
DESCENTS = [LineSearch(2.0), BestStep(2.0), FixedStep(0.05), Nesterov(0.01), ADAM]


def bowl(candidates, needed=None):
    """Steep along one half of the cells: [A, M, h, w] -> [A]."""
    scale = jnp.where(jnp.arange(4) < 2, 30.0, 1.0)[None, None, None]
    return jnp.sum(scale * (candidates - CENTRE[None]) ** 2, axis=(1, 2, 3), dtype=jnp.float32)


def start_at(masks, measure, iteration=0):
    masks = jnp.asarray(masks, jnp.float32)
    loss, grads = loss_and_grads(measure, masks)
    return Start(masks, grads, loss, jnp.int32(iteration))


@partial(jax.jit, static_argnums=0)
def loss_and_grads(measure, masks):
    return jax.value_and_grad(lambda masks: measure(masks[None])[0])(masks)


@jax.jit
def search_bowl(search, start):
    return search.move(start, (), bowl)


def random_masks(seed):
    return np.random.default_rng(seed).uniform(0, 1, SHAPE).astype(np.float32)


# ----------------------------------------------------------------------------------- backtracking search


def line_search_oracle(start, measure, **options):
    masks, grads = np.asarray(start.masks), np.asarray(start.grads)
    return oracles.line_search(
        masks, grads, float(start.loss), lambda m: float(measure(jnp.asarray(m)[None], True)[0]), **options
    )


def assert_same_step(move, expected):
    np.testing.assert_allclose(move.masks, expected.masks, atol=1e-5)
    assert float(move.loss) == pytest.approx(expected.loss, rel=1e-5, nan_ok=True)
    assert float(move.step) == pytest.approx(expected.step, rel=1e-5)
    assert int(move.trials) == expected.trials


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"first": 0.05},
        {"first": 7.0, "decay": 0.6},
        {"first": 1.0, "decay": 0.7, "beta": 0.5},
        {"first": 10.0, "smallest": 1.0},
    ],
    ids=str,
)
def test_line_search_is_the_oracle(seed, options):
    start = start_at(random_masks(seed), bowl)
    names = {"first": "first_step", "smallest": "min_step"}
    search = LineSearch(**{names.get(name, name): value for name, value in options.items()})
    move = search_bowl(search, start)
    assert_same_step(move, line_search_oracle(start, bowl, **options))


@pytest.mark.parametrize("value", [100.0, np.nan, np.inf])
def test_line_search_ends_at_the_smallest_step(value):
    """Where nothing lowers the loss, or nothing can be compared, the last and shortest step is taken."""

    def hopeless(candidates, needed):
        return value + 0 * candidates.sum((1, 2, 3))

    start = start_at(random_masks(0), bowl)._replace(loss=jnp.float32(1.0))
    move = LineSearch().move(start, (), hopeless)
    assert_same_step(move, line_search_oracle(start, hopeless))
    assert int(move.trials) == 13  # 1000 * 0.2^12 is the first below 1e-5
    assert 2e-6 < float(move.step) < 1e-5


def test_line_search_stops_whatever_the_numbers():
    """A decay of 1 or a smallest step of 0 would search for ever."""

    def hopeless(candidates, needed):
        return jnp.full(len(candidates), jnp.nan, jnp.float32)

    start = start_at(random_masks(0), bowl)
    for search in (LineSearch(decay=1.0), LineSearch(min_step=0.0)):
        assert int(search.move(start, (), hopeless).trials) == search.max_trials


def test_line_search_needs_a_decrease_in_proportion_to_the_step():
    """Falling by less than beta * step * |g|^2 is not enough."""
    half, tenth = (jnp.full(SHAPE, value, jnp.float32) for value in (0.5, 0.1))
    start = Start(half, tenth, jnp.float32(1.0), jnp.int32(0))
    slope = 0.01 * np.prod(SHAPE)
    search = LineSearch(first_step=1.0, beta=0.5, min_step=0.5)
    for drop, trials in ((0.51 * slope, 1), (0.49 * slope, 2)):
        move = search.move(start, (), lambda m, needed, drop=drop: jnp.full(len(m), 1.0 - drop, jnp.float32))
        assert int(move.trials) == trials


def test_line_search_calls_the_model_in_one_place():
    """Each call of `measure` is a copy of the model in the compiled program."""
    calls = []

    def counted(candidates, needed):
        calls.append(needed)
        return bowl(candidates)

    jax.make_jaxpr(lambda start: LineSearch().move(start, (), counted))(start_at(random_masks(0), bowl))
    assert len(calls) == 1


def test_line_search_rows_of_a_vmap_are_searched_alone():
    masks = jnp.stack([random_masks(seed) for seed in range(4)])
    starts = jax.vmap(partial(start_at, measure=bowl))(masks)
    steps = jnp.array([1000.0, 0.05, 3.0, 0.001])
    run = jax.jit(jax.vmap(lambda start, step: LineSearch(step).move(start, (), bowl)))
    moves = run(starts, steps)
    assert len(set(moves.trials.tolist())) > 1
    for row in range(4):
        start = jax.tree.map(lambda leaf, row=row: leaf[row], starts)
        move = jax.tree.map(lambda leaf, row=row: leaf[row], moves)
        assert_same_step(move, line_search_oracle(start, bowl, first=float(steps[row])))


# ------------------------------------------------------------------------------------- best of several


def test_best_step_takes_the_lowest_of_its_candidates():
    descent = BestStep(first_change=0.3, decay=0.5, candidates=5, width=2)
    start = start_at(random_masks(1), bowl)
    state = descent.init(start.masks)
    for _ in range(6):
        move = descent.move(start, state, bowl)
        changes = float(state) * 0.5 ** np.arange(-2.0, 3.0)
        steps = changes / np.abs(np.asarray(start.grads)).mean()
        tried = [np.clip(np.asarray(start.masks) - step * np.asarray(start.grads), 0, 1) for step in steps]
        losses = [float(bowl(jnp.asarray(masks)[None])[0]) for masks in tried]
        best = int(np.argmin(losses))
        assert losses[best] < float(start.loss)
        np.testing.assert_allclose(move.masks, tried[best], atol=1e-5)
        assert float(move.loss) == pytest.approx(losses[best], rel=1e-5)
        assert float(move.step) == pytest.approx(steps[best], rel=1e-5)
        assert float(move.state) == pytest.approx(changes[best], rel=1e-5)
        assert int(move.trials) == 5
        start, state = start_at(move.masks, bowl), move.state


def test_best_step_never_raises_the_measured_loss():
    for step in (1e-3, 1.0, 1e4):
        for seed in range(4):
            start = start_at(random_masks(seed), bowl)
            move = BestStep(step).move(start, jnp.float32(step), bowl)
            assert float(move.loss) <= float(start.loss)
            assert float(bowl(move.masks[None])[0]) == pytest.approx(float(move.loss), rel=1e-6)


@pytest.mark.parametrize("value", [100.0, np.nan, np.inf])
def test_best_step_stays_where_nothing_is_lower_and_looks_nearer(value):
    def hopeless(candidates):
        return jnp.full(len(candidates), value)

    start = start_at(random_masks(0), bowl)._replace(loss=jnp.float32(1.0))
    move = BestStep(decay=0.3).move(start, jnp.float32(1.0), hopeless)
    np.testing.assert_array_equal(move.masks, start.masks)
    assert float(move.loss) == 1.0
    assert float(move.step) == 0.0
    assert float(move.state) == pytest.approx(0.3**2)  # the shortest of 0.3^-1 ... 0.3^2


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_best_step_does_not_depend_on_the_scale_of_the_score(scale):
    start = start_at(random_masks(0), bowl)
    scaled = start._replace(grads=scale * start.grads, loss=scale * start.loss)
    move = BestStep().move(start, BestStep().init(start.masks), bowl)
    same = BestStep().move(scaled, BestStep().init(start.masks), lambda masks: scale * bowl(masks))
    np.testing.assert_allclose(same.masks, move.masks, atol=1e-6)
    assert float(move.step) > 0


def test_best_step_of_a_flat_score_changes_nothing():
    flat = start_at(random_masks(0), bowl)
    flat = flat._replace(grads=jnp.zeros_like(flat.grads), loss=jnp.float32(1.0))
    move = BestStep().move(flat, jnp.float32(0.1), lambda candidates: jnp.ones(len(candidates)))
    np.testing.assert_array_equal(move.masks, flat.masks)
    assert float(BestStep().move(flat, jnp.float32(1e-5), lambda c: jnp.ones(len(c))).state) >= 1e-5


def test_best_step_passes_over_nan():
    def partly(candidates):
        return jnp.where(jnp.arange(len(candidates)) == 0, jnp.nan, bowl(candidates))

    start = start_at(random_masks(0), bowl)
    move = BestStep(0.01).move(start, jnp.float32(0.01), partly)
    assert np.isfinite(move.loss)
    assert float(move.loss) < float(start.loss)
    assert float(move.state) < 0.01 / 0.3  # not the first candidate


# --------------------------------------------------------------------- a fixed step, Nesterov, optax


def test_a_fixed_step_of_a_flat_score_stays():
    flat = Start(jnp.ones((1, 2, 2)), jnp.zeros((1, 2, 2)), jnp.float32(0), jnp.int32(0))
    move = FixedStep().move(flat, FixedStep().init(flat.masks), lambda masks: jnp.zeros(len(masks)))
    np.testing.assert_array_equal(move.masks, 1.0)


def test_nesterov_is_its_formula_for_three_steps():
    """v_t = m_t - a g_t; m_{t+1} = clip(v_t + t/(t+3) (v_t - v_{t-1}))."""
    descent, masks = Nesterov(0.04), random_masks(3)
    state, expected = descent.init(jnp.asarray(masks)), masks
    ahead = None
    for iteration in range(3):
        start = start_at(masks, bowl, iteration)
        move = descent.move(start, state, bowl)
        previous, ahead = ahead, expected - 0.04 * np.asarray(start.grads)
        momentum = iteration / (iteration + 3)
        expected = np.clip(ahead + (momentum * (ahead - previous) if iteration else 0), 0, 1)
        np.testing.assert_allclose(move.masks, expected, atol=1e-6)
        np.testing.assert_allclose(move.state, ahead, atol=1e-6)  # not clipped
        assert float(move.loss) == pytest.approx(float(bowl(move.masks[None])[0]))
        assert (float(move.step), int(move.trials)) == (pytest.approx(0.04), 1)
        masks, state = move.masks, move.state
    assert (ahead < 0).any() or (ahead > 1).any()


def test_optax_is_optax_and_the_projection():
    transformation = optax.sgd(0.02, momentum=0.9)
    descent, masks = Optax(transformation), jnp.asarray(random_masks(3))
    state, expected, own = descent.init(masks), masks, transformation.init(masks)
    outside = False
    for iteration in range(4):
        start = start_at(expected, bowl, iteration)
        move = descent.move(start, state, bowl)
        updates, own = transformation.update(start.grads, own)
        free = expected + updates
        outside |= bool(((free < 0) | (free > 1)).any())
        expected = jnp.clip(free, 0, 1)
        np.testing.assert_allclose(move.masks, expected, atol=1e-6)
        length = np.linalg.norm(updates) / np.linalg.norm(start.grads)
        assert float(move.step) == pytest.approx(length, rel=1e-4)
        state = move.state
    assert outside  # the projection had work to do


# ------------------------------------------------------------------------------------ one contract for all


@pytest.mark.parametrize("descent", DESCENTS, ids=lambda descent: type(descent).__name__)
def test_contract(descent):
    """Masks stay in [0, 1], the loss is that of the masks, the state fits a scan, and it gets somewhere."""

    @jax.jit
    def run(descent, masks):
        def step(carry, iteration):
            masks, state = carry
            move = descent.move(start_at(masks, bowl, iteration), state, bowl)
            return (move.masks, move.state), move._replace(state=())

        return jax.lax.scan(step, (masks, descent.init(masks)), jnp.arange(12))[1]

    masks = jnp.ones(SHAPE, jnp.float32)
    moves = run(descent, masks)
    assert moves.masks.dtype == moves.loss.dtype == moves.step.dtype == jnp.float32
    assert moves.trials.dtype == jnp.int32
    assert moves.masks.shape == (12, *SHAPE)
    assert ((moves.masks >= 0) & (moves.masks <= 1)).all()
    np.testing.assert_allclose(moves.loss, jax.vmap(lambda m: bowl(m[None])[0])(moves.masks), rtol=1e-5)
    assert float(moves.loss.min()) < 0.2 * float(bowl(masks[None])[0])


def test_numbers_of_a_descent_are_leaves():
    """So that a sweep over them is a vmap and another number compiles nothing anew."""
    leaves = {type(descent): len(jax.tree.leaves(descent)) for descent in DESCENTS}
    assert leaves == {LineSearch: 4, BestStep: 3, FixedStep: 1, Nesterov: 1, Optax: 0}
    for descent in DESCENTS:
        again = jax.tree.map(lambda number: 2 * number, descent)
        assert jax.tree.structure(again) == jax.tree.structure(descent)
