"""Tables that users bring and get: columns between tabs, with tokens written so that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from suture.vocab.segmenter import lines_of

_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_PLAIN = {written: char for char, written in _ESCAPES.items()}


def written_text(text: str) -> str:
    r"""A token as a file has it: ``\t``, ``\n``, ``\r`` and ``\\`` for what would break its lines."""
    return "".join(_ESCAPES.get(c, c) for c in text)


def plain_text(text: str) -> str:
    """A token of what a file has; a backslash before anything else stays."""
    return re.sub(r"\\[\\tnr]", lambda found: _PLAIN[found[0]], text) if "\\" in text else text


def columns_of(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The columns of each line that is not empty, with its number from 1.

    Raises:
        UsageError: if there is no such file.
        SutureError: if a line is not UTF-8.
    """
    for i, line in enumerate(lines_of([path])):
        if line:
            yield i + 1, line.split("\t")
