"""Sanity checks: does a method's map change if the classifier or the explained class changes?

A method that shows the same edges regardless of what the classifier has learned explains the image, not the
classifier. In the randomization checks, *low* similarity is good and high similarity is a failure.

`explain` is a built-in method or a custom function `(score, image, baseline, *, key)` that
returns an `Explanation` or a bare map [h, w].
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain import scores
from jaxplain.checks import as_image, as_key, check_callable, check_choice, check_floats, check_positive_int
from jaxplain.explanation import Explanation, call_method
from jaxplain.metrics.causal import Curves, adversarial_rise, insertion_deletion
from jaxplain.metrics.parameter_layers import LayerStructure, layer_structure
from jaxplain.metrics.similarity import Similarity, compare_maps
from jaxplain.perturb import as_baseline

Mode = Literal["cascading", "independent"]
Replacement = Literal["permutation", "normal"]
Layers = str | int | Sequence[str]
Explain = Callable[..., Any]
PyTree = Any

# ---------------------------------------------------------------------------------------------------------
# Randomized parameters


class Randomized(NamedTuple):
    """A classifier with some of its parameters randomized."""

    layer: str  # the randomized layer; in cascading mode, the last one randomized
    classifier: PyTree


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["original", "randomized", "rank", "absolute_rank", "ssim"],
    meta_fields=["layers"],
)
@dataclass(frozen=True)
class ParameterRandomization:
    """How a map changes as L layers are randomized, from the output to the input."""

    layers: tuple[str, ...]  # L names
    original: Explanation  # of the trained classifier
    randomized: Explanation  # leading axis L: one per randomization
    rank: Array  # [L], Spearman's correlation with the original map; low is good
    absolute_rank: Array  # [L], the same for the absolute values; low is good
    ssim: Array  # [L], structural similarity with the original map; low is good


def randomize(
    classifier: scores.Classifier,
    image: Array,
    *,
    key: Array,
    layers: Layers = "all",
    mode: Mode = "cascading",
    replacement: Replacement = "permutation",
) -> Iterator[Randomized]:
    """Generate copies of a classifier with randomized layers, starting at the output.

    Each parameter array is replaced by a random permutation of its own values (the default: the distribution
    is exactly the same, so activations keep their scale and variances stay positive), or by normally
    distributed values with the same mean and standard deviation. In both cases, an array of equal values does
    not change. The classifier itself is not modified. With the same key, a layer gets the same values in
    every copy and in both modes.

    Args:
      classifier: see `layer_names`, which also defines what a layer is.
      image: [H, W, C]; only its shape matters.
      key: random key; consumed.
      layers: "all"; the number of layers to randomize, counted from the output; or layer names (see
        `layer_names`).
      mode: "cascading" (each copy randomizes one layer and all layers above it, whether listed or not) or
        "independent" (each copy randomizes one layer only).
      replacement: "permutation" or "normal".

    Yields:
      The name of the layer, and the copy: a classifier of the same type (for a Keras model, the pytree
      returned by `jaxplain.scores.as_pytree`).

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
    _check_options(mode, replacement)
    structure, arrays = layer_structure(classifier, image)
    rows = _chosen_layers(structure.names, layers)
    others = _replacements(structure, arrays, as_key(key, "randomize"), replacement)

    def copies() -> Iterator[Randomized]:
        for row in rows:
            mixed = [
                other if layer is not None and _is_replaced(layer, row, mode) else array
                for array, other, layer in zip(arrays, others, structure.layer, strict=True)
            ]
            yield Randomized(structure.names[row], structure.rebuild(mixed))

    return copies()


def parameter_randomization(
    score: scores.Score,
    image: Array,
    baseline: Array | None,
    explain: Explain,
    *,
    key: Array,
    layers: Layers = "all",
    mode: Mode = "cascading",
    replacement: Replacement = "permutation",
) -> ParameterRandomization:
    """Check that a method's map changes if the model's parameters are randomized; low similarity is good.

    Each randomized model from `randomize` is explained, and its map is compared with the original map by
    Spearman's rank correlation of the values and of their absolute values, and by the structural similarity
    of the maps as displayed (upsampled to the image's size, each scaled to 0..1 by its own minimum and
    maximum). A method whose similarities stay near 1, such as an edge detector, does not explain the model.

    Args:
      score: images [N, H, W, C] -> [N]. For a class score, the classifier is randomized and the target is
        kept; any other score must be a pytree whose leaves are its parameters, and these are randomized (see
        `layer_names`).
      image: [H, W, C], model space.
      baseline: [H, W, C], passed to `explain`; if None, the method uses its own default.
      explain: see the module docstring; it must return a map [h, w]. It runs once per layer,
        sequentially, within one compiled program; pass the same function object again to avoid recompilation.
      key: random key; consumed. The method gets the same key for every layer, so that its own noise is not
        measured.
      layers: "all"; the number of layers to randomize, counted from the output; or layer names (see
        `layer_names`). Each layer requires one explanation.
      mode: "cascading" or "independent"; see `randomize`.
      replacement: "permutation" or "normal"; see `randomize`.

    Returns:
      The name, explanation and similarities for each layer, from the output to the input. A layer's
      similarities are NaN if its map is constant or contains NaN, and all similarities are NaN if this is
      true of the original map; the status of each explanation gives the reason.

    Raises:
      TypeError, ValueError: invalid shapes, dtypes or options, or a model without parameters.

    References:
      Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def forward(kernel, images):
      ...     return images.mean((1, 2)) @ kernel
      >>> def darkness(score, image, baseline):  # never calls the classifier
      ...     return -image.sum(-1)
      >>> model = jax.tree_util.Partial(forward, jnp.arange(6.0).reshape(3, 2))
      >>> image = jax.random.uniform(jax.random.key(0), (12, 12, 3))
      >>> score, key = jx.class_score(model, 1), jax.random.key(1)
      >>> found = jx.metrics.parameter_randomization(score, image, None, darkness, key=key)
      >>> found.layers, round(float(found.rank[0]), 3), round(float(found.ssim[0]), 3)
      (('0',), 1.0, 1.0)
    """
    image = as_image(image)
    _check_options(mode, replacement)
    check_callable(explain, "explain")
    score = scores.as_pytree(score)
    structure, _ = layer_structure(_model_of(score), image)
    rows = tuple(_chosen_layers(structure.names, layers))
    original, randomized, similarity = _randomization(
        scores.as_pytree(explain),
        score,
        image,
        baseline,
        as_key(key, "parameter_randomization"),
        choices=_RandomizationChoices(structure, rows, mode, replacement),
    )
    return ParameterRandomization(
        tuple(structure.names[row] for row in rows), original, randomized, *similarity
    )


class _RandomizationChoices(NamedTuple):
    """The static half of `parameter_randomization`."""

    structure: LayerStructure
    rows: tuple[int, ...]  # positions of the chosen layers in `structure`
    mode: str
    replacement: str


@partial(jax.jit, static_argnames="choices")
def _randomization(
    explain: Explain,
    score: Any,
    image: Array,
    baseline: Array | None,
    key: Array,
    *,
    choices: _RandomizationChoices,
) -> tuple[Explanation, Explanation, Similarity]:
    structure, rows, mode, replacement = choices
    for_parameters, for_method = jax.random.split(key)
    arrays = jax.tree_util.tree_leaves(_model_of(score))
    others = _replacements(structure, arrays, for_parameters, replacement)

    def explained(row: Array) -> Explanation:
        model = structure.mixed(arrays, others, lambda layer: _is_replaced(layer, row, mode))
        return _explain(explain, _with_model(score, model), image, baseline, for_method)

    # Row -1 replaces nothing, so the original map comes from the same compiled program.
    explanations = jax.lax.map(explained, jnp.array([-1, *rows]))
    original = jax.tree_util.tree_map(lambda leaf: leaf[0], explanations)
    randomized = jax.tree_util.tree_map(lambda leaf: leaf[1:], explanations)
    size = image.shape[0], image.shape[1]
    compare = partial(compare_maps, original.importance, image_size=size)
    return original, randomized, jax.lax.map(compare, randomized.importance)


def _model_of(score: Any) -> Any:
    """Return the object that holds the parameters: a class score's classifier, or any other score itself."""
    return score.classifier if is_dataclass(score) and hasattr(score, "classifier") else score


def _with_model(score: Any, model: Any) -> Any:
    """Return the score with another model in place of `_model_of(score)`."""
    return model if _model_of(score) is score else replace(score, classifier=scores.as_pytree(model))


def _explain(
    explain: Explain, score: Any, image: Array, baseline: Array | None, key: Array | None
) -> Explanation:
    """Run a method, check its map, and drop the details."""
    explanation = call_method(explain, score, image, baseline, key=key)
    check_floats(explanation.importance, "the map that explain returns", 2, "[h, w]")
    return explanation._replace(details=())


def _is_replaced(layer: int, row: Any, mode: str) -> Any:
    return layer <= row if mode == "cascading" else layer == row


def _check_options(mode: str, replacement: str) -> None:
    check_choice(mode, get_args(Mode), "mode")
    check_choice(replacement, get_args(Replacement), "replacement")


def _chosen_layers(names: tuple[str, ...], layers: Layers) -> list[int]:
    """Return the positions of the requested layers, from the output to the input."""
    if isinstance(layers, int | np.integer):
        return list(range(min(len(names), check_positive_int(layers, "layers"))))
    if isinstance(layers, str):
        check_choice(layers, ["all"], "choice of layers (all, a number from the output, or a list of names)")
        return list(range(len(names)))
    if not len(layers):
        raise ValueError("layers must name at least one layer.")
    return sorted({names.index(check_choice(name, names, "layer")) for name in layers})


@partial(jax.jit, static_argnames=("structure", "replacement"))
def _replacements(
    structure: LayerStructure, arrays: Sequence[Array], key: Array, replacement: str
) -> list[Array]:
    """Replace every parameter; the new values depend only on the key and the position of the array."""
    return [
        array if layer is None else _replacement(array, jax.random.fold_in(key, index), replacement)
        for index, (array, layer) in enumerate(zip(arrays, structure.layer, strict=True))
    ]


def _replacement(array: Array, key: Array, replacement: str) -> Array:
    if replacement == "permutation":
        return jax.random.permutation(key, jnp.asarray(array).reshape(-1)).reshape(array.shape)
    noise = jax.random.normal(key, array.shape, array.dtype)
    return (jnp.mean(array) + jnp.std(array) * noise).astype(array.dtype)


# ---------------------------------------------------------------------------------------------------------
# Another class


def target_randomization(
    score: scores.ClassScore,
    image: Array,
    baseline: Array | None,
    explain: Explain,
    other: int | Array,
    *,
    key: Array | None = None,
) -> Similarity:
    """Check that a method's map depends on the explained class; low similarity is good.

    The maps for two classes are compared in the same way as those of two classifiers in
    `parameter_randomization`. Classes that share evidence (such as two breeds of dog) may legitimately have
    similar maps, so choose `other` at random.

    Args:
      score: score of the explained class, from `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], passed to `explain`; if None, the method uses its own default.
      explain: see the module docstring; it must return a map [h, w].
      other: index of another class; for several classes, use `jax.vmap`.
      key: random key for methods that need one, the same for both classes; consumed.

    Returns:
      The similarities of the two maps; NaN if either map is constant or contains NaN.

    Raises:
      TypeError: `score` is not a class score.
      ValueError: invalid shapes or dtypes, or two equal (concrete) classes.

    References:
      Sixt, Granz, Landgraf. When Explanations Lie: Why Many Modified BP Attributions Fail. ICML 2020.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> def gradient(score, image, baseline):
      ...     return jax.grad(lambda image: score(image[None])[0])(image).sum(-1)
      >>> def half_each(images):
      ...     return (images**2).mean((2, 3)).reshape(-1, 2, 6).sum(2)
      >>> score = jx.class_score(half_each, 0, "logit")
      >>> found = jx.metrics.target_randomization(score, jnp.ones((12, 12, 3)), None, gradient, other=1)
      >>> round(float(found.rank), 3)
      -1.0
    """
    image = as_image(image)
    check_callable(explain, "explain")
    second = _for_class(score, other, "target_randomization")
    known = not any(isinstance(each.target, jax.core.Tracer) for each in (score, second))
    if known and int(score.target) == int(second.target):
        raise ValueError(f"the two classes must differ, got {int(second.target)} twice.")
    maps = [_explain(explain, each, image, baseline, key).importance for each in (score, second)]
    return compare_maps(maps[0], maps[1], (image.shape[0], image.shape[1]))


def _for_class(score: Any, target: int | Array, name: str) -> scores.ClassScore:
    """Return a class score with another target."""
    if not isinstance(score, scores.ClassScore):
        raise TypeError(
            f"{name} requires a class score, jaxplain.class_score(classifier, target), "
            f"got {type(score).__name__}."
        )
    return scores.class_score(score.classifier, target, score.kind)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------
# Adversarial images


class AdversarialPhoto(NamedTuple):
    """A slightly changed photo that the classifier mistakes for another class."""

    image: Array  # [H, W, C], model space
    probability: Array  # [], probability of the wrong class
    fooled: Array  # bool [], whether the wrong class is the top prediction


class AdversarialCheck(NamedTuple):
    """Curves for the right class on the photo and for the wrong class on the adversarial photo."""

    adversarial: AdversarialPhoto
    clean: Curves
    attacked: Curves
    clean_rise: Array  # [], see `adversarial_rise`
    attacked_rise: Array  # []; well above clean_rise if the method passes


def adversarial_photo(
    classifier: scores.Classifier,
    image: Array,
    wrong: int | Array,
    *,
    epsilon: float | Array = 0.05,
    n_steps: int = 20,
) -> AdversarialPhoto:
    """Change each value of a photo by at most `epsilon` so that the classifier predicts another class.

    Projected gradient ascent on the log probability of the wrong class, in `n_steps` sign steps of size
    `2.5 epsilon / n_steps`. The attack may fail: check `fooled`.

    Args:
      classifier: images [N, H, W, C] -> logits [N, K].
      image: [H, W, C], model space.
      wrong: the class to fool the classifier into predicting; may be traced.
      epsilon: maximum change in model space (for pixels scaled to -1..1, 0.05 is about 6 of 255 gray
        levels); may be traced.
      n_steps: number of steps (static).

    Returns:
      The changed photo, which may exceed the valid pixel range by epsilon, the probability of the wrong
      class, and whether the classifier was fooled.

    Raises:
      TypeError, ValueError: invalid shapes, dtypes or options.

    References:
      Madry et al. Towards Deep Learning Models Resistant to Adversarial Attacks. ICLR 2018.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> brightness = lambda images: jnp.stack([-images.sum((1, 2, 3)), images.sum((1, 2, 3))], 1)
      >>> found = jx.metrics.adversarial_photo(brightness, jnp.full((4, 4, 3), -0.01), wrong=1)
      >>> bool(found.fooled), round(float(found.image.max()), 3)
      (True, 0.04)
    """
    n_steps = check_positive_int(n_steps, "n_steps")
    score = scores.class_score(classifier, wrong, "log_probability")
    return _attack(score, as_image(image), epsilon, n_steps=n_steps)


@partial(jax.jit, static_argnames="n_steps")
def _attack(score: scores.ClassScore, image: Array, epsilon: Array, *, n_steps: int) -> AdversarialPhoto:
    slope = jax.grad(lambda changed: score(changed[None])[0])

    def step(_: int, changed: Array) -> Array:
        moved = changed + 2.5 * epsilon / n_steps * jnp.sign(slope(changed))
        return jnp.clip(moved, image - epsilon, image + epsilon)

    changed = jax.lax.fori_loop(0, n_steps, step, image)
    log_probabilities = jax.nn.log_softmax(score.classifier(changed[None])[0])
    fooled = jnp.argmax(log_probabilities) == score.target
    return AdversarialPhoto(changed, jnp.exp(log_probabilities[score.target]), fooled)


def adversarial_check(
    score: scores.ClassScore,
    image: Array,
    baseline: Array | None,
    explain: Explain,
    wrong: int | Array,
    *,
    key: Array | None = None,
    epsilon: float | Array = 0.05,
    attack_steps: int = 20,
    n_steps: int = 50,
    batch_size: int | None = None,
) -> AdversarialCheck:
    """Check that the insertion curve for an adversarially misclassified photo rises only near the end.

    No region of an adversarial photo shows the wrong class, so a faithful map for that class restores its
    score only with nearly all of the pixels. A method passes if its map for the wrong class on the
    adversarial photo restores that class's probability much later than its map for the right class does on
    the original photo. If a few pixels suffice, the map is itself adversarial and not evidence.

    Args:
      score: score of the class that the photo shows, from `class_score`.
      image: [H, W, C], model space.
      baseline: [H, W, C], used for maps and curves; if None, each photo is blurred.
      explain: see the module docstring; it must return a map [h, w].
      wrong: the class to fool the classifier into predicting.
      key: random key for methods that need one, the same for both photos; consumed.
      epsilon: see `adversarial_photo`.
      attack_steps: number of steps in the attack (static).
      n_steps: approximate number of points per curve (static).
      batch_size: number of images per model call; if None, chosen for the platform.

    Returns:
      The adversarial photo, the curves, and where they rise. Check `adversarial.fooled` first.

    Raises:
      TypeError: `score` is not a class score.
      ValueError: invalid shapes, dtypes or options.

    References:
      Khorram, Lawson, Fuxin. iGOS++. ACM CHIL 2021.

    Example:
      >>> import jax.numpy as jnp, jaxplain as jx
      >>> brightness = lambda images: jnp.stack([-images.sum((1, 2, 3)), images.sum((1, 2, 3))], 1)
      >>> image = jnp.full((4, 4, 3), -0.01).at[0, 0].set(-0.2)
      >>> score = jx.class_score(brightness, 0)
      >>> found = jx.metrics.adversarial_check(score, image, None, lambda score, x, y: x.mean(-1), wrong=1)
      >>> bool(found.adversarial.fooled), found.attacked.fraction.shape
      (True, (17,))
    """
    image = as_image(image)
    check_callable(explain, "explain")
    wrong_score = _for_class(score, wrong, "adversarial_check")
    attack = adversarial_photo(score.classifier, image, wrong, epsilon=epsilon, n_steps=attack_steps)

    def curves(score: scores.ClassScore, image: Array) -> Curves:
        hidden = as_baseline(baseline, image)
        importance = _explain(explain, score, image, hidden, key).importance
        return insertion_deletion(score, image, hidden, importance, n_steps=n_steps, batch_size=batch_size)

    clean, attacked = curves(score, image), curves(wrong_score, attack.image)
    rises = (adversarial_rise(each.fraction, each.insertion) for each in (clean, attacked))
    return AdversarialCheck(attack, clean, attacked, *rises)
