"""What a mask is optimised for: terms of path-integrated scores, plus penalties.

M is the number of free masks, L of layers (what the terms look at), h, w a mask's rows and columns, H, W the
image's, K the number of baselines, S of path nodes, A of candidate masks compared at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.masks.penalties import EdgeWeights, bilateral_total_variation, l1, total_variation
from jaxplain.paths import Path, add_noise
from jaxplain.perturb import blend, upsample


class Term(NamedTuple):
    """One path-integrated score. Deletion: from the baseline to the masked image, to be made small.
    Insertion: from the image to the one with the mask's complement restored, to be made large."""

    layer: int
    insertion: bool


@dataclass(frozen=True)
class Objective:
    """The form of an objective; static, its numbers are `Coefficients`."""

    masks: int  # M
    combine: Callable[[Array], Array]  # [M, ...] -> [L, ...]; the last layer is the explanation
    terms: tuple[Term, ...]
    smoothness: Literal["tv", "btv"]
    power: float = 2.0  # of the neighbour differences in it


class Coefficients(NamedTuple):
    """The numbers of an objective; each may be traced."""

    l1: Array
    l2: Array
    noise: Array | None  # standard deviation along the path, model space; None leaves it out of the program
    score_weight: Array  # of the score terms against the penalties in the gradient, not in the measured loss
    deletion: Array  # weight of the deletion terms
    insertion: Array  # weight of the insertion terms
    jitter: Array | None = None  # largest random shift of the picture, pixels; None leaves it out


class Problem(NamedTuple):
    """All that stays the same during one optimisation; traced."""

    score: scores.Score
    image: Array  # [H, W, C]
    baselines: Array  # [K, H, W, C]
    edges: EdgeWeights
    path: Path
    coefficients: Coefficients


class Setup(NamedTuple):
    """The static half of a problem."""

    objective: Objective
    batch_size: int | None


class Slopes(NamedTuple):
    """Objective and gradient at some masks, integrated along the path."""

    loss: Array  # [], un-halved
    grads: Array  # [M, h, w]
    scores: "Scores"


class Scores(NamedTuple):
    """Mean score of the deletion and of the insertion terms (NaN when the objective has none)."""

    deletion: Array  # []
    insertion: Array  # []


class _Items(NamedTuple):
    """Flat batch of images to score, one row an image."""

    candidate: Array  # int32, which masks
    layer: Array  # int32
    insertion: Array  # bool
    node: Array  # place on the path, 1 = the end
    baseline: Array  # int32
    weight: Array
    key: Any  # [n] for the noise, or None


def explained_mask(objective: Objective, masks: Array) -> Array:
    """The mask that is the result: [M, h, w] -> [h, w]."""
    return objective.combine(masks)[-1]


def penalty(setup: Setup, problem: Problem, masks: Array) -> Array:
    """`l1 * L1 + l2 * smoothness` of the explained mask: [M, h, w] -> []."""
    mask, numbers = explained_mask(setup.objective, masks), problem.coefficients
    return numbers.l1 * l1(mask) + numbers.l2 * smoothness(setup, problem, mask)


def smoothness(setup: Setup, problem: Problem, mask: Array) -> Array:
    """TV or BTV of one mask: [h, w] -> []."""
    if setup.objective.smoothness == "tv":
        return total_variation(mask, setup.objective.power)
    return bilateral_total_variation(mask, problem.edges, setup.objective.power)


def slopes(setup: Setup, problem: Problem, masks: Array, key: Array | None) -> Slopes:
    """Path-integrated objective at masks [M, h, w] and its gradient; the key draws the noise."""
    items = _path_items(setup.objective, problem, 1, key)
    layers, back = jax.vjp(lambda m: _layers(setup.objective, m, problem.image.shape), masks)
    found = funnel.value_and_grad(
        problem.score, _render(items), layers[None], _context(problem), items, items.weight,
        batch_size=setup.batch_size,
    )  # fmt: skip
    penalties, penalty_grads = jax.value_and_grad(lambda m: penalty(setup, problem, m))(masks)
    grads = problem.coefficients.score_weight * back(found.grads[0])[0] + penalty_grads
    loss = jnp.sum(items.weight * found.values) + penalties
    return Slopes(loss, grads, _mean_scores(setup.objective, problem, found.values))


def path_losses(setup: Setup, problem: Problem, candidates: Array, key: Array | None) -> Array:
    """Path-integrated objective of A candidates: [A, M, h, w] -> [A]."""
    return _losses(setup, problem, candidates, _path_items(setup.objective, problem, len(candidates), key))


def endpoint_losses(setup: Setup, problem: Problem, candidates: Array) -> Array:
    """Objective of A candidates at the end of the path, without noise: [A, M, h, w] -> [A].

    S times cheaper than `path_losses`, and deterministic.
    """
    one = jnp.ones(1, jnp.float32)
    still = problem.coefficients._replace(noise=None, jitter=None)
    end = problem._replace(path=Path(one, one), coefficients=still)
    return _losses(setup, end, candidates, _path_items(setup.objective, end, len(candidates), None))


def _losses(setup: Setup, problem: Problem, candidates: Array, items: _Items) -> Array:
    layers = jax.vmap(lambda m: _layers(setup.objective, m, problem.image.shape))(candidates)
    values = funnel.evaluate(
        problem.score, _render(items), layers, _context(problem), items, batch_size=setup.batch_size
    )
    terms = jnp.sum((items.weight * values).reshape(len(candidates), -1), axis=1)
    return terms + jax.vmap(lambda m: penalty(setup, problem, m))(candidates)


def _layers(objective: Objective, masks: Array, shape: tuple[int, ...]) -> Array:
    """[M, h, w] -> [L, H, W]: products of masks are taken after upsampling."""
    return objective.combine(jax.vmap(lambda m: upsample(m, (shape[0], shape[1])))(masks))


class _Context(NamedTuple):
    """What all images of a batch are drawn from."""

    image: Array  # [H, W, C]
    baselines: Array  # [K, H, W, C]
    noise: Array | None  # []
    jitter: Array | None  # []


def _context(problem: Problem) -> _Context:
    numbers = problem.coefficients
    return _Context(problem.image, problem.baselines, numbers.noise, numbers.jitter)


def _path_items(objective: Objective, problem: Problem, candidates: int, key: Array | None) -> _Items:
    """Every candidate x term x baseline x node as one row."""
    layer = jnp.array([term.layer for term in objective.terms], jnp.int32)
    insertion = jnp.array([term.insertion for term in objective.terms])
    count, nodes = len(problem.baselines), len(problem.path.nodes)
    grid = jnp.meshgrid(
        jnp.arange(candidates), jnp.arange(len(objective.terms)), jnp.arange(count), jnp.arange(nodes),
        indexing="ij",
    )  # fmt: skip
    candidate, term, baseline, node = (index.reshape(-1).astype(jnp.int32) for index in grid)
    numbers = problem.coefficients
    still = numbers.noise is None and numbers.jitter is None
    sign = jnp.where(insertion, -numbers.insertion, numbers.deletion)
    return _Items(
        candidate=candidate,
        layer=layer[term],
        insertion=insertion[term],
        node=problem.path.nodes[node],
        baseline=baseline,
        weight=sign[term] * problem.path.weights[node] / count,
        key=None if key is None or still else jax.random.split(key, candidate.size),
    )


def _render(items: _Items) -> funnel.Render:
    return _draw if items.key is None else _draw_random


def _draw(layers: Array, context: _Context, item: _Items) -> Array:
    baseline = context.baselines[item.baseline]
    # The insertion path is the deletion path with image and baseline in each other's place.
    end = jnp.where(item.insertion, baseline, context.image)
    start = jnp.where(item.insertion, context.image, baseline)
    return blend(end, start, item.node * layers[item.candidate, item.layer])


def _draw_random(layers: Array, context: _Context, item: _Items) -> Array:
    picture = _draw(layers, _jittered(context, item.key), item)
    return picture if context.noise is None else add_noise(picture, item.key, context.noise)


def _jittered(context: _Context, key: Array) -> _Context:
    """Image and baselines shifted at random under the mask, which stays; border pixels are repeated."""
    if context.jitter is None:
        return context
    most = context.jitter.astype(jnp.int32)
    down, right = jax.random.randint(jax.random.fold_in(key, 1), (2,), -most, most + 1)
    height, width = context.image.shape[:2]
    rows = jnp.clip(jnp.arange(height) - down, 0, height - 1)
    cols = jnp.clip(jnp.arange(width) - right, 0, width - 1)
    return context._replace(
        image=context.image[rows][:, cols], baselines=context.baselines[:, rows][:, :, cols]
    )


def _mean_scores(objective: Objective, problem: Problem, values: Array) -> Scores:
    by_term = values.reshape(len(objective.terms), len(problem.baselines), -1)
    means = jnp.mean(by_term, axis=1) @ problem.path.weights
    insertion = jnp.array([term.insertion for term in objective.terms])

    def mean_where(chosen: Array) -> Array:
        return jnp.sum(jnp.where(chosen, means, 0.0)) / jnp.sum(chosen)

    return Scores(mean_where(~insertion), mean_where(insertion))


def evaluations(setup: Setup, problem: Problem, *, endpoint: bool) -> int:
    """Model evaluations of one pass over all terms for one candidate."""
    nodes = 1 if endpoint else len(problem.path.nodes)
    return len(setup.objective.terms) * len(problem.baselines) * nodes
