"""What a result's record says, as JSON can hold it."""

import io
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np

import jaxplain
from jaxplain.jobs.photos import Photo


def origin(photo: Photo) -> dict[str, Any]:
    """Which photo, and which versions made the result: the head of every record."""
    return {
        "jaxplain": jaxplain.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "image": photo.path.name,
        "image_size": list(photo.rgb.shape[:2]),
        "image_sha256": photo.sha256,
    }


def to_json(record: Mapping[str, Any]) -> bytes:
    """A record as the bytes of its file."""
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()


def npy(array: Any) -> bytes:
    """As `np.save` writes it, which says nothing of a full disk when it writes to one."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    """As `np.savez` writes them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def number(value: Any) -> float | None:
    """A float of float32's digits for JSON, which has no NaN."""
    number = float(value)
    return float(f"{number:.7g}") if np.isfinite(number) else None


def numbers(values: Any) -> list[float | None]:
    """Floats as `number` makes them."""
    return [number(value) for value in values]


def plain(value: Any) -> Any:
    """Parameters as JSON can hold them."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: plain(getattr(value, part.name)) for part in fields(value)}
        return {"name": type(value).__name__, **parts}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    return number(value) if np.ndim(value) == 0 and not callable(value) else repr(value)


def told(error: Exception) -> str:
    """Kind and first line of an error, whose other lines are for programmers."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
