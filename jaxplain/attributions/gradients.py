"""Gradients of the score with respect to the image: plain, times the input, and over noisy copies.

Each gradient is taken with respect to a zero shift added to the image, so that the gradient returned by the
funnel for several images is the sum of their gradients.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.checks import (
    as_image,
    as_key,
    as_number,
    check_batch_size,
    check_choice,
    check_finite,
    check_positive_int,
)
from jaxplain.explanation import Explanation, constant_unless, differ, finished

Reduce = Literal["abs_sum", "abs_max", "sum"]
"""How to reduce a pixel's channels to one number; see `reduce_channels`."""
REDUCTIONS: tuple[str, ...] = get_args(Reduce)
NOISE_SHARE = 0.15  # default standard deviation of the noise, as a fraction of the image's range


class AttributionDetails(NamedTuple):
    """The attribution from which the importance is derived."""

    attribution: Array  # signed, as defined in the paper: [H, W, C] for gradients, [h, w] for feature maps


def reduce_channels(attribution: Array, reduce: Reduce = "abs_sum") -> Array:
    """Reduce the channels of each pixel to one number: [H, W, C] -> [H, W].

    Args:
      attribution: [H, W, C], signed.
      reduce: "abs_sum" (sum of the absolute values: how much the pixel matters), "abs_max" (largest absolute
        value), or "sum" (signed sum: negative if the pixel lowers the score).

    Raises:
      ValueError: unknown reduction.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain.attributions import reduce_channels
      >>> pixel = jnp.array([[[1.0, -3.0, 0.5]]])
      >>> [float(reduce_channels(pixel, how)[0, 0]) for how in ("abs_sum", "abs_max", "sum")]
      [4.5, 3.0, -1.5]
    """
    return _REDUCTIONS[check_choice(reduce, REDUCTIONS, "reduction")](attribution)


_REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "abs_sum": lambda attribution: jnp.sum(jnp.abs(attribution), axis=-1),
    "abs_max": lambda attribution: jnp.max(jnp.abs(attribution), axis=-1),
    "sum": lambda attribution: jnp.sum(attribution, axis=-1),
}


# ---------------------------------------------------------------------------------------------------------
# At the image itself


def gradient(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    reduce: Reduce = "abs_sum",
) -> Explanation:
    """Gradient of the score with respect to the image: how sensitive the score is to each pixel.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: ignored.
      key: ignored.
      batch_size: ignored; the model sees one image.
      reduce: how to reduce channels to one importance value (static); see `reduce_channels`.

    Returns:
      An `Explanation`: importance [H, W]; `details.attribution` is the gradient [H, W, C], in score units per
      unit of model space.

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options. A NaN score is reported in the status instead.

    References:
      Simonyan, Vedaldi, Zisserman. Deep Inside Convolutional Networks. ICLR workshop 2014 (uses the
      largest absolute value over channels, reduce="abs_max" here).

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> corner = lambda images: (images[:, 0, 0] ** 2).sum(-1)
      >>> attributions.gradient(corner, jnp.ones((2, 2, 3))).importance.tolist()
      [[6.0, 0.0], [0.0, 0.0]]
    """
    check_choice(reduce, REDUCTIONS, "reduction")
    return _at_image(scores.as_pytree(score), as_image(image), reduce=reduce, times_input=False)


def input_x_gradient(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    reduce: Reduce = "abs_sum",
) -> Explanation:
    """Gradient times image: each pixel's contribution to a linear approximation of the score.

    Contributions are relative to zero in model space (for a normalized image, the mean color), regardless
    of the baseline. For the arguments and errors, see `gradient`.

    Returns:
      An `Explanation`: importance [H, W]; `details.attribution` [H, W, C] is in units of the score.

    References:
      Shrikumar, Greenside, Shcherbina, Kundaje. Not Just a Black Box. arXiv:1605.01713, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> corner = lambda images: images[:, 0, 0].sum(-1)
      >>> attributions.input_x_gradient(corner, jnp.full((2, 2, 3), 0.5)).importance.tolist()
      [[1.5, 0.0], [0.0, 0.0]]
    """
    check_choice(reduce, REDUCTIONS, "reduction")
    return _at_image(scores.as_pytree(score), as_image(image), reduce=reduce, times_input=True)


@partial(jax.jit, static_argnames=("reduce", "times_input"))
def _at_image(score: Any, image: Array, *, reduce: Reduce, times_input: bool) -> Explanation:
    once = jnp.ones(1, jnp.float32)
    evaluated = funnel.value_and_grad(score, _shifted, jnp.zeros_like(image), image, once, once)
    attribution = image * evaluated.grads if times_input else evaluated.grads
    importance = reduce_channels(attribution, reduce)
    status = constant_unless(jnp.any(evaluated.grads != 0))
    return finished(importance, evaluated.values, 1, AttributionDetails(attribution), status)


def _shifted(shift: Array, image: Array, _: Array) -> Array:
    return image + shift


# ---------------------------------------------------------------------------------------------------------
# Over noisy copies


def smooth_grad(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    n_samples: int = 50,
    noise: float | Array | None = None,
    noise_samples: Array | None = None,
    reduce: Reduce = "abs_sum",
) -> Explanation:
    """SmoothGrad: the mean gradient over noisy copies of the image.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      baseline: ignored.
      key: random key for the noise, which is drawn one batch at a time; consumed.
      batch_size: number of images per model call; if None, chosen for the platform.
      n_samples: number of noisy copies (static).
      noise: standard deviation of the Gaussian noise in model space; may be traced. If None, 0.15 times the
        image's range (maximum minus minimum), as published.
      noise_samples: [S, H, W, C], the noise to use instead of `key`, `n_samples` and `noise`, for example to
        reproduce another implementation.
      reduce: how to reduce channels to one importance value (static); see `reduce_channels`.
        Applied to the mean gradient.

    Returns:
      An `Explanation`: importance [H, W]; `details.attribution` is the mean gradient [H, W, C].

    Raises:
      ValueError, TypeError: invalid shapes, dtypes or options; both `key` and `noise_samples` given, or
        neither. A NaN score is reported in the status instead.

    References:
      Smilkov, Thorat, Kim, Viégas, Wattenberg. SmoothGrad: removing noise by adding noise.
      arXiv:1706.03825, 2017.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(1.0)
      >>> score = lambda images: images[:, 0, 0].sum(-1)
      >>> found = attributions.smooth_grad(score, image, key=jax.random.key(0), n_samples=5)
      >>> round(float(found.importance[0, 0]), 3)
      3.0
    """
    check_choice(reduce, REDUCTIONS, "reduction")
    image = as_image(image)
    source = _noise_source("smooth_grad", image, key, n_samples, noise, noise_samples)
    size = check_batch_size(batch_size)
    return _mean_gradient(scores.as_pytree(score), image, source, reduce=reduce, batch_size=size)


def var_grad(
    score: scores.Score,
    image: Array,
    baseline: Array | None = None,
    *,
    key: Array | None = None,
    batch_size: int | None = None,
    n_samples: int = 50,
    noise: float | Array | None = None,
    noise_samples: Array | None = None,
    reduce: Reduce = "abs_sum",
) -> Explanation:
    """VarGrad: the variance of the gradient over noisy copies of the image.

    This is the population variance (divided by S, not S - 1), which is never negative. For the arguments and
    errors, see `smooth_grad`; with the same key or noise, both methods use the same copies.

    Returns:
      An `Explanation`: importance [H, W]; `details.attribution` is the variance [H, W, C].

    References:
      Adebayo, Gilmer, Goodfellow, Kim. Local Explanation Methods for Deep Neural Networks Lack Sensitivity to
      Parameter Values. ICLR workshop 2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> score = lambda images: images[:, 0, 0].sum(-1) ** 2 + images[:, 1, 1].sum(-1)
      >>> image = jnp.zeros((2, 2, 1)).at[0, 0].set(1.0)
      >>> found = attributions.var_grad(score, image, key=jax.random.key(0), n_samples=5)
      >>> bool(found.importance[0, 0] > 0), float(found.importance[1, 1])
      (True, 0.0)
    """
    check_choice(reduce, REDUCTIONS, "reduction")
    image = as_image(image)
    source = _noise_source("var_grad", image, key, n_samples, noise, noise_samples)
    size = check_batch_size(batch_size) or funnel.default_batch_size()
    return _gradient_variance(scores.as_pytree(score), image, source, reduce=reduce, batch_size=size)


class _NoiseSource(NamedTuple):
    """The noise for S copies, as keys to draw it with or as samples."""

    keys: Array | None  # [S]
    samples: Array | None  # [S, H, W, C]
    std: Array  # [], in model space

    def length(self) -> int:
        return jax.tree_util.tree_leaves((self.keys, self.samples))[0].shape[0]


def _noise_source(
    method: str,
    image: Array,
    key: Array | None,
    n_samples: int,
    noise: float | Array | None,
    noise_samples: Array | None,
) -> _NoiseSource:
    if noise_samples is None:
        share = NOISE_SHARE * (jnp.max(image) - jnp.min(image))
        std = share if noise is None else as_number(noise, "noise", 0.0)
        numbers = jnp.arange(check_positive_int(n_samples, "n_samples"))
        keys = jax.vmap(partial(jax.random.fold_in, as_key(key, method)))(numbers)
        return _NoiseSource(keys, None, std)
    if key is not None:
        raise ValueError("pass either key or noise_samples, not both.")
    shape: tuple[int, ...] = getattr(noise_samples, "shape", ())
    if len(shape) != 4 or shape[0] == 0 or shape[1:] != image.shape:
        raise ValueError(f"noise_samples must be [S, {', '.join(map(str, image.shape))}], got shape {shape}.")
    check_finite(noise_samples, "noise_samples")
    return _NoiseSource(None, jnp.asarray(noise_samples, jnp.float32), jnp.float32(1.0))


class _CleanImage(NamedTuple):
    """Inputs shared by all noisy copies."""

    image: Array  # [H, W, C]
    std: Array  # []


class _NoisyCopy(NamedTuple):
    """A noisy copy, defined by a key for its noise or by the noise itself."""

    shift: Array  # int32 [], index of the shift to add
    key: Array | None  # []
    noise: Array | None  # [H, W, C]


def _render_noisy(shifts: Array, context: _CleanImage, copy: _NoisyCopy) -> Array:
    """Return image + noise + shift; shifts: [b, H, W, C]."""
    shifted = context.image + shifts[copy.shift]
    if copy.noise is not None:
        return shifted + copy.noise
    assert copy.key is not None
    return paths.add_noise(shifted, copy.key, context.std)


@partial(jax.jit, static_argnames=("reduce", "batch_size"))
def _mean_gradient(
    score: Any, image: Array, source: _NoiseSource, *, reduce: Reduce, batch_size: int | None
) -> Explanation:
    count = source.length()
    evaluated = funnel.value_and_grad(
        score,
        _render_noisy,
        jnp.zeros((1, *image.shape), jnp.float32),
        _CleanImage(image, source.std),
        _NoisyCopy(jnp.zeros(count, jnp.int32), source.keys, source.samples),  # the same shift for all
        jnp.full(count, 1 / count, jnp.float32),
        batch_size=batch_size,
    )
    attribution = evaluated.grads[0]
    importance = reduce_channels(attribution, reduce)
    status = constant_unless(differ(evaluated.values) | jnp.any(attribution != 0))
    return finished(importance, evaluated.values, count, AttributionDetails(attribution), status)


class _GradientMoments(NamedTuple):
    """Running moments of the gradients."""

    number: Array  # [], number of gradients
    mean: Array  # [H, W, C]
    squares: Array  # [H, W, C], sum of squared deviations from the mean


class _NoisyBatch(NamedTuple):
    """b copies, each with its own shift and therefore its own gradient; padding copies have weight 0."""

    copies: _NoisyCopy  # leaves [b, ...]
    weights: Array  # [b]


@partial(jax.jit, static_argnames=("reduce", "batch_size"))
def _gradient_variance(
    score: Any, image: Array, source: _NoiseSource, *, reduce: Reduce, batch_size: int
) -> Explanation:
    count = source.length()
    batches = _noisy_batches(source, batch_size)
    size = batches.weights.shape[1]
    shifts, context = jnp.zeros((size, *image.shape), jnp.float32), _CleanImage(image, source.std)

    def step(moments: _GradientMoments, batch: _NoisyBatch) -> tuple[_GradientMoments, Array]:
        evaluated = funnel.value_and_grad(
            score, _render_noisy, shifts, context, batch.copies, batch.weights, batch_size=size
        )
        return _add_gradients(moments, evaluated.grads, batch.weights), evaluated.values

    start = _GradientMoments(jnp.float32(0.0), jnp.zeros_like(image), jnp.zeros_like(image))
    moments, values = jax.lax.scan(step, start, batches)
    attribution = moments.squares / count
    importance = reduce_channels(attribution, reduce)
    status = constant_unless(differ(values.ravel()) | jnp.any(moments.mean != 0))
    return finished(importance, values, count, AttributionDetails(attribution), status)


def _noisy_batches(source: _NoiseSource, batch_size: int) -> _NoisyBatch:
    """Split S copies into batches as the funnel does: leaves [batches, b, ...]."""
    count = source.length()
    batches = -(-count // batch_size)
    size = -(-count // batches)
    index = jnp.arange(batches * size, dtype=jnp.int32).reshape(batches, size)
    keys, samples = jax.tree_util.tree_map(
        lambda leaf: leaf[jnp.minimum(index, count - 1)], (source.keys, source.samples)
    )
    return _NoisyBatch(_NoisyCopy(index % size, keys, samples), (index < count).astype(jnp.float32))


def _add_gradients(moments: _GradientMoments, grads: Array, weights: Array) -> _GradientMoments:
    """Add b gradients [b, H, W, C] to the moments.

    Uses the pairwise form of Chan, Golub, LeVeque (1979), which is accurate even if the variance is small
    compared to the mean.
    """
    weight = weights[:, None, None, None]
    added = jnp.sum(weights)
    mean = jnp.sum(weight * grads, axis=0) / added
    squares = jnp.sum(weight * (grads - mean[None]) ** 2, axis=0)
    total = moments.number + added
    difference = mean - moments.mean
    return _GradientMoments(
        number=total,
        mean=moments.mean + difference * (added / total),
        squares=moments.squares + squares + difference**2 * (moments.number * added / total),
    )
