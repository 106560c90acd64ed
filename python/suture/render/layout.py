"""How wide a terminal is, how wide text is on it, and how text that is wider goes over several lines."""

from __future__ import annotations

import re
import shutil
import sys
import unicodedata

#: Nothing is laid out for less.
_NARROWEST = 20


def room(*, err: bool = False) -> int | None:
    """The columns of the terminal that stdout, or stderr, goes to; None where it goes to none: then all is shown."""
    if not (sys.stderr if err else sys.stdout).isatty():
        return None
    return max(shutil.get_terminal_size().columns, _NARROWEST)


def cells(text: str) -> int:
    """The columns a text takes: a character of Chinese takes two, an accent over another none."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def fold(text: str, width: int | None, *, hang: int = 0, behind: str = r"\s", whole: bool = False) -> list[str]:
    """A text in lines of at most `width` columns, all but the first behind `hang` blanks.

    Lines break behind a character of the class `behind`; what has none and is too long breaks anywhere, or with
    `whole` stays whole, for the terminal to fold and for people to copy.
    """
    if width is None or cells(text) <= width:
        return [text]
    indent = " " * min(hang, width // 2)
    lines, line = [], ""
    for part in re.findall(rf"[^{behind}]*[{behind}]+|[^{behind}]+", text):
        if line.strip() and cells((line + part).rstrip()) > width:
            lines.append(line.rstrip())
            line = indent
        line += part
        while not whole and cells(line.rstrip()) > width:
            cut = _cut(line, width)
            lines.append(line[:cut])
            line = indent + line[cut:]
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _cut(line: str, width: int) -> int:
    """How many characters of a line fit, one more than its indent at least."""
    taken, least = 0, len(line) - len(line.lstrip()) + 1
    for i, c in enumerate(line):
        taken += _cells(c)
        if taken > width:
            return max(i, least)
    return len(line)


def justified(text: str, width: int, *, right: bool) -> str:
    """A text with blanks to its left or right, so that it takes `width` columns."""
    blanks = " " * (width - cells(text))
    return blanks + text if right else text + blanks
