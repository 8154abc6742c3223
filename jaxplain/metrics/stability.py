"""Stability and infidelity: does a map stay where it is when the image hardly changes, and does it foretell
what the score does when the image changes much?"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, scores
from jaxplain.checks import check_choice, check_image, check_positive_int
from jaxplain.metrics.maps import check_floats

Perturbation = Literal["square", "gaussian"]
AttributionKind = Literal["gradient", "contribution"]


class Sensitivity(NamedTuple):
    """How far a map moves under small noise; S samples. Low is good."""

    maximum: Array  # [], the largest of the distances
    average: Array  # [], their mean
    distances: Array  # [S], |explain(x + d) - explain(x)| / |explain(x)|


class Infidelity(NamedTuple):
    """How badly a map foretells the score's drops. Low is good."""

    value: Array  # [], mean squared difference of foretold and true drop: the published measure
    scaled: Array  # [], the same after the map was multiplied by `scale`
    scale: Array  # [], the factor that fits best
    unexplained: Array  # [], scaled / mean squared drop: 0 (foretells all) to 1 (nothing), free of scales


class _Probe(NamedTuple):
    """One perturbation; N rows."""

    key: Array  # of its noise
    corner: Array  # int32 [2], first row and column of its square
    side: Array  # int32 [], of its square
    amount: Array  # float32 [], 0 leaves the image as it is


class _Context(NamedTuple):
    image: Array  # [H, W, C]
    baseline: Array  # [H, W, C]
    noise: Array  # [], standard deviation


def max_sensitivity(
    explain: Callable[[Array], Array],
    image: Array,
    saliency: Array | None = None,
    *,
    key: Array,
    radius: float | Array = 0.02,
    samples: int = 10,
) -> Sensitivity:
    """How far an explanation moves when the image hardly does; low is good.

    `max_d |explain(x + d) - explain(x)| / |explain(x)|` over `samples` draws of noise d, uniform between
    -radius * range and +radius * range in every number of the image, range = max x - min x; | | the
    Euclidean norm over all numbers of the map. Sampling can only miss the worst noise, so more samples
    never lower the maximum in expectation. An explanation that ignores the model can be perfectly
    stable: read it beside `parameter_randomization`.

    Args:
      explain: image [H, W, C] -> map of any shape, in JAX; it runs once a sample, one after the other, in
        one compiled program. A method that draws random numbers should close over one key, or its own
        noise is measured too. Every new function object means a new compilation, and a model that it
        closes over is compiled in as constants: `jax.tree_util.Partial(explain, model)` avoids both.
      image: [H, W, C], model space.
      saliency: `explain(image)` if it is known; None computes it.
      key: consumed.
      radius: share of the image's range; may be traced.
      samples: static.

    Returns:
      The distances with their maximum and mean; NaN for a map of zeros and where a map holds NaN.

    Raises:
      TypeError, ValueError: shapes, dtypes or options that do not fit.

    References:
      Yeh et al. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> image = jnp.linspace(0.0, 1.0, 48).reshape(4, 4, 3)
      >>> found = jx.metrics.max_sensitivity(lambda image: jnp.ones((4, 4)), image, key=jax.random.key(0))
      >>> float(found.maximum)
      0.0
    """
    check_image(image)
    samples = check_positive_int(samples, "samples")
    if not callable(explain):
        raise TypeError(f"explain must be a function of an image, got {type(explain).__name__}.")
    if saliency is not None:
        check_floats(saliency, "saliency")
    return _sensitivity(scores.as_pytree(explain), image, saliency, key, radius, samples=samples)


@partial(jax.jit, static_argnames="samples")
def _sensitivity(
    explain: Any, image: Array, saliency: Array | None, key: Array, radius: Array, *, samples: int
) -> Sensitivity:
    original = explain(image) if saliency is None else saliency
    check_floats(original, "the map that explain returns")
    reach = radius * (jnp.max(image) - jnp.min(image))
    norm = jnp.linalg.norm(original.reshape(-1))

    def distance(key: Array) -> Array:
        noise = reach * jax.random.uniform(key, image.shape, image.dtype, -1.0, 1.0)
        moved = explain(image + noise)
        if moved.shape != original.shape:
            raise ValueError(
                f"saliency {original.shape} is not of the shape that explain gives: {moved.shape}."
            )
        return jnp.linalg.norm((moved - original).reshape(-1)) / norm

    distances = jax.lax.map(distance, jax.random.split(key, samples))
    distances = jnp.where(norm > 0, distances, jnp.nan)
    return Sensitivity(jnp.max(distances), jnp.mean(distances), distances)


def infidelity(
    score: scores.Score,
    image: Array,
    attribution: Array,
    *,
    key: Array,
    kind: AttributionKind = "gradient",
    perturbation: Perturbation = "square",
    baseline: Array | None = None,
    largest: int | None = None,
    noise: float | Array = 0.1,
    samples: int = 1000,
    batch_size: int | None = None,
) -> Infidelity:
    """How badly an attribution foretells what perturbations do to the score; low is good.

    `mean_I ( <I, attribution> - (f(x) - f(x - I)) )^2` over random perturbations I:

    - "square": a square of the image, its side uniform in 1..largest and its place uniform, is replaced by
      the baseline: I = (x - baseline) inside, 0 outside;
    - "gaussian": I is normal noise, standard deviation `noise * (max x - min x)`.

    Maps of different methods have different units, and the value depends on them; `scaled` first
    multiplies the map by the factor that fits best (published beside the measure), and `unexplained`
    relates that to the size of the drops, so that it compares images and methods.

    Args:
      score: images [N, H, W, C] -> [N].
      image: [H, W, C], model space.
      attribution: [H, W, C], or [H, W].
      key: consumed.
      kind: "gradient", score per unit of the pixels, as published: <I, A> is the sum of I * A, where a map
        [H, W] counts for every channel alike. "contribution", each pixel's share of the score, as of
        integrated gradients, gradient x input, occlusion, and (up to a factor) heatmaps: <I, A> is the
        sum of A inside the square; for squares only.
      perturbation: "square" or "gaussian".
      baseline: [H, W, C] for squares; None is 0 everywhere.
      largest: side of the largest square (static); None is a third of the image's shorter side.
      noise: for "gaussian"; may be traced.
      samples: number of perturbations (static); the model sees one image more.
      batch_size: images per model call; None chooses by platform.

    Returns:
      The measure, NaN where a score is; for an attribution that foretells 0 throughout, `scaled`, `scale`
      and `unexplained` are NaN; so is `unexplained` where the score never moves.

    Raises:
      TypeError, ValueError: shapes, dtypes or options that do not fit.

    References:
      Yeh et al. On the (In)fidelity and Sensitivity of Explanations. NeurIPS 2019.

    Example:
      >>> import jax, jax.numpy as jnp, jaxplain as jx
      >>> score = lambda images: images[:, :4].sum((1, 2, 3))
      >>> image = jnp.ones((8, 8, 3))
      >>> right = jnp.zeros((8, 8, 3)).at[:4].set(1.0)
      >>> found = jx.metrics.infidelity(score, image, right, key=jax.random.key(0), samples=50)
      >>> round(float(found.value), 4)
      0.0
    """
    check_image(image)
    samples = check_positive_int(samples, "samples")
    check_choice(kind, get_args(AttributionKind), "kind of attribution")
    check_choice(perturbation, get_args(Perturbation), "perturbation")
    if kind == "contribution" and perturbation != "square":
        raise ValueError(
            "contributions are summed over squares: kind='contribution' needs perturbation='square'."
        )
    check_floats(attribution, "attribution")
    if attribution.shape not in (image.shape, image.shape[:2]):
        raise ValueError(
            f"attribution must have the image's shape {image.shape} or {image.shape[:2]}, "
            f"got {attribution.shape}; jaxplain.upsample brings a coarse map to the size of the image."
        )
    if baseline is not None:
        check_image(baseline, "baseline")
        if baseline.shape != image.shape:
            raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    shorter = min(image.shape[:2])
    largest = max(1, shorter // 3) if largest is None else check_positive_int(largest, "largest")
    if largest > shorter:
        raise ValueError(f"largest must be at most the image's shorter side {shorter}, got {largest}.")
    behind = jnp.zeros_like(image) if baseline is None else jnp.asarray(baseline, image.dtype)
    return _infidelity(
        scores.as_pytree(score),
        image,
        jnp.asarray(attribution, jnp.float32),
        behind,
        key,
        noise,
        kind=kind,
        perturbation=perturbation,
        largest=largest,
        samples=samples,
        batch_size=batch_size,
    )


@partial(jax.jit, static_argnames=("kind", "perturbation", "largest", "samples", "batch_size"))
def _infidelity(
    score: scores.Score,
    image: Array,
    attribution: Array,
    baseline: Array,
    key: Array,
    noise: Array,
    *,
    kind: str,
    perturbation: str,
    largest: int,
    samples: int,
    batch_size: int | None,
) -> Infidelity:
    context = _Context(image, baseline, jnp.asarray(noise * (jnp.max(image) - jnp.min(image)), image.dtype))
    probes = _probes(key, (image.shape[0], image.shape[1]), largest, samples)
    change = _square if perturbation == "square" else _gaussian

    def draw(_: tuple, context: _Context, probe: _Probe) -> Array:
        return context.image - probe.amount.astype(image.dtype) * change(context, probe)

    def foretell(probe: _Probe) -> Array:
        if kind == "contribution":
            inside = _inside(probe, (image.shape[0], image.shape[1]))
            return jnp.sum(jnp.where(inside, _per_pixel(attribution), 0.0))
        per_channel = attribution if attribution.ndim == 3 else attribution[..., None]
        return jnp.sum(change(context, probe) * jnp.broadcast_to(per_channel, image.shape))

    values = funnel.evaluate(score, draw, (), context, probes, batch_size=batch_size)  # [1 + samples]
    drops = values[0] - values[1:]
    foretold = jax.lax.map(foretell, jax.tree_util.tree_map(lambda leaf: leaf[1:], probes))
    scale = jnp.mean(foretold * drops) / jnp.mean(foretold**2)
    scaled = jnp.mean((scale * foretold - drops) ** 2)
    return Infidelity(jnp.mean((foretold - drops) ** 2), scaled, scale, scaled / jnp.mean(drops**2))


def _probes(key: Array, shape: tuple[int, int], largest: int, samples: int) -> _Probe:
    """The untouched image first, then the samples: [1 + samples]."""
    count = samples + 1
    for_side, for_row, for_col, for_noise = jax.random.split(key, 4)
    side = jax.random.randint(for_side, (count,), 1, largest + 1)
    row = jax.random.randint(for_row, (count,), 0, shape[0] - side + 1)
    col = jax.random.randint(for_col, (count,), 0, shape[1] - side + 1)
    amount = (jnp.arange(count) > 0).astype(jnp.float32)
    return _Probe(jax.random.split(for_noise, count), jnp.stack([row, col], axis=1), side, amount)


def _inside(probe: _Probe, shape: tuple[int, int]) -> Array:
    """The pixels of the probe's square: bool [H, W]."""
    rows, cols = jnp.arange(shape[0]) - probe.corner[0], jnp.arange(shape[1]) - probe.corner[1]
    return ((rows >= 0) & (rows < probe.side))[:, None] & ((cols >= 0) & (cols < probe.side))[None, :]


def _square(context: _Context, probe: _Probe) -> Array:
    inside = _inside(probe, (context.image.shape[0], context.image.shape[1]))
    return jnp.where(inside[..., None], context.image - context.baseline, 0.0)


def _gaussian(context: _Context, probe: _Probe) -> Array:
    return context.noise * jax.random.normal(probe.key, context.image.shape, context.image.dtype)


def _per_pixel(attribution: Array) -> Array:
    return attribution if attribution.ndim == 2 else jnp.sum(attribution, axis=-1)
