"""Records of the contents of a weights file: storages, and tensors that are views of them."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

RESAVE = "re-save it as a plain state dict, `torch.save(model.state_dict(), path)`, or as safetensors"

_MAX_COUNT = sys.maxsize // 8  # NumPy counts bytes in a machine word, and no element has more than 8
_MAX_DIMS = 64  # NumPy's limit, and PyTorch's


class WeightsError(ValueError):
    """Raised if a weights file cannot be read, is refused, or does not match the model."""


class DType(NamedTuple):
    """How an element is stored, and the type of the result."""

    stored: str  # NumPy type code, without the byte order
    result: type[np.generic]

    @property
    def itemsize(self) -> int:
        """Bytes per element in the file."""
        return np.dtype(self.stored).itemsize


DTYPES = {
    "F64": DType("f8", np.float64),
    "F32": DType("f4", np.float32),
    "F16": DType("f2", np.float32),
    "BF16": DType("u2", np.float32),  # its bits are the upper half of a float32's
    "I64": DType("i8", np.int64),
    "I32": DType("i4", np.int32),
    "I16": DType("i2", np.int16),
    "I8": DType("i1", np.int8),
    "U8": DType("u1", np.uint8),
    "BOOL": DType("u1", np.bool_),  # via bytes: a stray 2 would be an invalid NumPy bool
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A contiguous block of elements in the file."""

    key: str
    dtype: str  # a key of DTYPES
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.numel * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view that lies within its storage; create it with `checked_tensor`."""

    storage: Storage
    offset: int  # in elements, like the strides
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def result_nbytes(self) -> int:
        """Bytes of the array that `to_array` returns."""
        return math.prod(self.size) * np.dtype(DTYPES[self.storage.dtype].result).itemsize


@dataclass(frozen=True, slots=True)
class Skipped:
    """An object of a class that weights do not need, which was neither imported nor built."""

    name: str  # of the class or function in the file


class Contents(NamedTuple):
    """An opened weights file."""

    top: object  # the deserialized object, with `Tensor` records as tensors
    fetch: Callable[[Storage], memoryview]  # returns exactly `nbytes` bytes, or raises WeightsError
    byte_order: str = "<"  # or ">"


def to_array(tensor: Tensor, contents: Contents) -> np.ndarray:
    """Return a tensor's values as a new C-contiguous array; float16 and bfloat16 become float32."""
    raw = contents.fetch(tensor.storage)
    stored, result = DTYPES[tensor.storage.dtype]
    dtype = np.dtype(contents.byte_order + stored)
    if 0 in tensor.size:
        return np.empty(tensor.size, result)
    # An axis of length 1 may have any stride, even one that NumPy cannot hold in bytes.
    strides = [
        dtype.itemsize * step if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride, strict=True)
    ]
    view: np.ndarray = np.ndarray(tensor.size, dtype, raw, tensor.offset * dtype.itemsize, strides)
    if tensor.storage.dtype != "BF16":
        return view.astype(result, order="C")
    bits = view.astype(np.uint32, order="C")
    bits <<= 16
    return bits.view(np.float32)


def checked_tensor(
    storage: Storage, offset: object, size: Iterable[object], stride: Iterable[object] | None = None
) -> Tensor:
    """Create a tensor record, which is C-contiguous unless `stride` is given.

    Raises:
      WeightsError: if the tensor would extend outside its storage, or its numbers are implausible.
    """
    size = _checked_size(size)
    steps = _contiguous_stride(size) if stride is None else tuple(map(checked_count, stride))
    tensor = Tensor(storage, checked_count(offset), size, steps)
    if len(tensor.size) != len(tensor.stride):
        raise WeightsError("has a tensor whose size and stride differ in length")
    # The farthest element; no stride is negative, so all others lie between the offset and it.
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if 0 not in tensor.size and last >= storage.numel:
        raise WeightsError(
            f"has a tensor of size {tensor.size}, stride {tensor.stride} and offset {tensor.offset}, "
            f"which reaches outside its storage of {storage.numel} elements"
        )
    return tensor


def _checked_size(values: Iterable[object]) -> tuple[int, ...]:
    size = tuple(map(checked_count, values))
    if len(size) > _MAX_DIMS or math.prod(max(n, 1) for n in size) > _MAX_COUNT:
        raise WeightsError("has a tensor of an impossible size")
    return size


def _contiguous_stride(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


def checked_count(value: object) -> int:
    """Return a size, stride or offset that is safe to compute with and short enough to print.

    Raises:
      WeightsError: if the value is anything else.
    """
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise WeightsError("has a size, stride or offset that is not a plausible number")
    return value


def checked_bytes(raw: memoryview, storage: Storage) -> memoryview:
    """Return the bytes of a storage.

    Raises:
      WeightsError: if there are more or fewer bytes than the storage declares.
    """
    if len(raw) != storage.nbytes:
        raise WeightsError(
            f"is truncated or damaged: the storage {short(storage.key)} has {len(raw)} bytes "
            f"instead of {storage.nbytes}"
        )
    return raw


def short(name: object) -> str:
    """Quote a name from the file, with special characters escaped and long names truncated."""
    if isinstance(name, str):
        return repr(name if len(name) <= 100 else name[:100] + "…")
    return f"of type {type(name).__name__}"  # an int may have too many digits to print


def kind(value: Any) -> str:
    """Describe a value from the file without recursing into it."""
    if isinstance(value, dict):
        keys = [short(key) for key in itertools.islice(value, 4)] + ["…"] * (len(value) > 4)
        return f"a dict with the keys {', '.join(keys)}" if value else "an empty dict"
    if isinstance(value, Skipped):
        return f"an object of {short(value.name)}"
    if value is None:
        return "None"
    name = type(value).__name__.strip("_").lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
