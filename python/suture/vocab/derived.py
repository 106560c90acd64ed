"""Merges that make new tokens of a BPE tokenizer, behind all that it has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any


class Derived:
    """A BPE tokenizer with further tokens.

    Merges of new tokens come last, so that text is cut otherwise only where the parts of one would stand side by side.
    A shorter token is a part of longer ones.

    Attributes:
        merges: all merges, in their order.
        kept: the new tokens that its own text is cut into, in the order of their merges.
        lost: those that no two tokens make, of which none joins.
    """

    def __init__(self, model: Mapping[str, Any], new: Iterable[str]) -> None:
        merges = model.get("merges") or []
        self.merges: list[tuple[str, str]] = [_pair(merge) for merge in merges]
        self.kept: list[str] = []
        self.lost: list[str] = []
        self._vocab = set(model["vocab"])
        self._ranks = {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}
        # Whole words are then looked up before merges.
        whole_words = bool(model.get("ignore_merges"))
        for text in sorted(new, key=lambda one: (len(one), one)):
            if self._join(text) or whole_words:
                self._vocab.add(text)
                self.kept.append(text)
            else:
                self.lost.append(text)

    def _join(self, text: str) -> bool:
        """Put the merges of a token behind the others, if its text is then cut into it."""
        parts = [(text[:i], text[i:]) for i in range(1, len(text))]
        pairs = [pair for pair in parts if pair[0] in self._vocab and pair[1] in self._vocab]
        if not pairs or any(character not in self._vocab for character in text):
            return False
        first = len(self.merges)
        for i, pair in enumerate(pairs):
            self._ranks.setdefault(pair, first + i)
        if self._cut(text) == [text]:
            self.merges += pairs
            return True
        for pair in pairs:
            if self._ranks[pair] >= first:
                del self._ranks[pair]
        return False

    def _cut(self, text: str) -> Sequence[str]:
        symbols = list(text)
        while len(symbols) > 1:
            ranks = [self._ranks.get(pair, -1) for pair in pairwise(symbols)]
            known = [rank for rank in ranks if rank >= 0]
            if not known:
                break
            at = ranks.index(min(known))
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return symbols


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
