"""Extremal perturbation: of all smooth masks of a given area, the one whose content scores highest.

Not the engine of the other recipes: the area is fixed by a constraint that grows, the last mask counts and
not the best, and what is optimised are parameters from which a smooth maximum makes the mask.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import check_finite, check_positive_int
from jaxplain.masks.engine import Status
from jaxplain.masks.run import (
    check_concrete,
    checked_batch_size,
    checked_pictures,
    fitting_shape,
    one_number,
)
from jaxplain.masks.settings import mask_shape
from jaxplain.perturb import blend, upsample

PUBLISHED_CELLS = 32 * 32  # one parameter every 7 pixels of 224
SHARPNESS = 20.0  # of the smooth maximum
REACH = 2.0  # how far a parameter is seen, in sigma; its weight there is about 0.01
MOST_NEIGHBOURS = 2**24


class ExtremalHistory(NamedTuple):
    """What happened, one row an area (A of them), one column an iteration (T)."""

    score: Array  # [A, T], of the preserved image before the iteration
    miss: Array  # [A, T], mean squared distance of the sorted mask from the reference before it


class ExtremalMasks(NamedTuple):
    """The result for one image and A areas. Masks show what they find: high = important."""

    saliency: Array  # [H, W] in [0, 1], mean of the upsampled masks over the areas, high = important
    masks: Array  # [A, h, w] in [0, 1], 1 keeps a pixel: high = important
    areas: Array  # [A], asked for
    reached: Array  # [A], mean of each mask
    scores: Array  # [A], of the image that each mask preserves
    status: Array  # int32 [], a Status
    image_score: Array  # []
    baseline_score: Array  # []
    history: ExtremalHistory
    evaluations: Array  # int32 [], images scored by the model, forward-and-backward counted once


def extremal_perturbation(
    score: scores.Score,
    image: Array,
    baseline: Array,
    *,
    areas: float | Sequence[float] | Array = 0.1,
    size: int | tuple[int, int] = 28,
    iterations: int = 800,
    weight: float | Array = 15.0,
    growth: float | Array = 1.0035,
    rate: float | Array = 0.02,
    momentum: float | Array = 0.9,
    sigma: float | None = None,
    batch_size: int | None = None,
) -> ExtremalMasks:
    """Extremal perturbation: the mask of a fixed area that preserves the score best.

    Minimises `-f(phi(m)) / range + weight_t * mean((sort(m) - r)^2)` by gradient descent with momentum. Here
    r holds zeros, then ones on the last share `area` of the places, `weight_t = weight * growth^t`, and range
    is the image's score less the baseline's. Each mask cell is a smooth maximum over the parameters around
    it, each times a bell of its distance. All areas are optimised side by side in one program. Edges stay
    soft: the share of cells above 1/2 comes to the area within a percent or so, the mask's mean to more.

    Four things differ from the published program. (1) The score is divided by its range. Published are weight
    300 and rate 0.01 for logits; for a range of 20 those are 15 and 0.2, or 0.02 with an undamped momentum.
    Undivided, a constraint of 300 hides a probability: the mask of one photo scored .0008, with 15 .52.
    (2) The mask is made at its own resolution and enlarged bilinearly, not made pixel by pixel. (3) Cells of
    equal value share the reference of their places, so that no corner of an all-equal start is preferred.
    (4) Hidden pixels show the one baseline given, instead of one of 8 levels of blur by the mask's value.

    Args:
      score: what to explain, a callable pytree from images [N, H, W, C] to [N]; see `class_score`.
      image: [H, W, C] float, in the model's input space.
      baseline: [H, W, C], what hides a pixel.
      areas: share of the mask that is kept, one or several [A] between 0 and 1; may be traced.
      size: rows and columns of the parameters and the mask (static).
      iterations: static.
      weight: of the area constraint at the start; may be traced, as may the other numbers.
      growth: its factor in each iteration.
      rate: learning rate, for 32 x 32 parameters; gradients of others are scaled to it.
      momentum: 0 for plain gradient descent.
      sigma: width of the bell in pixels (static); None is 21 for 224, 3/32 of the longer side.
      batch_size: images per model call; None chooses by platform.

    Returns:
      `ExtremalMasks`, each array with a leading axis of areas also for a single one.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit; a NaN in the image or baseline.
        A score that is NaN or not above its baseline's is no error but a `Status` in the result.

    References:
      Fong, Patrick, Vedaldi. Understanding Deep Networks via Extremal Perturbations and Smooth Masks. ICCV
      2019.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import masks
      >>> image = jnp.zeros((16, 16, 3)).at[4:8, 4:8].set(1.0)
      >>> score = lambda images: images[:, 4:8, 4:8].mean((1, 2, 3))
      >>> found = masks.extremal_perturbation(
      ...     score, image, jnp.zeros((16, 16, 3)), areas=(0.1, 0.2), size=8, iterations=200)
      >>> found.masks.shape, bool(found.saliency[6, 6] > 0.5 > found.saliency[14, 14])
      ((2, 8, 8), True)
    """
    image, baselines = checked_pictures(image, baseline)
    if len(baselines) != 1:
        raise ValueError(f"baseline must be {image.shape} like the image, got {len(baselines)} of them.")
    numbers = {"weight": weight, "growth": growth, "rate": rate, "momentum": momentum}
    static = _Static(
        iterations=check_positive_int(iterations, "iterations"),
        shape=fitting_shape(mask_shape(size), image),
        sigma=_checked_sigma(sigma, image.shape),
        batch_size=checked_batch_size(batch_size),
    )
    _check_neighbours(static, image.shape)
    return _compiled(
        static,
        scores.as_pytree(score),
        image,
        baselines[0],
        _checked_areas(areas),
        _Numbers(**{name: one_number(value, name) for name, value in numbers.items()}),
    )


class _Static(NamedTuple):
    """Every choice that shapes the program."""

    iterations: int
    shape: tuple[int, int]
    sigma: float
    batch_size: int


class _Numbers(NamedTuple):
    """Every number; each may be traced."""

    weight: Array
    growth: Array
    rate: Array
    momentum: Array


class _Problem(NamedTuple):
    """What all areas share."""

    score: Any
    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    range: Array  # [], of the score, above 0
    numbers: _Numbers


@partial(jax.jit, static_argnums=0)
def _compiled(
    static: _Static, score: Any, image: Array, baseline: Array, areas: Array, numbers: _Numbers
) -> ExtremalMasks:
    ends = funnel.evaluate(
        score, _draw, jnp.ones((1, 1)), (image, baseline), jnp.arange(2.0)[::-1], batch_size=static.batch_size
    )
    span, shape = ends[0] - ends[1], (image.shape[0], image.shape[1])
    problem = _Problem(score, image, baseline, jnp.where(span > 0, span, 1.0), numbers)
    masks, reached_scores, history = jax.vmap(partial(_optimize, static, problem))(areas)
    saliency = jnp.mean(jax.vmap(lambda mask: upsample(mask, shape))(masks), axis=0)
    finite = (
        jnp.all(jnp.isfinite(ends)) & jnp.all(jnp.isfinite(reached_scores)) & jnp.all(jnp.isfinite(masks))
    )
    status = jnp.where(span > 0, Status.OK, Status.NOT_ABOVE_BASELINE)
    return ExtremalMasks(
        saliency=saliency,
        masks=masks,
        areas=areas,
        reached=jnp.mean(masks, axis=(1, 2)),
        scores=reached_scores,
        status=jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32),
        image_score=ends[0],
        baseline_score=ends[1],
        history=history,
        evaluations=jnp.int32(2 + len(areas) * (static.iterations + 1)),
    )


class _State(NamedTuple):
    """The carry of the loop over iterations."""

    parameters: Array  # [h, w] in [0, 1]
    descent: Any


def _optimize(static: _Static, problem: _Problem, area: Array) -> tuple[Array, Array, ExtremalHistory]:
    """One area: the mask [h, w] after the last iteration, its score and the history [T]."""
    numbers = problem.numbers
    smooth = partial(_smooth_maximum, *_neighbours(static, problem.image.shape))
    optimiser = optax.sgd(numbers.rate, numbers.momentum)
    pictures = (problem.image, problem.baseline)
    whole, scale = jnp.ones(1), static.shape[0] * static.shape[1] / PUBLISHED_CELLS

    def step(state: _State, iteration: Array) -> tuple[_State, ExtremalHistory]:
        mask, back = jax.vjp(smooth, state.parameters)
        found = funnel.value_and_grad(
            problem.score, _draw, mask, pictures, whole, whole, batch_size=static.batch_size
        )
        miss, slope = jax.value_and_grad(area_miss)(mask, area)
        weight = numbers.weight * numbers.growth**iteration
        (grads,) = back(weight * slope - found.grads / problem.range)
        updates, descent = optimiser.update(scale * grads, state.descent)
        parameters = jnp.clip(state.parameters + updates, 0.0, 1.0)
        return _State(parameters, descent), ExtremalHistory(found.values[0], miss)

    start = jnp.ones(static.shape, jnp.float32)
    end, history = jax.lax.scan(step, _State(start, optimiser.init(start)), jnp.arange(static.iterations))
    mask = smooth(end.parameters)
    last = funnel.evaluate(problem.score, _draw, mask, pictures, whole, batch_size=static.batch_size)
    return mask, last[0], history


def _draw(mask: Array, pictures: tuple[Array, Array], strength: Array) -> Array:
    image, baseline = pictures
    return blend(image, baseline, strength * upsample(mask, (image.shape[0], image.shape[1])))


def area_miss(mask: Array, area: Array) -> Array:
    """How far a mask [h, w] is from a binary one of the given area: `mean((m - r)^2)`, a number.

    r is 1 for the share `area` of the cells of largest value and 0 for the others. Cells of equal value share
    what their places hold; r is no function of m to the gradient.
    """
    values = jax.lax.stop_gradient(mask.reshape(-1))
    ascending = jnp.sort(values)
    below = jnp.searchsorted(ascending, values, side="left")
    up_to = jnp.searchsorted(ascending, values, side="right")
    zeros = jnp.round((1.0 - area) * values.size)
    ones = jnp.maximum(up_to - zeros, 0.0) - jnp.maximum(below - zeros, 0.0)
    reference = (ones / (up_to - below)).reshape(mask.shape)
    return jnp.mean((mask - reference) ** 2)


def _smooth_maximum(places: np.ndarray, bell: np.ndarray, parameters: Array) -> Array:
    """[h, w] -> [h, w]: a mean of the neighbours times the bell that favours the largest."""
    values = bell * parameters.reshape(-1)[places]  # [h * w, neighbours]
    return jnp.sum(jax.nn.softmax(SHARPNESS * values, axis=1) * values, axis=1).reshape(parameters.shape)


@lru_cache(maxsize=16)
def _neighbours(static: _Static, image_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which parameters a cell sees, int32 [h * w, O], and how strongly, float32 [1, O].

    All cells see the same pattern: parameters beyond the border repeat those on it.
    """
    spacing = _spacing(static.shape, image_shape)
    reach = [int(REACH * static.sigma / gap) for gap in spacing]
    down, right = (
        offsets.reshape(-1) for offsets in np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    )
    distance = np.hypot(down * spacing[0], right * spacing[1]) / static.sigma
    down, right, distance = (values[distance <= REACH] for values in (down, right, distance))
    bell = np.exp(-2.0 * np.maximum(distance - 0.5, 0.0) ** 2)
    rows, cols = np.indices(static.shape).reshape(2, -1, 1)
    height, width = static.shape
    places = np.clip(rows + down, 0, height - 1) * width + np.clip(cols + right, 0, width - 1)
    return places.astype(np.int32), bell[None].astype(np.float32)


def _spacing(shape: tuple[int, int], image_shape: tuple[int, ...]) -> list[float]:
    """Pixels between neighbouring cells, whose corners are the image's."""
    return [
        (pixels - 1) / max(cells - 1, 1) or 1.0 for cells, pixels in zip(shape, image_shape, strict=False)
    ]


def _checked_sigma(sigma: float | None, image_shape: tuple[int, ...]) -> float:
    width = 3 / 32 * max(image_shape[:2]) if sigma is None else float(sigma)
    if not 0 < width < np.inf:
        raise ValueError(f"sigma must be above 0, got {sigma}.")
    return width


def _check_neighbours(static: _Static, image_shape: tuple[int, ...]) -> None:
    down, right = (2 * REACH * static.sigma / gap + 1 for gap in _spacing(static.shape, image_shape))
    if static.shape[0] * static.shape[1] * down * right > MOST_NEIGHBOURS:
        raise ValueError(
            f"size {static.shape} is too fine for masks as smooth as sigma {static.sigma:g} pixels: a cell "
            "would see too many parameters. The saliency has the image's resolution for any size."
        )


def _checked_areas(areas: float | Sequence[float] | Array) -> Array:
    array = jnp.asarray(areas, jnp.float32)
    if array.ndim > 1 or array.size == 0:
        raise ValueError(f"areas must be one number or several [A], got shape {array.shape}.")
    check_finite(array, "areas")
    check_concrete(lambda a: (a > 0) & (a < 1), array, f"areas must lie between 0 and 1, got {areas}.")
    return jnp.atleast_1d(array)
