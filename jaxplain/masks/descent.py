"""Update rules for masks: line search, best of several steps, fixed step, Nesterov, and optax.

All of them project the masks onto [0, 1]. An update rule is a frozen dataclass and a pytree whose leaves are
its numeric settings, so that a sweep over them is a single `vmap`. The engine calls `init` once, and `move`
on masks [M, h, w] in every iteration.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Start(NamedTuple):
    """The input to a move."""

    masks: Array  # [M, h, w]
    grads: Array  # [M, h, w]
    loss: Array  # [], loss at `masks`
    iteration: Array  # int32 []


class Move(NamedTuple):
    """The result of a move."""

    masks: Array  # [M, h, w]
    loss: Array  # [], loss at `masks`
    step: Array  # [], step size taken; 0 if the masks did not change
    trials: Array  # int32 [], number of candidate masks evaluated
    state: Any


class CandidateLosses(Protocol):
    """A function that computes the losses of candidate masks."""

    def __call__(self, candidates: Array, needed: Array | None = None) -> Array:
        """Return the losses of the candidates: [A, M, h, w] -> [A].

        If `needed` (a bool scalar) is False, the model is not evaluated and the losses are NaN. This saves
        time in loops: under `jax.vmap`, the loop body runs for every row until the last row has finished.
        """
        ...


class Descent(Protocol):
    """The interface that every update rule implements, including custom ones.

    Each call to `measure` adds a copy of the model to the compiled program, so `move` should call it in only
    one place.
    """

    def init(self, masks: Array) -> Any:
        """Return the state before the first move."""
        ...

    def move(self, start: Start, state: Any, measure: CandidateLosses) -> Move:
        """Update the masks once."""
        ...


def project(masks: Array) -> Array:
    """Clip masks to [0, 1]."""
    return jnp.clip(masks, 0.0, 1.0)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["first_step", "decay", "beta", "min_step"],
    meta_fields=["max_trials"],
)
@dataclass(frozen=True)
class LineSearch:
    """Backtracking line search: take the first step that lowers the loss by at least `beta * step * |g|^2`.

    Steps are `first_step * decay^k` for k = 0, 1, ... If no step above `min_step` lowers the loss enough, the
    last step tried is taken, as in the authors' code. The search always ends after `max_trials` steps, so it
    cannot loop forever, even with a decay of 1 or a min_step of 0.
    """

    first_step: float | Array = 1000.0
    decay: float | Array = 0.2
    beta: float | Array = 1e-4
    min_step: float | Array = 1e-5
    max_trials: int = 100

    def init(self, masks: Array) -> tuple:
        """Return an empty state."""
        return ()

    def move(self, start: Start, state: tuple, measure: CandidateLosses) -> Move:
        """Try steps one at a time until one lowers the loss enough."""
        slope = jnp.sum(start.grads**2)

        def is_searching(trial: _Trial) -> Array:
            enough = trial.loss <= start.loss - self.beta * trial.step * slope
            failed = ~enough & (trial.step >= self.min_step) & (trial.tried < self.max_trials)
            return (trial.tried == 0) | failed

        def attempt(trial: _Trial) -> _Trial:
            step = jnp.where(trial.tried == 0, trial.step, trial.step * self.decay)
            masks = project(start.masks - step * start.grads)
            loss = measure(masks[None], is_searching(trial))[0]
            return _Trial(step, masks, loss, trial.tried + 1)

        first = jnp.asarray(self.first_step, jnp.float32)
        untried = _Trial(first, start.masks, jnp.float32(jnp.nan), jnp.int32(0))
        trial = jax.lax.while_loop(is_searching, attempt, untried)
        return Move(trial.masks, trial.loss, trial.step, trial.tried, state)


class _Trial(NamedTuple):
    """Carry of the line search: the last step tried."""

    step: Array  # []
    masks: Array  # [M, h, w]
    loss: Array  # []
    tried: Array  # int32 []


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["first_change", "decay", "least_change"],
    meta_fields=["candidates", "width"],
)
@dataclass(frozen=True)
class BestStep:
    """Take the best of `candidates` steps, all evaluated as one flat batch without a loop.

    Step sizes are given as the mean absolute change in the mask cells (before projection) rather than as a
    multiple of the gradient, so the same settings work for masks of any size and scores of any scale. The
    candidates are `center * decay^k`. The center starts at `first_change` and then follows the last step
    taken (`width` candidates are longer), so a few candidates are enough. If none lowers the loss, the masks
    stay unchanged and the next candidates are shorter.
    """

    first_change: float | Array = 0.1
    decay: float | Array = 0.3
    least_change: float | Array = 1e-4
    candidates: int = 4
    width: int = 1

    def init(self, masks: Array) -> Array:
        """Return the initial center, a scalar."""
        return jnp.asarray(self.first_change, jnp.float32)

    def move(self, start: Start, state: Array, measure: CandidateLosses) -> Move:
        """Evaluate all candidates and take the one with the lowest loss."""
        powers = jnp.arange(self.candidates) - self.width
        changes = state * jnp.asarray(self.decay**powers, jnp.float32)  # [A]
        steps = changes / _at_least_tiny(jnp.mean(jnp.abs(start.grads)))
        masks = project(start.masks[None] - steps[:, None, None, None] * start.grads[None])
        losses = jnp.where(jnp.isnan(loss := measure(masks)), jnp.inf, loss)
        best = jnp.argmin(losses)
        better = losses[best] < start.loss
        return Move(
            masks=jnp.where(better, masks[best], start.masks),
            loss=jnp.where(better, losses[best], start.loss),
            step=jnp.where(better, steps[best], 0.0),
            trials=jnp.int32(self.candidates),
            state=jnp.maximum(jnp.where(better, changes[best], changes[-1]), self.least_change),
        )


def _at_least_tiny(size: Array) -> Array:
    """Keep a divisor above zero, so that a zero gradient leaves the masks unchanged."""
    return jnp.maximum(size, 1e-30)


@partial(jax.tree_util.register_dataclass, data_fields=["first_change"], meta_fields=[])
@dataclass(frozen=True)
class FixedStep:
    """Plain gradient descent with a fixed step size, for ablations.

    The step size is set in the first iteration so that the mask cells change by `first_change` on average.
    Unlike the published step size of 1000, this works for masks of any size and scores of any scale.
    (Deletion / insertion on one photo, iGOS++ at 28 x 28: .056 / .388 with 0.03, .132 / .192 with 0.1,
    .106 / .296 with the step size 1000.)
    """

    first_change: float | Array = 0.03

    def init(self, masks: Array) -> Array:
        """Return a placeholder for the step size, which is set at the first gradient."""
        return jnp.float32(0.0)

    def move(self, start: Start, state: Array, measure: CandidateLosses) -> Move:
        """Take one step."""
        first = self.first_change / _at_least_tiny(jnp.mean(jnp.abs(start.grads)))
        step = jnp.where(start.iteration == 0, first, state).astype(jnp.float32)
        masks = project(start.masks - step * start.grads)
        return Move(masks, measure(masks[None])[0], step, jnp.int32(1), step)


@partial(jax.tree_util.register_dataclass, data_fields=["step"], meta_fields=[])
@dataclass(frozen=True)
class Nesterov:
    """Nesterov's accelerated gradient with a fixed step.

    The update is `v' = m - step * g`, then `m' = v' + t / (t + 3) * (v' - v)`.
    """

    step: float | Array = 1000.0

    def init(self, masks: Array) -> Array:
        """Return the initial v: [M, h, w]."""
        return masks

    def move(self, start: Start, state: Array, measure: CandidateLosses) -> Move:
        """Take one accelerated step."""
        ahead = start.masks - self.step * start.grads
        momentum = start.iteration / (start.iteration + 3.0)
        masks = project(ahead + momentum * (ahead - state))
        step = jnp.asarray(self.step, jnp.float32)
        return Move(masks, measure(masks[None])[0], step, jnp.int32(1), ahead)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["transformation"])
@dataclass(frozen=True)
class Optax:
    """Any `optax.GradientTransformation`, followed by projection onto [0, 1].

    The transformation is static: create it once and reuse the object to avoid recompilation.
    """

    transformation: optax.GradientTransformation

    def init(self, masks: Array) -> Any:
        """Return the transformation's initial state."""
        return self.transformation.init(masks)

    def move(self, start: Start, state: Any, measure: CandidateLosses) -> Move:
        """Apply one update."""
        updates, state = self.transformation.update(start.grads, state, start.masks)
        masks = project(optax.apply_updates(start.masks, updates))
        length = optax.tree.norm(updates) / (optax.tree.norm(start.grads) + 1e-12)
        return Move(masks, measure(masks[None])[0], length, jnp.int32(1), state)
