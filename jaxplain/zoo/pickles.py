"""A restricted unpickler for PyTorch files, which builds plain data and skips everything else."""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxplain.zoo.tensors import (
    RESAVE,
    Skipped,
    Storage,
    Tensor,
    WeightsError,
    checked_count,
    checked_tensor,
    kind,
    short,
)

_STORAGE_TYPES = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.UntypedStorage": "U8",
    "torch.storage.UntypedStorage": "U8",
}
_INHERITED = (  # opcodes that only move data, as implemented in `pickle`
    "PROTO FRAME STOP MARK PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT NONE NEWTRUE NEWFALSE "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 "
    "EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT GLOBAL STACK_GLOBAL BINPERSID"
)
_KNOWN = {
    "collections.OrderedDict",
    "collections.defaultdict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
}
_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_DAMAGED = "contains a truncated or damaged pickle"
# Exceptions that `pickle` raises for damaged input. Invalid escapes in a string cause a warning, which is an
# exception in a process that treats warnings as errors.
_FAILURES = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    struct.error,
    Warning,
)


@dataclass(frozen=True, slots=True)
class _Global:
    """A class or function that the pickle refers to; it is never imported."""

    name: str


def _refused(instruction: str) -> Callable[[Any], None]:
    def load(unpickler: Any) -> None:
        raise _refusal(f"the pickle instruction {instruction}")

    return load


class WeightsUnpickler(pickle._Unpickler):
    """Unpickles checkpoints into plain containers and records of `jaxplain.zoo.tensors`.

    A pickle is a program. Here it has nothing to call: a global is a name, and every opcode that could call,
    import or change an object is replaced or refused. What a checkpoint has besides tensors (the arguments of
    the training script, numpy scalars, optimizers) becomes a `Skipped`, whatever is done to it.

    This extends the pure-Python implementation, not `pickle.Unpickler` in C, which sets attributes of
    whatever `find_class` returned, sizes its memo by an index in the file, and hashes nested tuples until the
    C stack overflows; a subclass cannot change any of this.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]
    read: Callable[[int], bytes]

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")  # byte strings of Python 2
        self.storages: dict[str, Storage] = {}  # every storage that the pickle declared

    def load(self) -> Any:
        """Return the content of one pickle, and leave the stream positioned after it.

        Raises:
          WeightsError: if the pickle is truncated or damaged, or contains anything but plain data.
        """
        try:
            return super().load()
        except WeightsError:
            raise
        except _FAILURES as error:
            raise WeightsError(_DAMAGED) from error

    def find_class(self, module: str, name: str) -> Any:
        """Return a stand-in for a name; nothing is imported."""
        return _Global(f"{module}.{name}")

    def persistent_load(self, identity: Any) -> Storage | _Global:
        """Return the storage, or the class of a whole model, that a persistent id declares."""
        match identity:
            # The location (cpu, cuda:0) does not matter. The legacy format has a sixth part; anything but
            # None is a view of another storage, which PyTorch no longer writes, as its tensors have offsets.
            case ("storage", _Global(name), str(key), str(), numel, *rest) if rest in ([], [None]):
                if name in _STORAGE_TYPES:
                    storage = Storage(key, _STORAGE_TYPES[name], checked_count(numel))
                    if self.storages.setdefault(key, storage) != storage:
                        raise WeightsError(f"declares the storage {short(key)} twice, differently")
                    return storage
            case ("module", _Global() as module, *_):  # of a whole model, followed by its source code
                return module
        raise WeightsError("has a persistent id that is not a plain storage; nothing was executed")

    def _load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _call(self.stack[-1], arguments)

    def _load_newobj(self) -> None:
        self.stack.pop()
        self.stack[-1] = Skipped(_expect(self.stack[-1], _Global).name)

    def _load_newobj_ex(self) -> None:
        self.stack.pop()
        self._load_newobj()

    def _load_set(self) -> None:
        self.stack.append(Skipped("set"))

    def _load_frozenset(self) -> None:
        self.pop_mark()
        self.stack.append(Skipped("frozenset"))

    def _load_additems(self) -> None:
        self.pop_mark()
        _expect(self.stack[-1], Skipped)

    def _load_bytearray8(self) -> None:
        # The inherited one allocates as many bytes as the file claims, before it reads them.
        (size,) = struct.unpack("<Q", self.read(8))
        self.stack.append(self.read(size))

    def _load_build(self) -> None:
        self.stack.pop()  # attributes such as an OrderedDict's _metadata; they are not needed
        _expect(self.stack[-1], dict, Skipped)

    def _load_append(self) -> None:
        value = self.stack.pop()
        if not isinstance(self.stack[-1], Skipped):
            _expect(self.stack[-1], list).append(value)

    def _load_appends(self) -> None:
        values = self.pop_mark()
        if not isinstance(self.stack[-1], Skipped):
            _expect(self.stack[-1], list).extend(values)

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append(_dict(items))

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _load_setitems(self) -> None:
        self._update(self.pop_mark())

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], Skipped):
            _expect(self.stack[-1], dict).update(_dict(items))

    def _load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode() for _ in range(2))
        self.pop_mark()
        self.stack.append(Skipped(f"{module}.{name}"))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        code: _refused(name) for name, code in _CODES.items()
    }
    dispatch |= {_CODES[name]: pickle._Unpickler.dispatch[_CODES[name]] for name in _INHERITED.split()}
    dispatch |= {
        _CODES["REDUCE"]: _load_reduce,
        _CODES["NEWOBJ"]: _load_newobj,
        _CODES["NEWOBJ_EX"]: _load_newobj_ex,
        _CODES["EMPTY_SET"]: _load_set,
        _CODES["FROZENSET"]: _load_frozenset,
        _CODES["ADDITEMS"]: _load_additems,
        _CODES["APPEND"]: _load_append,
        _CODES["APPENDS"]: _load_appends,
        _CODES["BUILD"]: _load_build,
        _CODES["BYTEARRAY8"]: _load_bytearray8,
        _CODES["DICT"]: _load_dict,
        _CODES["SETITEM"]: _load_setitem,
        _CODES["SETITEMS"]: _load_setitems,
        _CODES["INST"]: _load_inst,
    }


def _call(function: Any, arguments: Any) -> object:
    """Apply one of the known functions to our own records; the result of any other is skipped."""
    name = _expect(function, _Global).name
    match name, arguments:
        case ("collections.OrderedDict", ()) | ("collections.defaultdict", (_,) | ()):
            return {}
        case "collections.OrderedDict", (list() as pairs,):  # as written by Python 2
            return _dict(item for pair in pairs for item in _expect(pair, list, tuple))
        case "torch.Size", (tuple() as size,):
            return size
        case (
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state",
            (Tensor() as tensor, *_),
        ):
            return tensor
        case "torch._tensor._rebuild_from_type_v2", (_Global() as rebuild, _, tuple() as inner, *_):
            return _call(rebuild, inner)
        case (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            (Storage() as storage, offset, (tuple() | list()) as size, (tuple() | list()) as stride, *_),
        ):
            return checked_tensor(storage, offset, size, stride)
    if name in _KNOWN:
        raise WeightsError(f"calls {short(name)} with invalid arguments; nothing was executed")
    return Skipped(name)


def _dict(items: Iterable[Any]) -> dict[Any, Any]:
    """Build a dict from alternating keys and values."""
    flat = list(items)
    pairs = zip(flat[0::2], flat[1::2], strict=True)
    # Entries with other keys are skipped: hashing a deeply nested tuple would overflow the C stack.
    return {key: value for key, value in pairs if isinstance(key, str | int | float | None)}


def _expect(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise WeightsError(f"{_DAMAGED}: it contains an invalid use of {kind(value)}; nothing was executed")
    return value


def _refusal(what: str) -> WeightsError:
    return WeightsError(
        f"requests {what}, which plain weights do not need; nothing was executed. Please {RESAVE}"
    )
