"""Text from elsewhere (names of tensors, paths, values of configs) as a terminal or a file may have it."""

from __future__ import annotations

from typing import Any


def printable(text: object) -> str:
    """Text with what a screen would obey, hide or reorder written out: controls, directions, half characters."""
    found = str(text)
    if found.isprintable():
        return found
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in found)


def json_text(data: Any, indent: int | None = None) -> str:
    """Data as JSON that may go to a screen: the same data, with the same characters written out."""
    # Imported here: `suture --help` needs none of it.
    import json

    return printable_json(json.dumps(data, indent=indent, ensure_ascii=False))


def printable_json(text: str) -> str:
    """JSON text with the characters written out that a screen would obey, hide or reorder: of the same data."""
    if text.isprintable():
        return text
    import json

    # A line's end stands between the values only: in a text JSON writes it out itself.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
