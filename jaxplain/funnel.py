"""Batched evaluation of scores: every model call goes through this module.

A loop renders and scores all the images that a method needs, `batch_size` at a time. This number therefore
bounds the memory of every method, including under `jax.vmap` and `jax.grad`.

In shapes, N is the number of images, V the size of a `vmap` axis, and b the batch size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero

from jaxplain.checks import check_positive_int
from jaxplain.scores import Score, as_pytree

PyTree = Any

Render = Callable[[PyTree, PyTree, PyTree], Array]
"""`render(params, context, item) -> image [H, W, C]`: a pure function that closes over no traced values."""


class Evaluated(NamedTuple):
    """Scores, and the gradient of their weighted sum; returned by `value_and_grad`."""

    values: Array  # [N], scores of the rendered images; NaN for items that are not live
    grads: PyTree  # same structure as params: gradient of sum(weights * values)


def default_batch_size() -> int:
    """Return the default number of images per model call: 1 on a CPU, 64 on an accelerator.

    On a CPU, small batches fit in the cache and are as fast per image as large ones (see benchmarks/).
    """
    return 1 if jax.default_backend() == "cpu" else 64


def evaluate(
    score: Score,
    render: Render,
    params: PyTree,
    context: PyTree,
    items: PyTree,
    *,
    live: Array | None = None,
    usually_live: int | None = None,
    batch_size: int | None = None,
) -> Array:
    """Render and score N images, `score(render(params, context, item))`, in batches of `batch_size`.

    Args:
      score: the score to evaluate.
      render: function that renders one image from the shared `params` and `context` and one item.
      params: pytree of arrays shared by all images; `value_and_grad` differentiates with respect to them.
      context: pytree of arrays shared by all images.
      items: pytree of arrays with a leading axis of size N, one row per image.
      live: bool [N], which items to score; if None, all. The number of model calls depends on how many
        items are live, which may be known only at run time. With `live`, the loop has no fixed length, and
        the cost of reverse-mode derivatives is that of scoring all items.
      usually_live: number of items that are live in most calls (static); used instead of N to size batches.
      batch_size: number of images per model call; if None, chosen for the platform.

    Returns:
      float32 [N]; NaN for items that are not live.
    """
    size = _Size(_checked_batch_size(batch_size), usually_live)
    return _funnel(score, render, params, context, _Rows(items, None, live), size).values


def value_and_grad(
    score: Score,
    render: Render,
    params: PyTree,
    context: PyTree,
    items: PyTree,
    weights: Array,
    *,
    live: Array | None = None,
    usually_live: int | None = None,
    batch_size: int | None = None,
) -> Evaluated:
    """Return the scores and the gradient of `sum(weights * scores)` with respect to `params`.

    The model's own parameters are not differentiated, and only the running sum of the gradient is kept
    between batches. Items that are not live do not contribute to the gradient.

    `weights` has shape [N]; for the other arguments, see `evaluate`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import funnel
      >>> score = lambda images: (images ** 2).sum((1, 2, 3))
      >>> scale = lambda params, context, item: item * params * context
      >>> image, scales = jnp.ones((2, 2, 1)), jnp.array([1.0, 3.0])
      >>> found = funnel.value_and_grad(score, scale, jnp.float32(1.0), image, scales, jnp.array([1.0, 0.5]))
      >>> found.values.tolist(), float(found.grads)
      ([4.0, 36.0], 44.0)
    """
    size = _Size(_checked_batch_size(batch_size), usually_live)
    rows = _Rows(items, jnp.asarray(weights, jnp.float32), live)
    return _funnel(score, render, params, context, rows, size)


def _checked_batch_size(batch_size: int | None) -> int:
    return default_batch_size() if batch_size is None else check_positive_int(batch_size, "batch_size")


class _Size(NamedTuple):
    """Batch size settings; static."""

    batch_size: int  # upper bound
    usually_live: int | None  # number of rows that are live in most calls; None if unknown

    def times(self, runs: int) -> "_Size":
        """Return the settings for several runs merged into one."""
        return self if self.usually_live is None else self._replace(usually_live=runs * self.usually_live)

    def of_live(self, count: int) -> int:
        """Return the number of images per call if only some of the `count` rows are live."""
        if self.usually_live is None:
            return min(self.batch_size, count)
        batches = -(-self.usually_live // self.batch_size)
        return -(-self.usually_live // batches)  # as even as possible, as in `_pieces`


def _funnel(
    score: Score, render: Render, params: PyTree, context: PyTree, rows: "_Rows", size: _Size
) -> Evaluated:
    leaves, treedef = jax.tree_util.tree_flatten(as_pytree(score))
    shared = dict(enumerate(map(jnp.asarray, leaves)))
    params, context, items = jax.tree_util.tree_map(jnp.asarray, (params, context, rows.items))
    work = _Work(shared, params, context, rows._replace(items=items))
    return _differentiable(_Plan(treedef, partial(_no_leaves, render), size), work)


def _no_leaves(
    render: Render, params: PyTree, context: PyTree, item: PyTree
) -> tuple[Array, dict[int, Array]]:
    return render(params, context, item), {}


class _Plan(NamedTuple):
    """The static half of an evaluation."""

    score_tree: Any
    draw: Callable[
        ..., tuple[Array, dict[int, Array]]
    ]  # a `Render` that also returns the image's own score leaves
    size: _Size


class _Rows(NamedTuple):
    """Everything that differs between images."""

    items: PyTree  # leaves [N, ...]
    weights: Array | None  # [N]; None if no gradient is needed
    live: Array | None  # bool [N]; None if all are

    def length(self) -> int:
        return jax.tree_util.tree_leaves(self)[0].shape[0]

    def take(self, rows: Array) -> "_Rows":
        return jax.tree_util.tree_map(lambda leaf: leaf[rows], self)


class _Work(NamedTuple):
    """The traced half of an evaluation."""

    shared: dict[int, Array]  # score leaves shared by all images, by position
    params: PyTree
    context: PyTree  # under a vmap over scores, includes the score leaves that differ between images
    rows: _Rows


# ---------------------------------------------------------------------------------------------------------
# Under vmap: the mapped axis becomes part of the flat batch


def _batched(plan: _Plan, work: _Work) -> Evaluated:
    """Evaluate all rows.

    Under vmap, the mapped axis becomes part of the flat batch, so that the model still receives `batch_size`
    images per call. Without this rule, it would receive V times as many.
    """

    @custom_vmap
    def run(work: _Work) -> Evaluated:
        if work.rows.length() == 0:  # a vmap over no images
            return Evaluated(jnp.zeros(0, jnp.float32), _zero_grads(work))
        return _scan(plan, work) if work.rows.live is None else _loop_over_live(plan, work)

    @run.def_vmap
    def rule(axis_size: int, in_batched: Any, work: _Work) -> tuple[Evaluated, Any]:
        (mapped,) = in_batched
        flat = _batched(*_flattened(plan, work, mapped, axis_size))
        evaluated = Evaluated(flat.values.reshape(axis_size, _length(work, mapped)), flat.grads)
        return evaluated, jax.tree_util.tree_map(lambda _: True, evaluated)

    return run(work)


def _flattened(plan: _Plan, work: _Work, mapped: _Work, axis_size: int) -> tuple[_Plan, _Work]:
    """Merge V runs of N rows into one run of V * N rows, each tagged with the index of its original run."""
    shared = {index: leaf for index, leaf in work.shared.items() if not mapped.shared[index]}
    differing = {index: leaf for index, leaf in work.shared.items() if mapped.shared[index]}
    needs_grads = work.rows.weights is not None  # one gradient per run, even if runs share their params
    params = work.params
    if needs_grads:
        params = jax.tree_util.tree_map(partial(_with_axis, axis_size), params, mapped.params)

    def select(tree: PyTree, flags: PyTree, run: Array) -> PyTree:
        return jax.tree_util.tree_map(lambda leaf, flag: leaf[run] if flag else leaf, tree, flags)

    def draw(params: PyTree, context: PyTree, row: PyTree) -> tuple[Array, dict[int, Array]]:
        run, item = row
        flags = jax.tree_util.tree_map(lambda _: True, params) if needs_grads else mapped.params
        own, leaves = context
        image, inner = plan.draw(select(params, flags, run), select(own, mapped.context, run), item)
        return image, inner | {index: leaf[run] for index, leaf in leaves.items()}

    rows = jax.tree_util.tree_map(partial(_with_axis, axis_size), work.rows, mapped.rows)
    rows = jax.tree_util.tree_map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), rows)
    runs = jnp.repeat(jnp.arange(axis_size, dtype=jnp.int32), _length(work, mapped))
    rows = rows._replace(items=(runs, rows.items))
    flat_plan = plan._replace(draw=draw, size=plan.size.times(axis_size))
    return flat_plan, _Work(shared, params, (work.context, differing), rows)


def _length(work: _Work, mapped: _Work) -> int:
    """Return N, the size of the leading axis of the rows (after the mapped axis, if any)."""
    leaf, flag = jax.tree_util.tree_leaves(work.rows)[0], jax.tree_util.tree_leaves(mapped.rows)[0]
    return leaf.shape[1 if flag else 0]


def _with_axis(axis_size: int, leaf: Array, is_mapped: bool) -> Array:
    return leaf if is_mapped else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))


# ---------------------------------------------------------------------------------------------------------
# Under grad: the batches are recomputed, one at a time


@jax.tree_util.register_static
class _Perturbed(tuple):
    """Whether the derivative is needed, for each leaf of the work."""


def _differentiable(plan: _Plan, work: _Work) -> Evaluated:
    """Evaluate all rows; reverse-mode derivatives recompute the batches one at a time."""

    @jax.custom_vjp
    def run(work: _Work) -> Evaluated:
        return _batched(plan, work)

    def forward(work: PyTree) -> tuple[Evaluated, tuple[_Work, _Perturbed]]:
        leaves, treedef = jax.tree_util.tree_flatten(work, is_leaf=_is_primal)
        values = jax.tree_util.tree_unflatten(treedef, [leaf.value for leaf in leaves])
        wanted = _Perturbed(leaf.perturbed and _is_float(leaf.value) for leaf in leaves)
        return _batched(plan, values), (values, wanted)

    def backward(saved: tuple[_Work, _Perturbed], cotangents: Evaluated) -> tuple[_Work]:
        work, wanted = saved
        dense = jax.tree_util.tree_map(_without_symbols, cotangents, is_leaf=_is_symbolic)
        computed = iter(_pull_back(plan, wanted, work, dense))
        filled = [next(computed) if flag else None for flag in wanted]
        return (jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(work), filled),)

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run(work)


def _pull_back(plan: _Plan, wanted: _Perturbed, work: _Work, cotangents: Evaluated) -> list[Array]:
    """Return the cotangents of the wanted leaves.

    Under vmap, the runs are processed sequentially to bound the memory; derivatives of explanations are used
    too rarely for their speed to matter.
    """

    @custom_vmap
    def run(work: _Work, cotangents: Evaluated) -> list[Array]:
        return _scan_back(plan, wanted, work, cotangents)

    @run.def_vmap
    def rule(axis_size: int, in_batched: Any, *operands: Any) -> tuple[list[Array], list[bool]]:
        full = jax.tree_util.tree_map(partial(_with_axis, axis_size), operands, tuple(in_batched))
        pulled = jax.lax.map(lambda part: _pull_back(plan, wanted, *part), full)
        return pulled, [True] * len(pulled)

    return run(work, cotangents)


def _scan_back(plan: _Plan, wanted: _Perturbed, work: _Work, cotangents: Evaluated) -> list[Array]:
    count = work.rows.length()
    everything, treedef = jax.tree_util.tree_flatten(work)
    all_false = jax.tree_util.tree_map(lambda _: False, work)
    is_row = jax.tree_util.tree_leaves(
        all_false._replace(rows=jax.tree_util.tree_map(lambda _: True, work.rows))
    )
    chosen = [index for index, flag in enumerate(wanted) if flag]
    values_ct = cotangents.values
    if work.rows.live is not None:
        values_ct = jnp.where(work.rows.live, values_ct, 0.0)
    pieces, places = _pieces(work.rows, count, plan.size.batch_size)
    pieces_ct = jnp.where(places < count, values_ct[jnp.minimum(places, count - 1)], 0.0)

    def step(totals: list[Array], piece: tuple[_Rows, Array]) -> tuple[list[Array], list[Array]]:
        rows, ct = piece
        leaves = jax.tree_util.tree_leaves(work._replace(rows=rows))

        def score_with(values: list[Array]) -> Evaluated:
            merged = list(leaves)
            for index, leaf in zip(chosen, values, strict=True):
                merged[index] = leaf
            return _score_piece(plan, jax.tree_util.tree_unflatten(treedef, merged))

        _, back = jax.vjp(score_with, [leaves[index] for index in chosen])
        (pulled,) = back(Evaluated(ct, cotangents.grads))
        shared = [part for index, part in zip(chosen, pulled, strict=True) if not is_row[index]]
        per_row = [part for index, part in zip(chosen, pulled, strict=True) if is_row[index]]
        return [total + part for total, part in zip(totals, shared, strict=True)], per_row

    start = [jnp.zeros_like(everything[index]) for index in chosen if not is_row[index]]
    totals, stacked = jax.lax.scan(step, start, (pieces, pieces_ct))
    # Padding repeats the last row with weight 0, so its cotangents can be dropped.
    per_row = [leaf.reshape(-1, *leaf.shape[2:])[:count] for leaf in stacked]
    totals_left, rows_left = iter(totals), iter(per_row)
    return [next(rows_left) if is_row[index] else next(totals_left) for index in chosen]


def _is_primal(node: Any) -> bool:
    return hasattr(node, "perturbed")


def _is_symbolic(node: Any) -> bool:
    return isinstance(node, SymbolicZero)


def _without_symbols(cotangent: Any) -> Array:
    return jnp.zeros(cotangent.shape, cotangent.dtype) if _is_symbolic(cotangent) else cotangent


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


# ---------------------------------------------------------------------------------------------------------
# Batches


def _scan(plan: _Plan, work: _Work) -> Evaluated:
    """Score all rows batch by batch and sum the gradients."""
    count = work.rows.length()
    pieces, _ = _pieces(work.rows, count, plan.size.batch_size)

    def step(total: PyTree, rows: _Rows) -> tuple[PyTree, Array]:
        evaluated = _score_piece(plan, work._replace(rows=rows))
        return jax.tree_util.tree_map(jnp.add, total, evaluated.grads), evaluated.values

    total, values = jax.lax.scan(step, _zero_grads(work), pieces)
    return Evaluated(values.reshape(-1)[:count], total)


def _pieces(rows: _Rows, count: int, batch_size: int) -> tuple[_Rows, Array]:
    """Split [N, ...] into [batches, b, ...], with as few and as even batches as possible.

    Padding repeats the last row with weight 0. Also returns the index of each row, int32 [batches, b].
    """
    batches = -(-count // batch_size)
    size = -(-count // batches)
    places = jnp.arange(batches * size, dtype=jnp.int32).reshape(batches, size)
    if batches * size == count:  # a reshape compiles faster than a gather per leaf
        return jax.tree_util.tree_map(lambda leaf: leaf.reshape(batches, size, *leaf.shape[1:]), rows), places
    split = rows.take(jnp.minimum(places, count - 1))
    if split.weights is not None:
        split = split._replace(weights=jnp.where(places < count, split.weights, 0.0))
    return split, places


def _loop_over_live(plan: _Plan, work: _Work) -> Evaluated:
    """Move the live rows to the front and score them in a loop that stops after the last one."""
    rows = work.rows
    assert rows.live is not None
    count = rows.length()
    size = plan.size.of_live(count)
    # The last batch may extend past the end; its extra rows repeat the last row, which must not count twice.
    order = jnp.pad(jnp.argsort(~rows.live, stable=True), (0, size - 1), mode="edge")

    def step(batch: Array, state: Evaluated) -> Evaluated:
        places = batch * size + jnp.arange(size)
        chosen = order[places]
        piece = rows.take(chosen)
        if piece.weights is not None:
            piece = piece._replace(weights=jnp.where(places < count, piece.weights, 0.0))
        evaluated = _score_piece(plan, work._replace(rows=piece))
        grads = jax.tree_util.tree_map(jnp.add, state.grads, evaluated.grads)
        return Evaluated(state.values.at[chosen].set(evaluated.values), grads)

    batches = (jnp.sum(rows.live) + size - 1) // size
    start = Evaluated(jnp.full(count, jnp.nan, jnp.float32), _zero_grads(work))
    end = jax.lax.fori_loop(0, batches, step, start)
    return end._replace(values=jnp.where(rows.live, end.values, jnp.nan))


def _zero_grads(work: _Work) -> PyTree:
    return () if work.rows.weights is None else jax.tree_util.tree_map(jnp.zeros_like, work.params)


def _score_piece(plan: _Plan, work: _Work) -> Evaluated:
    """Render and score the b images of one batch; if its rows have weights, also return the gradient."""
    weights = work.rows.weights
    if weights is None:
        return Evaluated(_scores(plan, work), ())
    if work.rows.live is not None:
        weights = jnp.where(work.rows.live, weights, 0.0)

    def weighted(params: PyTree) -> tuple[Array, Array]:
        values = _scores(plan, work._replace(params=params))
        # A padded row must not make the sum NaN, as a plain `weights * values` would. Zero weights still
        # count if the score is finite, because the derivative with respect to a weight is its score.
        counts = (weights != 0) | jnp.isfinite(values)
        return jnp.sum(jnp.where(counts, weights * values, 0.0)), values

    (_, values), grads = jax.value_and_grad(weighted, has_aux=True)(work.params)
    return Evaluated(values, grads)


def _scores(plan: _Plan, work: _Work) -> Array:
    """Render and score the b images of one batch: [b]."""
    images, own = jax.vmap(lambda item: plan.draw(work.params, work.context, item))(work.rows.items)
    if not own:
        return _checked(_assembled(plan, work.shared)(images), images)

    def score_one(image: Array, leaves: dict[int, Array]) -> Array:
        return _checked(_assembled(plan, work.shared | leaves)(image[None]), image[None])[0]

    return jax.vmap(score_one)(images, own)


def _assembled(plan: _Plan, leaves: dict[int, Array]) -> Score:
    return jax.tree_util.tree_unflatten(plan.score_tree, [leaves[index] for index in range(len(leaves))])


def _checked(values: Array, images: Array) -> Array:
    if getattr(values, "shape", None) != (images.shape[0],):
        got = getattr(values, "shape", type(values).__name__)
        raise ValueError(
            f"a score must return one number per image, [{images.shape[0]}] for images {images.shape}, "
            f"got {got}. For a classifier, use jaxplain.class_score(classifier, target)."
        )
    return values.astype(jnp.float32)
