"""What tokens of different vocabularies are compared by: bytes, whether a word begins there, roles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
#: The character that SentencePiece writes for a space.
SPACE = "\u2581"


class Key(NamedTuple):
    """What a token is compared by.

    Attributes:
        role: its role, or ``special`` for a special token without one; empty for others.
        starts: whether a word begins with it.
        content: its bytes, without the space before a word; of a token with a role nothing.
        byte: whether it is a single byte, written by its number.
    """

    role: str
    starts: bool
    content: bytes
    byte: bool = False


def key_of(text: str, marks: str, *, special: bool, role: str) -> Key:
    """The key of a token, from its text as `marks` has it written."""
    if special:
        return Key(role, False, b"") if role else Key("special", False, _utf8(text))
    if marks == "pieces" and (match := _BYTE.fullmatch(text)):
        return Key("", False, bytes([int(match[1], 16)]), byte=True)
    if marks == "words":
        inner = text.startswith("##") and len(text) > 2
        return Key("", not inner, _utf8(text[2:] if inner else text))
    if marks == "bytes" and all(c in _BYTES for c in text):
        content = bytes(_BYTES[c] for c in text)
    else:
        content = _utf8(text.replace(SPACE, " ") if marks == "pieces" else text)
    starts = marks != "plain" and content.startswith(b" ")
    return Key("", starts, content[1:] if starts else content)


def marks_of(form: str, whole: Mapping[str, Any]) -> str:
    """How the tokens of a tokenizer.json are written."""
    if form == "WordPiece":
        return "words"
    kinds = set(_types([whole.get("pre_tokenizer"), whole.get("decoder"), whole.get("normalizer")]))
    if "ByteLevel" in kinds:
        return "bytes"
    spaced = SPACE in json.dumps([whole.get("normalizer"), whole.get("decoder")], ensure_ascii=False)
    return "pieces" if spaced or form == "Unigram" or kinds & {"Metaspace", "ByteFallback"} else "plain"


def spelled_bytes(content: bytes) -> str:
    """Bytes as tokenizers of GPT-2's make write them."""
    return "".join(_CHARACTERS[byte] for byte in content)


def _types(node: Any) -> list[str]:
    """The types of all parts in a part of a tokenizer.json."""
    if isinstance(node, list):
        return [kind for item in node for kind in _types(item)]
    if not isinstance(node, dict):
        return []
    own = [node["type"]] if isinstance(node.get("type"), str) else []
    return own + [kind for value in node.values() for kind in _types(value)]


def _utf8(text: str) -> bytes:
    # JSON can name half a character, UTF-8 cannot.
    return text.encode("utf-8", "surrogatepass")


def _byte_characters() -> dict[str, int]:
    """The character that GPT-2 writes for each byte: itself where it can be seen, else the next one from 256 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_characters()
_CHARACTERS = {byte: character for character, byte in _BYTES.items()}
