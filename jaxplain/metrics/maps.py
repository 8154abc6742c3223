"""What the measures ask of the maps and numbers that they are given; values are not looked at, so that a NaN
in one map of a data set becomes a NaN in one row and not an error."""

from typing import Any

import jax.numpy as jnp
from jax import Array

from jaxplain.perturb import upsample


def check_floats(array: Any, name: str, ndim: int | None = None, axes: str = "") -> None:
    """An array of floats that is not empty, of `ndim` axes unless that is None; `axes` names them in errors.

    Raises:
      TypeError: not an array of floats.
      ValueError: empty, or another number of axes.
    """
    dtype = getattr(array, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        got = type(array).__name__ if dtype is None else str(dtype)
        raise TypeError(f"{name} must be an array of floats, got {got}.")
    if 0 in array.shape or (ndim is not None and array.ndim != ndim):
        expected = "not be empty" if ndim is None else f"have shape {axes}"
        hint = " Use jax.vmap for a batch." if ndim is not None and array.ndim == ndim + 1 else ""
        raise ValueError(f"{name} must {expected}, got shape {array.shape}.{hint}")


def check_pair(first: Any, second: Any, names: tuple[str, str]) -> None:
    """Two arrays of floats of one shape.

    Raises:
      TypeError: not arrays of floats.
      ValueError: empty, or shapes that differ.
    """
    for array, name in zip((first, second), names, strict=True):
        check_floats(array, name)
    if first.shape != second.shape:
        raise ValueError(
            f"{names[0]} {first.shape} and {names[1]} {second.shape} must have the same shape; "
            "jaxplain.upsample brings a coarse map to the size of a fine one."
        )


def at_size(saliency: Any, shape: tuple[int, ...], of: str) -> Array:
    """A map [h, w] brought to [H, W]: bilinear with aligned corners, the identity where the sizes agree.

    Raises:
      TypeError, ValueError: not one map of floats, or finer than `shape`, the size of `of`.
    """
    check_floats(saliency, "saliency", 2, "[h, w]")
    if saliency.shape[0] > shape[0] or saliency.shape[1] > shape[1]:
        raise ValueError(f"saliency {saliency.shape} must be no finer than the {of}, {tuple(shape)}.")
    return upsample(jnp.asarray(saliency, jnp.float32), (shape[0], shape[1]))
