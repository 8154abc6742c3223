"""Checks of shapes, dtypes and options, made while tracing or on the host, in plain words."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_CHANNELS = 16  # more than any camera has


def check_image(image: Any, name: str = "image") -> None:
    """One image: floating point [H, W, C], finite where its values are known.

    Raises:
      TypeError: not an array of floats.
      ValueError: not of rank 3, an empty axis, channels first, or NaN or infinite values.
    """
    _check_float(image, name)
    if image.ndim != 3 or 0 in image.shape:
        hint = " Explain one image at a time; use jax.vmap for a batch." if image.ndim == 4 else ""
        raise ValueError(f"{name} must be one image [H, W, C], got shape {image.shape}.{hint}")
    _check_channels_last(image, name)
    check_finite(image, name)


def _check_channels_last(image: Any, name: str) -> None:
    """Three rows of many-channelled pixels are a photo with its channels first."""
    if image.shape[0] == 3 and image.shape[2] > _CHANNELS:
        raise ValueError(
            f"{name} must have its channels last [H, W, C], got shape {image.shape}, which looks like "
            f"channels first: {name}.transpose(1, 2, 0)."
        )


def check_image_batch(images: Any, channels: int | None = None, name: str = "images") -> None:
    """A batch of images: floating point [N, H, W, C]; values are not looked at.

    Raises:
      TypeError: not an array of floats.
      ValueError: not of rank 4, or another number of channels than `channels`.
    """
    _check_float(images, name)
    if images.ndim != 4:
        hint = " For one image add the batch axis: images[None]." if images.ndim == 3 else ""
        raise ValueError(f"{name} must be [N, H, W, C], got shape {images.shape}.{hint}")
    if channels is not None and images.shape[-1] != channels:
        raise ValueError(
            f"{name} must have {channels} channels last [N, H, W, {channels}], got shape {images.shape}."
        )


def _check_float(array: Any, name: str) -> None:
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        raise TypeError(f"{name} must be an array of floats, got {type(array).__name__}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name} must be floating point in the model's input space, got {dtype}; "
            "8-bit photos go through the model's preprocess() first."
        )


def check_finite(array: Any, name: str) -> None:
    """Refuse NaN and infinity in a concrete array; a traced one has no values to look at.

    Raises:
      ValueError: it holds NaN or infinite values; says how many.
    """
    if isinstance(array, jax.core.Tracer):
        return
    bad = int(np.size(array) - np.isfinite(np.asarray(array, np.float32)).sum())
    if bad:
        raise ValueError(
            f"{name} holds {bad} NaN or infinite values of {np.size(array)}; all must be finite numbers. "
            "Look at how it was made."
        )


def check_positive_int(value: Any, name: str) -> int:
    """A whole number of at least 1, as a Python int.

    Raises:
      TypeError: not a whole number.
      ValueError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, got {value!r}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
    return int(value)


def check_choice(value: Any, choices: Iterable[str], name: str) -> str:
    """One of a set of names.

    Raises:
      ValueError: it is not; says which come nearest.
    """
    choices = list(choices)
    if value in choices:
        return value
    near = get_close_matches(str(value), choices, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"choose from {', '.join(choices)}."
    raise ValueError(f"unknown {name} {value!r}: {hint}")
