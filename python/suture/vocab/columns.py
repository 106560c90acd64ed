"""Small text files that users bring and get: lines, and columns between tabs, with tokens written so that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from suture.errors import SutureError

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_PLAIN = {written: char for char, written in _ESCAPES.items()}


def written_text(text: str) -> str:
    r"""A token as a file has it: ``\t``, ``\n``, ``\r`` and ``\\`` for what would break its lines."""
    return "".join(_ESCAPES.get(c, c) for c in text)


def plain_text(text: str) -> str:
    """A token of what a file has; a backslash before anything else stays."""
    return re.sub(r"\\[\\tnr]", lambda found: _PLAIN[found[0]], text) if "\\" in text else text


def lines_of_text(path: Path) -> Iterator[str]:
    r"""The lines of a text, without their ends (``\n`` or ``\r\n``, no other character), read as they are asked for.

    Raises:
        SutureError: if it cannot be read, or is no UTF-8.
    """
    try:
        with path.open("rb") as file:
            for i, raw in enumerate(file):
                try:
                    yield raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
                except UnicodeDecodeError as e:
                    message = f"{path}:{i + 1}: expected UTF-8, found the byte 0x{raw[e.start]:02x}; convert the file"
                    raise SutureError(message, path) from None
    except OSError as e:
        raise SutureError(f"{path}: cannot be read: {e.strerror}", path) from None


def columns_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The columns of each line that is not empty, with its number from 1."""
    for i, line in enumerate(lines_of_text(path)):
        if line:
            yield i + 1, line.split("\t")
