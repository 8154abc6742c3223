"""The funnel against a loop under every transformation, and its bounded memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxplain import funnel


def total(images):
    return images.sum((1, 2, 3))


# One problem for all tests: N images that blend a map with a context, scaled by a number of the item.

COUNT = 7
SLOW = pytest.mark.slow


class Quadratic(NamedTuple):
    """A score with leaves, nonlinear in every pixel."""

    weights: jax.Array  # [H, W, C]
    shift: jax.Array  # []

    def __call__(self, images):
        return (jnp.sin(images + self.shift) * self.weights[None]).sum((1, 2, 3))


class Item(NamedTuple):
    gain: jax.Array
    which: jax.Array


def render(params, context, item):
    return item.gain * params["map"][item.which][..., None] * context + params["lift"]


class Problem(NamedTuple):
    score: Quadratic
    params: dict  # map [2, 3, 4], lift []
    context: jax.Array  # [3, 4, 3]
    items: Item
    weights: jax.Array  # [N]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def make(seed=0, count=COUNT):
    which = jnp.asarray(np.random.default_rng(seed).integers(0, 2, count), jnp.int32)
    return Problem(
        score=Quadratic(normal(seed, 3, 4, 3), normal(seed + 1)),
        params={"map": normal(seed + 2, 2, 3, 4), "lift": normal(seed + 3)},
        context=normal(seed + 4, 3, 4, 3),
        items=Item(normal(seed + 5, count), which),
        weights=normal(seed + 6, count),
    )


@partial(jax.jit, static_argnums=0)
def run_funnel(batch_size, problem):
    return funnel.value_and_grad(
        problem.score, render, *problem[1:], batch_size=batch_size
    )  # params, context, items, weights


@jax.jit
def loop(problem):
    """One image at a time, no batch, no scan."""

    def one(params, index):
        return problem.score(render(params, problem.context, at(problem.items, index))[None])[0]

    count = len(problem.weights)
    values = jnp.stack([one(problem.params, index) for index in range(count)])
    slopes = [jax.grad(one)(problem.params, index) for index in range(count)]
    grads = jax.tree.map(
        lambda *g: sum(w * part for w, part in zip(problem.weights, g, strict=True)), *slopes
    )
    return funnel.Evaluated(values, grads)


def at(tree, place):
    return jax.tree.map(lambda leaf: leaf[place], tree)


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "batch_size", [1, 4, COUNT + 3, *(pytest.param(size, marks=SLOW) for size in (2, 3, 5, 6, COUNT))]
)
def test_every_batch_size_gives_the_loop(batch_size):
    problem = make()
    assert_same(run_funnel(batch_size, problem), loop(problem))
    values = jax.jit(lambda p: funnel.evaluate(p.score, render, *p[1:4], batch_size=batch_size))(problem)
    np.testing.assert_allclose(values, loop(problem).values, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=SLOW)])
def test_few_images(count):
    problem = make(count=count)
    for batch_size in (1, 3, None):
        assert_same(run_funnel(batch_size, problem), loop(problem))


def mapped(problem, others, names):
    """The problem with the parts called `names` stacked from three problems, and its vmap axes."""
    axes = {name: 0 if name in names else None for name in Problem._fields}
    parts = {
        name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *(getattr(p, name) for p in others))
        if name in names
        else getattr(problem, name)
        for name in Problem._fields
    }
    return Problem(**parts), Problem(**axes)


PARTS = [
    {"params"},
    {"score", "context", "weights"},
    set(Problem._fields),
    *(pytest.param({name}, marks=SLOW) for name in ("context", "score", "items", "weights")),
    pytest.param({"params", "items"}, marks=SLOW),
]


@pytest.mark.parametrize("names", PARTS, ids=lambda names: "+".join(sorted(names)))
def test_vmap_gives_the_loop(names):
    others = [make(seed) for seed in (0, 10, 20)]
    stacked, axes = mapped(others[0], others, names)
    found = jax.vmap(partial(run_funnel, 4), in_axes=(axes,))(stacked)  # neither 7 nor 21 images fill batches
    for row, other in enumerate(others):
        problem = others[0]._replace(**{name: getattr(other, name) for name in names})
        assert_same(at(found, row), loop(problem))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({"params"}, {"score"}),
        pytest.param({"context"}, {"items", "weights"}, marks=SLOW),
        pytest.param({"score"}, {"params"}, marks=SLOW),
        pytest.param({"score"}, {"score"}, marks=SLOW),
    ],
)
def test_nested_vmap_gives_the_loop(outer, inner):
    """Rows [2, 3]; a part that both axes map varies along both."""
    grid = [[make(seed + 10 * row) for seed in range(3)] for row in range(2)]

    def chosen(name, row, column):
        return getattr(grid[row if name in outer else 0][column if name in inner else 0], name)

    def stack(parts):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)

    parts, axes = {}, ({}, {})
    for name in Problem._fields:
        rows, columns = range(2 if name in outer else 1), range(3 if name in inner else 1)
        part = stack([stack([chosen(name, row, column) for column in columns]) for row in rows])
        if name not in inner:
            part = jax.tree.map(lambda leaf: leaf[:, 0], part)
        if name not in outer:
            part = jax.tree.map(lambda leaf: leaf[0], part)
        parts[name] = part
        axes[0][name], axes[1][name] = (0 if name in names else None for names in (outer, inner))
    run = jax.vmap(
        jax.vmap(partial(run_funnel, 4), in_axes=(Problem(**axes[1]),)), in_axes=(Problem(**axes[0]),)
    )
    found = run(Problem(**parts))
    for row in range(2):
        for column in range(3):
            problem = Problem(**{name: chosen(name, row, column) for name in Problem._fields})
            assert_same(at(found, (row, column)), loop(problem))


@pytest.mark.parametrize("live", [None, jnp.ones(COUNT, bool)], ids=["all", "live"])
def test_a_vmap_over_nothing_is_empty(live):
    """A filter that lets no image through is not an error."""
    items = Item(jnp.ones((COUNT, 4, 4)), jnp.zeros(COUNT, jnp.int32))

    def scores(image):
        return funnel.evaluate(
            total, lambda _, image, item: image * item.gain[..., None], (), image, items, live=live
        )

    assert jax.vmap(scores)(jnp.zeros((0, 4, 4, 3))).shape == (0, COUNT)


def test_vmap_without_params_and_context():
    """Everything that is drawn may be in the items."""

    def draw(params, context, item):
        return jnp.broadcast_to(item, (2, 2, 1))

    items = normal(0, 3, 5)
    run = jax.vmap(lambda rows: funnel.evaluate(total, draw, (), (), rows, batch_size=2))
    np.testing.assert_allclose(run(items), 4 * items, rtol=1e-6)


class Watched(NamedTuple):
    """Records the shape of every batch it is traced with."""

    shift: jax.Array

    def __call__(self, images):
        SEEN.append(images.shape)
        return (images + self.shift).sum((1, 2, 3))


SEEN: list = []


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("name", ["params", "context", "items", "weights", "score"])
def test_under_vmap_the_model_sees_at_most_one_batch(name, batch_size):
    """Without the funnel's rule a vmap of V would multiply the model's batch by V. A vmap over the score's
    own leaves maps the model itself, one image per row."""
    others = [make(seed)._replace(score=Watched(normal(seed))) for seed in range(5)]
    stacked, axes = mapped(others[0], others, {name})
    run = jax.vmap(partial(run_funnel.__wrapped__, batch_size), in_axes=(axes,))  # traced anew
    SEEN.clear()
    jaxpr = jax.make_jaxpr(run)(stacked)
    assert SEEN
    assert {shape[0] for shape in SEEN} == ({1, batch_size} if name == "score" else {batch_size})
    # No value of the program holds more than `batch_size` images.
    assert widest_image_batch(jaxpr.jaxpr) == batch_size


def widest_image_batch(jaxpr):
    """Return the largest number of images [n, 3, 4, 3] or [n, 1, 3, 4, 3] that a value of a program holds."""
    widest = 0
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            shape = getattr(variable.aval, "shape", ())
            context = equation.primitive.name in ("broadcast_in_dim", "reshape", "gather")
            if shape[-3:] == (3, 4, 3) and len(shape) in (4, 5) and not context:
                widest = max(widest, int(np.prod(shape[:-3])))
        for inner in jaxprs_in_params(equation.params):
            widest = max(widest, widest_image_batch(inner))
    return widest


def test_pieces_are_even():
    """10 images in batches of at most 4 become 4 + 4 + 2, 9 become 3 + 3 + 3."""
    problem = make(count=10)._replace(score=Watched(normal(0)))
    SEEN.clear()
    jax.make_jaxpr(partial(run_funnel.__wrapped__, 4))(problem)
    assert {shape[0] for shape in SEEN} == {4}
    SEEN.clear()
    jax.make_jaxpr(partial(run_funnel.__wrapped__, 4))(make(count=9)._replace(score=Watched(normal(0))))
    assert {shape[0] for shape in SEEN} == {3}


@pytest.mark.parametrize("row", [0, 3, COUNT - 1])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_nan_stays_in_its_row(row, batch_size):
    problem = make()
    poisoned = problem._replace(items=problem.items._replace(gain=problem.items.gain.at[row].set(jnp.nan)))
    found = run_funnel(batch_size, poisoned).values
    assert np.isnan(found[row])
    clean = np.arange(COUNT) != row
    np.testing.assert_allclose(found[clean], loop(problem).values[clean], rtol=2e-5, atol=2e-5)


def test_a_nan_stays_in_its_group():
    """When several images are explained together, one that fails does not affect the others' gradients."""
    others = [make(seed) for seed in range(3)]
    poisoned = [others[0], others[1]._replace(context=others[1].context.at[0].set(jnp.nan)), others[2]]
    stacked, axes = mapped(others[0], poisoned, set(Problem._fields))
    found = jax.vmap(partial(run_funnel, 4), in_axes=(axes,))(stacked)
    assert np.isnan(found.values[1]).all()
    for row in (0, 2):
        assert_same(at(found, row), loop(others[row]))


def test_padding_does_not_count():
    """The rows that fill the last batch have weight 0, whatever they score."""
    problem = make(count=5)._replace(weights=jnp.zeros(5).at[4].set(1.0))
    assert_same(run_funnel(3, problem), loop(problem))


def test_the_gradient_does_not_include_the_models_parameters():
    found = run_funnel(2, make())
    assert jax.tree.structure(found.grads) == jax.tree.structure(make().params)


def test_noise_keys_are_items():
    """Typed keys pass through padding, batches and vmap."""

    def draw(params, context, key):
        return params + jax.random.normal(key, (2, 2, 1))

    keys = jax.random.split(jax.random.key(0), (3, 5))
    run = jax.vmap(lambda keys: funnel.evaluate(total, draw, jnp.float32(1.0), (), keys, batch_size=2))
    expected = [[4 + jax.random.normal(key, (2, 2, 1)).sum() for key in row] for row in keys]
    np.testing.assert_allclose(run(keys), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (lambda images: images.sum(), r"got \(\)"),
        (lambda images: images.sum((1, 2)), r"got \(2, 3\)"),
        (lambda images: jnp.ones(3), r"got \(3,\)"),
        (lambda images: [images.sum((1, 2, 3))], "got list"),
    ],
)
def test_a_score_of_the_wrong_shape_gets_a_plain_error(wrong, got):
    problem = make(count=4)
    with pytest.raises(ValueError, match=rf"one number per image, \[2\] for images .*, {got}.*class_score"):
        funnel.evaluate(wrong, render, *problem[1:4], batch_size=2)


@pytest.mark.parametrize(("batch_size", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError)])
def test_batch_size_must_be_a_whole_number_of_at_least_one(batch_size, error):
    with pytest.raises(error, match="batch_size must be"):
        run_funnel(batch_size, make())


def test_an_error_in_the_model_is_passed_on():
    def broken(images):
        raise RuntimeError("out of cheese")

    with pytest.raises(RuntimeError, match="out of cheese"):
        funnel.evaluate(broken, render, *make()[1:4], batch_size=2)


# ---------------------------------------------------------------------------------------------------------
# Only live items


@partial(jax.jit, static_argnums=0)
def run_live(batch_size, problem, live):
    return funnel.value_and_grad(problem.score, render, *problem[1:], live=live, batch_size=batch_size)


LIVE = {"none": [], "first": [0], "last": [COUNT - 1], "some": [1, 2, 5], "all": range(COUNT)}


def of_places(places):
    return jnp.asarray(np.isin(np.arange(COUNT), list(places)))


@pytest.mark.parametrize("batch_size", [1, 3, COUNT + 4])
@pytest.mark.parametrize("places", LIVE.values(), ids=LIVE)
def test_live_items_get_their_scores_and_the_others_nan(places, batch_size):
    problem, live = make(), of_places(places)
    assert_same(run_live(batch_size, problem, live), live_loop(problem, live))


def live_loop(problem, live):
    """The loop over all items, of which those that are not live have no weight and no score."""
    found = loop(problem._replace(weights=jnp.where(live, problem.weights, 0.0)))
    return found._replace(values=jnp.where(live, found.values, jnp.nan))


def test_live_items_under_vmap():
    problems, lives = [make(seed) for seed in range(4)], [*map(of_places, list(LIVE.values())[:4])]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    found = jax.vmap(partial(run_live, 3))(stacked, jnp.stack(lives))
    for row, (problem, live) in enumerate(zip(problems, lives, strict=True)):
        assert_same(at(found, row), live_loop(problem, live))


def test_items_that_are_not_live_are_not_touched():
    """Their values may be anything."""
    problem, live = make(), of_places(LIVE["some"])
    gain = jnp.where(live, problem.items.gain, jnp.nan)
    found = run_live(3, problem._replace(items=problem.items._replace(gain=gain)), live)
    assert_same(found, live_loop(problem, live))


@pytest.mark.parametrize("mapped_count", [None, 3])
def test_the_model_sees_only_live_images_and_padding(mapped_count):
    seen = []

    def score(images):
        jax.debug.callback(lambda images: seen.append(len(images)), images)
        return images.sum((1, 2, 3))

    def run(live):
        return funnel.evaluate(score, lambda _, __, item: item[None, None, None], None, None,
                               jnp.arange(20.0), live=live, batch_size=3)  # fmt: skip

    live = jnp.isin(jnp.arange(20), jnp.array([4, 9, 11, 19]))
    if mapped_count is not None:
        run, live = jax.vmap(run), jnp.stack([live] * mapped_count)
    found = jax.block_until_ready(jax.jit(run)(live))
    jax.effects_barrier()
    needed = int(live.sum())
    assert sum(seen) == -(-needed // 3) * 3
    np.testing.assert_array_equal(np.isnan(found), ~live)


# ---------------------------------------------------------------------------------------------------------
# Derivatives of scores and gradients, again against the loop


def summary(found):
    """A number that depends on every score and every component of the gradient."""
    values = jnp.where(jnp.isnan(found.values), 0.0, found.values)
    parts = [jnp.sum(jnp.sin(leaf + 0.3)) for leaf in jax.tree.leaves(found.grads)]
    return jnp.sum(jnp.cos(values) * jnp.arange(1.0, COUNT + 1)) + sum(parts)


def derivatives(run, *arguments):
    """With respect to every float of the problem: score, params, context, items, weights."""
    found = jax.grad(lambda problem: summary(run(problem)), allow_int=True)(*arguments)
    return [leaf for leaf in jax.tree.leaves(found) if leaf.dtype == jnp.float32]


def assert_same_derivatives(found, expected):
    assert len(found) == len(expected) == 7
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())
        assert np.abs(other).max() > 1e-3


def with_a_weight_of_zero(problem):
    """The derivative with respect to it is not zero."""
    return problem._replace(weights=problem.weights.at[2].set(0.0))


@pytest.fixture(scope="module")
def derivatives_of_the_loop():
    return jax.jit(partial(derivatives, loop))


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=SLOW), 4])
def test_derivatives_are_those_of_the_loop(batch_size, derivatives_of_the_loop):
    problem = with_a_weight_of_zero(make())
    found = jax.jit(partial(derivatives, partial(run_funnel, batch_size)))(problem)
    assert_same_derivatives(found, derivatives_of_the_loop(problem))


@pytest.mark.slow
def test_derivatives_of_scores_alone():
    def values(run):
        return lambda problem: funnel.Evaluated(run(problem), ())

    def evaluate(problem):
        return funnel.evaluate(problem.score, render, *problem[1:4], batch_size=3)

    *found, of_weights = jax.jit(partial(derivatives, values(evaluate)))(make())
    *expected, _ = jax.jit(partial(derivatives, values(lambda problem: loop(problem).values)))(make())
    assert not of_weights.any()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_derivatives_under_vmap(derivatives_of_the_loop):
    """The gradients of three problems, and the gradient of their sum."""
    problems = [with_a_weight_of_zero(make(seed)) for seed in (0, 10, 20)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *problems)
    run = partial(run_funnel, 4)
    inside = jax.jit(jax.vmap(partial(derivatives, run)))(stacked)

    def total(stacked):
        return jnp.sum(jax.vmap(lambda problem: summary(run(problem)))(stacked))

    outside = jax.jit(jax.grad(total, allow_int=True))(stacked)
    outside = [leaf for leaf in jax.tree.leaves(outside) if leaf.dtype == jnp.float32]
    for row, problem in enumerate(problems):
        expected = derivatives_of_the_loop(problem)
        assert_same_derivatives(at(inside, row), expected)
        assert_same_derivatives(at(outside, row), expected)


@SLOW
@pytest.mark.parametrize(
    "names", [{"params"}, {"score"}, {"context", "weights"}], ids=["params", "score", "context and weights"]
)
def test_derivatives_where_a_vmap_maps_only_some_parts(names):
    """What the problems share receives the sum of their derivatives."""
    others = [make(seed) for seed in (0, 10, 20)]
    stacked, axes = mapped(others[0], others, names)

    def total(run, problem):
        return jnp.sum(jax.vmap(lambda problem: summary(run(problem)), in_axes=(axes,))(problem))

    found, expected = (
        jax.jit(jax.grad(partial(total, run), allow_int=True))(stacked)
        for run in (partial(run_funnel, 4), loop)
    )
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if one.dtype == jnp.float32:
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


def test_derivatives_with_live_items():
    problem, live = with_a_weight_of_zero(make()), of_places([1, 2, 5])
    found = jax.jit(lambda problem: derivatives(lambda one: run_live(3, one, live), problem))(problem)
    expected = jax.jit(lambda problem: derivatives(lambda one: live_loop(one, live), problem))(problem)
    assert_same_derivatives(found, expected)
    assert found[-1].tolist()[0] == 0  # the weight of an item that is not live


@pytest.mark.parametrize("is_mapped", [False, True])
def test_the_backward_pass_sees_at_most_one_batch(is_mapped):
    problem = make()._replace(score=Watched(normal(0)))

    def total(problem):
        return summary(run_funnel.__wrapped__(2, problem))

    def of_three(problem):
        stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), problem)
        return jax.vmap(total)(stacked).sum()

    SEEN.clear()
    program = jax.make_jaxpr(jax.grad(of_three if is_mapped else total, allow_int=True))(problem)
    assert {shape[0] for shape in SEEN} <= {1, 2}
    assert widest_image_batch(program.jaxpr) <= (3 if is_mapped else 2)  # three contexts of the vmap itself
