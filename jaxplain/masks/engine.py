"""The engine behind all mask recipes: optimizes masks for an objective by gradient descent.

The whole optimization is one `lax.scan` over iterations in one compiled program. The program contains the
model twice: forward only, to evaluate candidate masks, and with a backward pass, to compute the gradient.

The result is not differentiable. It is the best mask visited by a search with discrete choices (such as a
line search), so its derivative with respect to the score's parameters, the image or the coefficients is not
the derivative of a minimizer. `jax.grad` and `jax.jvp` raise a TypeError instead of returning a wrong value.
To use a mask as a constant in a differentiated function, pass `jax.lax.stop_gradient(score)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain.checks import refuse_derivatives
from jaxplain.explanation import Explanation, Status, differ, finished
from jaxplain.masks import objective as obj
from jaxplain.masks.descent import CandidateLosses, Descent, Start


class MaskHistory(NamedTuple):
    """The optimization history: one row for each of the T iterations."""

    loss: Array  # [T], loss after the iteration
    deletion: Array  # [T], path-mean score of the deletion terms before the iteration
    insertion: Array  # [T], path-mean score of the insertion terms before the iteration
    l1: Array  # [T], L1 penalty of the resulting mask after the iteration
    smoothness: Array  # [T], TV or BTV after the iteration
    step: Array  # [T], step size taken
    trials: Array  # int32 [T], number of candidate masks evaluated


class MaskDetails(NamedTuple):
    """Details of mask optimization; the importance of the `Explanation` is `1 - mask`."""

    mask: Array  # [h, w] in [0, 1]; 1 keeps a pixel, so low values are important
    masks: Array  # [M, h, w], the optimized masks, which are combined into `mask`
    loss: Array  # [], the lowest loss, reached by `mask`
    image_score: Array  # []
    baseline_score: Array  # [], mean over baselines
    history: MaskHistory


class _MaskState(NamedTuple):
    """Carry of the scan over iterations."""

    masks: Array  # [M, h, w]
    loss: Array  # [], loss at `masks`
    best_masks: Array  # [M, h, w]
    best_loss: Array  # [], loss at `best_masks`
    first_score: Array  # [], deletion score of the initial masks, for the rescue
    l1: Array  # []
    descent: Any


SEARCHES = ("endpoint", "path", "gradient")
"""Where the loss of candidate masks is measured: at the end of the path, or along the whole path. With
"gradient", an update is not evaluated separately; its loss is computed along with the next gradient, at no
extra cost. This works only with update rules that do not compare candidates."""


class EngineChoices(NamedTuple):
    """All options that change the compiled program; static."""

    objective: obj.Objective
    iterations: int
    search: str  # one of SEARCHES
    rescue: bool
    batch_size: int | None

    def setup(self) -> obj.Setup:
        """Return the static half of the problem."""
        return obj.Setup(self.objective, self.batch_size, needs_endpoint=self.search == "endpoint")


def optimize_mask(
    choices: EngineChoices, problem: obj.Problem, descent: Descent, masks: Array, key: Array | None
) -> Explanation:
    """Optimize masks [M, h, w] for an objective; a pure function, traced as one program.

    Args:
      choices: the static options.
      problem: score, image, baselines, path and coefficients.
      descent: the rule that updates the masks.
      masks: the initial masks.
      key: random key for noise and jitter, or None if neither is used. Consumed.

    Returns:
      An `Explanation` with `MaskDetails`. It is not differentiable; see the module docstring.

    Raises:
      TypeError: if differentiated with respect to any argument (`jax.grad`, `jax.jvp`).
    """
    problem, descent, masks = refuse_derivatives((problem, descent, masks), "an optimized mask")

    def step(state: _MaskState, iteration: Array) -> tuple[_MaskState, tuple[MaskHistory, obj.References]]:
        return _iterate(choices, problem, descent, state, iteration, key)

    unknown = jnp.float32(jnp.inf)
    start = _MaskState(
        masks=masks,
        loss=unknown,
        best_masks=masks,
        best_loss=unknown,
        first_score=unknown,
        l1=jnp.asarray(problem.coefficients.l1, jnp.float32),
        descent=descent.init(masks),
    )
    end, (history, references) = jax.lax.scan(step, start, jnp.arange(choices.iterations))
    if choices.search == "gradient":
        end, history = _last_measured(choices, problem, end, history, key)
    first = jax.tree_util.tree_map(lambda leaf: leaf[0], references)
    return _result(choices, problem, masks, end, history, first)


def _iterate(
    choices: EngineChoices,
    problem: obj.Problem,
    descent: Descent,
    state: _MaskState,
    iteration: Array,
    key: Array | None,
) -> tuple[_MaskState, tuple[MaskHistory, obj.References]]:
    setup, is_first = choices.setup(), iteration == 0
    gradient_key, search_key = _keys(key, iteration)
    problem = problem._replace(coefficients=problem.coefficients._replace(l1=state.l1))
    slopes = obj.slopes(setup, problem, state.masks, gradient_key, is_first)
    if choices.search == "gradient":
        state = _keep_better(state, slopes.loss)
    loss = slopes.loss
    if choices.search == "endpoint":
        loss = jnp.where(is_first, slopes.references.endpoint_loss, state.loss)
    move = descent.move(
        Start(state.masks, slopes.grads, loss, iteration),
        state.descent,
        _measure(choices, problem, search_key),
    )
    mask = obj.explained_mask(setup.objective, move.masks)
    row = MaskHistory(
        loss=slopes.loss if choices.search == "gradient" else move.loss,
        deletion=slopes.deletion,
        insertion=slopes.insertion,
        l1=obj.l1(mask),
        smoothness=obj.smoothness(setup, problem, mask),
        step=move.step,
        trials=move.trials,
    )
    first_score = jnp.where(is_first, slopes.deletion, state.first_score)
    state = state._replace(masks=move.masks, first_score=first_score, descent=move.state)
    state = _keep_better(state, move.loss)
    if choices.rescue:
        state = _rescued(choices, state, jnp.abs(first_score - slopes.deletion), iteration)
    return state, (row, slopes.references)


def _keep_better(state: _MaskState, loss: Array) -> _MaskState:
    """Replace the best masks with the current masks if their loss, now known, is lower."""
    better = loss < state.best_loss  # False for NaN
    return state._replace(
        loss=loss,
        best_masks=jnp.where(better, state.masks, state.best_masks),
        best_loss=jnp.where(better, loss, state.best_loss),
    )


def _last_measured(
    choices: EngineChoices, problem: obj.Problem, end: _MaskState, history: MaskHistory, key: Array | None
) -> tuple[_MaskState, MaskHistory]:
    """Evaluate the final masks, which no later gradient covers, and shift the losses by one iteration."""
    last_key, _ = _keys(key, jnp.int32(choices.iterations))
    problem = problem._replace(coefficients=problem.coefficients._replace(l1=end.l1))
    last = obj.path_losses(choices.setup(), problem, end.masks[None], last_key)
    return _keep_better(end, last[0]), history._replace(loss=jnp.concatenate([history.loss[1:], last]))


def _keys(key: Array | None, iteration: Array) -> tuple[Array | None, Array | None]:
    if key is None:
        return None, None
    gradient_key, search_key = jax.random.split(jax.random.fold_in(key, iteration))
    return gradient_key, search_key


def _measure(choices: EngineChoices, problem: obj.Problem, key: Array | None) -> CandidateLosses:
    setup = choices.setup()

    def measure(candidates: Array, needed: Array | None = None) -> Array:
        if choices.search == "gradient":
            return jnp.full(len(candidates), jnp.nan, jnp.float32)  # unknown, never the best
        if choices.search == "endpoint":
            return obj.endpoint_losses(setup, problem, candidates, needed)
        return obj.path_losses(setup, problem, candidates, key, needed)

    return measure


def _rescued(choices: EngineChoices, state: _MaskState, moved: Array, iteration: Array) -> _MaskState:
    """Apply the rescue from I-GOS: reduce the L1 weight for an image whose score has hardly changed.

    The stored losses are adjusted to the new weight, so that they remain comparable with later losses.
    """
    half, late = choices.iterations // 2, int(choices.iterations / 1.25)
    l1 = jnp.where((iteration == half) & (moved <= 0.001), state.l1 / 10, state.l1)
    l1 = jnp.where((iteration == late) & (moved <= 0.01), l1 / 5, l1)

    def change(masks: Array) -> Array:
        return (l1 - state.l1) * obj.l1(obj.explained_mask(choices.objective, masks))

    return state._replace(
        l1=l1,
        loss=state.loss + change(state.masks),
        best_loss=state.best_loss + change(state.best_masks),
    )


def _result(
    choices: EngineChoices,
    problem: obj.Problem,
    initial: Array,
    end: _MaskState,
    history: MaskHistory,
    references: obj.References,
) -> Explanation:
    mask = obj.explained_mask(choices.objective, end.best_masks)
    image_score, baseline_score = references.image_score, references.baseline_score
    has_moved = jnp.any(end.best_masks != initial)
    status = jnp.where(has_moved, Status.OK, Status.NOT_MOVED)
    is_above = (image_score > baseline_score) & differ(jnp.stack([image_score, baseline_score]))
    status = jnp.where(is_above, status, Status.NOT_ABOVE_BASELINE)
    details = MaskDetails(mask, end.best_masks, end.best_loss, image_score, baseline_score, history)
    scores = jnp.stack([image_score, baseline_score, end.best_loss])
    return finished(1.0 - mask, scores, _evaluations(choices, problem, history), details, status)


def _evaluations(choices: EngineChoices, problem: obj.Problem, history: MaskHistory) -> Array:
    setup = choices.setup()
    per_end = obj.evaluations(setup, problem, endpoint=True)
    per_slope = obj.evaluations(setup, problem, endpoint=False)
    per_trial = {"endpoint": per_end, "path": per_slope, "gradient": 0}[choices.search]
    once = {"endpoint": per_end, "path": 0, "gradient": per_slope}[choices.search]  # initial or final masks
    fixed = 1 + len(problem.baselines) + once + choices.iterations * per_slope
    return fixed + per_trial * jnp.sum(history.trials, dtype=jnp.int32)
