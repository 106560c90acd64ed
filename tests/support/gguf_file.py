"""GGUF files read without suture or the gguf package."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Bytes of a block, and the elements in it, by the number of a type.
SIZES = {0: (4, 1), 1: (2, 1), 8: (34, 32)}
_CODES = {4: "I", 5: "i", 6: "f", 7: "?"}


@dataclass(frozen=True)
class Stored:
    """A tensor: the number of its type, its dimensions as Hugging Face has them, its bytes."""

    kind: int
    shape: tuple[int, ...]
    data: bytes


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def one(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def text(self) -> str:
        length = self.one("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "surrogatepass")

    def value(self, kind: int) -> Any:
        if kind == 8:
            return self.text()
        if kind != 9:
            return self.one(_CODES[kind])
        inner, count = self.one("I"), self.one("Q")
        return [self.value(inner) for _ in range(count)]


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The keys and values of a file of version 3, and its tensors."""
    data = path.read_bytes()
    reader = _Reader(data)
    assert data[:4] == b"GGUF"
    reader.at = 4
    assert reader.one("I") == 3
    tensors, keys = reader.one("Q"), reader.one("Q")
    said: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.text()
        assert key not in said
        said[key] = reader.value(reader.one("I"))
    infos = []
    for _ in range(tensors):
        name, dimensions = reader.text(), reader.one("I")
        shape = tuple(reader.one("Q") for _ in range(dimensions))[::-1]
        infos.append((name, shape, reader.one("I"), reader.one("Q")))
    start = -(-reader.at // 32) * 32
    found = {}
    for name, shape, kind, offset in infos:
        assert offset % 32 == 0
        assert name not in found
        count = 1
        for n in shape:
            count *= n
        size, elements = SIZES[kind]
        length = count // elements * size
        assert start + offset + length <= len(data)
        found[name] = Stored(kind, shape, data[start + offset : start + offset + length])
    return said, found
