"""Extremal perturbation: find the smooth mask of a given area that preserves the highest score.

It does not share the other recipes' engine: the area is enforced by a penalty with increasing weight, the
result is the last mask rather than the best, and a smooth maximum turns the optimized parameters into a mask.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import (
    Pair,
    as_grid,
    as_image,
    as_number,
    check_batch_size,
    check_finite,
    check_positive_int,
    check_where,
    refuse_derivatives,
)
from jaxplain.explanation import Explanation, Status, differ, finished
from jaxplain.perturb import as_baseline, blend, upsample

PUBLISHED_CELLS = 32 * 32  # one parameter every 7 pixels of 224
SHARPNESS = 20.0  # sharpness of the smooth maximum
REACH = 2.0  # radius of a parameter's influence, in units of sigma; the weight there is about 0.01
MAX_NEIGHBORS = 2**24


class ExtremalHistory(NamedTuple):
    """The optimization history: one row for each of the A areas, one column for each of the T iterations."""

    score: Array  # [A, T], score of the preserved image before the iteration
    miss: Array  # [A, T], mean squared distance between sorted mask and reference before the iteration


class ExtremalDetails(NamedTuple):
    """Details of extremal perturbation, for A areas."""

    masks: Array  # [A, h, w] in [0, 1]; 1 keeps a pixel, so high values are important
    areas: Array  # [A], requested areas
    reached: Array  # [A], mean of each mask
    scores: Array  # [A], score of the image preserved by each mask
    image_score: Array  # []
    baseline_score: Array  # []
    history: ExtremalHistory


def extremal_perturbation(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    areas: float | Sequence[float] | Array = 0.1,
    size: Pair = 28,
    iterations: int = 800,
    weight: float | Array = 15.0,
    growth: float | Array = 1.0035,
    rate: float | Array = 0.02,
    momentum: float | Array = 0.9,
    sigma: float | None = None,
) -> Explanation:
    """Explain with extremal perturbation: find the mask of a fixed area that best preserves the score.

    Minimizes `-f(phi(m)) / range + weight_t * mean((sort(m) - r)^2)` by gradient descent with momentum. Here
    the last fraction `area` of the entries of r are ones and the others are zeros,
    `weight_t = weight * growth^t`, and range is the image's score minus the baseline's. Each mask cell is a
    smooth maximum over the nearby parameters, each multiplied by a bell-shaped function of its distance. All
    areas are optimized in parallel in one program. Edges stay soft: the fraction of cells above 1/2 is within
    about one percent of the area, but the mask's mean may be further from it.

    The implementation differs from the published code in four ways. (1) The score is divided by its range.
    For logits, the published weight is 300 and the rate 0.01. With a range of 20, these correspond to 15 and
    0.2, or 0.02 with undamped momentum. Without the division, a weight of 300 overwhelms a probability: on
    one photo, the preserved image scored .0008, compared with .52 for a weight of 15. (2) The mask is
    computed at its own resolution and upsampled bilinearly, instead of being computed for every pixel.
    (3) Cells with equal values share the mean of their reference values, so that a uniform initial mask
    favors no corner. (4) Hidden pixels show the given baseline, instead of one of 8 blur levels selected by
    the mask's value.

    Args:
      score: the score to explain, a callable pytree from images [N, H, W, C] to [N]; see `class_score`.
      image: [H, W, C] float, in the model's input space.
      baseline: image that replaces hidden pixels, [H, W, C]; default: the blurred image.
      key: ignored; the method is deterministic.
      batch_size: images per model call; default: chosen for the platform.
      areas: fraction of the mask to keep, between 0 and 1; a scalar or an array [A]. May be traced.
      size: rows and columns of the parameters and the mask (static), at most the image's; the default is
        reduced for smaller images.
      iterations: number of gradient steps (static).
      weight: initial weight of the area constraint; `weight`, `growth`, `rate` and `momentum` may be traced.
      growth: factor by which the weight grows in each iteration.
      rate: learning rate for 32 x 32 parameters; for other sizes, gradients are scaled accordingly.
      momentum: momentum of the gradient descent; 0 disables it.
      sigma: width of the bell in pixels (static); default: 3/32 of the image's longer side (21 for 224).

    Returns:
      An `Explanation` with importance [h, w] (the mean of the masks over the areas) and `ExtremalDetails`,
      whose arrays have a leading axis of areas even for a single area. It is not differentiable: `jax.grad`
      raises a TypeError.

    Raises:
      ValueError, TypeError: if shapes, dtypes or options are invalid, or the image or baseline contains NaN.
        A score that is NaN or not above the baseline's sets the status instead.

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
      >>> found.details.masks.shape, bool(found.importance[3, 3] > 0.5 > found.importance[7, 7])
      ((2, 8, 8), True)
    """
    image = as_image(image)
    baseline = as_baseline(baseline, image)
    numbers = {"weight": weight, "growth": growth, "rate": rate, "momentum": momentum}
    choices = _ExtremalChoices(
        iterations=check_positive_int(iterations, "iterations"),
        shape=as_grid(size, image.shape, "size", default=28),
        sigma=_checked_sigma(sigma, image.shape),
        batch_size=check_batch_size(batch_size),
    )
    _check_neighbors(choices, image.shape)
    problem = _ExtremalProblem(
        score=scores.as_pytree(score),
        image=image,
        baseline=baseline,
        areas=_checked_areas(areas),
        **{name: as_number(value, name) for name, value in numbers.items()},
    )
    return _compiled_extremal(choices, problem)


class _ExtremalChoices(NamedTuple):
    """All static options, which determine the compiled program."""

    iterations: int
    shape: tuple[int, int]
    sigma: float
    batch_size: int | None


class _ExtremalProblem(NamedTuple):
    """The traced inputs, which stay constant during an optimization."""

    score: Any
    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    areas: Array  # [A]
    weight: Array
    growth: Array
    rate: Array
    momentum: Array


class _ExtremalState(NamedTuple):
    """Carry of the scan over iterations."""

    parameters: Array  # [A, h, w] in [0, 1]
    descent: Any
    range: Array  # [], the score's range, above 0


class _ExtremalStep(NamedTuple):
    """The outputs of one iteration."""

    score: Array  # [A]
    miss: Array  # [A]
    ends: Array  # [2], scores of image and baseline; NaN except in the first iteration


@partial(jax.jit, static_argnums=0)
def _compiled_extremal(choices: _ExtremalChoices, problem: _ExtremalProblem) -> Explanation:
    problem = refuse_derivatives(problem, "an extremal mask")
    count = len(problem.areas)
    smooth = jax.vmap(partial(_smooth_maximum, *_neighbors(choices, problem.image.shape)))
    parameters = jnp.ones((count, *choices.shape), jnp.float32)
    start = _ExtremalState(parameters, _optimizer(problem).init(parameters), jnp.float32(1.0))

    def step(state: _ExtremalState, iteration: Array) -> tuple[_ExtremalState, _ExtremalStep]:
        return _iterate(choices, problem, smooth, state, iteration)

    end, steps = jax.lax.scan(step, start, jnp.arange(choices.iterations))
    masks = smooth(end.parameters)
    last = funnel.evaluate(
        problem.score, _draw_extremal, masks, (problem.image, problem.baseline), _preserved_items(count),
        batch_size=choices.batch_size,
    )  # fmt: skip
    ends = steps.ends[0]
    details = ExtremalDetails(
        masks=masks,
        areas=problem.areas,
        reached=jnp.mean(masks, axis=(1, 2)),
        scores=last,
        image_score=ends[0],
        baseline_score=ends[1],
        history=ExtremalHistory(steps.score.T, steps.miss.T),
    )
    status = jnp.where((ends[0] > ends[1]) & differ(ends), Status.OK, Status.NOT_ABOVE_BASELINE)
    evaluations = 2 + count * (choices.iterations + 1)
    return finished(jnp.mean(masks, axis=0), jnp.concatenate([ends, last]), evaluations, details, status)


def _iterate(
    choices: _ExtremalChoices,
    problem: _ExtremalProblem,
    smooth: Callable[[Array], Array],
    state: _ExtremalState,
    iteration: Array,
) -> tuple[_ExtremalState, _ExtremalStep]:
    count, is_first = len(problem.areas), iteration == 0
    preserved, ends = _preserved_items(count), _end_items()
    items = jax.tree_util.tree_map(lambda *rows: jnp.concatenate(rows), preserved, ends)
    is_preserved = jnp.arange(count + 2) < count
    masks, back = jax.vjp(smooth, state.parameters)
    evaluated = funnel.value_and_grad(
        problem.score, _draw_extremal, masks, (problem.image, problem.baseline), items,
        is_preserved.astype(jnp.float32), live=is_preserved | is_first, usually_live=count,
        batch_size=choices.batch_size,
    )  # fmt: skip
    values, end_values = evaluated.values[:count], evaluated.values[count:]
    span = end_values[0] - end_values[1]
    scale = jnp.where(is_first, jnp.where(span > 0, span, 1.0), state.range)
    miss, slope = jax.vmap(jax.value_and_grad(area_miss))(masks, problem.areas)
    weight = problem.weight * problem.growth**iteration
    (grads,) = back(weight * slope - evaluated.grads / scale)
    cells = choices.shape[0] * choices.shape[1] / PUBLISHED_CELLS
    updates, descent = _optimizer(problem).update(cells * grads, state.descent)
    parameters = jnp.clip(state.parameters + updates, 0.0, 1.0)
    return _ExtremalState(parameters, descent, scale), _ExtremalStep(values, miss, end_values)


def _optimizer(problem: _ExtremalProblem) -> optax.GradientTransformation:
    return optax.sgd(problem.rate, problem.momentum)


class _ExtremalItems(NamedTuple):
    """Images to score, one row per image."""

    area: Array  # int32 [N], index of the mask
    is_flat: Array  # bool [N], whether to use a constant mask with value `level` instead
    level: Array  # [N]


def _preserved_items(count: int) -> _ExtremalItems:
    """Return one row per mask, for the image that it preserves."""
    return _ExtremalItems(jnp.arange(count, dtype=jnp.int32), jnp.zeros(count, bool), jnp.zeros(count))


def _end_items() -> _ExtremalItems:
    """Return the rows for the image and the baseline."""
    return _ExtremalItems(jnp.zeros(2, jnp.int32), jnp.ones(2, bool), jnp.array([1.0, 0.0]))


def _draw_extremal(masks: Array, pictures: tuple[Array, Array], item: _ExtremalItems) -> Array:
    image, baseline = pictures
    mask = upsample(masks[item.area], (image.shape[0], image.shape[1]))
    return blend(image, baseline, jnp.where(item.is_flat, item.level, mask))


def area_miss(mask: Array, area: Array) -> Array:
    """Return the distance of a mask [h, w] from a binary mask r with the given area: `mean((m - r)^2)`.

    r is 1 for the fraction `area` of cells with the largest values and 0 for the others. Cells with equal
    values share the mean of r over their ranks. The gradient treats r as a constant.
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
    """Return the softmax-weighted mean of the bell-weighted neighbors: [h, w] -> [h, w]."""
    values = bell * parameters.reshape(-1)[places]  # [h * w, neighbors]
    return jnp.sum(jax.nn.softmax(SHARPNESS * values, axis=1) * values, axis=1).reshape(parameters.shape)


@lru_cache(maxsize=16)
def _neighbors(choices: _ExtremalChoices, image_shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the parameters that influence each cell, int32 [h * w, O], and their weights, float32 [1, O].

    The weights are the same for all cells: parameters on the border are repeated beyond it.
    """
    spacing = _spacing(choices.shape, image_shape)
    reach = [int(REACH * choices.sigma / gap) for gap in spacing]
    down, right = (
        offsets.reshape(-1) for offsets in np.mgrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    )
    distance = np.hypot(down * spacing[0], right * spacing[1]) / choices.sigma
    down, right, distance = (values[distance <= REACH] for values in (down, right, distance))
    bell = np.exp(-2.0 * np.maximum(distance - 0.5, 0.0) ** 2)
    rows, cols = np.indices(choices.shape).reshape(2, -1, 1)
    height, width = choices.shape
    places = np.clip(rows + down, 0, height - 1) * width + np.clip(cols + right, 0, width - 1)
    return places.astype(np.int32), bell[None].astype(np.float32)


def _spacing(shape: tuple[int, int], image_shape: tuple[int, ...]) -> list[float]:
    """Return the spacing of mask cells in pixels; the corners of mask and image coincide."""
    return [
        (pixels - 1) / max(cells - 1, 1) or 1.0 for cells, pixels in zip(shape, image_shape, strict=False)
    ]


def _checked_sigma(sigma: float | None, image_shape: tuple[int, ...]) -> float:
    width = 3 / 32 * max(image_shape[:2]) if sigma is None else float(sigma)
    if not 0 < width < np.inf:
        raise ValueError(f"sigma must be above 0, got {sigma}.")
    return width


def _check_neighbors(choices: _ExtremalChoices, image_shape: tuple[int, ...]) -> None:
    down, right = (2 * REACH * choices.sigma / gap + 1 for gap in _spacing(choices.shape, image_shape))
    if choices.shape[0] * choices.shape[1] * down * right > MAX_NEIGHBORS:
        raise ValueError(
            f"size {choices.shape} is too fine for a sigma of {choices.sigma:g} pixels: each cell "
            "would have too many neighbors. Choose a smaller size; the map can be upsampled afterwards."
        )


def _checked_areas(areas: float | Sequence[float] | Array) -> Array:
    array = jnp.asarray(areas, jnp.float32)
    if array.ndim > 1 or array.size == 0:
        raise ValueError(f"areas must be one number or an array [A], got shape {array.shape}.")
    check_finite(array, "areas")
    check_where(lambda a: (a > 0) & (a < 1), array, f"areas must lie between 0 and 1, got {areas}.")
    return jnp.atleast_1d(array)
