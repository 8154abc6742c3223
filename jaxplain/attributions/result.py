"""What every attribution method returns, and the checks that they share."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxplain.checks import check_choice, check_finite, check_image, check_positive_int

Reduce = Literal["abs_sum", "abs_max", "sum"]
"""How the channels of a pixel become one number; see `reduce_channels`."""


Pair = int | tuple[int, int]
"""Rows and columns; one number stands for both."""


class Status(IntEnum):
    """How a run ended; a number in the result, so that it passes through jit and vmap."""

    OK = 0
    NOT_FINITE = 1  # a score or an attribution is NaN or infinite

    @property
    def message(self) -> str:
        """What it means, for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.OK: "ok",
    Status.NOT_FINITE: "a score or its gradient is NaN or infinite; check model, input and target",
}


class Attribution(NamedTuple):
    """How much each part of one image matters to a score.

    `attribution` is what the method computes, signed and as its paper defines it; `saliency` is what to look
    at and to measure. The axes of `attribution` depend on the method: [H, W, C] where it works on pixels'
    channels (the gradients), [h, w] on a network's maps (Grad-CAM), [H, W] on pixels (RISE, occlusion).
    """

    attribution: Array  # [H, W, C], [h, w] or [H, W], signed
    saliency: Array  # [H, W], high = important
    status: Array  # int32 [], a Status
    evaluations: Array  # int32 [], images scored by the model, forward-and-backward counted once
    error: Array  # [], relative completeness error of integrated gradients; NaN for methods without one


def reduce_channels(attribution: Array, reduce: Reduce = "abs_sum") -> Array:
    """One number a pixel: [H, W, C] -> [H, W].

    Args:
      attribution: [H, W, C], signed.
      reduce: "abs_sum" (sum of the channels' absolute values: how strongly the pixel matters), "abs_max" (the
        largest of them), or "sum" (the signed sum: negative where the pixel speaks against the score).

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


REDUCTIONS: tuple[str, ...] = get_args(Reduce)
_REDUCTIONS: dict[str, Callable[[Array], Array]] = {
    "abs_sum": lambda attribution: jnp.sum(jnp.abs(attribution), axis=-1),
    "abs_max": lambda attribution: jnp.max(jnp.abs(attribution), axis=-1),
    "sum": lambda attribution: jnp.sum(attribution, axis=-1),
}


def checked_reduction(reduce: str) -> None:
    """Raise a ValueError unless a reduction is known, before the program is traced."""
    check_choice(reduce, REDUCTIONS, "reduction")


def make_result(
    attribution: Array, saliency: Array, scores: Array, evaluations: int, error: Array | None = None
) -> Attribution:
    """The result of a method, with its status read off the scores and the attribution."""
    finite = jnp.all(jnp.isfinite(attribution)) & jnp.all(jnp.isfinite(scores))
    return Attribution(
        attribution=attribution,
        saliency=saliency,
        status=jnp.where(finite, Status.OK, Status.NOT_FINITE).astype(jnp.int32),
        evaluations=jnp.int32(evaluations),
        error=jnp.float32(jnp.nan) if error is None else error,
    )


def checked_image(image: Array, name: str = "image") -> Array:
    """One image [H, W, C] of floats as float32.

    Raises:
      ValueError, TypeError: it is not, or holds NaN or infinite values.
    """
    check_image(image, name)
    return jnp.asarray(image, jnp.float32)


def checked_baseline(baseline: Array, image: Array) -> Array:
    """A baseline of the image's shape as float32.

    Raises:
      ValueError, TypeError: it is not an image, or has another shape.
    """
    baseline = checked_image(baseline, "baseline")
    if baseline.shape != image.shape:
        raise ValueError(f"baseline {baseline.shape} and image {image.shape} must have the same shape.")
    return baseline


def checked_number(value: float | Array, name: str, low: float, high: float = np.inf) -> Array:
    """One number as float32 []; a concrete one must lie in low..high, a traced one cannot be looked at.

    Raises:
      ValueError: not one number, not finite or out of range.
    """
    number = jnp.asarray(value, jnp.float32)
    if number.ndim:
        raise ValueError(f"{name} must be one number, got shape {number.shape}; use jax.vmap for a sweep.")
    check_finite(number, name)
    if not isinstance(number, jax.core.Tracer) and not low <= float(number) <= high:
        limits = f"at least {low:g}" if np.isinf(high) else f"in {low:g}..{high:g}"
        raise ValueError(f"{name} must be {limits}, got {float(number):g}.")
    return number


def checked_pair(value: Pair, name: str) -> tuple[int, int]:
    """Rows and columns; one number stands for both.

    Raises:
      TypeError, ValueError: not one or two whole numbers of at least 1.
    """
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} must be one whole number or (rows, columns), got {value!r}.")
        return check_positive_int(value[0], name), check_positive_int(value[1], name)
    return check_positive_int(value, name), check_positive_int(value, name)


def checked_key(key: Any, method: str) -> Array:
    """One random key, as `jax.random.key` makes it (or an old-style uint32 [2]).

    Raises:
      TypeError: it is None or no key.
      ValueError: it is more than one key.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        raise TypeError(f"{method} is random: pass key=jax.random.key(...), got {type(key).__name__}.")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be one key, got shape {key.shape}; use jax.vmap for several.")
    return key
