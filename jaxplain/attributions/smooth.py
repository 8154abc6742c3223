"""Gradients averaged over noise: SmoothGrad and VarGrad.

Every gradient is taken in a shift that is added to the image and is zero, so that the funnel's sum over many
images is the sum of their gradients.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxplain import funnel, paths, scores
from jaxplain.attributions.result import (
    Attribution,
    Reduce,
    checked_image,
    checked_key,
    checked_number,
    checked_reduction,
    make_result,
    reduce_channels,
)
from jaxplain.checks import check_finite, check_positive_int

N_SAMPLES = 50
NOISE_LEVEL = 0.15  # standard deviation of the noise, as a share of the image's range


def smooth_grad(
    score: scores.Score,
    image: Array,
    *,
    key: Array | None = None,
    noise: Array | None = None,
    n_samples: int = N_SAMPLES,
    noise_level: float | Array = NOISE_LEVEL,
    reduce: Reduce = "abs_sum",
    batch_size: int | None = None,
) -> Attribution:
    """SmoothGrad: the mean gradient over noisy copies of the image.

    Args:
      score: images [N, H, W, C] -> [N]; see `class_score`.
      image: [H, W, C], model space.
      key: draws the noise; consumed. Samples are drawn as they are needed and never held together.
      noise: instead of a key, what to add to the image: [S, H, W, C] in model space. For comparison with
        other programs; `n_samples` and `noise_level` then play no part.
      n_samples: noisy copies S (static).
      noise_level: standard deviation of the Gaussian noise as a share of the image's range (largest value
        minus smallest); may be traced.
      reduce: how channels become a saliency (static); see `reduce_channels`. It acts on the mean gradient.
      batch_size: images per model call; None chooses by platform.

    Returns:
      An `Attribution`: the mean gradient [H, W, C], saliency [H, W], status.

    Raises:
      ValueError, TypeError: shapes, dtypes or options that do not fit; both or neither of key and noise. A
        NaN score is no error but a `Status` in the result.

    References:
      Smilkov, Thorat, Kim, Viégas, Wattenberg. SmoothGrad: removing noise by adding noise.
      arXiv:1706.03825, 2017.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> image = jnp.zeros((4, 4, 3)).at[0, 0].set(1.0)
      >>> score = lambda images: images[:, 0, 0].sum(-1)
      >>> found = attributions.smooth_grad(score, image, key=jax.random.key(0), n_samples=5)
      >>> round(float(found.saliency[0, 0]), 3)
      3.0
    """
    checked_reduction(reduce)
    image = checked_image(image)
    samples = _samples("smooth_grad", image, key, noise, n_samples, noise_level)
    return _smoothed(scores.as_pytree(score), image, samples, reduce=reduce, batch_size=batch_size)


def var_grad(
    score: scores.Score,
    image: Array,
    *,
    key: Array | None = None,
    noise: Array | None = None,
    n_samples: int = N_SAMPLES,
    noise_level: float | Array = NOISE_LEVEL,
    reduce: Reduce = "abs_sum",
    batch_size: int | None = None,
) -> Attribution:
    """VarGrad: the variance of the gradient over noisy copies of the image.

    The mean of the squares about the mean (divided by S, not S - 1), never negative.

    Arguments, errors: see `smooth_grad`. With the same key or noise both see the same copies.

    Returns:
      An `Attribution`: the variance [H, W, C], saliency [H, W], status.

    References:
      Adebayo, Gilmer, Goodfellow, Kim. Local Explanation Methods for Deep Neural Networks Lack Sensitivity to
      Parameter Values. ICLR workshop 2018.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jaxplain import attributions
      >>> score = lambda images: images[:, 0, 0].sum(-1) ** 2 + images[:, 1, 1].sum(-1)
      >>> image = jnp.zeros((2, 2, 1)).at[0, 0].set(1.0)
      >>> found = attributions.var_grad(score, image, key=jax.random.key(0), n_samples=5)
      >>> bool(found.saliency[0, 0] > 0), float(found.saliency[1, 1])
      (True, 0.0)
    """
    checked_reduction(reduce)
    image = checked_image(image)
    samples = _samples("var_grad", image, key, noise, n_samples, noise_level)
    size = funnel.default_batch_size() if batch_size is None else check_positive_int(batch_size, "batch_size")
    return _varied(scores.as_pytree(score), image, samples, reduce=reduce, batch_size=size)


class _Samples(NamedTuple):
    """S noisy copies: by key, or by the noise itself."""

    std: Array  # [], in model space
    key: Array | None  # [S]
    noise: Array | None  # [S, H, W, C]


def _samples(
    method: str,
    image: Array,
    key: Array | None,
    noise: Array | None,
    n_samples: int,
    noise_level: float | Array,
) -> _Samples:
    if noise is None:
        level = checked_number(noise_level, "noise_level", 0.0)
        numbers = jnp.arange(check_positive_int(n_samples, "n_samples"))
        keys = jax.vmap(partial(jax.random.fold_in, checked_key(key, method)))(numbers)
        return _Samples(level * (jnp.max(image) - jnp.min(image)), keys, None)
    if key is not None:
        raise ValueError("pass a key or the noise itself, not both.")
    shape: tuple[int, ...] = getattr(noise, "shape", ())
    if len(shape) != 4 or shape[0] == 0 or shape[1:] != image.shape:
        raise ValueError(f"noise must be [S, {', '.join(map(str, image.shape))}], got shape {shape}.")
    check_finite(noise, "noise")
    return _Samples(jnp.float32(1.0), None, jnp.asarray(noise, jnp.float32))


class _Noisy(NamedTuple):
    """What all noisy copies share."""

    image: Array  # [H, W, C]
    std: Array  # []


class _Copy(NamedTuple):
    """One noisy copy: by key, or by the noise itself."""

    row: Array  # int32 [], which shift it is given
    key: Array | None  # []
    noise: Array | None  # [H, W, C]


def _count(samples: _Samples) -> int:
    return jax.tree_util.tree_leaves((samples.key, samples.noise))[0].shape[0]


def _noisy(shifts: Array, context: _Noisy, copy: _Copy) -> Array:
    """The image, its noise and a shift of [b, H, W, C]."""
    shifted = context.image + shifts[copy.row]
    if copy.noise is not None:
        return shifted + copy.noise
    assert copy.key is not None
    return paths.add_noise(shifted, copy.key, context.std)


@partial(jax.jit, static_argnames=("reduce", "batch_size"))
def _smoothed(
    score: Any, image: Array, samples: _Samples, *, reduce: Reduce, batch_size: int | None
) -> Attribution:
    count = _count(samples)
    found = funnel.value_and_grad(
        score,
        _noisy,
        jnp.zeros((1, *image.shape)),
        _Noisy(image, samples.std),
        _Copy(jnp.zeros(count, jnp.int32), samples.key, samples.noise),  # one shift for all
        jnp.full(count, 1 / count),
        batch_size=batch_size,
    )
    attribution = found.grads[0]
    return make_result(attribution, reduce_channels(attribution, reduce), found.values, count)


class _Moments(NamedTuple):
    """Of the gradients seen so far."""

    seen: Array  # [], how many
    mean: Array  # [H, W, C]
    squares: Array  # [H, W, C], summed squares about the mean


class _Piece(NamedTuple):
    """b copies, each with a shift and so a gradient of its own; padding repeats the last with weight 0."""

    copies: _Copy  # leaves [b, ...]
    weights: Array  # [b]


@partial(jax.jit, static_argnames=("reduce", "batch_size"))
def _varied(score: Any, image: Array, samples: _Samples, *, reduce: Reduce, batch_size: int) -> Attribution:
    count = _count(samples)
    pieces = _pieces(samples, count, batch_size)
    size = pieces.weights.shape[1]
    shifts, context = jnp.zeros((size, *image.shape)), _Noisy(image, samples.std)

    def step(moments: _Moments, piece: _Piece) -> tuple[_Moments, Array]:
        found = funnel.value_and_grad(
            score, _noisy, shifts, context, piece.copies, piece.weights, batch_size=size
        )
        return _joined(moments, found.grads, piece.weights), found.values

    start = _Moments(jnp.float32(0.0), jnp.zeros_like(image), jnp.zeros_like(image))
    moments, values = jax.lax.scan(step, start, pieces)
    attribution = moments.squares / count
    return make_result(attribution, reduce_channels(attribution, reduce), values, count)


def _pieces(samples: _Samples, count: int, batch_size: int) -> _Piece:
    """[S, ...] -> [pieces, b, ...], split as the funnel splits."""
    pieces = -(-count // batch_size)
    size = -(-count // pieces)
    at = jnp.arange(pieces * size, dtype=jnp.int32).reshape(pieces, size)
    taken = jax.tree_util.tree_map(
        lambda leaf: leaf[jnp.minimum(at, count - 1)], (samples.key, samples.noise)
    )
    return _Piece(_Copy(at % size, *taken), (at < count).astype(jnp.float32))


def _joined(moments: _Moments, grads: Array, weights: Array) -> _Moments:
    """The moments with those of b more gradients [b, H, W, C] (Chan, Golub, LeVeque 1979): a variance that
    is small beside the mean keeps its digits."""
    each = weights[:, None, None, None]
    more = jnp.sum(weights)
    mean = jnp.sum(each * grads, axis=0) / more
    squares = jnp.sum(each * (grads - mean[None]) ** 2, axis=0)
    total = moments.seen + more
    apart = mean - moments.mean
    return _Moments(
        seen=total,
        mean=moments.mean + apart * (more / total),
        squares=moments.squares + squares + apart**2 * (moments.seen * more / total),
    )
