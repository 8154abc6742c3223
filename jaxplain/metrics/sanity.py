"""Sanity checks: does a map change when the classifier, or the class asked for, does?

A method that shows the same edges whatever the classifier has learned explains the picture, not the
classifier. In these checks *low* similarity is good, and a high one is a failure.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import scores
from jaxplain.checks import check_choice, check_image, check_positive_int
from jaxplain.metrics.alikeness import Similarity, similarity
from jaxplain.metrics.layers import Anatomy, dissect
from jaxplain.metrics.maps import check_floats

Mode = Literal["cascading", "independent"]
Replacement = Literal["permutation", "normal"]
Layers = str | int | Sequence[str]
PyTree = Any


class Randomized(NamedTuple):
    """A classifier that has forgotten something."""

    layer: str  # the layer replaced; in a cascade the last one, with all above it
    classifier: PyTree


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["original", "saliency", "rank", "absolute_rank", "ssim"],
    meta_fields=["layers"],
)
@dataclass(frozen=True)
class ParameterRandomization:
    """What became of a map as L layers were randomised; a row each, from the output to the input."""

    layers: tuple[str, ...]  # L names
    original: Array  # [h, w], the map of the trained classifier
    saliency: Array  # [L, h, w], the map after each randomisation
    rank: Array  # [L], Spearman's correlation with the original map; low is good
    absolute_rank: Array  # [L], the same of the absolute values; low is good
    ssim: Array  # [L], structural similarity with it; low is good


def randomize(
    classifier: scores.Classifier,
    image: Array,
    *,
    key: Array,
    layers: Layers = "all",
    mode: Mode = "cascading",
    replacement: Replacement = "permutation",
) -> Iterator[Randomized]:
    """Copies of a classifier in which layers have forgotten what they learned, from the output to the input.

    A parameter is replaced, array by array, by a random permutation of its own numbers (the default: the
    distribution stays exactly as it was, so activations keep their scale and variances stay positive), or
    by normal numbers of its own mean and standard deviation. With both, an array that holds one number
    throughout stays what it is. The classifier itself is not touched, and the same key gives a layer the
    same numbers in every copy and in both modes.

    Args:
      classifier: see `layer_names`; also for what counts as a layer.
      image: [H, W, C]; only its shape counts.
      key: consumed.
      layers: "all"; how many from the top; or names, as `layer_names` gives them.
      mode: "cascading", each copy has forgotten that layer and all above it, whether named or not;
        "independent", that layer alone.
      replacement: "permutation" or "normal".

    Yields:
      The name of the layer and the copy, a classifier of the same type (of a Keras model the pytree that
      `jaxplain.scores.as_pytree` makes of it).

    Raises:
      TypeError, ValueError: a classifier without parameters, or unknown options.

    References:
      Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def forward(kernel, images):
      ...     return images.mean((1, 2)) @ kernel
      >>> model = jax.tree_util.Partial(forward, jnp.arange(6.0).reshape(3, 2))
      >>> [copy] = jx.metrics.randomize(model, jnp.zeros((4, 4, 3)), key=jax.random.key(0))
      >>> sorted(copy.classifier.args[0].reshape(-1).tolist())
      [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    check_choice(mode, get_args(Mode), "mode")
    check_choice(replacement, get_args(Replacement), "replacement")
    anatomy, arrays = dissect(classifier, image)
    rows = _chosen(anatomy.names, layers)
    others = _others(anatomy, arrays, key, replacement)

    def copies() -> Iterator[Randomized]:
        for row in rows:
            mixed = [
                other if layer is not None and _forgets(layer, row, mode) else array
                for array, other, layer in zip(arrays, others, anatomy.layer, strict=True)
            ]
            yield Randomized(anatomy.names[row], anatomy.rebuild(mixed))

    return copies()


def _forgets(layer: int, row: Any, mode: str) -> Any:
    return layer <= row if mode == "cascading" else layer == row


def parameter_randomization(
    explain: Callable[[PyTree, Array], Array],
    classifier: scores.Classifier,
    image: Array,
    *,
    key: Array,
    layers: Layers = "all",
    mode: Mode = "cascading",
    replacement: Replacement = "permutation",
) -> ParameterRandomization:
    """Does a map change as the classifier forgets what it learned? It must; low similarity is good.

    Every row compares the map of one copy of `randomize` with the map of the classifier itself: Spearman's
    rank correlation of the values and of their absolute values, and the structural similarity of the
    maps as people see them (upsampled to the image's size, each brought to 0..1 by its own minimum and
    maximum). A method whose rows stay near 1, such as an edge detector, does not explain the classifier.

    Args:
      explain: (classifier, image [H, W, C]) -> saliency [h, w], in JAX; it runs once a layer, one after the
        other, in one compiled program. Fix the target inside it: a forgetful classifier has another top
        prediction. The same function object is compiled once.
      classifier: see `layer_names`.
      image: [H, W, C], model space.
      key: consumed.
      layers: "all"; how many from the top; or names, as `layer_names` gives them. Every layer costs one
        explanation.
      mode: "cascading" or "independent", see `randomize`.
      replacement: "permutation" or "normal", see `randomize`.

    Returns:
      Names, maps and similarities, a row a layer from the output to the input; NaN in rows whose map is the
      same everywhere or holds NaN, and in all rows where the original's does.

    Raises:
      TypeError, ValueError: shapes, dtypes or options that do not fit, or a classifier without parameters.

    References:
      Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def forward(kernel, images):
      ...     return images.mean((1, 2)) @ kernel
      >>> def darkness(classifier, image):  # it never asks the classifier
      ...     return -image.sum(-1)
      >>> model = jax.tree_util.Partial(forward, jnp.arange(6.0).reshape(3, 2))
      >>> image = jax.random.uniform(jax.random.key(0), (12, 12, 3))
      >>> found = jx.metrics.parameter_randomization(darkness, model, image, key=jax.random.key(1))
      >>> found.layers, round(float(found.rank[0]), 3), round(float(found.ssim[0]), 3)
      (('0',), 1.0, 1.0)
    """
    check_image(image)
    check_choice(mode, get_args(Mode), "mode")
    check_choice(replacement, get_args(Replacement), "replacement")
    _check_explain(explain)
    anatomy, arrays = dissect(classifier, image)
    rows = tuple(_chosen(anatomy.names, layers))
    original, saliency, found = _randomization(
        scores.as_pytree(explain),
        arrays,
        image,
        key,
        anatomy=anatomy,
        rows=rows,
        mode=mode,
        replacement=replacement,
    )
    return ParameterRandomization(tuple(anatomy.names[row] for row in rows), original, saliency, *found)


def _check_explain(explain: Any) -> None:
    if not callable(explain):
        raise TypeError(f"explain must be a function, got {type(explain).__name__}.")


@partial(jax.jit, static_argnames=("anatomy", "rows", "mode", "replacement"))
def _randomization(
    explain: Any,
    arrays: list[Array],
    image: Array,
    key: Array,
    *,
    anatomy: Anatomy,
    rows: tuple[int, ...],
    mode: str,
    replacement: str,
) -> tuple[Array, Array, Similarity]:
    others = _others(anatomy, arrays, key, replacement)

    def at(row: Array) -> Array:
        forgetful = anatomy.mixed(arrays, others, lambda layer: _forgets(layer, row, mode))
        saliency = explain(forgetful, image)
        check_floats(saliency, "the map that explain returns", 2, "[h, w]")
        return saliency

    # Row -1 forgets nothing: the original comes out of the same compiled explanation.
    original, *_ = maps = jax.lax.map(at, jnp.array([-1, *rows]))
    size = image.shape[0], image.shape[1]
    found = jax.lax.map(lambda saliency: similarity(original, saliency, size), maps[1:])
    return original, maps[1:], found


def target_randomization(
    explain: Callable[[PyTree, Array, Any], Array],
    classifier: scores.Classifier,
    image: Array,
    target: int | Array,
    other: int | Array,
) -> Similarity:
    """Does a map change with the class that it explains? It should; low similarity is good.

    Compares the maps of two classes as `parameter_randomization` compares those of two classifiers. Classes
    that share their evidence (two breeds of dog) may rightly have similar maps: draw `other` at random.

    Args:
      explain: (classifier, image [H, W, C], target) -> saliency [h, w].
      classifier: whatever `explain` takes.
      image: [H, W, C], model space.
      target: the class explained.
      other: another one; `jax.vmap` over it for several.

    Returns:
      The similarities of the two maps; NaN where one is the same everywhere or holds NaN.

    Raises:
      TypeError, ValueError: shapes or dtypes that do not fit, or (known values) one class twice.

    References:
      Sixt, Granz, Landgraf. When Explanations Lie: Why Many Modified BP Attributions Fail. ICML 2020.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def gradient(classifier, image, target):
      ...     return jax.grad(lambda image: classifier(image[None])[0, target])(image).sum(-1)
      >>> def half_each(images):
      ...     return (images**2).mean((2, 3)).reshape(-1, 2, 6).sum(2)
      >>> found = jx.metrics.target_randomization(gradient, half_each, jnp.ones((12, 12, 3)), 0, 1)
      >>> round(float(found.rank), 3)
      -1.0
    """
    check_image(image)
    _check_explain(explain)
    known = not any(isinstance(index, jax.core.Tracer) for index in (target, other))
    if known and int(target) == int(other):
        raise ValueError(f"target and other must be two classes, got {int(target)} twice.")
    maps = [explain(classifier, image, index) for index in (target, other)]
    for saliency in maps:
        check_floats(saliency, "the map that explain returns", 2, "[h, w]")
    return similarity(maps[0], maps[1], (image.shape[0], image.shape[1]))


def _chosen(names: tuple[str, ...], layers: Layers) -> list[int]:
    """Positions of the layers asked for, from the output to the input."""
    if isinstance(layers, int | np.integer):
        return list(range(min(len(names), check_positive_int(layers, "layers"))))
    if isinstance(layers, str):
        check_choice(layers, ["all"], "choice of layers (all, a number from the top, or a list of names)")
        return list(range(len(names)))
    if not len(layers):
        raise ValueError("layers must name at least one layer.")
    return sorted({names.index(check_choice(name, names, "layer")) for name in layers})


def _replaced(array: Array, key: Array, replacement: str) -> Array:
    if replacement == "permutation":
        return jax.random.permutation(key, jnp.asarray(array).reshape(-1)).reshape(array.shape)
    noise = jax.random.normal(key, array.shape, array.dtype)
    return (jnp.mean(array) + jnp.std(array) * noise).astype(array.dtype)


def _others(anatomy: Anatomy, arrays: Sequence[Array], key: Array, replacement: str) -> list[Array]:
    """Every parameter replaced; a leaf's numbers depend on the key and its position only."""
    return [
        array if layer is None else _replaced(array, jax.random.fold_in(key, at), replacement)
        for at, (array, layer) in enumerate(zip(arrays, anatomy.layer, strict=True))
    ]
