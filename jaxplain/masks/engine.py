"""The one engine behind all mask recipes: optimise masks for an objective by a descent."""

from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel
from jaxplain.masks import objective as obj
from jaxplain.masks.descent import Descent, Measure, Start
from jaxplain.perturb import upsample


class Status(IntEnum):
    """How a run ended; a number in the result, so that it passes through jit and vmap."""

    OK = 0
    NOT_FINITE = 1  # the score is NaN or infinite on the image, a baseline, or everywhere on the way
    NOT_ABOVE_BASELINE = 2  # the image scores no higher than its baseline: nothing to explain
    NOT_MOVED = 3  # no mask that was tried is better than the one to start from, which is returned

    @property
    def message(self) -> str:
        """What it means, for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "ok",
    Status.NOT_FINITE: "the score is NaN or infinite; check the model and its input",
    Status.NOT_ABOVE_BASELINE: "the score of the image is not above its baseline's, so there is nothing to "
    "explain: choose another target or baseline",
    Status.NOT_MOVED: "no mask that was tried is better than the one to start from, so the map is empty: "
    "choose another target, less noise, a smaller l1, or more iterations",
}


class History(NamedTuple):
    """What happened, one row an iteration (T of them)."""

    loss: Array  # [T], measured at the masks after the iteration
    deletion: Array  # [T], path-mean score of the deletion terms before it
    insertion: Array  # [T], path-mean score of the insertion terms before it
    l1: Array  # [T], of the explained mask after it
    smoothness: Array  # [T], TV or BTV after it
    step: Array  # [T], step size taken
    trials: Array  # int32 [T], candidate masks measured


class Heatmap(NamedTuple):
    """The result of a mask optimisation for one image.

    `mask` is what was optimised (1 keeps a pixel, so low is important), `saliency` what to look at.
    """

    mask: Array  # [h, w] in [0, 1], low = important
    saliency: Array  # [H, W] = 1 - upsampled mask, high = important
    masks: Array  # [M, h, w], the free masks whose combination `mask` is
    loss: Array  # [], the lowest loss, measured at `mask`
    status: Array  # int32 [], a Status
    image_score: Array  # []
    baseline_score: Array  # [], mean over baselines
    history: History
    evaluations: Array  # int32 [], images scored by the model, forward-and-backward counted once


class _State(NamedTuple):
    """The carry of the loop."""

    masks: Array  # [M, h, w]
    loss: Array  # [], measured at `masks`
    best_masks: Array  # [M, h, w]
    best_loss: Array  # [], measured at `best_masks`
    first_score: Array  # [], deletion score at the start, for the rescue
    l1: Array  # []
    descent: Any


SEARCHES = ("endpoint", "path", "gradient")
"""Where the loss of candidate masks is measured: at the end of the path, or all along it. With "gradient" a
move is not measured at all; its loss is the one that comes with the next gradient, for nothing. Only for a
descent that compares no candidates."""


class Static(NamedTuple):
    """Every choice that shapes the program."""

    objective: obj.Objective
    iterations: int
    search: str  # one of SEARCHES
    rescue: bool
    batch_size: int | None


def optimize_mask(
    static: Static,
    problem: obj.Problem,
    descent: Descent,
    masks: Array,
    key: Array | None,
) -> Heatmap:
    """Optimise masks [M, h, w] for an objective; a pure function, traced as one program.

    Args:
      static: the choices that shape the program.
      problem: score, image, baselines, path and coefficients.
      descent: how masks move.
      masks: where they start.
      key: for the path noise; None when there is none. Consumed.
    """
    setup = obj.Setup(static.objective, static.batch_size)
    image_score, baseline_score = _reference_scores(setup, problem)

    def step(state: _State, iteration: Array) -> tuple[_State, History]:
        return _iterate(static, setup, problem, descent, state, iteration, key)

    start = _State(
        masks=masks,
        loss=_first_loss(static, setup, problem, masks),
        best_masks=masks,
        best_loss=jnp.float32(jnp.inf),
        first_score=image_score,
        l1=jnp.asarray(problem.coefficients.l1, jnp.float32),
        descent=descent.init(masks),
    )
    end, history = jax.lax.scan(step, start, jnp.arange(static.iterations))
    if static.search == "gradient":
        end, history = _last_measured(static, setup, problem, end, history, key)
    return _result(static, setup, problem, masks, end, history, image_score, baseline_score)


def _iterate(
    static: Static,
    setup: obj.Setup,
    problem: obj.Problem,
    descent: Descent,
    state: _State,
    iteration: Array,
    key: Array | None,
) -> tuple[_State, History]:
    gradient_key, search_key = _keys(key, iteration)
    problem = problem._replace(coefficients=problem.coefficients._replace(l1=state.l1))
    slopes = obj.slopes(setup, problem, state.masks, gradient_key)
    if static.search == "gradient":
        state = _keep_better(state, slopes.loss)
    loss = state.loss if static.search == "endpoint" else slopes.loss
    move = descent.move(
        Start(state.masks, slopes.grads, loss, iteration),
        state.descent,
        _measure(static, setup, problem, search_key),
    )
    mask = obj.explained_mask(setup.objective, move.masks)
    row = History(
        loss=slopes.loss if static.search == "gradient" else move.loss,
        deletion=slopes.scores.deletion,
        insertion=slopes.scores.insertion,
        l1=obj.l1(mask),
        smoothness=obj.smoothness(setup, problem, mask),
        step=move.step,
        trials=move.trials,
    )
    first_score = jnp.where(iteration == 0, slopes.scores.deletion, state.first_score)
    state = state._replace(masks=move.masks, first_score=first_score, descent=move.state)
    state = _keep_better(state, move.loss)
    moved = jnp.abs(first_score - slopes.scores.deletion)
    return (_rescued(static, setup, state, moved, iteration) if static.rescue else state), row


def _keep_better(state: _State, loss: Array) -> _State:
    """The loss of the present masks has become known."""
    better = loss < state.best_loss  # False for NaN
    return state._replace(
        loss=loss,
        best_masks=jnp.where(better, state.masks, state.best_masks),
        best_loss=jnp.where(better, loss, state.best_loss),
    )


def _last_measured(
    static: Static, setup: obj.Setup, problem: obj.Problem, end: _State, history: History, key: Array | None
) -> tuple[_State, History]:
    """The loss of the last masks, after which no gradient comes; losses move to the iteration they end."""
    last_key, _ = _keys(key, jnp.int32(static.iterations))
    problem = problem._replace(coefficients=problem.coefficients._replace(l1=end.l1))
    last = obj.path_losses(setup, problem, end.masks[None], last_key)
    return _keep_better(end, last[0]), history._replace(loss=jnp.concatenate([history.loss[1:], last]))


def _first_loss(static: Static, setup: obj.Setup, problem: obj.Problem, masks: Array) -> Array:
    """Loss where the masks start; along a path it comes with every gradient and need not be measured."""
    if static.search != "endpoint":
        return jnp.float32(jnp.inf)
    return obj.endpoint_losses(setup, problem, masks[None])[0]


def _keys(key: Array | None, iteration: Array) -> tuple[Array | None, Array | None]:
    if key is None:
        return None, None
    gradient_key, search_key = jax.random.split(jax.random.fold_in(key, iteration))
    return gradient_key, search_key


def _measure(static: Static, setup: obj.Setup, problem: obj.Problem, key: Array | None) -> Measure:
    if static.search == "endpoint":
        return lambda candidates: obj.endpoint_losses(setup, problem, candidates)
    if static.search == "gradient":
        return lambda candidates: jnp.full(len(candidates), jnp.nan)  # not known, never the best
    return lambda candidates: obj.path_losses(setup, problem, candidates, key)


def _rescued(static: Static, setup: obj.Setup, state: _State, moved: Array, iteration: Array) -> _State:
    """I-GOS's rescue: a smaller L1 for an image whose score has hardly moved.

    The losses kept so far are restated with it, so that they go on being compared with their like.
    """
    half, late = static.iterations // 2, int(static.iterations / 1.25)
    l1 = jnp.where((iteration == half) & (moved <= 0.001), state.l1 / 10, state.l1)
    l1 = jnp.where((iteration == late) & (moved <= 0.01), l1 / 5, l1)

    def change(masks: Array) -> Array:
        return (l1 - state.l1) * obj.l1(obj.explained_mask(setup.objective, masks))

    return state._replace(
        l1=l1,
        loss=state.loss + change(state.masks),
        best_loss=state.best_loss + change(state.best_masks),
    )


def _reference_scores(setup: obj.Setup, problem: obj.Problem) -> tuple[Array, Array]:
    """Scores of the image and of the baselines (mean)."""
    pictures = jnp.concatenate([problem.image[None], problem.baselines])
    values = funnel.evaluate(
        problem.score, _show, (), pictures, jnp.arange(len(pictures)), batch_size=setup.batch_size
    )
    return values[0], jnp.mean(values[1:])


def _show(_: tuple, pictures: Array, index: Array) -> Array:
    return pictures[index]


def _result(
    static: Static,
    setup: obj.Setup,
    problem: obj.Problem,
    start: Array,
    end: _State,
    history: History,
    image_score: Array,
    baseline_score: Array,
) -> Heatmap:
    mask = obj.explained_mask(setup.objective, end.best_masks)
    found = jnp.isfinite(end.best_loss)
    finite = jnp.isfinite(image_score) & jnp.isfinite(baseline_score) & found
    moved = jnp.any(end.best_masks != start)
    status = jnp.where(moved, Status.OK, Status.NOT_MOVED)
    status = jnp.where(image_score > baseline_score, status, Status.NOT_ABOVE_BASELINE)
    per_end = obj.evaluations(setup, problem, endpoint=True)
    per_slope = obj.evaluations(setup, problem, endpoint=False)
    per_search = {"endpoint": per_end, "path": per_slope, "gradient": 0}[static.search]
    alone = {"endpoint": per_end, "path": 0, "gradient": per_slope}[static.search]  # first or last masks
    fixed = 1 + len(problem.baselines) + alone
    return Heatmap(
        mask=mask,
        saliency=1.0 - upsample(mask, (problem.image.shape[0], problem.image.shape[1])),
        masks=end.best_masks,
        loss=end.best_loss,
        status=jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32),
        image_score=image_score,
        baseline_score=baseline_score,
        history=history,
        evaluations=fixed
        + static.iterations * per_slope
        + per_search * jnp.sum(history.trials, dtype=jnp.int32),
    )
