"""The objective for mask optimization: path-integrated scores plus penalties on size and roughness.

In shapes, M is the number of optimized masks, L the number of layers (masks used by the terms), h and w the
mask's rows and columns, H and W the image's rows and columns, K the number of baselines, S the number of path
nodes, and A the number of candidate masks compared at once. Mask values of 1 keep a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import funnel, scores
from jaxplain.paths import Path, add_noise
from jaxplain.perturb import blend, upsample

# ---------------------------------------------------------------------------------------------------------
# Penalties. All are means, so that their scale does not depend on the resolution.


def magnitude(values: Array) -> Array:
    """Return |x| with derivative 0 at x = 0, where the derivative of `jnp.abs` is 1.

    Every mask starts at exactly 1, where the penalty |1 - m| has its kink. A derivative of 1 would lower all
    cells in the first step; in the published code (PyTorch) it is 0. With the fixed step of 1000, this
    difference alone raised the deletion AUC of iGOS++ from .25 to .44 on one photo.
    """
    return values * jnp.sign(values)


def l1(mask: Array) -> Array:
    """Return the mean distance from the empty mask, `mean(|1 - m|)`, with subgradient 0 at 1."""
    return jnp.mean(magnitude(1.0 - mask))


def total_variation(mask: Array, power: float = 2.0) -> Array:
    """Return the total variation, the sum over both axes of `mean(|m[i + 1] - m[i]|^power)`."""
    return _sum_of_means(*(_power(d, power) for d in _differences(mask)))


class EdgeWeights(NamedTuple):
    """Weights of neighboring pixels: near 1 in flat regions of the image, near 0 across edges."""

    rows: Array  # [H - 1, W]
    cols: Array  # [H, W - 1]


def edge_weights(image: Array, sigma: float | Array = 0.01) -> EdgeWeights:
    """Return `exp(-d^2 / sigma)`, where d^2 is the squared neighbor difference averaged over channels.

    The authors' code averages before squaring on one axis, and after squaring and exponentiating on the
    other; here both axes are treated alike.
    """
    return EdgeWeights(*(jnp.exp(-jnp.mean(d**2, axis=-1) / sigma) for d in _differences(image)))


def bilateral_total_variation(mask: Array, edges: EdgeWeights, power: float = 2.0) -> Array:
    """Return the mean of the mask's total variation and the edge-weighted variation of the upsampled mask.

    This is the BTV from iGOS++ (Khorram, Lawson, Fuxin, CHIL 2021). It penalizes changes in the mask less
    where the image changes too.
    """
    shape = edges.rows.shape[0] + 1, edges.rows.shape[1]
    rows, cols = (_power(d, power) for d in _differences(upsample(mask, shape)))
    return 0.5 * (total_variation(mask, power) + _sum_of_means(edges.rows * rows, edges.cols * cols))


def _differences(array: Array) -> tuple[Array, Array]:
    return jnp.diff(array, axis=0), jnp.diff(array, axis=1)


def _power(differences: Array, power: float) -> Array:
    return differences**2 if power == 2 else magnitude(differences) ** power


def _sum_of_means(rows: Array, cols: Array) -> Array:
    """Return the sum of the two means; an axis of length 1 has no neighbors and contributes 0, not NaN."""
    means = [jnp.mean(d) if d.size else jnp.zeros((), jnp.float32) for d in (rows, cols)]
    return means[0] + means[1]


# ---------------------------------------------------------------------------------------------------------
# The objective


class Term(NamedTuple):
    """One path-integrated score.

    Deletion integrates along the path from the baseline to the masked image and is minimized. Insertion
    integrates along the path from the image to the image masked by the complement, and is maximized.
    """

    layer: int
    insertion: bool


@dataclass(frozen=True)
class Objective:
    """The static structure of an objective; its numeric values are in `Coefficients`."""

    masks: int  # M
    combine: Callable[[Array], Array]  # [M, ...] -> [L, ...]; the last layer is the explanation
    terms: tuple[Term, ...]
    smoothness: Literal["tv", "btv"]
    power: float = 2.0  # exponent of the neighbor differences in the smoothness penalty


class Coefficients(NamedTuple):
    """The numeric values of an objective; each may be traced."""

    l1: Array
    l2: Array
    noise: (
        Array | None
    )  # standard deviation of noise along the path, model space; None omits it from the program
    score_weight: Array  # weight of the score terms relative to the penalties; affects only the gradient
    deletion: Array  # weight of the deletion terms
    insertion: Array  # weight of the insertion terms
    jitter: Array | None = None  # maximum random shift of the image in pixels; None omits it


class Problem(NamedTuple):
    """The traced inputs, which stay constant during an optimization."""

    score: scores.Score
    image: Array  # [H, W, C]
    baselines: Array  # [K, H, W, C]
    edges: EdgeWeights
    path: Path
    coefficients: Coefficients


class Setup(NamedTuple):
    """The static part of a problem."""

    objective: Objective
    batch_size: int | None
    needs_endpoint: bool = True  # whether to compute the endpoint loss of `References`


def explained_mask(objective: Objective, masks: Array) -> Array:
    """Combine the optimized masks into the resulting mask: [M, h, w] -> [h, w]."""
    return objective.combine(masks)[-1]


def penalty(setup: Setup, problem: Problem, masks: Array) -> Array:
    """Return the resulting mask's penalty, `l1 * L1 + l2 * smoothness`: [M, h, w] -> []."""
    mask, numbers = explained_mask(setup.objective, masks), problem.coefficients
    return numbers.l1 * l1(mask) + numbers.l2 * smoothness(setup, problem, mask)


def smoothness(setup: Setup, problem: Problem, mask: Array) -> Array:
    """Return the TV or BTV of a mask: [h, w] -> []."""
    if setup.objective.smoothness == "tv":
        return total_variation(mask, setup.objective.power)
    return bilateral_total_variation(mask, problem.edges, setup.objective.power)


class Slopes(NamedTuple):
    """The path-integrated objective and its gradient."""

    loss: Array  # [], the score weight is not applied
    grads: Array  # [M, h, w]
    deletion: Array  # [], mean score of the deletion terms; NaN if there are none
    insertion: Array  # [], mean score of the insertion terms; NaN if there are none
    references: "References"


class References(NamedTuple):
    """Scores needed only once, at the initial masks; NaN if they were not requested."""

    image_score: Array  # []
    baseline_score: Array  # [], mean over baselines
    endpoint_loss: Array  # [], loss at the end of the path, without noise


def slopes(setup: Setup, problem: Problem, masks: Array, key: Array | None, with_references: Array) -> Slopes:
    """Evaluate the path-integrated objective and its gradient at masks [M, h, w].

    Args:
      setup: the static part of the problem.
      problem: the traced part of the problem.
      masks: [M, h, w].
      key: random key for noise and jitter, or None if neither is used. Consumed.
      with_references: bool [], whether to score the images of `References`. They are extra rows in the same
        batch, without a gradient, so the program needs no extra copy of the model. They cost nothing if this
        is False.
    """
    on_path = _path_items(setup.objective, problem, 1, key)
    references = _reference_items(len(problem.baselines))
    at_end = _endpoint_items(setup, problem, 1) if setup.needs_endpoint else None
    items = _joined(on_path, references, *([] if at_end is None else [at_end]))
    usual = len(on_path.weight)
    is_on_path = jnp.asarray(np.arange(len(items.weight)) < usual)
    layers, back = jax.vjp(lambda m: _layers(setup.objective, m, problem.image.shape), masks)
    evaluated = funnel.value_and_grad(
        problem.score, _render(items), layers[None], _context(problem), items,
        jnp.where(is_on_path, items.weight, 0.0),
        live=is_on_path | with_references, usually_live=usual, batch_size=setup.batch_size,
    )  # fmt: skip
    along, ends, last = jnp.split(evaluated.values, [usual, usual + len(references.weight)])
    penalties, penalty_grads = jax.value_and_grad(lambda m: penalty(setup, problem, m))(masks)
    deletion, insertion = _mean_scores(setup.objective, problem, along)
    return Slopes(
        loss=jnp.sum(on_path.weight * along) + penalties,
        grads=problem.coefficients.score_weight * back(evaluated.grads[0])[0] + penalty_grads,
        deletion=deletion,
        insertion=insertion,
        references=References(
            image_score=ends[0],
            baseline_score=jnp.mean(ends[1:]),
            endpoint_loss=penalties + (jnp.nan if at_end is None else jnp.sum(at_end.weight * last)),
        ),
    )


def path_losses(
    setup: Setup, problem: Problem, candidates: Array, key: Array | None, needed: Array | None = None
) -> Array:
    """Return the path-integrated objective for A candidates: [A, M, h, w] -> [A].

    If `needed` (a bool scalar) is False, the model is not evaluated and the losses are NaN.
    """
    items = _path_items(setup.objective, problem, len(candidates), key)
    return _losses(setup, problem, candidates, items, needed)


def endpoint_losses(setup: Setup, problem: Problem, candidates: Array, needed: Array | None = None) -> Array:
    """Return the objective for A candidates at the end of the path, without noise: [A, M, h, w] -> [A].

    This is S times cheaper than `path_losses`, and deterministic.
    """
    return _losses(setup, problem, candidates, _endpoint_items(setup, problem, len(candidates)), needed)


def evaluations(setup: Setup, problem: Problem, *, endpoint: bool) -> int:
    """Return the number of model evaluations per candidate, over all terms."""
    nodes = 1 if endpoint else len(problem.path.nodes)
    return len(setup.objective.terms) * len(problem.baselines) * nodes


def _losses(
    setup: Setup, problem: Problem, candidates: Array, items: "_PathItems", needed: Array | None
) -> Array:
    layers = jax.vmap(lambda m: _layers(setup.objective, m, problem.image.shape))(candidates)
    count = len(items.weight)
    live, usual = (None, None) if needed is None else (jnp.broadcast_to(needed, count), count)
    values = funnel.evaluate(
        problem.score, _render(items), layers, _context(problem), items,
        live=live, usually_live=usual, batch_size=setup.batch_size,
    )  # fmt: skip
    terms = jnp.sum((items.weight * values).reshape(len(candidates), -1), axis=1)
    return terms + jax.vmap(lambda m: penalty(setup, problem, m))(candidates)


def _layers(objective: Objective, masks: Array, shape: tuple[int, ...]) -> Array:
    """Upsample masks, then combine them: [M, h, w] -> [L, H, W]."""
    return objective.combine(jax.vmap(lambda m: upsample(m, (shape[0], shape[1])))(masks))


def _mean_scores(objective: Objective, problem: Problem, values: Array) -> tuple[Array, Array]:
    """Average the scores of all path items into a deletion and an insertion score."""
    by_term = values.reshape(len(objective.terms), len(problem.baselines), -1)
    means = jnp.mean(by_term, axis=1) @ problem.path.weights
    insertion = jnp.array([term.insertion for term in objective.terms])

    def mean_where(chosen: Array) -> Array:
        return jnp.sum(jnp.where(chosen, means, 0.0)) / jnp.sum(chosen)

    return mean_where(~insertion), mean_where(insertion)


# ---------------------------------------------------------------------------------------------------------
# The images to score


Column = Array | np.ndarray
"""One value per image; a NumPy array if it is known during tracing and so becomes a constant."""


class _PathItems(NamedTuple):
    """Images on the paths: one row for each of the N images."""

    candidate: Column  # int32 [N], index of the candidate
    layer: Column  # int32 [N]
    insertion: Column  # bool [N]
    node: Column  # [N], position on the path, from 0 (start) to 1 (end)
    baseline: Column  # int32 [N]
    weight: Column  # [N], weight of the score in the objective
    is_plain: Column  # bool [N], whether to omit noise, jitter and gradient
    key: Any = None  # random keys [N] for noise and jitter


class _PathContext(NamedTuple):
    """Inputs shared by all images in a batch."""

    image: Array  # [H, W, C]
    baselines: Array  # [K, H, W, C]
    noise: Array | None  # []
    jitter: Array | None  # []


def _context(problem: Problem) -> _PathContext:
    numbers = problem.coefficients
    return _PathContext(problem.image, problem.baselines, numbers.noise, numbers.jitter)


def _path_items(objective: Objective, problem: Problem, candidates: int, key: Array | None) -> _PathItems:
    """Return one row for each combination of candidate, term, baseline and node."""
    layer = np.array([term.layer for term in objective.terms], np.int32)
    insertion = np.array([term.insertion for term in objective.terms])
    count, nodes = len(problem.baselines), len(problem.path.nodes)
    grid = np.indices((candidates, len(objective.terms), count, nodes), np.int32).reshape(4, -1)
    candidate, term, baseline, node = grid
    numbers = problem.coefficients
    is_random = numbers.noise is not None or numbers.jitter is not None
    sign = jnp.where(insertion, -numbers.insertion, numbers.deletion)
    weight = sign[:, None] * problem.path.weights[None] / count  # [terms, S]
    shape = (candidates, len(objective.terms), count, nodes)
    return _PathItems(
        candidate=candidate,
        layer=layer[term],
        insertion=insertion[term],
        node=problem.path.nodes[node],
        baseline=baseline,
        weight=jnp.broadcast_to(weight[None, :, None], shape).reshape(-1),
        is_plain=np.zeros(candidate.size, bool),
        key=jax.random.split(key, candidate.size) if key is not None and is_random else None,
    )


def _endpoint_items(setup: Setup, problem: Problem, candidates: int) -> _PathItems:
    """Return one row per candidate, term and baseline, at the end of the path, without noise."""
    one = jnp.ones(1, jnp.float32)
    items = _path_items(setup.objective, problem._replace(path=Path(one, one)), candidates, None)
    return items._replace(is_plain=np.ones(len(items.weight), bool))


def _reference_items(baselines: int) -> _PathItems:
    """Return rows for the image (the start of insertion paths) and the baselines (of deletion paths)."""
    place = np.arange(1 + baselines, dtype=np.int32)
    return _PathItems(
        candidate=np.zeros_like(place),
        layer=np.zeros_like(place),
        insertion=place == 0,
        node=np.zeros(1 + baselines, np.float32),
        baseline=np.maximum(place - 1, 0),
        weight=np.zeros(1 + baselines, np.float32),
        is_plain=np.ones(1 + baselines, bool),
    )


def _joined(items: _PathItems, *others: _PathItems) -> _PathItems:
    """Concatenate groups of items; only the first group uses its keys, as the others are plain."""
    key = items.key
    parts = [part._replace(key=None) for part in (items, *others)]
    joined = jax.tree_util.tree_map(_concatenated, *parts)
    if key is None:
        return joined
    return joined._replace(key=key[jnp.minimum(jnp.arange(len(joined.weight)), len(key) - 1)])


def _concatenated(*columns: Column) -> Column:
    known = [column for column in columns if isinstance(column, np.ndarray)]
    return np.concatenate(known) if len(known) == len(columns) else jnp.concatenate(columns)


def _render(items: _PathItems) -> funnel.Render:
    return _draw if items.key is None else _draw_random


def _draw(layers: Array, context: _PathContext, item: _PathItems) -> Array:
    mask, baseline = layers[item.candidate, item.layer], context.baselines[item.baseline]
    # At the ends of the path, a score's gradient may be infinite; multiplied by a weight of 0, it gives NaN.
    mask = jnp.where(item.is_plain, jax.lax.stop_gradient(mask), mask)
    # The insertion path is the deletion path with image and baseline swapped.
    end = jnp.where(item.insertion, baseline, context.image)
    start = jnp.where(item.insertion, context.image, baseline)
    return blend(end, start, jnp.asarray(item.node) * mask)


def _draw_random(layers: Array, context: _PathContext, item: _PathItems) -> Array:
    picture = _draw(layers, _jittered(context, item), item)
    if context.noise is None:
        return picture
    return add_noise(picture, item.key, jnp.where(item.is_plain, 0.0, context.noise))


def _jittered(context: _PathContext, item: _PathItems) -> _PathContext:
    """Shift image and baselines randomly under the fixed mask, repeating border pixels."""
    if context.jitter is None:
        return context
    most = jnp.where(item.is_plain, 0.0, context.jitter).astype(jnp.int32)
    down, right = jax.random.randint(jax.random.fold_in(item.key, 1), (2,), -most, most + 1, jnp.int32)
    height, width = context.image.shape[:2]
    rows = jnp.clip(jnp.arange(height) - down, 0, height - 1)
    cols = jnp.clip(jnp.arange(width) - right, 0, width - 1)
    return context._replace(
        image=context.image[rows][:, cols], baselines=context.baselines[:, rows][:, :, cols]
    )
