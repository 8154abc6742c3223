"""Finds the state dict in a weights file, turns it into arrays, and checks that it fits."""

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxplain.zoo.weights._containers import open_contents
from jaxplain.zoo.weights._records import DTYPES, RESAVE, Contents, Tensor, WeightsError, kind, short

_WRAPPERS = ("state_dict", "model_state_dict", "model", "params", "params_ema")
# Tied weights and halves make arrays larger than their file. Beyond this factor it is a memory bomb, such as
# a scalar repeated by strides of 0.
_MAX_GROWTH = 16
_SLACK = 2**20


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the named arrays of a weights file without torch, executing nothing that is in it.

    The format is told from the content: PyTorch's zip format, its legacy format (before 1.6), or safetensors.
    A checkpoint that keeps the state dict under "state_dict", "model_state_dict", "model", "params" or
    "params_ema" is unwrapped, one level deep; a "module." in front of all names (DataParallel) is removed.
    Entries of the state dict that are numbers, strings or None are left out; any others are an error.

    Args:
        path: the file.

    Returns:
        Name -> array, in the file's order. Each has the tensor's own shape and dtype, but float16 and
        bfloat16 become float32. The arrays are C-contiguous and writable, and share no memory.

    Raises:
        WeightsError: the file is absent, truncated, damaged or of another format, asks for anything but
            tensors and plain containers, or would fill over 16 times its own size. The message has the path.

    Example:
        >>> import tempfile
        >>> header = b'{"w": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "tiny.safetensors"
        ...     _ = path.write_bytes(len(header).to_bytes(8, "little") + header + bytes([1, 2]))
        ...     read_state_dict(path)
        {'w': array([1, 2], dtype=uint8)}
    """
    try:
        data = _read_file(Path(path))
        contents = open_contents(data)
        tensors = _find_state_dict(contents.top)
        if sum(tensor.result_nbytes for tensor in tensors.values()) > _MAX_GROWTH * len(data) + _SLACK:
            raise WeightsError(f"would fill more than {_MAX_GROWTH} times its own size")
        return {name: _to_array(tensor, contents) for name, tensor in tensors.items()}
    except WeightsError as error:
        remedy = "" if ";" in str(error) else "; copy or download it again, or give another file"
        raise WeightsError(f"weights file {os.fspath(path)} {error}{remedy}") from error.__cause__


def check_fit(
    state: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    *,
    source: str,
    optional: Callable[[str], bool] = lambda name: name.endswith("num_batches_tracked"),
) -> None:
    """Checks that a state dict has the entries and shapes that a model expects, and no others.

    Args:
        state: name -> array, as from `read_state_dict`.
        expected: name -> shape, every one of which must be there.
        source: where `state` comes from, for the message.
        optional: says which names may be in `state` though nothing expects them.

    Raises:
        WeightsError: names the first missing entry (in the order of `expected`), else the first of another
            shape, else the first unexpected one, and counts the others.

    Example:
        >>> check_fit({"fc.weight": np.zeros((10, 4))}, {"fc.weight": (10, 4)}, source="fc.pth")
    """
    missing = [name for name in expected if name not in state]
    nearly_all_missing = bool(missing) and len(missing) >= 0.9 * len(expected)
    misshapen = [name for name in expected if name in state and state[name].shape != tuple(expected[name])]
    unexpected = [name for name in state if name not in expected and not optional(name)]
    if missing:
        problem = f"{missing.pop(0)!r} is missing"
    elif misshapen:
        name = misshapen.pop(0)
        problem = f"{name!r} has the shape {state[name].shape} instead of {tuple(expected[name])}"
    elif unexpected:
        problem = f"{unexpected.pop(0)!r} is unexpected"
    else:
        return
    others = {"missing": missing, "of another shape": misshapen, "unexpected": unexpected}
    besides = ", ".join(f"{len(names)} {what}" for what, names in others.items() if names)
    hint = (
        "; nearly all entries are: are these the weights of another architecture?"
        if nearly_all_missing
        else "; give the weights of this very model"
    )
    raise WeightsError(f"{source} does not fit: {problem}" + (f" (and {besides})" if besides else "") + hint)


def _read_file(path: Path) -> bytes:
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
        data = path.read_bytes() if regular else b""
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = getattr(error, "strerror", error)
        raise WeightsError(f"cannot be read: {reason}; check the path and its permissions") from error
    if not regular:  # a directory, or a device or pipe that may never end
        raise WeightsError("is not a regular file; name the file with the weights")
    return data


def _find_state_dict(top: object) -> dict[str, Tensor]:
    if not isinstance(top, dict):
        raise WeightsError(f"holds {kind(top)} instead of a state dict; {RESAVE}")
    chosen = next((top[key] for key in _WRAPPERS if _has_tensors(top.get(key))), top)
    tensors = {}
    for name, value in chosen.items():
        if isinstance(value, Tensor) and isinstance(name, str):
            tensors[name] = value
        elif not isinstance(value, str | int | float | None):
            raise WeightsError(
                f"holds no flat state dict: the entry {short(name)} is {kind(value)}; {RESAVE}"
            )
    if not tensors:
        raise WeightsError(f"holds no tensors but {kind(chosen)}")
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values())


def _to_array(tensor: Tensor, contents: Contents) -> np.ndarray:
    raw = contents.fetch(tensor.storage)
    stored, result = DTYPES[tensor.storage.dtype]
    dtype = np.dtype(contents.byte_order + stored)
    if 0 in tensor.size:
        return np.empty(tensor.size, result)
    # An axis of length 1 may come with any stride, even one that numpy cannot hold in bytes.
    strides = [
        dtype.itemsize * step if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride, strict=True)
    ]
    view: np.ndarray = np.ndarray(tensor.size, dtype, raw, tensor.offset * dtype.itemsize, strides)
    if tensor.storage.dtype != "BF16":
        return view.astype(result, order="C")
    bits = view.astype(np.uint32, order="C")
    bits <<= 16
    return bits.view(np.float32)
