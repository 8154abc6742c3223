"""Argument checks for the whole package: shapes and dtypes during tracing, plain options on the host.

`check_...` functions raise if an argument is invalid; `as_...` functions also convert it. Values are checked
only in concrete arrays, since traced arrays have no values.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Pair = int | tuple[int, int]
"""Number of rows and of columns, or a single number for both."""

SEEDS = 2**32  # JAX silently drops higher bits, so 2**32 would be the same as seed 0
_CHANNELS = 16  # a longer last axis suggests a channels-first image

# ---------------------------------------------------------------------------------------------------------
# Images and maps


def check_image(image: Any, name: str = "image") -> None:
    """Check that `image` is a single floating-point image [H, W, C] with finite values (if concrete).

    Raises:
      TypeError: not a floating-point array.
      ValueError: wrong rank, an empty axis, channels first, or NaN or infinite values.
    """
    _check_float(image, name)
    if image.ndim != 3 or 0 in image.shape:
        hint = " Explain one image at a time; use jax.vmap for a batch." if image.ndim == 4 else ""
        raise ValueError(f"{name} must be one image [H, W, C], got shape {image.shape}.{hint}")
    if image.shape[0] == 3 and image.shape[2] > _CHANNELS:
        raise ValueError(
            f"{name} must have shape [H, W, C] (channels last), got shape {image.shape}, which looks like "
            f"channels first; use {name}.transpose(1, 2, 0)."
        )
    check_finite(image, name)


def as_image(image: Any, name: str = "image") -> Array:
    """Check an image [H, W, C] with `check_image` and return it as float32."""
    check_image(image, name)
    return jnp.asarray(image, jnp.float32)


def check_image_batch(images: Any, channels: int | None = None, name: str = "images") -> None:
    """Check that `images` is a floating-point batch [N, H, W, C]; values are not checked.

    Raises:
      TypeError: not a floating-point array.
      ValueError: the rank is not 4, or the number of channels is not `channels`.
    """
    _check_float(images, name)
    if images.ndim != 4:
        hint = " For a single image, add a batch axis: images[None]." if images.ndim == 3 else ""
        raise ValueError(f"{name} must be [N, H, W, C], got shape {images.shape}.{hint}")
    if channels is not None and images.shape[-1] != channels:
        raise ValueError(
            f"{name} must have shape [N, H, W, {channels}] (channels last), got shape {images.shape}."
        )


def check_map(
    importance: Any,
    image_shape: tuple[int, ...],
    name: str = "importance",
    *,
    finite: bool = True,
    owner: str = "image",
) -> None:
    """Check that `importance` is a floating-point map [h, w] no larger than its image [H, W, C].

    Args:
      importance: the map to check.
      image_shape: the image's shape; only H and W are used.
      name: the map's name, used in error messages.
      finite: whether to reject NaN and infinite values in a concrete map.
      owner: what `image_shape` describes, used in error messages.

    Raises:
      TypeError: not a floating-point array.
      ValueError: invalid shape, or NaN or infinite values.
    """
    shape: tuple[int, ...] = getattr(importance, "shape", ())
    if len(shape) != 2 or 0 in shape or shape[0] > image_shape[0] or shape[1] > image_shape[1]:
        hint = " Use jax.vmap for a batch." if len(shape) == 3 else ""
        raise ValueError(
            f"{name} must be one map [h, w] no larger than the {owner}'s size {tuple(image_shape[:2])}, "
            f"got shape {shape}.{hint}"
        )
    check_floats(importance, name)
    if finite:
        check_finite(importance, name)


def _check_float(array: Any, name: str) -> None:
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name} must be an array of floats, got {type(array).__name__}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be a floating-point array in the model's input space, got {dtype}; "
            "convert 8-bit photos with the model's preprocess() first."
        )


# ---------------------------------------------------------------------------------------------------------
# Arrays


def check_floats(array: Any, name: str, ndim: int | None = None, axes: str = "") -> None:
    """Check that `array` is a non-empty floating-point array with `ndim` axes.

    If `ndim` is None, any number of axes is accepted. `axes` describes the expected shape in error messages.

    Raises:
      TypeError: not a floating-point array.
      ValueError: empty, or the wrong number of axes.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = type(array).__name__ if dtype is None else str(dtype)
        raise TypeError(f"{name} must be an array of floats, got {got}.")
    if 0 in array.shape or (ndim is not None and array.ndim != ndim):
        expected = "not be empty" if ndim is None else f"have shape {axes}"
        hint = " Use jax.vmap for a batch." if ndim is not None and array.ndim == ndim + 1 else ""
        raise ValueError(f"{name} must {expected}, got shape {array.shape}.{hint}")


def check_same_shape(first: Any, second: Any, names: tuple[str, str]) -> None:
    """Check that two arrays are floating point and have the same shape.

    Raises:
      TypeError: not arrays of floats.
      ValueError: empty arrays or different shapes.
    """
    for array, name in zip((first, second), names, strict=True):
        check_floats(array, name)
    if first.shape != second.shape:
        raise ValueError(
            f"{names[0]} {first.shape} and {names[1]} {second.shape} must have the same shape; "
            "jaxplain.upsample resizes a coarse map to the size of a fine one."
        )


def check_finite(array: Any, name: str) -> None:
    """Check that a concrete array has no NaN or infinite values.

    Raises:
      ValueError: the array has NaN or infinite values; the message says how many.
    """
    if isinstance(array, jax.core.Tracer):
        return
    bad = int(np.size(array) - np.isfinite(np.asarray(array, np.float32)).sum())
    if bad:
        values = "value" if bad == 1 else "values"
        raise ValueError(
            f"{name} contains {bad} NaN or infinite {values} out of {np.size(array)}; all must be finite. "
            f"Check how {name} was computed."
        )


def check_where(holds: Callable[[np.ndarray], Any], values: Any, message: str) -> None:
    """Check that a condition holds for all values of a concrete array.

    Raises:
      ValueError: the condition fails for some value; `message` is the error message.
    """
    if not isinstance(values, jax.core.Tracer) and not np.all(holds(np.asarray(values))):
        raise ValueError(message)


# ---------------------------------------------------------------------------------------------------------
# Options


def as_number(value: Any, name: str, low: float = -np.inf, high: float = np.inf) -> Array:
    """Return a number as a float32 scalar; a concrete number must be between `low` and `high`.

    Raises:
      ValueError: not a single number, not finite, or out of range.
    """
    number = jnp.asarray(value, jnp.float32)
    if number.ndim:
        raise ValueError(
            f"{name} must be one number, got shape {number.shape}; use jax.vmap for several values."
        )
    check_finite(number, name)
    if not isinstance(number, jax.core.Tracer) and not low <= float(number) <= high:
        limits = f"at least {low:g}" if np.isinf(high) else f"in {low:g}..{high:g}"
        raise ValueError(f"{name} must be {limits}, got {float(number):g}.")
    return number


def as_share(value: Any, name: str) -> Array:
    """Return a fraction as a float32 scalar; a concrete fraction must be above 0 and at most 1.

    Raises:
      ValueError: not a single number, NaN, or out of range.
    """
    share = jnp.asarray(value, jnp.float32)
    if share.ndim:
        raise ValueError(
            f"{name} must be one number, got shape {share.shape}; use jax.vmap for several values."
        )
    if not isinstance(share, jax.core.Tracer) and not 0 < float(share) <= 1:
        raise ValueError(f"{name} must be above 0 and at most 1, got {float(share):g}.")
    return share


def check_positive_int(value: Any, name: str) -> int:
    """Return a positive integer as a Python int.

    Raises:
      TypeError: not an integer.
      ValueError: below 1.
    """
    return check_int_from(1, value, name)


def check_int_from(least: int, value: Any, name: str) -> int:
    """Return an integer not below `least` as a Python int.

    Raises:
      TypeError: not an integer.
      ValueError: below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def as_pair(value: Pair, name: str) -> tuple[int, int]:
    """Return (rows, columns); a single number is used for both.

    Raises:
      TypeError, ValueError: not one or two positive integers.
    """
    if not isinstance(value, tuple | list):
        return check_positive_int(value, name), check_positive_int(value, name)
    if len(value) != 2:
        raise ValueError(f"{name} must be an integer or (rows, columns), got {value!r}.")
    return check_positive_int(value[0], name), check_positive_int(value[1], name)


def as_grid(
    value: Pair, image_shape: tuple[int, ...], name: str = "grid", *, default: int | None = None
) -> tuple[int, int]:
    """Return (rows, columns) of a grid or map over an image [H, W, C], at most one cell per pixel.

    The default is reduced to the image's size, so that methods work with their defaults on small images.

    Raises:
      TypeError, ValueError: not one or two positive integers, or finer than the image.
    """
    rows, cols = as_pair(value, name)
    if value == default:
        return min(rows, image_shape[0]), min(cols, image_shape[1])
    if rows > image_shape[0] or cols > image_shape[1]:
        raise ValueError(
            f"a {name} of {rows} x {cols} is finer than the image of {image_shape[0]} x {image_shape[1]} "
            f"pixels; choose a coarser {name}."
        )
    return rows, cols


def check_callable(value: Any, name: str) -> None:
    """Raise a TypeError unless a value is callable."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {type(value).__name__}.")


def check_batch_size(batch_size: int | None) -> int | None:
    """Return `batch_size` after checking that it is a positive integer or None."""
    return None if batch_size is None else check_positive_int(batch_size, "batch_size")


def as_key(key: Any, method: str) -> Array:
    """Return a single random key, either typed (`jax.random.key`) or old-style (uint32 [2]).

    Raises:
      TypeError: `key` is None or not a key.
      ValueError: more than one key.
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != jnp.uint32:
        raise TypeError(f"{method} is random: pass key=jax.random.key(...), got {type(key).__name__}.")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key must be a single key, got shape {key.shape}; use jax.vmap for several.")
    return key


def check_seed(seed: int) -> None:
    """Raise a ValueError unless 0 <= seed < 2**32."""
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be in 0..{SEEDS - 1}, got {seed}.")


def check_target(target: int, classes: int) -> None:
    """Raise a ValueError unless 0 <= target < classes."""
    if not 0 <= target < classes:
        raise ValueError(f"target {target} is out of range: the classifier has classes 0..{classes - 1}.")


def check_choice(value: Any, choices: Iterable[str], name: str) -> str:
    """Return `value` after checking that it is one of the choices.

    Raises:
      ValueError: `value` is not among the choices; the message suggests similar names.
    """
    choices = list(choices)
    if value in choices:
        return value
    near = get_close_matches(str(value), choices, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(choices)}."
    raise ValueError(f"unknown {name} {value!r}: {hint}")


# ---------------------------------------------------------------------------------------------------------
# Transformations


def refuse_derivatives(arguments: Any, what: str) -> Any:
    """Return a pytree unchanged, but raise an error if JAX differentiates through it.

    Used for search results, whose derivatives would silently be wrong or 0.

    Raises:
      TypeError: `jax.grad` or `jax.jvp` is taken with respect to anything the pytree depends on.
    """

    @jax.custom_jvp
    def unchanged(arguments: Any) -> Any:
        return arguments

    @unchanged.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise TypeError(
            f"{what} is the result of a search, which JAX cannot differentiate. To treat the result as a "
            "constant, pass the score (and the image) to the method through jax.lax.stop_gradient."
        )

    return unchanged(arguments)
