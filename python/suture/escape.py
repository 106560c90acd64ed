"""Text from elsewhere (names of tensors, paths, values of configs) as a terminal or a file may have it."""

from __future__ import annotations

from typing import Any

#: Folders that stand for what lies elsewhere, and what is shown for them.
_SHOWN: dict[str, str] = {}


def stands_for(folder: str, url: str) -> None:
    """Have `url` shown for `folder`, which holds stand-ins for what lies there."""
    _SHOWN[folder] = url
    if not folder.isascii():
        # As JSON text has it that is written in ASCII.
        _SHOWN[_written_out(folder)] = _written_out(url)


def shown(text: str) -> str:
    """Text with URLs for the folders that stand for them."""
    for folder, url in _SHOWN.items():
        if folder in text:
            text = text.replace(folder, url)
    return text


def shown_in(data: bytes) -> bytes:
    """What a file holds, with URLs for the folders that stand for them."""
    for folder, url in _SHOWN.items():
        if folder.encode() in data:
            data = data.replace(folder.encode(), url.encode())
    return data


def printable(text: object) -> str:
    """Text with what a screen would obey, hide or reorder written out: controls, directions, half characters."""
    found = shown(str(text)) if _SHOWN else str(text)
    if found.isprintable():
        return found
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in found)


def _written_out(text: str) -> str:
    return "".join(c if c.isascii() else _escape(c) for c in text)


def _escape(c: str) -> str:
    """A character as JSON in ASCII has it."""
    # Imported here: `suture --help` needs none of it.
    import json

    return json.dumps(c)[1:-1]


def json_text(data: Any, indent: int | None = None) -> str:
    """Data as JSON that may go to a screen: the same data, with the same characters written out."""
    # Imported here: `suture --help` needs none of it.
    import json

    return printable_json(json.dumps(data, indent=indent, ensure_ascii=False))


def printable_json(text: str) -> str:
    """JSON text with the characters written out that a screen would obey, hide or reorder: of the same data."""
    text = shown(text)
    if text.isprintable():
        return text
    # A line's end stands between the values only: in a text JSON writes it out itself.
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)
