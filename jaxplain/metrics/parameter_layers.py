"""Find a classifier's layers from its pytree and its traced program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores
from jaxplain.checks import check_callable

PyTree = Any


@dataclass(frozen=True)
class LayerStructure:
    """The static half of a classifier; hashable, so that it can be a static argument."""

    treedef: Any
    static: tuple  # one entry per leaf; None for arrays
    names: tuple[str, ...]  # layer names, from the output to the input
    layer: tuple[
        int | None, ...
    ]  # for each array leaf, its index in `names`; None if not a parameter (never replaced)

    def rebuild(self, arrays: Sequence[Array]) -> PyTree:
        """Return the classifier with its array leaves replaced by `arrays`, in order."""
        rest = iter(arrays)
        leaves = [next(rest) if leaf is None else leaf for leaf in self.static]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)

    def mixed(self, arrays: Sequence[Array], others: Sequence[Array], chosen: Callable[[int], Any]) -> PyTree:
        """Return the classifier with the chosen layers taken from `others`; the choice may be traced."""
        return self.rebuild(
            [
                array if layer is None else jnp.where(chosen(layer), other, array)
                for array, other, layer in zip(arrays, others, self.layer, strict=True)
            ]
        )


def layer_names(classifier: scores.Classifier, image: Array) -> tuple[str, ...]:
    """Return the names of the classifier's layers that have parameters, from the output to the input.

    A layer consists of all parameters under one name in the pytree, such as the kernel and bias of `stem`. A
    parameter identified by its position in a list is its own layer; if all parameters share one name, each is
    its own layer. The order is the reverse of that in which a forward pass uses the layers, read from the
    traced program (because a Flax module lists its attributes alphabetically). Parameters that the forward
    pass does not use are omitted.

    Args:
      classifier: a pytree whose floating-point array leaves are its parameters (such as a Flax nnx or Equinox
        module, or `jax.tree_util.Partial(apply, variables)`), or a Keras model on the JAX backend. It must be
        in evaluation mode.
      image: [H, W, C], or a `jax.ShapeDtypeStruct`; only the shape and dtype matter.

    Raises:
      TypeError: the classifier is not callable.
      ValueError: the classifier has no parameters (for example, a plain function that closes over them).

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def forward(p, images):
      ...     return jax.nn.relu(images.mean((1, 2)) @ p["stem"]["kernel"]) @ p["head"]["kernel"]
      >>> parameters = {"head": {"kernel": jnp.ones((5, 2))}, "stem": {"kernel": jnp.ones((3, 5))}}
      >>> jx.metrics.layer_names(jax.tree_util.Partial(forward, parameters), jnp.zeros((4, 4, 3)))
      ('head', 'stem')
    """
    return layer_structure(classifier, image)[0].names


def layer_structure(classifier: Any, image: Any) -> tuple[LayerStructure, list[Array]]:
    """Return a classifier's static structure and its arrays."""
    check_callable(classifier, "classifier")
    if len(getattr(image, "shape", ())) != 3:
        raise ValueError(f"image must be one image [H, W, C], got shape {getattr(image, 'shape', None)}.")
    paths, leaves, treedef = _flattened(classifier)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    unnamed = LayerStructure(treedef, static, (), ())
    if not any(_is_parameter(array) for array in arrays):
        raise ValueError(
            "the classifier has no parameters to randomize: it must be a pytree with its parameters as "
            "leaves, such as a Flax module or jax.tree_util.Partial(apply, variables); a plain "
            "function that closes over its parameters hides them."
        )
    first_use = _first_uses(unnamed, arrays, image)
    used = [index for index, array in enumerate(arrays) if _is_parameter(array) and index in first_use]
    owners = {index: _owner(paths[index]) for index in used}
    if len(set(owners.values())) == 1:
        owners = {index: paths[index] for index in used}
    start: dict[tuple[str, ...], int] = {}
    for index in used:
        owner = owners[index]
        start[owner] = min(first_use[index], start.get(owner, first_use[index]))
    order = sorted(start, key=lambda owner: -start[owner])
    layer = tuple(order.index(owners[index]) if index in owners else None for index in range(len(arrays)))
    return LayerStructure(treedef, static, tuple(".".join(owner) for owner in order), layer), arrays


def _flattened(classifier: Any) -> tuple[list[tuple[str, ...]], list[Any], Any]:
    """Return the paths of a classifier's arrays, all its leaves, and its tree structure."""
    model = scores.from_pytree(classifier)
    if hasattr(model, "stateless_call"):  # Keras variables have their own names
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        leaves, treedef = jax.tree_util.tree_flatten(scores.as_pytree(classifier))
        names = [tuple(variable.path.split("/")) for variable in variables]
        return _without_positions(names), leaves, treedef
    entries, treedef = jax.tree_util.tree_flatten_with_path(model)
    if jax.tree_util.treedef_is_leaf(treedef):
        entries, treedef = [], jax.tree_util.tree_structure(())
    paths = [_words(path) for path, leaf in entries if _is_array(leaf)]
    return _without_positions(paths), [leaf for _, leaf in entries], treedef


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _is_parameter(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _words(path: tuple) -> tuple[str, ...]:
    """Return a leaf's path as words, with positions as digits and without Flax's `.value`."""
    words = [jax.tree_util.keystr((key,), simple=True) for key in path]
    return tuple(words[:-1] if len(words) > 1 and words[-1] == "value" else words)


def _without_positions(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Drop leading positions shared by all paths, such as those of `Partial` arguments."""
    while paths and all(len(path) > 1 and path[0].isdigit() and path[0] == paths[0][0] for path in paths):
        paths = [path[1:] for path in paths]
    return paths


def _owner(path: tuple[str, ...]) -> tuple[str, ...]:
    return path if len(path) < 2 or path[-1].isdigit() else path[:-1]


class _Origin(NamedTuple):
    """The inputs that a value in a traced program depends on."""

    image: bool  # whether the value depends on the image
    arrays: frozenset[int]  # if not, the classifier arrays that the value depends on


_CONSTANT = _Origin(False, frozenset())


def _first_uses(structure: LayerStructure, arrays: list[Array], image: Any) -> dict[int, int]:
    """Return, for each array, the index of the first operation that combines it with the image.

    Casting all parameters beforehand does not count as a use; unused arrays are omitted.
    """

    def forward(arrays: list[Array], images: Array) -> Array:
        return structure.rebuild(arrays)(images)

    batch = jax.ShapeDtypeStruct((1, *image.shape), jnp.float32)
    program = jax.make_jaxpr(forward)(arrays, batch).jaxpr
    first_use: dict[int, int] = {}
    origins = [_Origin(False, frozenset([index])) for index in range(len(arrays))]
    _trace_origins(program, [*origins, _Origin(True, frozenset())], first_use, 0)
    return first_use


def _trace_origins(
    program: Any, inputs: list[_Origin], first_use: dict[int, int], clock: int
) -> tuple[list[_Origin], int]:
    """Walk a traced program and return the origins of its outputs and the number of operations so far."""
    known = dict(zip(program.invars, inputs, strict=True))

    def origin(atom: Any) -> _Origin:
        return _CONSTANT if hasattr(atom, "val") else known.get(atom, _CONSTANT)

    for operation in program.eqns:
        clock += 1
        given = [origin(atom) for atom in operation.invars]
        inner = _inner_program(operation)
        if inner is not None:
            made, clock = _trace_origins(inner, given, first_use, clock)
        else:
            image = any(source.image for source in given)
            arrays = frozenset().union(*(source.arrays for source in given))
            if image:
                for index in arrays:
                    first_use.setdefault(index, clock)
            made = [_Origin(image, frozenset() if image else arrays)] * len(operation.outvars)
        known.update(zip(operation.outvars, made, strict=True))
    return [origin(atom) for atom in program.outvars], clock


def _inner_program(operation: Any) -> Any:
    """Return the program inside a call (jit, checkpoint, custom derivatives) that takes the call's inputs.

    Return None for other operations; loops and branches count as a single operation.
    """
    if operation.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr"):
        inner = operation.params.get(name)
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(getattr(inner, "invars", ())) == len(operation.invars):
            return inner
    return None
