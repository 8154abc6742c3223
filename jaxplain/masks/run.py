"""From a recipe's choices to the compiled engine: options resolved against a preset, checked, run."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.checks import check_choice, check_finite, check_image, check_positive_int
from jaxplain.masks.descent import BestStep, Descent, LineSearch
from jaxplain.masks.engine import SEARCHES, Heatmap, Static, optimize_mask
from jaxplain.masks.objective import Coefficients, Objective, Problem
from jaxplain.masks.penalties import edge_weights
from jaxplain.masks.settings import Options, parameters


def run_recipe(
    objective: Objective, method: str, score: Any, image: Array, baseline: Array, options: Options
) -> Heatmap:
    """Resolve the options against the preset, check them, run the compiled engine."""
    chosen = parameters(method, options)
    image, baselines = checked_pictures(image, baseline)
    shape = fitting_shape(chosen["size"], image)
    noise, jitter = _unless_zero(chosen["noise"], "noise"), _unless_zero(chosen["jitter"], "jitter")
    random = {"path noise": noise, "jitter": jitter}
    for name in [name for name, amount in random.items() if amount is not None]:
        if options.get("key") is None:
            raise ValueError(f"{name} is random: pass key=jax.random.key(...), or {name.split()[-1]}=0.")
    static = Static(
        objective=objective,
        iterations=check_positive_int(chosen["iterations"], "iterations"),
        search=check_choice(chosen["search"], SEARCHES, "search"),
        rescue=bool(chosen["rescue"]),
        batch_size=checked_batch_size(chosen.get("batch_size")),
    )
    rule = check_choice(chosen["rule"], paths.RULES, "rule")
    descent = _checked_descent(chosen["descent"], static.search)
    plain = [name for name in Coefficients._fields if name not in ("noise", "jitter")]
    numbers = {name: one_number(chosen[name], name) for name in plain}
    sigma = one_number(chosen["sigma"], "sigma")
    check_concrete(lambda s: s > 0, sigma, f"sigma must be above 0, got {sigma}.")  # flat areas: 0/0
    return _compiled(
        static,
        scores.as_pytree(score),
        image,
        baselines,
        Coefficients(noise=noise, jitter=jitter, **numbers),
        sigma,
        paths.RULES[rule](check_positive_int(chosen["steps"], "steps")),
        descent,
        _starting_masks(objective, options.get("init"), shape),
        None if noise is None and jitter is None else options.get("key"),
    )


@partial(jax.jit, static_argnums=0)
def _compiled(
    static: Static,
    score: Any,
    image: Array,
    baselines: Array,
    coefficients: Coefficients,
    sigma: Array,
    path: paths.Path,
    descent: Descent,
    masks: Array,
    key: Array | None,
) -> Heatmap:
    problem = Problem(score, image, baselines, edge_weights(image, sigma), path, coefficients)
    return optimize_mask(static, problem, descent, masks, key)


def checked_pictures(image: Array, baseline: Array) -> tuple[Array, Array]:
    """Image [H, W, C] and baselines [H, W, C] or [K, H, W, C] -> float32 [H, W, C] and [K, H, W, C]."""
    check_image(image)
    rank = getattr(baseline, "ndim", 0)
    if rank not in (3, 4) or baseline.shape[-3:] != image.shape or 0 in baseline.shape:
        raise ValueError(
            f"baseline must be {image.shape} like the image, or K of them [K, H, W, C]; "
            f"got shape {getattr(baseline, 'shape', type(baseline).__name__)}."
        )
    check_image(baseline.reshape(-1, *image.shape[1:]), "baseline")
    image, baseline = jnp.asarray(image, jnp.float32), jnp.asarray(baseline, jnp.float32)
    return image, baseline if rank == 4 else baseline[None]


def fitting_shape(shape: tuple[int, int], image: Array) -> tuple[int, int]:
    """The rows and columns of a mask that is no finer than its image."""
    if shape[0] > image.shape[0] or shape[1] > image.shape[1]:
        raise ValueError(f"size {shape} is finer than the image {image.shape[:2]}; choose at most that.")
    return shape


def _starting_masks(objective: Objective, init: Array | None, shape: tuple[int, int]) -> Array:
    if init is None:
        init = jnp.ones(shape)
    if getattr(init, "shape", None) != shape:
        raise ValueError(f"init must be a mask of shape {shape}, got {getattr(init, 'shape', init)!r}.")
    check_finite(init, "init")
    check_concrete(lambda m: (m >= 0) & (m <= 1), init, "init must lie in 0..1, where 1 keeps a pixel.")
    return jnp.broadcast_to(jnp.asarray(init, jnp.float32), (objective.masks, *shape))


def check_concrete(holds: Callable[[np.ndarray], Any], values: Array, message: str) -> None:
    """Refuse concrete values of which a condition does not hold; traced ones cannot be looked at."""
    if not isinstance(values, jax.core.Tracer) and not np.all(holds(np.asarray(values))):
        raise ValueError(message)


def _unless_zero(amount: float | Array, name: str) -> Array | None:
    """None for a concrete 0, which then costs nothing."""
    nothing = not isinstance(amount, jax.core.Tracer) and np.all(np.asarray(amount) == 0)
    return None if nothing else one_number(amount, name)


def _checked_descent(descent: Any, search: str) -> Descent:
    if not hasattr(descent, "move"):
        kinds = "a LineSearch, BestStep, FixedStep, Nesterov or Optax"
        raise TypeError(f"descent must be {kinds}, got {descent!r}.")
    if search == "gradient" and isinstance(descent, LineSearch | BestStep):
        raise ValueError(
            f"{type(descent).__name__} compares candidates: search must be 'endpoint' or 'path'."
        )
    return descent


def one_number(value: float | Array, name: str) -> Array:
    """float32 []; it may be traced."""
    number = jnp.asarray(value, jnp.float32)
    if number.ndim:
        raise ValueError(f"{name} must be one number, got shape {number.shape}; use jax.vmap for a sweep.")
    check_finite(number, name)
    return number


def checked_batch_size(batch_size: int | None) -> int:
    """Images per model call; None chooses by platform."""
    return funnel.default_batch_size() if batch_size is None else check_positive_int(batch_size, "batch_size")
