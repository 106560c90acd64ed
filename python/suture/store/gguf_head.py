"""How far the head of a GGUF file goes: its metadata and what it says of its tensors, without any of their data."""

from __future__ import annotations

import struct
from collections.abc import Callable

_PIECE = 4 << 20
#: Bytes of a value of each type; of the others a text (8) and a list (9).
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9


class _UnsoundError(Exception):
    """It is no such head, or longer than any is."""


class _Head:
    """A file's beginning, fetched as far as it is read."""

    def __init__(self, first: bytes, fetch: Callable[[int, int], bytes], size: int, most: int) -> None:
        self.data, self.at = bytearray(first), 0
        self._fetch, self._end = fetch, min(size, most)

    def skip(self, n: int) -> None:
        self.at += n
        while len(self.data) < self.at:
            if self.at > self._end:
                raise _UnsoundError
            have = len(self.data)
            self.data += self._fetch(have, min(max(have + _PIECE, self.at), self._end))

    def number(self, form: str) -> int:
        at = self.at
        self.skip(struct.calcsize(form))
        return int(struct.unpack_from(form, self.data, at)[0])

    def text(self) -> None:
        self.skip(self.number("<Q"))

    def value(self, kind: int) -> None:
        if kind == _TEXT:
            self.text()
        elif kind == _LIST:
            inner, count = self.number("<I"), self.number("<Q")
            if inner in _SIZES:
                self.skip(_SIZES[inner] * count)
            elif inner == _TEXT:
                for _ in range(count):
                    self.text()
            else:
                raise _UnsoundError
        elif kind in _SIZES:
            self.skip(_SIZES[kind])
        else:
            raise _UnsoundError


def head(first: bytes, fetch: Callable[[int, int], bytes], size: int, most: int) -> bytes:
    """The head of a GGUF file, or of what is none or not sound what was read: who opens it says what is wrong.

    Args:
        first: what is at hand of its beginning.
        fetch: gives the bytes from one place to another.
        size: of the file, in bytes.
        most: bytes that no head is longer than.
    """
    found = _Head(first, fetch, size, most)
    try:
        if found.number("<I") != 0x46554747 or found.number("<I") not in (2, 3):
            raise _UnsoundError
        tensors, keys = found.number("<Q"), found.number("<Q")
        for _ in range(keys):
            found.text()
            found.value(found.number("<I"))
        for _ in range(tensors):
            found.text()
            found.skip(8 * found.number("<I") + 12)
    except _UnsoundError:
        return bytes(found.data)
    return bytes(found.data[: found.at])
