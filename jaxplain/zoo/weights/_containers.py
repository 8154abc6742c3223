"""Opens the file formats. All give views into the bytes of the file, so none can be a decompression bomb."""

import functools
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

from jaxplain.zoo.weights._records import (
    DTYPES,
    RESAVE,
    Contents,
    Storage,
    Tensor,
    WeightsError,
    checked_size,
    checked_tensor,
    contiguous_stride,
    count,
    short,
    sized,
)
from jaxplain.zoo.weights._unpickler import Unpickler

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_ZIP_START = b"PK\x03\x04"
_OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file (Keras, TensorFlow)",
    b"\x93NUMPY": "a numpy array",
    b"\x1f\x8b": "a gzip-compressed file, to be unpacked first",
    b"version https://git-lfs": "a Git LFS pointer, to be replaced by the file itself with `git lfs pull`",
    b"<": "a web page, as when a download went wrong",
}


def open_contents(data: bytes) -> Contents:
    """Tells the format of a weights file from its content, and opens it."""
    if not data:
        raise WeightsError("is empty")
    if data[8:9] == b"{":  # first, for a header's length may look like the start of any other format
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


# ---- PyTorch's zip format ----------------------------------------------------------------------------------


def _open_zip(data: bytes) -> Contents:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, LookupError, OSError, ValueError, struct.error) as error:
        raise WeightsError("is a truncated or damaged zip file") from error
    pickle_name = next((name for name in entries if name.rpartition("/")[2] == "data.pkl"), None)
    if pickle_name is None:
        raise WeightsError("is a zip file but not one of PyTorch's: it has no data.pkl")
    folder = pickle_name.removesuffix("data.pkl")

    @functools.cache  # shared storages would have their checksums computed over and over
    def fetch(storage: Storage) -> memoryview:
        return sized(_zip_entry(data, entries, f"{folder}data/{storage.key}"), storage)

    top = Unpickler().load(io.BytesIO(_zip_entry(data, entries, pickle_name)))
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
    """A view of the entry's bytes, which PyTorch stores as they are."""
    info = entries.get(name)
    if info is None:
        raise WeightsError(f"lacks the zip entry {short(name)}")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise WeightsError(f"has compressed or encrypted the zip entry {short(name)}, as PyTorch never does")
    # The local header has an extra field of its own (torch pads it to align the data), so it has to be read.
    start = max(info.header_offset, 0)
    header = data[start : start + 30]
    if len(header) < 30 or not header.startswith(_ZIP_START):
        raise WeightsError(f"is a damaged zip file, at the entry {short(name)}")
    name_length, extra_length = struct.unpack("<HH", header[26:])
    begin = start + 30 + name_length + extra_length
    raw = memoryview(data)[begin : begin + info.file_size]
    # A checksum of 0 stands for none: torch writes it after set_crc32_options(False).
    if len(raw) < info.file_size or info.CRC not in (0, zlib.crc32(raw)):
        raise WeightsError(f"is truncated or damaged: the zip entry {short(name)} is not as it was written")
    return raw


# ---- PyTorch's legacy format -------------------------------------------------------------------------------


def _open_legacy(data: bytes) -> Contents:
    stream = io.BytesIO(data)
    if Unpickler().load(stream) != _MAGIC:
        raise WeightsError(f"is a pickle but not one of PyTorch's; {RESAVE}")
    if Unpickler().load(stream) != _PROTOCOL:
        raise WeightsError(f"is of another legacy protocol than {_PROTOCOL}; {RESAVE}")
    Unpickler().load(stream)  # about the writer's system; the storages are little-endian whatever it says
    machine = Unpickler()
    top = machine.load(stream)
    keys = Unpickler().load(stream)
    found = _locate_storages(data, stream.tell(), keys, machine.storages)

    def fetch(storage: Storage) -> memoryview:
        if storage.key not in found:
            raise WeightsError(f"lacks the storage {short(storage.key)}")
        return found[storage.key]

    return Contents(top, fetch, "<")


def _locate_storages(
    data: bytes, position: int, keys: object, declared: Mapping[str, Storage]
) -> dict[str, memoryview]:
    """Walks along the raw storages, each an int64 element count and then the data."""
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in declared for key in keys):
        raise WeightsError("lists storages that it does not declare")
    found = {}
    for key in keys:
        storage, begin = declared[key], position + 8
        if int.from_bytes(data[position:begin], "little", signed=True) != storage.numel:
            raise WeightsError(f"is truncated or damaged: the storage {short(key)} has another length")
        position = begin + storage.nbytes
        found[key] = sized(memoryview(data)[begin:position], storage)
    return found


# ---- safetensors -------------------------------------------------------------------------------------------


def _open_safetensors(data: bytes) -> Contents:
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise WeightsError("is truncated: its safetensors header would end behind the file")
    try:
        header = json.loads(data[8:start].decode(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise WeightsError("has a damaged safetensors header") from error
    header.pop("__metadata__", None)
    begins: dict[str, int] = {}
    tensors = {name: _safetensor(name, entry, begins) for name, entry in header.items()}
    position = 0
    # The format's own rule: no gaps, no overlaps, nothing behind.
    for tensor in sorted(tensors.values(), key=lambda t: (begins[t.storage.key], t.storage.nbytes)):
        if begins[tensor.storage.key] != position:
            raise WeightsError("has a damaged safetensors header: its tensors leave gaps or overlap")
        position += tensor.storage.nbytes
    if start + position != len(data):
        raise WeightsError(f"is truncated or damaged: {len(data)} bytes long instead of {start + position}")

    def fetch(storage: Storage) -> memoryview:
        begin = start + begins[storage.key]
        return sized(memoryview(data)[begin : begin + storage.nbytes], storage)

    return Contents(tensors, fetch, "<")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def _safetensor(name: str, entry: object, begins: dict[str, int]) -> Tensor:
    """Makes the record of one header entry, and notes in `begins` where its bytes begin."""
    match entry:
        case {"dtype": str() as dtype, "shape": list() as shape, "data_offsets": [begin, end]}:
            pass
        case _:
            raise WeightsError(f"has a damaged safetensors entry {short(name)}")
    if dtype not in DTYPES:
        raise WeightsError(f"has the unsupported dtype {short(dtype)} in the entry {short(name)}")
    size = checked_size(shape)
    storage = Storage(name, dtype, math.prod(size))
    begins[name] = count(begin)
    if count(end) != begin + storage.nbytes:
        raise WeightsError(f"has a damaged safetensors entry {short(name)}: shape and offsets disagree")
    return checked_tensor(storage, 0, size, contiguous_stride(size))
