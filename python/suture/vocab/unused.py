"""Rows that no text can have trained: padding, numbers without a token, reserved tokens, bytes that UTF-8 has not."""

from __future__ import annotations

import re

from suture.vocab.tokens import Vocabulary

#: Tokens that models keep for later: ``[unused7]``, ``<|reserved_special_token_7|>``, ``<SPECIAL_7>``.
_RESERVED = re.compile(r"[<\[]\|?(?:[a-z]+[_ -])*(?:unused|reserved|special)(?:[_ -]?[a-z]+)*[_ -]?\d+\|?[>\]]", re.I)
#: Bytes that no text in UTF-8 has.
_NEVER = frozenset({0xC0, 0xC1, *range(0xF5, 0x100)})

#: Why a row is known to be unused.
PADDING, HOLE, RESERVED, NEVER = "padding", "no token", "reserved", "no byte of UTF-8"


def known_unused(vocabulary: Vocabulary, rows: int) -> dict[int, str]:
    """The numbers below `rows` that are known to be unused, ascending, and why."""
    found: dict[int, str] = {}
    names = vocabulary.names
    for number in range(rows):
        text = names.get(number)
        if text is None:
            found[number] = PADDING if number >= vocabulary.size else HOLE
        elif _RESERVED.fullmatch(text):
            found[number] = RESERVED
        else:
            key = vocabulary.key(number)
            if (key.byte or vocabulary.marks == "bytes") and len(key.content) == 1 and key.content[0] in _NEVER:
                found[number] = NEVER
    return found
