"""Scores and classifiers, and the one funnel through which every model call goes.

A *score* is a callable pytree `images [N, H, W, C] -> [N]`; a *classifier* one `images -> logits [N, K]`.
Every explanation is a pure function of a score. All images that a method needs go through `evaluate` or
`value_and_grad`: they are rendered and scored `batch_size` at a time inside a scan, so memory is bounded by
that one number, whatever the method, also under `jax.vmap`.

In the shape descriptions N is a number of images, G of groups (see `_Work`), b the batch size.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_batching import custom_vmap

from jaxplain.checks import check_choice, check_positive_int

PyTree = Any
ScoreKind = Literal["probability", "logit", "log_probability", "margin"]
KINDS: tuple[str, ...] = get_args(ScoreKind)


class Score(Protocol):
    """What is explained: a callable pytree from images to one number each."""

    def __call__(self, images: Array, /) -> Array:
        """Images [N, H, W, C] -> scores [N]; rows must not influence each other."""
        ...


class Classifier(Protocol):
    """A callable pytree from images to class logits."""

    def __call__(self, images: Array, /) -> Array:
        """Images [N, H, W, C] -> logits [N, K]; rows must not influence each other."""
        ...


@partial(jax.tree_util.register_dataclass, data_fields=["classifier", "target"], meta_fields=["kind"])
@dataclass(frozen=True)
class ClassScore:
    """The score of one class; made by `class_score`."""

    classifier: Any
    target: Array  # int32 []
    kind: str = field(default="probability")

    def __call__(self, images: Array) -> Array:
        """Images [N, H, W, C] -> scores [N]; NaN where the target is not a class."""
        logits = self.classifier(images)
        if logits.ndim != 2 or logits.shape[0] != images.shape[0]:
            raise ValueError(
                f"a classifier must map images {images.shape} to logits [{images.shape[0]}, K], "
                f"got shape {logits.shape}."
            )
        return _pick(_scored(logits, self.target, self.kind), self.target)


def class_score(classifier: Classifier, target: int | Array, kind: ScoreKind = "probability") -> ClassScore:
    """The score of one class of a classifier.

    Args:
      classifier: anything callable from images [N, H, W, C] to logits [N, K]: a model of the zoo, a plain
        function, a Flax, Equinox or Keras-3-on-JAX model (see `as_pytree`).
      target: class index in 0..K-1, an int or an int32 scalar that may be traced (so `jax.vmap` over
        targets works). An index outside gives a NaN score under jit; a concrete one is refused when
        the classifier says how many `labels` it has.
      kind: "probability" (softmax), "logit", "log_probability", or "margin" (its logit minus the largest
        other one).

    Raises:
      ValueError: unknown kind, or a target out of range.
      TypeError: the target is not a whole number, or the classifier cannot be called.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> score = jx.class_score(lambda images: images.mean((1, 2)), target=2)
      >>> score(jnp.zeros((4, 8, 8, 3))).shape
      (4,)
    """
    check_choice(kind, KINDS, "score kind")
    index = jnp.asarray(target) if isinstance(target, int | np.number | np.ndarray | Array) else None
    if index is None or index.ndim or not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"target must be one class index (an int), got {target!r}.")
    labels = getattr(classifier, "labels", None)
    if labels is not None and not isinstance(index, jax.core.Tracer):
        check_target(int(index), len(labels))
    return ClassScore(as_pytree(classifier), index.astype(jnp.int32), kind)


def check_target(target: int, classes: int) -> None:
    """Raise a ValueError unless 0 <= target < classes."""
    if not 0 <= target < classes:
        raise ValueError(f"target {target} is out of range: the classifier has classes 0..{classes - 1}.")


def top_class(classifier: Classifier, image: Array) -> Array:
    """Index of the class with the largest logit for one image [H, W, C]: int32 []."""
    return jnp.argmax(classifier(image[None])[0]).astype(jnp.int32)


def _scored(logits: Array, target: Array, kind: str) -> Array:
    if kind == "probability":
        return jax.nn.softmax(logits)
    if kind == "log_probability":
        return jax.nn.log_softmax(logits)
    if kind == "margin":
        others = jnp.where((jnp.arange(logits.shape[1]) == target)[None], -jnp.inf, logits)
        return logits - jnp.max(others, axis=1, keepdims=True)
    return logits


def _pick(values: Array, target: Array) -> Array:
    column = jnp.broadcast_to(target, (values.shape[0], 1))
    inside = (target >= 0) & (target < values.shape[1])
    picked = jnp.take_along_axis(values, jnp.where(inside, column, 0), axis=1)[:, 0]
    return jnp.where(inside, picked, jnp.nan)


def as_pytree(model: Any) -> Any:
    """A callable pytree whose leaves are arrays, so that it can be an argument of a compiled function.

    - a pytree with array leaves only (Flax nnx modules, `jax.tree_util.Partial`, scores): itself;
    - a pytree with other leaves among them (Equinox modules hold functions): those become static;
    - a Keras 3 model on the JAX backend: its `stateless_call` with its variables as leaves;
    - any other callable (a plain function): static; arrays that it closes over are compiled in as constants,
      and every new function object means a new compilation.

    Raises:
      TypeError: the model cannot be called.
    """
    if not callable(model):
        raise TypeError(f"a score or classifier must be callable, got {type(model).__name__}.")
    if hasattr(model, "stateless_call"):
        return _from_keras(model)
    leaves, treedef = jax.tree_util.tree_flatten(model)
    if jax.tree_util.treedef_is_leaf(treedef):
        return jax.tree_util.Partial(model)
    dynamic = tuple(leaf if _is_array(leaf) else None for leaf in leaves)
    if all(leaf is not None for leaf in dynamic):
        return model
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    return jax.tree_util.Partial(_Recombined(treedef, static), dynamic)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


# The static parts are dataclasses, not partials or closures, because those compare by identity: the same
# model wrapped twice would compile twice.


@dataclass(frozen=True)
class _Recombined:
    """The static half of a pytree with other leaves than arrays among its own."""

    treedef: Any
    static: tuple  # a leaf each; None where it is an array

    def __call__(self, dynamic: tuple, images: Array) -> Array:
        leaves = [fixed if leaf is None else leaf for leaf, fixed in zip(dynamic, self.static, strict=True)]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)(images)


@dataclass(frozen=True)
class _KerasCall:
    """A Keras model without its variables."""

    model: Any

    def __call__(self, trainable: list, frozen: list, images: Array) -> Array:
        return self.model.stateless_call(trainable, frozen, images, training=False)[0]


def _from_keras(model: Any) -> jax.tree_util.Partial:
    trainable = [variable.value for variable in model.trainable_variables]
    frozen = [variable.value for variable in model.non_trainable_variables]
    return jax.tree_util.Partial(_KerasCall(model), trainable, frozen)


# ---------------------------------------------------------------------------------------------------------
# The funnel


Render = Callable[[PyTree, PyTree, PyTree], Array]
"""`render(params, context, item) -> image [H, W, C]`: a pure function that closes over no traced value."""


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
    batch_size: int | None = None,
) -> Array:
    """Scores of N images that exist only `batch_size` at a time: `score(render(params, context, item))`.

    Args:
      score: what to evaluate.
      render: draws one image from the shared `params` and `context` and one item.
      params: pytree of arrays, shared by all images; `value_and_grad` differentiates in it.
      context: pytree of arrays, shared by all images.
      items: pytree of arrays with leading axis N, one row an image.
      batch_size: images per model call; None chooses by platform.

    Returns:
      float32 [N].
    """
    count = jax.tree_util.tree_leaves(items)[0].shape[0]
    weights = jnp.zeros(count)
    return _funnel(score, render, params, context, items, weights, batch_size, differentiate=False).values


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
    return _funnel(score, render, params, context, items, weights, batch_size, differentiate=True)


def _funnel(
    score: Score,
    render: Render,
    params: PyTree,
    context: PyTree,
    items: PyTree,
    weights: Array,
    batch_size: int | None,
    differentiate: bool,
) -> Evaluated:
    leaves, treedef = jax.tree_util.tree_flatten(as_pytree(score))
    size = default_batch_size() if batch_size is None else check_positive_int(batch_size, "batch_size")
    plan = _Plan(treedef, render, size, differentiate, groups=1)
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
    differentiate: bool
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
        return _scan_pieces(plan, work)

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

    def weighted(params: PyTree, piece: _Piece) -> tuple[Array, Array]:
        values = _score_piece(plan, work, params, piece)
        # Not `weights * values`: a padded row must not turn the sum to NaN.
        return jnp.sum(jnp.where(piece.weights != 0, piece.weights * values, 0.0)), values

    def step(total: PyTree, piece: _Piece) -> tuple[PyTree, Array]:
        if not plan.differentiate:
            return total, weighted(work.params, piece)[1]
        (_, values), grads = jax.value_and_grad(weighted, has_aux=True)(work.params, piece)
        return jax.tree_util.tree_map(jnp.add, total, grads), values

    start = jax.tree_util.tree_map(jnp.zeros_like, work.params) if plan.differentiate else ()
    total, values = jax.lax.scan(step, start, pieces)
    grads = total if plan.differentiate else jax.tree_util.tree_map(jnp.zeros_like, work.params)
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
