"""A pickle machine that can build data, and nothing else."""

import io
import pickletools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxplain.zoo.weights._records import (
    RESAVE,
    Storage,
    Tensor,
    WeightsError,
    checked_tensor,
    count,
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
_CALLABLES = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_DAMAGED = "holds a truncated or damaged pickle"


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle asks for, never imported."""

    name: str


class Unpickler:
    """Runs the pickle instructions that build data, on our own records, and refuses all others.

    Why not a subclass of `pickle.Unpickler`: its BUILD may set attributes of whatever `find_class` returned,
    its memo allocates as much as an index in the file says, and both are beyond the reach of a subclass.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}  # every storage that the pickle declared

    def load(self, stream: io.BytesIO) -> object:
        """Runs one pickle, and leaves the stream right behind it."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self.stack.pop()
                self._step(opcode.name, argument)
        except WeightsError:
            raise
        # From genops, or a stack that runs dry. Odd backslashes in a name make genops warn, and a strict
        # process turns that into an exception.
        except (LookupError, ValueError, struct.error, Warning) as error:
            raise WeightsError(_DAMAGED) from error
        raise WeightsError(_DAMAGED)

    def _step(self, op: str, argument: Any) -> None:
        match op:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                self.stack.append(self.memo[argument])
            case "BUILD":  # attributes such as an OrderedDict's _metadata: of no use here, so dropped
                target, _ = self._pop(2)
                self.stack.append(_expect(target, dict))
            case "APPEND" | "APPENDS":
                items = self._pop_to_mark() if op == "APPENDS" else self._pop(1)
                _expect(self.stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._pop_to_mark() if op == "SETITEMS" else self._pop(2)
                _expect(self.stack[-1], dict).update(_dict(items))
            case _:
                self.stack.append(self._value(op, argument))

    def _value(self, op: str, argument: Any) -> object:
        """The value that an instruction pushes."""
        match op:
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                return argument
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # Python 2
                return argument
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                return argument
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                return _CONSTANTS[op]
            case "EMPTY_DICT":
                return {}
            case "EMPTY_LIST":
                return []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                return tuple(self._pop(int(op[-1])))
            case "TUPLE":
                return tuple(self._pop_to_mark())
            case "LIST":
                return self._pop_to_mark()
            case "DICT":
                return _dict(self._pop_to_mark())
            case "GLOBAL":
                return _global(*argument.split(" ", 1))
            case "STACK_GLOBAL":
                return _global(*self._pop(2))
            case "REDUCE":
                return _call(*self._pop(2))
            case "BINPERSID":
                return self._declare_storage(*self._pop(1))
            case "INST":  # asks and calls at once; only old-style classes of Python 2 needed it
                _global(*argument.split(" ", 1))
        raise _refusal(f"the pickle instruction {op}")

    def _pop(self, number: int) -> list[Any]:
        return [self.stack.pop() for _ in range(number)][::-1]

    def _pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _declare_storage(self, identity: object) -> Storage:
        match identity:
            # The location (cpu, cuda:0) is moot. The legacy format has a sixth part; other than None it would
            # be a view of another storage, which torch has not written since its tensors keep offsets.
            case ("storage", _Global(name), str(key), str(), numel, *rest) if rest in ([], [None]):
                if name in _STORAGE_TYPES:
                    storage = Storage(key, _STORAGE_TYPES[name], count(numel))
                    if self.storages.setdefault(key, storage) != storage:
                        raise WeightsError(f"declares the storage {short(key)} twice and differently")
                    return storage
        raise WeightsError("has a persistent id that is not a plain storage; nothing was executed")


def _global(module: object, name: object) -> _Global:
    full_name = f"{_expect(module, str)}.{_expect(name, str)}"
    if full_name not in _CALLABLES and full_name not in _STORAGE_TYPES:
        raise _refusal(short(full_name))
    return _Global(full_name)


def _call(function: object, arguments: object) -> object:
    """Does on our own records what the five callables do in torch."""
    name = _expect(function, _Global).name
    match name, arguments:
        case "collections.OrderedDict", ():
            return {}
        case "collections.OrderedDict", (list() as pairs,):  # the way of Python 2
            return _dict(item for pair in pairs for item in _expect(pair, list, tuple))
        case "torch.Size", (tuple() as size,):
            return size
        case "torch._utils._rebuild_parameter", (Tensor() as tensor, *_):
            return tensor
        case (
            "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
            (Storage() as storage, offset, (tuple() | list()) as size, (tuple() | list()) as stride, *_),
        ):
            return checked_tensor(storage, offset, size, stride)
    raise WeightsError(f"calls {short(name)} with arguments that it does not take; nothing was executed")


def _dict(items: Iterable[Any]) -> dict[Any, Any]:
    """Makes a dict of alternating keys and values."""
    flat = list(items)
    for key in flat[0::2]:  # tuples are left out because hashing a deeply nested one overflows the C stack
        _expect(key, str, int, float, type(None))
    return dict(zip(flat[0::2], flat[1::2], strict=True))


def _expect(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise WeightsError(f"{_DAMAGED}: it misuses {kind(value)}; nothing was executed")
    return value


def _refusal(what: str) -> WeightsError:
    return WeightsError(
        f"asks for {what}, which plain weights do not need; nothing was executed. Please {RESAVE}"
    )
