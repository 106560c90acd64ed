"""Which tokens BPE makes on the way to others.

BPE starts from characters and merges the pair of the lowest rank, the first of several, until no pair has one. Within a
token of the result these merges are the same whatever is around it: a pair across its ends is never merged, and of the
pairs inside the order is the same. So each token is made once here, alone, and not each word of a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any


class Merges:
    """The merges of a tokenizer.json.

    Args:
        model: its model, of form BPE.
    """

    def __init__(self, model: Mapping[str, Any]) -> None:
        self._ids: Mapping[str, int] = model["vocab"]
        self._size = max(self._ids.values(), default=0) + 1
        self._prefix: str = model.get("continuing_subword_prefix") or ""
        self._suffix: str = model.get("end_of_word_suffix") or ""
        self._bytes: bool = bool(model.get("byte_fallback"))
        # By both tokens the rank and what is made, as one number: pairs would take twice as much, and there are many.
        self._made: dict[int, int] = {}
        for rank, merge in enumerate(model.get("merges") or []):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            made = left + (right.removeprefix(self._prefix) if self._prefix else right)
            # Of a pair that is listed twice the library takes the last rank.
            self._made[self._ids[left] * self._size + self._ids[right]] = rank * self._size + self._ids[made]

    def replayed(self, text: str) -> set[int] | None:
        """All tokens that are made when a token is, itself too; None where merges do not lead to it."""
        parts = self._characters(text)
        if parts is None:
            return None
        seen = set(parts)
        while len(parts) > 1:
            pairs = (self._made.get(a * self._size + b) for a, b in pairwise(parts))
            found = [(pair, i) for i, pair in enumerate(pairs) if pair is not None]
            if not found:
                return None
            pair, at = min(found)
            made = pair % self._size
            parts[at : at + 2] = [made]
            seen.add(made)
        return seen if parts == [self._ids[text]] else None

    def _characters(self, text: str) -> list[int] | None:
        """The tokens that BPE starts from; None where a character is none."""
        inner = text
        first, last = "", ""
        if self._prefix and inner.startswith(self._prefix) and inner != self._prefix:
            inner, first = inner[len(self._prefix) :], self._prefix
        if self._suffix and inner.endswith(self._suffix) and inner != self._suffix:
            inner, last = inner[: -len(self._suffix)], self._suffix
        parts: list[int] = []
        for i, character in enumerate(inner):
            before = first if i == 0 else self._prefix
            one = self._ids.get(before + character + (last if i == len(inner) - 1 else ""))
            if one is not None:
                parts.append(one)
                continue
            fallen = [self._ids.get(f"<0x{byte:02X}>") for byte in character.encode("utf-8", "surrogatepass")]
            if not self._bytes or None in fallen:
                return None
            parts += [part for part in fallen if part is not None]
        return parts

    def ancestors(self, tokens: Iterable[int]) -> set[int]:
        """All tokens that any merges make tokens from, these too."""
        seen: set[int] = set(tokens)
        if not seen:
            return seen
        parts: dict[int, list[int]] = {}
        for pair, made in self._made.items():
            parts.setdefault(made % self._size, []).extend(divmod(pair, self._size))
        rest = list(seen)
        while rest:
            for part in parts.get(rest.pop(), ()):
                if part not in seen:
                    seen.add(part)
                    rest.append(part)
        return seen
