"""Read pretrained weights (PyTorch's zip and legacy formats, safetensors) without executing code.

A `.pth` file is unpickled (`jaxplain.zoo.pickles`) into records of storages and tensors, without reading any
data. Only the tensors of the state dict become arrays, after a check that they lie inside the file
(`jaxplain.zoo.tensors`).
"""

import functools
import io
import math
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors

from jaxplain.zoo.pickles import WeightsUnpickler
from jaxplain.zoo.tensors import (
    DTYPES,
    RESAVE,
    Contents,
    Skipped,
    Storage,
    Tensor,
    WeightsError,
    checked_bytes,
    checked_tensor,
    kind,
    short,
    to_array,
)

# Entries of checkpoints that hold a state dict, the best first: averaged weights before those of the last
# step (as timm does), the teacher before the student (DINO).
_WRAPPERS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema", "teacher"),
    *("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "student", "module"),
    "backbone",
)
_MAX_NESTING = 4  # of these entries
# Tied weights and half precision make arrays larger than their file. Beyond this factor it is a memory bomb,
# such as a scalar repeated by strides of 0.
_MAX_GROWTH = 16
_SLACK = 2**20
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP_START = b"PK\x03\x04"
_OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow)",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip-compressed file, to be unpacked first",
    b"version https://git-lfs": "a Git LFS pointer, to be replaced by the file itself with `git lfs pull`",
    b"<": "a web page, as after a failed download",
}


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the named arrays of a weights file without PyTorch and without executing its contents.

    The format is recognized from the content: PyTorch's zip format, its legacy format (before 1.6), or
    safetensors. In a checkpoint, the state dict is found under the usual names ("state_dict", "model", "net",
    ...), also nested; averaged weights ("state_dict_ema", "model_ema", ...) are preferred to those of the
    last training step, and a teacher to its student. The prefixes "module." (DataParallel) and "_orig_mod."
    (torch.compile) are removed if all names have them. Whatever else the checkpoint has is skipped without
    building it; in the state dict itself, anything but tensors, numbers, strings and None is an error.

    Args:
      path: the weights file.

    Returns:
      A dict from names to arrays, in the file's order. Arrays have the tensors' shapes and dtypes, but
      float16 and bfloat16 become float32. They are C-contiguous and writable, and share no memory.

    Raises:
      WeightsError: if the file is missing, truncated, damaged or in another format, has no state dict of
        tensors, or would expand to more than 16 times its size. The message names the path.

    Example:
      >>> import tempfile
      >>> from safetensors.numpy import save_file
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = Path(folder) / "tiny.safetensors"
      ...     save_file({"w": np.array([1, 2], np.uint8)}, path)
      ...     read_state_dict(path)
      {'w': array([1, 2], dtype=uint8)}
    """
    try:
        data = _read_file(Path(path))
        contents = _open_contents(data)
        tensors = _find_state_dict(contents.top)
        if sum(tensor.result_nbytes for tensor in tensors.values()) > _MAX_GROWTH * len(data) + _SLACK:
            raise WeightsError(f"would expand to more than {_MAX_GROWTH} times its own size")
        return {name: to_array(tensor, contents) for name, tensor in tensors.items()}
    except WeightsError as error:
        remedy = "" if ";" in str(error) else "; copy or download it again, or pass another file"
        raise WeightsError(f"weights file {os.fspath(path)} {error}{remedy}") from error.__cause__


def check_fit(
    state: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    *,
    source: str,
    optional: Callable[[str], bool] = lambda name: name.endswith("num_batches_tracked"),
) -> None:
    """Check that a state dict has the entries and shapes that a model expects, and no others.

    Args:
      state: dict from names to arrays, as returned by `read_state_dict`.
      expected: dict from names to shapes, for every required entry.
      source: the origin of `state`, used in error messages.
      optional: function that returns whether a name may be in `state` without being expected.

    Raises:
      WeightsError: if an entry is missing, has the wrong shape, or is unexpected. The message names the first
        such entry, in this order of priority, and counts the others.

    Example:
      >>> check_fit({"fc.weight": np.zeros((10, 4))}, {"fc.weight": (10, 4)}, source="fc.pth")
    """
    missing = [name for name in expected if name not in state]
    misshapen = [name for name in expected if name in state and state[name].shape != tuple(expected[name])]
    unexpected = [name for name in state if name not in expected and not optional(name)]
    hint = "; pass weights for exactly this model"
    if missing and len(missing) >= 0.9 * len(expected):
        hint = "; nearly all entries are missing: are these the weights of another architecture?"
    if missing:
        problem = f"{missing.pop(0)!r} is missing"
    elif misshapen:
        last_layer = list(expected)[-1].rpartition(".")[0]
        if all(name.rpartition(".")[0] == last_layer for name in misshapen):
            hint = "; only the last layer differs: build the model with one label per class of the weights"
        name = misshapen.pop(0)
        problem = f"{name!r} has the shape {state[name].shape} instead of {tuple(expected[name])}"
    elif unexpected:
        problem = f"{unexpected.pop(0)!r} is unexpected"
    else:
        return
    others = {"missing": missing, "of another shape": misshapen, "unexpected": unexpected}
    besides = ", ".join(f"{len(names)} {what}" for what, names in others.items() if names)
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
        raise WeightsError(f"contains {_refused(top, 'instead of a state dict')}")
    chosen = _unwrapped(top, _MAX_NESTING) or top
    tensors = {}
    for name, value in chosen.items():
        if isinstance(value, Tensor) and isinstance(name, str):
            tensors[name] = value
        elif not isinstance(value, str | int | float | Skipped | None) or _is_tensor_like(value):
            raise WeightsError(
                f"does not contain a flat state dict: the entry {short(name)} is {_refused(value)}"
            )
    if not tensors:
        skipped = [value for value in chosen.values() if isinstance(value, Skipped)]
        raise WeightsError(f"contains no tensors, only {_refused(skipped[0]) if skipped else kind(chosen)}")
    while (prefix := common_prefix(tensors)) in ("module.", "_orig_mod."):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _refused(value: object, where: str = "") -> str:
    """Describe a value that is no state dict, and what to do."""
    calm = "nothing was executed. Please " if isinstance(value, Skipped) else ""
    return f"{kind(value)} {where}".rstrip() + f"; {calm}{RESAVE}"


def _is_tensor_like(value: object) -> bool:
    """Return whether a skipped object is a tensor of a kind that cannot be read, such as a quantized one."""
    return isinstance(value, Skipped) and "_rebuild_" in value.name


def common_prefix(names: Iterable[str]) -> str:
    """Return the part up to and including the first dot that all names share; "" if there is none."""
    firsts = {name.partition(".")[0] if "." in name else "" for name in names}
    return f"{firsts.pop()}." if len(firsts) == 1 and "" not in firsts else ""


def _unwrapped(value: object, depth: int) -> dict[str, object] | None:
    """Return the state dict that a checkpoint keeps under one of the usual names, or is itself."""
    if not isinstance(value, dict) or depth == 0:
        return None
    inner = [_unwrapped(value.get(name), depth - 1) for name in _WRAPPERS]
    found = next((state for state in inner if state is not None), None)
    return found or (value if _has_tensors(value) else None)


def _has_tensors(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(entry, Tensor) for entry in value.values())


# ---------------------------------------------------------------------------------------------------------
# Formats. All are opened as views of the file's bytes, so none can be a decompression bomb.


def _open_contents(data: bytes) -> Contents:
    """Recognize the format of a weights file from its content, and open it."""
    if not data:
        raise WeightsError("is empty")
    if data[8:9] == b"{":  # first, because a header's length may look like the start of any other format
        return _open_safetensors(data)
    if data.startswith(_ZIP_START):
        return _open_zip(data)
    if data.startswith(b"\x80"):
        return _open_legacy(data)
    if data[257:262] == b"ustar":
        raise WeightsError(f"is in the tar format of torch before 0.1.10, which is not supported; {RESAVE}")
    text = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, what in _OTHER_FORMATS.items():
        if text.startswith(start):
            raise WeightsError(f"is not a weights file: it looks like {what}")
    raise WeightsError(f"is neither a PyTorch nor a safetensors file (it starts with {data[:8]!r})")


def _open_safetensors(data: bytes) -> Contents:
    try:
        entries = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        detail = short(str(error).removeprefix("Error while deserializing: "))
        raise WeightsError(f"is a truncated or damaged safetensors file: {detail}") from error
    tensors = {}
    for name, entry in entries.items():
        if entry["dtype"] not in DTYPES:
            raise WeightsError(
                f"has the unsupported dtype {short(entry['dtype'])} in the entry {short(name)}"
            )
        storage = Storage(name, entry["dtype"], math.prod(entry["shape"]))
        tensors[name] = checked_tensor(storage, 0, entry["shape"])

    def fetch(storage: Storage) -> memoryview:
        return checked_bytes(memoryview(entries[storage.key]["data"]), storage)

    return Contents(tensors, fetch)


def _open_zip(data: bytes) -> Contents:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, LookupError, OSError, ValueError, struct.error) as error:
        raise WeightsError("is a truncated or damaged zip file") from error
    pickle_name = next((name for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
    if pickle_name is None:
        raise WeightsError("is a zip file but not a PyTorch file: it has no data.pkl")
    folder = pickle_name.removesuffix("data.pkl")

    @functools.cache  # else the checksum of a shared storage would be computed repeatedly
    def fetch(storage: Storage) -> memoryview:
        return checked_bytes(_zip_entry(data, entries, f"{folder}data/{storage.key}"), storage)

    top = WeightsUnpickler(io.BytesIO(_zip_entry(data, entries, pickle_name))).load()
    return Contents(top, fetch, _zip_byte_order(data, entries, f"{folder}byteorder"))


def _zip_byte_order(data: bytes, entries: Mapping[str, zipfile.ZipInfo], name: str) -> str:
    if name not in entries:  # before torch 2.1
        return "<"
    orders = {b"little": "<", b"big": ">"}
    try:
        return orders[bytes(_zip_entry(data, entries, name))]
    except KeyError:
        raise WeightsError(f"has an unknown byte order in the zip entry {short(name)}") from None


def _zip_entry(data: bytes, entries: Mapping[str, zipfile.ZipInfo], name: str) -> memoryview:
    """Return a view of an entry's bytes, which PyTorch stores uncompressed."""
    info = entries.get(name)
    if info is None:
        raise WeightsError(f"has no zip entry {short(name)}")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise WeightsError(
            f"has the compressed or encrypted zip entry {short(name)}, which PyTorch never writes"
        )
    # The local header has its own extra field (PyTorch pads it to align the data), so it has to be read.
    start = max(info.header_offset, 0)
    header = data[start : start + 30]
    if len(header) < 30 or not header.startswith(_ZIP_START):
        raise WeightsError(f"is a damaged zip file, at the entry {short(name)}")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    begin = start + 30 + name_length + extra_length
    raw = memoryview(data)[begin : begin + info.file_size]
    # A checksum of 0 means none: PyTorch writes it after set_crc32_options(False).
    if len(raw) < info.file_size or info.CRC not in (0, zlib.crc32(raw)):
        raise WeightsError(f"is truncated or damaged: the zip entry {short(name)} has a bad size or checksum")
    return raw


def _open_legacy(data: bytes) -> Contents:
    stream = io.BytesIO(data)
    magic = WeightsUnpickler(stream).load()
    if magic != _MAGIC:
        raise WeightsError(f"is a pickle of {kind(magic)}, but not a PyTorch file; {RESAVE}")
    if WeightsUnpickler(stream).load() != _PROTOCOL:
        raise WeightsError(f"has a legacy protocol other than {_PROTOCOL}; {RESAVE}")
    WeightsUnpickler(stream).load()  # the writer's system; not needed, storages are always little-endian
    unpickler = WeightsUnpickler(stream)
    top = unpickler.load()
    keys = WeightsUnpickler(stream).load()
    found = _locate_storages(data, stream.tell(), keys, unpickler.storages)

    def fetch(storage: Storage) -> memoryview:
        if storage.key not in found:
            raise WeightsError(f"lacks the storage {short(storage.key)}")
        return found[storage.key]

    return Contents(top, fetch)


def _locate_storages(
    data: bytes, position: int, keys: object, declared: Mapping[str, Storage]
) -> dict[str, memoryview]:
    """Find the raw storages, each of which is an int64 element count followed by the data."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in declared for key in keys):
        raise WeightsError("lists storages that it does not declare")
    found = {}
    for key in keys:
        storage, begin = declared[key], position + 8
        if int.from_bytes(data[position:begin], "little", signed=True) != storage.numel:
            raise WeightsError(f"is truncated or damaged: the storage {short(key)} has the wrong length")
        position = begin + storage.nbytes
        found[key] = checked_bytes(memoryview(data)[begin:position], storage)
    return found
