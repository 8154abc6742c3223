"""The one funnel through which every model call goes.

All images that a method needs are rendered and scored `batch_size` at a time inside a scan, so memory is
bounded by that one number, whatever the method, also under `jax.vmap`.

In the shape descriptions N is a number of images, G of groups (see `_Work`), b the batch size.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_batching import custom_vmap

from jaxplain.checks import check_positive_int
from jaxplain.scores import Score, as_pytree

PyTree = Any

Render = Callable[[PyTree, PyTree, PyTree], Array]
"""`render(params, context, item) -> image [H, W, C]`: a pure function that closes over no traced value."""


Mode = Literal["all", "live", "gradient"]  # score all items, those of weight 1, or all with the gradient


class Evaluated(NamedTuple):
    """What `value_and_grad` returns."""

    values: Array  # [N], scores of the rendered images
    grads: PyTree  # like params: gradient of sum(weights * values)


def default_batch_size() -> int:
    """Images per model call: 1 on a CPU, where small batches stay in its cache (and are as fast per image
    as any; measured in benchmarks/), 64 on an accelerator, which wants many."""
    return 1 if jax.default_backend() == "cpu" else 64


def evaluate(
    score: Score,
    render: Render,
    params: PyTree,
    context: PyTree,
    items: PyTree,
    *,
    live: Array | None = None,
    batch_size: int | None = None,
) -> Array:
    """Scores of N images that exist only `batch_size` at a time: `score(render(params, context, item))`.

    Args:
      score: what to evaluate.
      render: draws one image from the shared `params` and `context` and one item.
      params: pytree of arrays, shared by all images; `value_and_grad` differentiates in it.
      context: pytree of arrays, shared by all images.
      items: pytree of arrays with leading axis N, one row an image.
      live: bool [N], which items to score; None scores all. The model is called no more often than the live
        ones need, although their number is known only when the program runs.
      batch_size: images per model call; None chooses by platform.

    Returns:
      float32 [N]; NaN where an item is not live.
    """
    count = jax.tree_util.tree_leaves(items)[0].shape[0]
    weights = jnp.zeros(count) if live is None else live.astype(jnp.float32)
    mode: Mode = "all" if live is None else "live"
    return _funnel(score, render, params, context, items, weights, batch_size, mode).values


def value_and_grad(
    score: Score,
    render: Render,
    params: PyTree,
    context: PyTree,
    items: PyTree,
    weights: Array,
    *,
    batch_size: int | None = None,
) -> Evaluated:
    """Like `evaluate`, with the gradient of `sum(weights * scores)` in `params`; weights: [N].

    The model's own parameters are never differentiated, and nothing of one piece of `batch_size` images is
    kept for the next but the running sum of the gradient.
    """
    return _funnel(score, render, params, context, items, weights, batch_size, "gradient")


def _funnel(
    score: Score,
    render: Render,
    params: PyTree,
    context: PyTree,
    items: PyTree,
    weights: Array,
    batch_size: int | None,
    mode: Mode,
) -> Evaluated:
    leaves, treedef = jax.tree_util.tree_flatten(as_pytree(score))
    size = default_batch_size() if batch_size is None else check_positive_int(batch_size, "batch_size")
    plan = _Plan(treedef, render, size, mode, groups=1)
    grouped = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf)[None], (params, context))
    work = _Work(
        shared=dict(enumerate(leaves)),
        varying={},
        params=grouped[0],
        context=grouped[1],
        items=items,
        weights=jnp.asarray(weights, jnp.float32),
        group=jnp.zeros(weights.shape[0], jnp.int32),
    )
    values, grads = _run(plan, work)
    return Evaluated(values, jax.tree_util.tree_map(lambda leaf: leaf[0], grads))


class _Plan(NamedTuple):
    """The static half of a funnel run."""

    score_tree: Any
    render: Render
    batch_size: int
    mode: Mode
    groups: int  # G


class _Work(NamedTuple):
    """The traced half: G groups of params and context (one, until a vmap adds its axis), N items in all."""

    shared: dict[int, Array]  # leaves of the score that all groups share, by position
    varying: dict[int, Array]  # leaves [G, ...] of the score that a vmap runs over
    params: PyTree  # leaves [G, ...]
    context: PyTree  # leaves [G, ...]
    items: PyTree  # leaves [N, ...]
    weights: Array  # [N]
    group: Array  # int32 [N], which group an item belongs to


def _run(plan: _Plan, work: _Work) -> tuple[Array, PyTree]:
    """Scores [N] and gradients [G, ...]. Under vmap the mapped axis joins the flat batch, so that the model
    still sees `batch_size` images a call; without this rule it would see `axis_size` times as many."""

    @custom_vmap
    def run(work: _Work) -> tuple[Array, PyTree]:
        if work.weights.shape[0] == 0:  # a vmap over no images
            return jnp.zeros(0), jax.tree_util.tree_map(jnp.zeros_like, work.params)
        return _score_live(plan, work) if plan.mode == "live" else _scan_pieces(plan, work)

    @run.def_vmap
    def rule(axis_size: int, in_batched: Any, work: _Work) -> tuple[Any, Any]:
        (mapped,) = in_batched
        wider = plan._replace(groups=axis_size * plan.groups)
        values, grads = _run(wider, _flattened(work, mapped, axis_size, plan.groups))
        values = values.reshape(axis_size, work.weights.shape[-1])
        grads = jax.tree_util.tree_map(lambda g: g.reshape(axis_size, plan.groups, *g.shape[1:]), grads)
        return (values, grads), jax.tree_util.tree_map(lambda _: True, (values, grads))

    return run(work)


def _flattened(work: _Work, mapped: _Work, axis_size: int, groups: int) -> _Work:
    """A vmapped axis of size V joins the flat batch: items [V, N] -> [V * N], groups [V, G] -> [V * G]."""

    def joined(leaf: Array, is_mapped: bool) -> Array:
        full = leaf if is_mapped else jnp.broadcast_to(leaf, (axis_size, *leaf.shape))
        return full.reshape(full.shape[0] * full.shape[1], *full.shape[2:])

    def per_group(leaf: Array) -> Array:
        return jnp.repeat(leaf, groups, axis=0)

    newly = {at: per_group(leaf) for at, leaf in work.shared.items() if mapped.shared[at]}
    rest = jax.tree_util.tree_map(
        joined,
        (work.varying, work.params, work.context, work.items, work.weights),
        (mapped.varying, mapped.params, mapped.context, mapped.items, mapped.weights),
    )
    group = work.group if mapped.group else jnp.broadcast_to(work.group, (axis_size, *work.group.shape))
    offset = groups * jnp.arange(axis_size, dtype=jnp.int32)[:, None]
    varying, params, context, items, weights = rest
    return _Work(
        shared={at: leaf for at, leaf in work.shared.items() if at not in newly},
        varying=varying | newly,
        params=params,
        context=context,
        items=items,
        weights=weights,
        group=(group + offset).reshape(-1),
    )


class _Piece(NamedTuple):
    """b items of the flat batch."""

    items: PyTree  # leaves [b, ...]
    weights: Array  # [b]
    group: Array  # int32 [b]


def _scan_pieces(plan: _Plan, work: _Work) -> tuple[Array, PyTree]:
    """Score all items piece by piece, adding up the gradient."""
    count = work.weights.shape[0]
    pieces = _pieces(_Piece(work.items, work.weights, work.group), count, plan.batch_size)
    differentiate = plan.mode == "gradient"

    def weighted(params: PyTree, piece: _Piece) -> tuple[Array, Array]:
        values = _score_piece(plan, work, params, piece)
        # Not `weights * values`: a padded row must not turn the sum to NaN.
        return jnp.sum(jnp.where(piece.weights != 0, piece.weights * values, 0.0)), values

    def step(total: PyTree, piece: _Piece) -> tuple[PyTree, Array]:
        if not differentiate:
            return total, weighted(work.params, piece)[1]
        (_, values), grads = jax.value_and_grad(weighted, has_aux=True)(work.params, piece)
        return jax.tree_util.tree_map(jnp.add, total, grads), values

    start = jax.tree_util.tree_map(jnp.zeros_like, work.params) if differentiate else ()
    total, values = jax.lax.scan(step, start, pieces)
    grads = total if differentiate else jax.tree_util.tree_map(jnp.zeros_like, work.params)
    return values.reshape(-1)[:count], grads


def _pieces(flat: _Piece, count: int, batch_size: int) -> _Piece:
    """[N, ...] -> [pieces, b, ...]: as few pieces as `batch_size` allows, as even as can be, so that
    little is padded. Padding repeats the last item with weight 0."""
    pieces = -(-count // batch_size)
    size = -(-count // pieces)
    rows = jnp.minimum(jnp.arange(pieces * size), count - 1)
    split = jax.tree_util.tree_map(lambda leaf: leaf[rows].reshape(pieces, size, *leaf.shape[1:]), flat)
    real = (jnp.arange(pieces * size) < count).reshape(pieces, size)
    return split._replace(weights=jnp.where(real, split.weights, 0.0))


def _score_live(plan: _Plan, work: _Work) -> tuple[Array, PyTree]:
    """Score the items of weight 1, gathered to the front, in a loop that ends with the last of them."""
    live = work.weights != 0
    count = live.shape[0]
    size = min(plan.batch_size, count)
    # The last piece may reach beyond the end: its surplus rows repeat the last item.
    order = jnp.pad(jnp.argsort(~live, stable=True), (0, size - 1), mode="edge")
    flat = _Piece(work.items, work.weights, work.group)

    def step(at: Array, values: Array) -> Array:
        rows = jax.lax.dynamic_slice(order, (at * size,), (size,))
        piece = jax.tree_util.tree_map(lambda leaf: leaf[rows], flat)
        return values.at[rows].set(_score_piece(plan, work, work.params, piece))

    pieces = (jnp.sum(live) + size - 1) // size
    values = jax.lax.fori_loop(0, pieces, step, jnp.full(count, jnp.nan))
    return jnp.where(live, values, jnp.nan), jax.tree_util.tree_map(jnp.zeros_like, work.params)


def _score_piece(plan: _Plan, work: _Work, params: PyTree, piece: _Piece) -> Array:
    """Render and score the b images of one piece: [b]."""

    def of_group(tree: PyTree, index: Array) -> PyTree:
        return jax.tree_util.tree_map(lambda leaf: leaf[0] if leaf.shape[0] == 1 else leaf[index], tree)

    def draw(item: PyTree, index: Array) -> Array:
        return plan.render(of_group(params, index), of_group(work.context, index), item)

    images = jax.vmap(draw)(piece.items, piece.group)
    if not work.varying:
        return _checked(_assemble(plan, work.shared, {})(images), images)

    def one(image: Array, index: Array) -> Array:
        score = _assemble(plan, work.shared, of_group(work.varying, index))
        return _checked(score(image[None]), image[None])[0]

    return jax.vmap(one)(images, piece.group)


def _assemble(plan: _Plan, shared: dict[int, Array], varying: dict[int, Array]) -> Score:
    leaves = shared | varying
    return jax.tree_util.tree_unflatten(plan.score_tree, [leaves[at] for at in range(len(leaves))])


def _checked(values: Array, images: Array) -> Array:
    if getattr(values, "shape", None) != (images.shape[0],):
        got = getattr(values, "shape", type(values).__name__)
        raise ValueError(
            f"a score must map images {images.shape} to one number each [{images.shape[0]}], got {got}. "
            "For a classifier use jaxplain.class_score(classifier, target)."
        )
    return values.astype(jnp.float32)
