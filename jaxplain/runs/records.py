"""Records of results: JSON and NumPy files that describe how a result was made."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import numpy as np

import jaxplain
from jaxplain.runs.photos import Photo

_LONGEST = 1000  # maximum length of an array in a record; longer arrays belong in their own files


def origin(photo: Photo) -> dict[str, Any]:
    """Return the fields that start every record: the photo, and the versions that made the result."""
    return {
        "jaxplain": jaxplain.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "image": photo.path.name,
        "image_size": list(photo.rgb.shape[:2]),
        "image_sha256": photo.sha256,
        **({} if photo.white_level is None else {"white_level": photo.white_level}),
    }


def to_json(record: Mapping[str, Any]) -> bytes:
    """Encode a record as the bytes of a JSON file."""
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()


def npy(array: Any) -> bytes:
    """Encode an array as the bytes of a `.npy` file; `np.save` to a path does not report a full disk."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    """Encode arrays as the bytes of an `.npz` file."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def number(value: Any) -> float | None:
    """Round a float to float32 precision; return None for NaN and infinity, which JSON does not support."""
    number = float(value)
    return float(f"{number:.7g}") if np.isfinite(number) else None


def numbers(values: Any) -> list[float | None]:
    """Round floats with `number`."""
    return [number(value) for value in values]


def plain(value: Any) -> Any:
    """Convert a method's options to JSON-serializable values."""
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


def details(value: Any) -> Any:
    """Convert an explanation's details to JSON-serializable values: numbers and short series, by name.

    Long arrays and arrays with two or more axes (masks, maps) are omitted.

    Example:
      >>> from typing import NamedTuple
      >>> class Fit(NamedTuple):
      ...     loss: float
      ...     masks: np.ndarray
      >>> details(Fit(0.25, np.zeros((2, 4, 4))))
      {'loss': 0.25}
    """
    parts = {}
    for name, part in _named_parts(value).items():
        if _named_parts(part):
            parts[name] = details(part)
        elif np.ndim(part) == 0:
            parts[name] = number(part)
        elif np.ndim(part) == 1 and np.size(part) <= _LONGEST:
            parts[name] = numbers(part)
    return parts


def _named_parts(value: Any) -> dict[str, Any]:
    if hasattr(value, "_asdict"):
        return value._asdict()
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name) for part in fields(value)}
    return dict(value) if isinstance(value, Mapping) else {}


_LONGEST_LINE = 300  # characters


def error_line(error: Exception) -> str:
    """Return an error's type and its first sentence in one line; any further lines are for developers."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0] if lines else ""
    for line in lines[1:]:
        if not text.endswith((":", ",")) or len(text) > _LONGEST_LINE:  # JAX goes on after a colon
            break
        text = f"{text} {line}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def weights_digest(classifier: Any) -> str:
    """Return a digest of a classifier's weights: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree_util.tree_leaves(classifier):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()[:16]
