"""What the metadata of a GGUF file says of its tokenizer, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suture.errors import SutureError

#: Kinds of tokens, as `token_type` has them.
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
#: Special tokens: what they are called in tokenizer_config.json, and in the metadata.
_SPECIAL = (
    ("bos_token", "bos_token_id"),
    ("eos_token", "eos_token_id"),
    ("unk_token", "unknown_token_id"),
    ("sep_token", "seperator_token_id"),
    ("pad_token", "padding_token_id"),
    ("cls_token", "cls_token_id"),
    ("mask_token", "mask_token_id"),
)


class Metadata:
    """What a GGUF file says of its tokenizer, checked.

    Attributes:
        tokens: the text of every token, by its number.
        types: the kind of each, by its number.

    Raises:
        SutureError: if there is none, or it is not sound.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._raw = raw
        tokens = self.get("tokens")
        if self.get("model") is None or not isinstance(tokens, list):
            raise SutureError("the file has no tokenizer (`tokenizer.ggml.model` and `.tokens`)")
        if not all(isinstance(t, str) for t in tokens):
            raise SutureError("`tokenizer.ggml.tokens`: expected texts")
        self.tokens: list[str] = tokens
        self.types: list[int] = self.listed("token_type", int) or [NORMAL] * len(tokens)

    def get(self, key: str) -> Any:
        """The value of a key behind `tokenizer.ggml.`; None if there is none."""
        return self._raw.get(f"tokenizer.ggml.{key}")

    def listed(self, key: str, kind: type) -> list[Any] | None:
        """A value for each token.

        Raises:
            SutureError: if there are not as many, or of another kind.
        """
        found = self.get(key)
        if found is None:
            return None
        if not isinstance(found, list) or len(found) != len(self.tokens):
            count = len(found) if isinstance(found, list) else 0
            raise SutureError(f"`tokenizer.ggml.{key}`: expected {len(self.tokens):,} values, found {count:,}")
        if not all(isinstance(v, int | kind) for v in found):
            raise SutureError(f"`tokenizer.ggml.{key}`: expected numbers")
        return found

    def flag(self, key: str, otherwise: bool) -> bool:
        """A flag."""
        found = self.get(key)
        return found if isinstance(found, bool) else otherwise

    def number(self, key: str) -> int | None:
        """The number of a token that there is.

        Raises:
            SutureError: if there is none of that number.
        """
        found = self.get(key)
        if not isinstance(found, int) or found == 0xFFFFFFFF:
            return None
        if not 0 <= found < len(self.tokens):
            raise SutureError(f"`tokenizer.ggml.{key}` is {found}, and there are {len(self.tokens):,} tokens")
        return found

    def special(self) -> dict[str, str]:
        """The special tokens by what they are."""
        numbers = ((name, self.number(key)) for name, key in _SPECIAL)
        return {name: self.tokens[number] for name, number in numbers if number is not None}

    def added(self) -> list[dict[str, Any]]:
        """The tokens that are found in text before anything else, as tokenizer.json lists them."""
        marked = {number for _, key in _SPECIAL if (number := self.number(key)) is not None}
        return [
            {
                "id": i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind in (CONTROL, UNKNOWN) or i in marked,
            }
            for i, (text, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (CONTROL, UNKNOWN, USER) or (i in marked and kind != UNUSED)
        ]


def closing(found: Metadata, *, begins: bool, ends: bool) -> dict[str, Any] | None:
    """What puts tokens before and behind every text: the first one if `begins` unless the file says otherwise."""
    bos, eos = found.number("bos_token_id"), found.number("eos_token_id")
    first = bos if found.flag("add_bos_token", begins) else None
    last = eos if found.flag("add_eos_token", ends) else None
    if first is None and last is None:
        return None
    token = {n: {"SpecialToken": {"id": found.tokens[n], "type_id": 0}} for n in (first, last) if n is not None}
    other = {n: {"SpecialToken": {"id": found.tokens[n], "type_id": 1}} for n in token}

    def around(of: dict[int, Any], sequence: str, type_id: int) -> list[Any]:
        whole = [first, {"Sequence": {"id": sequence, "type_id": type_id}}, last]
        return [of[part] if isinstance(part, int) else part for part in whole if part is not None]

    named = {found.tokens[n]: {"id": found.tokens[n], "ids": [n], "tokens": [found.tokens[n]]} for n in token}
    return {
        "type": "TemplateProcessing",
        "single": around(token, "A", 0),
        "pair": [*around(token, "A", 0), *around(other, "B", 1)],
        "special_tokens": named,
    }
