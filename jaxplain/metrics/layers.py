"""The layers of a classifier, read off its pytree and its traced program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import scores

PyTree = Any


@dataclass(frozen=True)
class Anatomy:
    """The static half of a classifier: hashable, so that it can be a static argument."""

    treedef: Any
    static: tuple  # a leaf each; None where it is an array
    names: tuple[str, ...]  # of the layers, from the output to the input
    layer: tuple[int | None, ...]  # which of them an array leaf belongs to; None: it is left alone

    def rebuild(self, arrays: Sequence[Array]) -> PyTree:
        """The classifier with these arrays, in their order."""
        rest = iter(arrays)
        leaves = [next(rest) if leaf is None else leaf for leaf in self.static]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)

    def mixed(self, arrays: Sequence[Array], others: Sequence[Array], chosen: Callable[[int], Any]) -> PyTree:
        """The classifier with the leaves of the chosen layers from `others`; choices may be traced."""
        return self.rebuild(
            [
                array if layer is None else jnp.where(chosen(layer), other, array)
                for array, other, layer in zip(arrays, others, self.layer, strict=True)
            ]
        )


def layer_names(classifier: scores.Classifier, image: Array) -> tuple[str, ...]:
    """The layers of a classifier that hold parameters, from the output to the input.

    A layer is what lies under one name of the pytree, such as the kernel and bias of `stem`. A parameter
    found by its position in a list is a layer alone, and so is each where all lie under one name. The
    order is the one in which a forward pass uses them, last first, read off the traced program (a Flax
    module lists its attributes by the alphabet). Parameters that no forward pass uses are left out.

    Args:
      classifier: a pytree whose floating-point array leaves are its parameters (Flax nnx and Equinox
        modules, `jax.tree_util.Partial(apply, variables)`), or a Keras model on the JAX backend; in
        evaluation mode.
      image: [H, W, C], or its `jax.ShapeDtypeStruct`; only the shape counts.

    Raises:
      TypeError: the classifier cannot be called.
      ValueError: it has no parameters, as a plain function that closes over them.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def forward(p, images):
      ...     return jax.nn.relu(images.mean((1, 2)) @ p["stem"]["kernel"]) @ p["head"]["kernel"]
      >>> parameters = {"head": {"kernel": jnp.ones((5, 2))}, "stem": {"kernel": jnp.ones((3, 5))}}
      >>> jx.metrics.layer_names(jax.tree_util.Partial(forward, parameters), jnp.zeros((4, 4, 3)))
      ('head', 'stem')
    """
    return dissect(classifier, image)[0].names


def dissect(classifier: Any, image: Any) -> tuple[Anatomy, list[Array]]:
    """What is static in a classifier, and its arrays."""
    if not callable(classifier):
        raise TypeError(f"a classifier must be callable, got {type(classifier).__name__}.")
    if len(getattr(image, "shape", ())) != 3:
        raise ValueError(f"image must be one image [H, W, C], got shape {getattr(image, 'shape', None)}.")
    if hasattr(classifier, "stateless_call"):  # Keras names its variables itself
        variables = [*classifier.trainable_variables, *classifier.non_trainable_variables]
        paths = [tuple(variable.path.split("/")) for variable in variables]
        classifier = scores.as_pytree(classifier)
        leaves, treedef = jax.tree_util.tree_flatten(classifier)
    else:
        found, treedef = jax.tree_util.tree_flatten_with_path(classifier)
        if jax.tree_util.treedef_is_leaf(treedef):
            found, treedef = [], jax.tree_util.tree_structure(())
        leaves = [leaf for _, leaf in found]
        paths = [_named(path) for path, leaf in found if _is_array(leaf)]
    paths = _shortened(paths)
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    bare = Anatomy(treedef, static, (), ())
    if not any(_is_parameter(array) for array in arrays):
        raise ValueError(
            "the classifier has no parameters to randomise: it must be a pytree with them as leaves, such as "
            "a Flax module or jax.tree_util.Partial(apply, variables); a plain function hides them."
        )
    firsts = _first_uses(bare, arrays, image)
    used = [at for at, array in enumerate(arrays) if _is_parameter(array) and at in firsts]
    owners = {at: _owner(paths[at]) for at in used}
    if len(set(owners.values())) == 1:
        owners = {at: paths[at] for at in used}
    began: dict[tuple[str, ...], int] = {}
    for at in used:
        began[owners[at]] = min(firsts[at], began.get(owners[at], firsts[at]))
    order = sorted(began, key=lambda owner: -began[owner])
    layer = tuple(order.index(owners[at]) if at in owners else None for at in range(len(arrays)))
    return Anatomy(treedef, static, tuple(".".join(owner) for owner in order), layer), arrays


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def _is_parameter(array: Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _named(path: tuple) -> tuple[str, ...]:
    """A leaf's path in words; positions are written in digits. Flax's `.value` is no part of the name."""
    words = [jax.tree_util.keystr((key,), simple=True) for key in path]
    return tuple(words[:-1] if len(words) > 1 and words[-1] == "value" else words)


def _shortened(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Without the positions that all begin with, such as those of the arguments of a `Partial`."""
    while paths and all(len(path) > 1 and path[0].isdigit() and path[0] == paths[0][0] for path in paths):
        paths = [path[1:] for path in paths]
    return paths


def _owner(path: tuple[str, ...]) -> tuple[str, ...]:
    return path if len(path) < 2 or path[-1].isdigit() else path[:-1]


class _Origin(NamedTuple):
    """Where a value of a traced program comes from."""

    image: bool  # it depends on the image
    arrays: frozenset[int]  # arrays of the classifier that it was made of, while it does not


_CONSTANT = _Origin(False, frozenset())


def _first_uses(anatomy: Anatomy, arrays: list[Array], image: Any) -> dict[int, int]:
    """For every array of the classifier that the forward pass combines with what it makes of the image: the
    number of the operation that does so first. Casting all parameters beforehand does not count."""

    def forward(arrays: list[Array], images: Array) -> Array:
        return anatomy.rebuild(arrays)(images)

    batch = jax.ShapeDtypeStruct((1, *image.shape), image.dtype)
    program = jax.make_jaxpr(forward)(arrays, batch).jaxpr
    firsts: dict[int, int] = {}
    origins = [_Origin(False, frozenset([at])) for at in range(len(arrays))]
    _follow(program, [*origins, _Origin(True, frozenset())], firsts, 0)
    return firsts


def _follow(
    program: Any, inputs: list[_Origin], firsts: dict[int, int], clock: int
) -> tuple[list[_Origin], int]:
    """Walk through a traced program: the origins of its outputs, and the time."""
    known = dict(zip(program.invars, inputs, strict=True))

    def origin(atom: Any) -> _Origin:
        return _CONSTANT if hasattr(atom, "val") else known.get(atom, _CONSTANT)

    for operation in program.eqns:
        clock += 1
        given = [origin(atom) for atom in operation.invars]
        inner = _inner(operation)
        if inner is not None:
            made, clock = _follow(inner, given, firsts, clock)
        else:
            image = any(one.image for one in given)
            arrays = frozenset().union(*(one.arrays for one in given))
            if image:
                for at in arrays:
                    firsts.setdefault(at, clock)
            made = [_Origin(image, frozenset() if image else arrays)] * len(operation.outvars)
        known.update(zip(operation.outvars, made, strict=True))
    return [origin(atom) for atom in program.outvars], clock


def _inner(operation: Any) -> Any:
    """The program inside a call (jit, checkpoint, custom derivatives) that takes the call's inputs as they
    are; None for everything else, loops and branches among it: they count as one operation."""
    if operation.primitive.name in ("scan", "while", "cond"):
        return None
    for name in ("jaxpr", "call_jaxpr"):
        inner = operation.params.get(name)
        inner = getattr(inner, "jaxpr", inner)
        if inner is not None and len(getattr(inner, "invars", ())) == len(operation.invars):
            return inner
    return None
