"""Stability and infidelity of maps.

Stability measures how much a map changes when the image barely changes; infidelity measures how poorly a map
predicts the effect of large changes to the image on the score.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import as_image, as_key, check_callable, check_choice, check_floats, check_positive_int
from jaxplain.explanation import call_method
from jaxplain.perturb import as_baseline

Perturbation = Literal["square", "gaussian"]
AttributionKind = Literal["gradient", "contribution"]

# ---------------------------------------------------------------------------------------------------------
# Stability


class Sensitivity(NamedTuple):
    """How much a map changes under small noise, over S samples. Low is good."""

    maximum: Array  # [], largest distance
    average: Array  # [], mean distance
    distances: Array  # [S], |explain(x + d) - explain(x)| / |explain(x)|


def max_sensitivity(
    score: scores.Score,
    image: Array,
    baseline: Array | None,
    explain: Callable[..., Any],
    *,
    key: Array,
    importance: Array | None = None,
    radius: float | Array = 0.02,
    n_samples: int = 10,
) -> Sensitivity:
    """Measure how much an explanation changes when the image barely changes; low is good.

    `max_d |explain(x + d) - explain(x)| / |explain(x)|` over `n_samples` draws of noise d, uniform between
    -radius * range and +radius * range for every value in the image, with range = max x - min x and | | the
    Euclidean norm over all values in the map. Sampling underestimates the true maximum: the expected value of
    the estimate never decreases with more samples. An explanation that ignores the model can be perfectly
    stable, so read this metric together with `parameter_randomization`.

    Args:
      score: images [N, H, W, C] -> [N].
      image: [H, W, C], model space.
      baseline: [H, W, C], passed to `explain` with every noisy image; if None, the method uses its own
        default.
      explain: a method, or a custom function (score, image, baseline, *, key) that returns an `Explanation`
        or a bare map, here of any shape. It runs once per sample, sequentially, within one compiled program;
        pass the same function object again to avoid recompilation.
      key: random key; consumed. The method gets the same key for every sample, so that its own noise is not
        measured.
      importance: the map of the original image, if already computed; if None, it is computed with that key.
      radius: noise amplitude as a fraction of the image's range; may be traced.
      n_samples: number of noisy images (static).

    Returns:
      The distances and their maximum and mean; NaN if the original map is zero everywhere or a map contains
      NaN.

    Raises:
      TypeError, ValueError: invalid shapes, dtypes or options.

    References:
      Yeh et al. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> score = lambda images: images.mean((1, 2, 3))
      >>> constant = lambda score, image, baseline: jnp.ones((4, 4))
      >>> image, key = jnp.linspace(0.0, 1.0, 48).reshape(4, 4, 3), jax.random.key(0)
      >>> found = jx.metrics.max_sensitivity(score, image, None, constant, key=key)
      >>> float(found.maximum)
      0.0
    """
    image = as_image(image)
    n_samples = check_positive_int(n_samples, "n_samples")
    check_callable(explain, "explain")
    if importance is not None:
        check_floats(importance, "importance")
    return _sensitivity(
        scores.as_pytree(explain),
        scores.as_pytree(score),
        image,
        baseline,
        importance,
        as_key(key, "max_sensitivity"),
        radius,
        n_samples=n_samples,
    )


@partial(jax.jit, static_argnames="n_samples")
def _sensitivity(
    explain: Callable[..., Any],
    score: scores.Score,
    image: Array,
    baseline: Array | None,
    importance: Array | None,
    key: Array,
    radius: Array,
    *,
    n_samples: int,
) -> Sensitivity:
    for_noise, for_method = jax.random.split(key)
    reach = radius * (jnp.max(image) - jnp.min(image))

    def noisy(key: Array) -> Array:
        return image + reach * jax.random.uniform(key, image.shape, image.dtype, -1.0, 1.0)

    def explained(sample: tuple[Array, Array]) -> Array:
        key, is_original = sample
        shown = jnp.where(is_original, image, noisy(key))
        result = call_method(explain, score, shown, baseline, key=for_method).importance
        check_floats(result, "the map that explain returns")
        if importance is not None and result.shape != importance.shape:
            raise ValueError(
                f"importance has shape {importance.shape}, but explain returns shape {result.shape}."
            )
        return result

    # The image itself is the first sample, so that the program contains only one copy of the method.
    first = 1 if importance is None else 0
    keys = jax.random.split(for_noise, n_samples)
    keys = jnp.concatenate([keys[:first], keys])
    maps = jax.lax.map(explained, (keys, jnp.arange(n_samples + first) < first))
    original = maps[0] if importance is None else importance
    norm = jnp.linalg.norm(original.reshape(-1))
    moved = (maps[first:] - original[None]).reshape(n_samples, -1)
    distances = jnp.where(norm > 0, jnp.linalg.norm(moved, axis=1) / norm, jnp.nan)
    return Sensitivity(jnp.max(distances), jnp.mean(distances), distances)


# ---------------------------------------------------------------------------------------------------------
# Infidelity


class Infidelity(NamedTuple):
    """How poorly a map predicts drops in the score. Low is good."""

    value: Array  # [], mean squared difference between predicted and true drops: the published metric
    scaled: Array  # [], the same after multiplying the map by `scale`
    scale: Array  # [], the best-fitting factor
    unexplained: (
        Array  # [], scaled / mean squared drop: 0 (perfect prediction) to 1 (none); independent of scale
    )


class _Probe(NamedTuple):
    """One perturbation."""

    key: Array  # random key for the noise
    corner: Array  # int32 [2], first row and column of the square
    side: Array  # int32 [], side of the square
    amount: Array  # float32 [], 0 leaves the image unchanged


class _Probed(NamedTuple):
    """Inputs shared by all perturbations."""

    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    noise: Array  # [], standard deviation


def infidelity(
    score: scores.Score,
    image: Array,
    baseline: Array | None,
    importance: Array,
    *,
    key: Array,
    kind: AttributionKind = "gradient",
    perturbation: Perturbation = "square",
    max_side: int | None = None,
    noise: float | Array | None = None,
    n_samples: int = 1000,
    batch_size: int | None = None,
) -> Infidelity:
    """Measure how poorly a map predicts the effect of perturbations on the score; low is good.

    `mean_I ( <I, importance> - (f(x) - f(x - I)) )^2` over random perturbations I:

    - "square": the baseline replaces a square region at a uniformly random position, with a side drawn
      uniformly from 1..max_side: I = (x - baseline) inside, 0 outside;
    - "gaussian": I is Gaussian noise with standard deviation `noise`.

    The value depends on the units of the map, which differ between methods. `scaled` therefore first
    multiplies the map by the best-fitting factor (as published with the metric), and `unexplained` divides
    the result by the mean squared drop, so that it can be compared across images and methods.

    Args:
      score: images [N, H, W, C] -> [N].
      image: [H, W, C], model space.
      baseline: [H, W, C], used for squares; if None, the blurred image.
      importance: [H, W, C] or [H, W].
      key: random key; consumed.
      kind: what the map A contains. "gradient" (as published): change in score per unit of pixel value;
        <I, A> is the sum of I * A, and a map [H, W] applies equally to all channels. "contribution": each
        pixel's share of the score, as in integrated gradients, gradient x input, occlusion, and (up to a
        factor) heatmaps; <I, A> is the sum of A inside the square. Only for squares.
      perturbation: "square" or "gaussian".
      max_side: side of the largest square (static); if None, a third of the image's shorter side.
      noise: standard deviation for "gaussian", in model space; may be traced. If None, a tenth of the image's
        range, max x - min x.
      n_samples: number of perturbations (static); the model scores n_samples + 1 images.
      batch_size: number of images per model call; if None, chosen for the platform.

    Returns:
      An `Infidelity`, NaN if any score is NaN. If the map always predicts 0, `scaled`, `scale` and
      `unexplained` are NaN; if the score never changes, `unexplained` is NaN.

    Raises:
      TypeError, ValueError: invalid shapes, dtypes or options.

    References:
      Yeh et al. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> score = lambda images: images[:, :4].sum((1, 2, 3))
      >>> image, key = jnp.ones((8, 8, 3)), jax.random.key(0)
      >>> gradient = jnp.zeros((8, 8, 3)).at[:4].set(1.0)
      >>> found = jx.metrics.infidelity(score, image, 0 * image, gradient, key=key, n_samples=50)
      >>> round(float(found.value), 4)
      0.0
    """
    image = as_image(image)
    baseline = as_baseline(baseline, image)
    _check_attribution(importance, image.shape)
    _check_perturbation(kind, perturbation)
    return _infidelity(
        scores.as_pytree(score),
        image,
        baseline,
        jnp.asarray(importance, jnp.float32),
        as_key(key, "infidelity"),
        0.1 * (jnp.max(image) - jnp.min(image)) if noise is None else noise,
        choices=_InfidelityChoices(
            kind=kind,
            perturbation=perturbation,
            max_side=_as_max_side(max_side, min(image.shape[:2])),
            n_samples=check_positive_int(n_samples, "n_samples"),
            batch_size=batch_size,
        ),
    )


class _InfidelityChoices(NamedTuple):
    """The static half of `infidelity`."""

    kind: str
    perturbation: str
    max_side: int
    n_samples: int
    batch_size: int | None


def _check_attribution(importance: Any, shape: tuple[int, ...]) -> None:
    check_floats(importance, "importance")
    if importance.shape not in (shape, shape[:2]):
        raise ValueError(
            f"importance must have the image's shape {shape} or {shape[:2]}, got {importance.shape}; "
            "jaxplain.upsample resizes a coarse map to the size of the image."
        )


def _check_perturbation(kind: str, perturbation: str) -> None:
    check_choice(kind, get_args(AttributionKind), "kind of attribution")
    check_choice(perturbation, get_args(Perturbation), "perturbation")
    if kind == "contribution" and perturbation != "square":
        raise ValueError(
            "kind='contribution' requires perturbation='square': contributions are summed over squares."
        )


def _as_max_side(max_side: int | None, shorter: int) -> int:
    if max_side is None:
        return max(1, shorter // 3)
    if check_positive_int(max_side, "max_side") > shorter:
        raise ValueError(f"max_side must be at most the image's shorter side {shorter}, got {max_side}.")
    return int(max_side)


@partial(jax.jit, static_argnames="choices")
def _infidelity(
    score: scores.Score,
    image: Array,
    baseline: Array,
    importance: Array,
    key: Array,
    noise: Array,
    *,
    choices: _InfidelityChoices,
) -> Infidelity:
    kind, perturbation, max_side, n_samples, batch_size = choices
    context = _Probed(image, baseline, jnp.asarray(noise, image.dtype))
    probes = _probes(key, (image.shape[0], image.shape[1]), max_side, n_samples)
    change = _square if perturbation == "square" else _gaussian

    def draw(_: tuple, context: _Probed, probe: _Probe) -> Array:
        return context.image - probe.amount.astype(context.image.dtype) * change(context, probe)

    def predict(probe: _Probe) -> Array:
        if kind == "contribution":
            inside = _inside(probe, (image.shape[0], image.shape[1]))
            return jnp.sum(jnp.where(inside, _per_pixel(importance), 0.0))
        per_channel = importance if importance.ndim == 3 else importance[..., None]
        return jnp.sum(change(context, probe) * jnp.broadcast_to(per_channel, image.shape))

    values = funnel.evaluate(score, draw, (), context, probes, batch_size=batch_size)  # [1 + n_samples]
    drops = values[0] - values[1:]
    predicted = jax.lax.map(predict, jax.tree_util.tree_map(lambda leaf: leaf[1:], probes))
    scale = jnp.mean(predicted * drops) / jnp.mean(predicted**2)
    scaled = jnp.mean((scale * predicted - drops) ** 2)
    return Infidelity(jnp.mean((predicted - drops) ** 2), scaled, scale, scaled / jnp.mean(drops**2))


def _probes(key: Array, shape: tuple[int, int], max_side: int, n_samples: int) -> _Probe:
    """Return a probe that leaves the image unchanged, followed by the samples: leading axis 1 + n_samples."""
    count = n_samples + 1
    for_side, for_row, for_col, for_noise = jax.random.split(key, 4)
    side = jax.random.randint(for_side, (count,), 1, max_side + 1, jnp.int32)
    row = jax.random.randint(for_row, (count,), 0, shape[0] - side + 1, jnp.int32)
    col = jax.random.randint(for_col, (count,), 0, shape[1] - side + 1, jnp.int32)
    amount = (jnp.arange(count) > 0).astype(jnp.float32)
    return _Probe(jax.random.split(for_noise, count), jnp.stack([row, col], axis=1), side, amount)


def _inside(probe: _Probe, shape: tuple[int, int]) -> Array:
    """Return a mask of the pixels inside the probe's square: bool [H, W]."""
    rows, cols = jnp.arange(shape[0]) - probe.corner[0], jnp.arange(shape[1]) - probe.corner[1]
    return ((rows >= 0) & (rows < probe.side))[:, None] & ((cols >= 0) & (cols < probe.side))[None, :]


def _square(context: _Probed, probe: _Probe) -> Array:
    inside = _inside(probe, (context.image.shape[0], context.image.shape[1]))
    return jnp.where(inside[..., None], context.image - context.baseline, 0.0)


def _gaussian(context: _Probed, probe: _Probe) -> Array:
    return context.noise * jax.random.normal(probe.key, context.image.shape, context.image.dtype)


def _per_pixel(importance: Array) -> Array:
    return importance if importance.ndim == 2 else jnp.sum(importance, axis=-1)
