"""What a weights file declares before any array exists: storages, and tensors that view them."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

RESAVE = "re-save it as a plain state dict, `torch.save(model.state_dict(), path)`, or as safetensors"

_MAX_COUNT = sys.maxsize // 8  # numpy counts bytes in a word, and no element has more than 8
_MAX_DIMS = 64  # numpy's limit, and torch's


class WeightsError(ValueError):
    """A weights file that cannot be read, is refused, or does not fit the model."""


class DType(NamedTuple):
    """How an element is stored, and what it is read as."""

    stored: str  # numpy type code, without the byte order
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
    "BOOL": DType("u1", np.bool_),  # by way of bytes: a stray 2 would be an invalid numpy bool
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of elements somewhere in the file."""

    key: str
    dtype: str  # a key of DTYPES
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.numel * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True)
class Tensor:
    """A strided view of a storage that is known to stay inside it. Make it with `checked_tensor`."""

    storage: Storage
    offset: int  # in elements, as the strides are
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def result_nbytes(self) -> int:
        """Bytes of the array it becomes."""
        return math.prod(self.size) * np.dtype(DTYPES[self.storage.dtype].result).itemsize


class Contents(NamedTuple):
    """An opened weights file."""

    top: object  # what it holds, with `Tensor` in the place of tensors
    fetch: Callable[[Storage], memoryview]  # returns exactly `nbytes` bytes, or raises WeightsError
    byte_order: str  # "<" or ">"


def checked_tensor(
    storage: Storage, offset: object, size: Iterable[object], stride: Iterable[object]
) -> Tensor:
    """Makes a tensor record, or raises WeightsError if it would reach outside of its storage."""
    tensor = Tensor(storage, count(offset), checked_size(size), tuple(map(count, stride)))
    if len(tensor.size) != len(tensor.stride):
        raise WeightsError("has a tensor whose size and stride differ in length")
    # The farthest element; all others lie between the offset and it, for no stride is negative.
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if 0 not in tensor.size and last >= storage.numel:
        raise WeightsError(
            f"has a tensor of size {tensor.size}, stride {tensor.stride} and offset {tensor.offset}, "
            f"which reaches outside its storage of {storage.numel} elements"
        )
    return tensor


def checked_size(values: Iterable[object]) -> tuple[int, ...]:
    """Passes a size on if numpy can make an array of it."""
    size = tuple(map(count, values))
    if len(size) > _MAX_DIMS or math.prod(max(n, 1) for n in size) > _MAX_COUNT:
        raise WeightsError("has a tensor of an impossible size")
    return size


def contiguous_stride(size: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a C-contiguous tensor of this size."""
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))


def count(value: object) -> int:
    """Checks a size, stride or offset: a number safe to compute with, and short enough to print."""
    if type(value) is not int or not 0 <= value <= _MAX_COUNT:
        raise WeightsError("has a size, stride or offset that is not a plausible number")
    return value


def sized(raw: memoryview, storage: Storage) -> memoryview:
    """Passes the bytes of a storage on if there are as many as it declares."""
    if len(raw) != storage.nbytes:
        raise WeightsError(
            f"is truncated or damaged: the storage {short(storage.key)} has {len(raw)} bytes "
            f"instead of {storage.nbytes}"
        )
    return raw


def short(name: object) -> str:
    """Quotes a name from the file, whatever its length and characters."""
    if isinstance(name, str):
        return repr(name if len(name) <= 100 else name[:100] + "…")
    return f"of type {type(name).__name__}"  # an int may have too many digits to print


def kind(value: Any) -> str:
    """Describes a value from the file without recursing into it."""
    if isinstance(value, dict):
        keys = [short(key) for key in itertools.islice(value, 4)] + ["…"] * (len(value) > 4)
        return f"a dict with the keys {', '.join(keys)}" if value else "an empty dict"
    if value is None:
        return "None"
    name = type(value).__name__.strip("_").lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
