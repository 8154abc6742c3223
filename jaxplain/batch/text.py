"""Columns of text in a Zarr v3 store, which TensorStore cannot write itself.

The format is Zarr's `string` type with the codec `vlen-utf8`: a chunk is the number of its texts, then each
text's length and UTF-8 bytes, all lengths as little-endian uint32.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import tensorstore as ts


class TextColumn:
    """An array [N] of text, cut into chunks of rows; what was not written is "".

    Args:
      store: the group's.
      name: of the array.
      chunk_rows: texts a chunk.
    """

    def __init__(self, store: ts.KvStore, name: str, chunk_rows: int) -> None:
        self._store, self._name, self._chunk_rows = store, name, chunk_rows

    def create(self) -> None:
        """Make it, of no rows; what was there before is gone."""
        self._store.delete_range(ts.KvStore.KeyRange(f"{self._name}/c/", f"{self._name}/c0")).result()
        self.resize(0)

    def resize(self, rows: int) -> None:
        """Say how many rows there are."""
        self._store.write(f"{self._name}/zarr.json", json.dumps(self._metadata(rows)).encode()).result()

    def read(self, rows: int) -> list[str]:
        """The texts of rows 0..rows-1; "" where a chunk is missing or damaged."""
        texts: list[str] = []
        for chunk in range(-(-rows // self._chunk_rows)):
            texts += self._chunk(chunk)
        return texts[:rows]

    def write(self, texts: Mapping[int, str]) -> None:
        """Write texts by their rows."""
        chunks: dict[int, dict[int, str]] = {}
        for row, text in texts.items():
            chunks.setdefault(row // self._chunk_rows, {})[row % self._chunk_rows] = text
        for chunk, some in chunks.items():
            before = self._chunk(chunk)
            after = [some.get(place, text) for place, text in enumerate(before)]
            if after != before:  # most reasons are "", as they were
                self._store.write(self._key(chunk), encode(after)).result()

    def _chunk(self, chunk: int) -> list[str]:
        found = self._store.read(self._key(chunk)).result()
        texts = decode(found.value) if found.state == "value" else None
        return texts if texts is not None and len(texts) == self._chunk_rows else [""] * self._chunk_rows

    def _key(self, chunk: int) -> str:
        return f"{self._name}/c/{chunk}"

    def _metadata(self, rows: int) -> dict[str, Any]:
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [rows],
            "data_type": "string",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self._chunk_rows]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "",
            "codecs": [{"name": "vlen-utf8"}],
            "dimension_names": ["row"],
        }


def encode(texts: Sequence[str]) -> bytes:
    """A chunk's bytes.

    Example:
      >>> encode(["a"])
      b'\\x01\\x00\\x00\\x00\\x01\\x00\\x00\\x00a'
    """
    contents = [text.encode() for text in texts]
    return struct.pack("<I", len(contents)) + b"".join(
        struct.pack("<I", len(content)) + content for content in contents
    )


def decode(data: bytes) -> list[str] | None:
    """A chunk's texts; None if it is damaged.

    Example:
      >>> decode(encode(["a", "ü"])), decode(b"\\x01\\x00\\x00\\x00\\x05")
      (['a', 'ü'], None)
    """
    try:
        (count,) = struct.unpack_from("<I", data)
        texts, at = [], 4
        for _ in range(count):
            (length,) = struct.unpack_from("<I", data, at)
            content = data[at + 4 : at + 4 + length]
            if len(content) < length:
                return None
            texts.append(content.decode())
            at += 4 + length
    except (struct.error, UnicodeDecodeError):
        return None
    return texts if at == len(data) else None
