"""How masks move: line search, best of several steps, a fixed step, Nesterov, optax; all project on [0, 1].

A descent is a frozen dataclass, a pytree whose leaves are its numbers, so that a sweep over them is a vmap.
It is asked to `init` its state and then to `move` masks [M, h, w] once an iteration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array


class Start(NamedTuple):
    """Where a move starts."""

    masks: Array  # [M, h, w]
    grads: Array  # [M, h, w]
    loss: Array  # [], measured at `masks`
    iteration: Array  # int32 []


class Move(NamedTuple):
    """Where it ends."""

    masks: Array  # [M, h, w]
    loss: Array  # [], measured at `masks`
    step: Array  # [], step size taken; 0 when the masks stayed
    trials: Array  # int32 [], masks measured on the way
    state: Any


Measure = Callable[[Array], Array]
"""Loss of candidate masks: [A, M, h, w] -> [A]."""


class Descent(Protocol):
    """The contract."""

    def init(self, masks: Array) -> Any:
        """The state before the first move."""
        ...

    def move(self, start: Start, state: Any, measure: Measure) -> Move:
        """One iteration."""
        ...


def project(masks: Array) -> Array:
    """Onto [0, 1]."""
    return jnp.clip(masks, 0.0, 1.0)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["first_step", "decay", "beta", "min_step"],
    meta_fields=["max_trials"],
)
@dataclass(frozen=True)
class LineSearch:
    """Backtracking: the first step of `first_step * decay^k` that lowers the loss by `beta * step * |g|^2`.

    When none above `min_step` does, the last one tried is taken, as in the authors' programs. After
    `max_trials` it ends in any case, so that no number (a decay of 1, a smallest step of 0) makes it hang.
    """

    first_step: float | Array = 1000.0
    decay: float | Array = 0.2
    beta: float | Array = 1e-4
    min_step: float | Array = 1e-5
    max_trials: int = 100

    def init(self, masks: Array) -> tuple:
        """No state."""
        return ()

    def move(self, start: Start, state: tuple, measure: Measure) -> Move:
        """Try steps one after the other, each measured only if the one before failed."""
        slope = jnp.sum(start.grads**2)

        def attempt(step: Array) -> tuple[Array, Array]:
            masks = project(start.masks - step * start.grads)
            return masks, measure(masks[None])[0]

        def failed(trial: _Trial) -> Array:
            enough = trial.loss <= start.loss - self.beta * trial.step * slope
            return ~enough & (trial.step >= self.min_step) & (trial.tried < self.max_trials)

        def shorten(trial: _Trial) -> _Trial:
            step = trial.step * self.decay
            return _Trial(step, *attempt(step), trial.tried + 1)

        first = jnp.asarray(self.first_step, jnp.float32)
        trial = jax.lax.while_loop(failed, shorten, _Trial(first, *attempt(first), jnp.int32(1)))
        return Move(trial.masks, trial.loss, trial.step, trial.tried, state)


class _Trial(NamedTuple):
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
    """The best of `candidates` steps, all measured as one flat batch, no loop.

    A step is told by the mean change of a mask cell that it would make (before the projection), not by its
    factor on the gradient: the same numbers then suit masks of any size and scores of any scale. The
    candidates are `center * decay^k`; the centre starts at `first_change` and follows the step last taken
    (`width` candidates are longer), so that few are enough. Masks stay where none lowers the loss, and the
    next candidates are shorter.
    """

    first_change: float | Array = 0.1
    decay: float | Array = 0.3
    least_change: float | Array = 1e-4
    candidates: int = 4
    width: int = 1

    def init(self, masks: Array) -> Array:
        """The change at the centre: []."""
        return jnp.asarray(self.first_change, jnp.float32)

    def move(self, start: Start, state: Array, measure: Measure) -> Move:
        """Measure all candidates, take the lowest."""
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
    """A divisor for a gradient that is 0 everywhere, whose steps then change nothing."""
    return jnp.maximum(size, 1e-30)


@partial(jax.tree_util.register_dataclass, data_fields=["first_change"], meta_fields=[])
@dataclass(frozen=True)
class FixedStep:
    """Plain gradient descent, for ablations: the same factor on every gradient, none searched for.

    The factor is the one whose first move changes a mask cell by `first_change` in the mean: a number that
    suits masks of any size and scores of any scale, where the published 1000 suits one. (One photo,
    iGOS++ at 28 x 28, deletion / insertion: .056 / .388 with 0.03, .132 / .192 with 0.1, .106 / .296 with the
    factor 1000.)
    """

    first_change: float | Array = 0.03

    def init(self, masks: Array) -> Array:
        """The factor, not known before the first gradient: []."""
        return jnp.float32(0.0)

    def move(self, start: Start, state: Array, measure: Measure) -> Move:
        """One step."""
        first = self.first_change / _at_least_tiny(jnp.mean(jnp.abs(start.grads)))
        step = jnp.where(start.iteration == 0, first, state).astype(jnp.float32)
        masks = project(start.masks - step * start.grads)
        return Move(masks, measure(masks[None])[0], step, jnp.int32(1), step)


@partial(jax.tree_util.register_dataclass, data_fields=["step"], meta_fields=[])
@dataclass(frozen=True)
class Nesterov:
    """Nesterov's accelerated gradient with a fixed step: `v' = m - step * g; m' = v' + t/(t+3) (v' - v)`."""

    step: float | Array = 1000.0

    def init(self, masks: Array) -> Array:
        """The previous v: [M, h, w]."""
        return masks

    def move(self, start: Start, state: Array, measure: Measure) -> Move:
        """One accelerated step."""
        ahead = start.masks - self.step * start.grads
        momentum = start.iteration / (start.iteration + 3.0)
        masks = project(ahead + momentum * (ahead - state))
        step = jnp.asarray(self.step, jnp.float32)
        return Move(masks, measure(masks[None])[0], step, jnp.int32(1), ahead)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["transformation"])
@dataclass(frozen=True)
class Optax:
    """Any `optax.GradientTransformation`, followed by the projection. The transformation is static: make it
    once and pass the same object again, or every call compiles anew."""

    transformation: optax.GradientTransformation

    def init(self, masks: Array) -> Any:
        """The transformation's own state."""
        return self.transformation.init(masks)

    def move(self, start: Start, state: Any, measure: Measure) -> Move:
        """One update."""
        updates, state = self.transformation.update(start.grads, state, start.masks)
        masks = project(optax.apply_updates(start.masks, updates))
        length = optax.tree.norm(updates) / (optax.tree.norm(start.grads) + 1e-12)
        return Move(masks, measure(masks[None])[0], length, jnp.int32(1), state)
