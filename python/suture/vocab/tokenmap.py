"""A map from the tokens of one vocabulary to those of another, for distillation, or for a table of rows.

By text, by bytes (`suture.vocab.matching`), by least edit distance ("MinED", FuseLLM, arXiv 2401.10491), or by how
often two tokens stand for the same text (`suture.vocab.warping`, FuseChat, arXiv 2408.07990).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import UsageError
from suture.vocab.columns import written_text
from suture.vocab.keys import SPACE, Key
from suture.vocab.matching import KIND, Matches, matches_of
from suture.vocab.rowplan import CLASSES
from suture.vocab.tokens import Vocabulary

METHODS = ("exact", "bytes", "mined", "stats")
COLUMNS = ("token", "id", "match", "match_id", "class", "score")
#: So many distances are held at a time.
_HELD = 2**24


@dataclass(frozen=True)
class TokenMap:
    """A token of `to` for each token of `of`.

    Attributes:
        of: the vocabulary whose tokens are mapped.
        to: the one they are mapped to.
        number: int64 [numbers of `of`]: the other's number; -1 without one.
        kind: for each number how it was found: a class of row plans, ``mined`` or ``counted``; empty where it is not.
        score: float64: the edit distance of what is mined, the count of what is counted; NaN for all else.
    """

    of: Vocabulary
    to: Vocabulary
    number: NDArray[np.int64] = field(repr=False)
    kind: Sequence[str] = field(repr=False)
    score: NDArray[np.float64] = field(repr=False)

    def counts(self) -> dict[str, int]:
        """How many tokens of each class there are, ``none`` for those without a match."""
        found: dict[str, int] = {}
        for number in self.of.names:
            name = self.kind[number] or "none"
            found[name] = found.get(name, 0) + 1
        return dict(sorted(found.items()))

    def lines(self) -> Iterator[str]:
        """As a table: a line of titles, then one for each token, in the order of numbers."""
        yield "\t".join(COLUMNS)
        for number, text in self.of.names.items():
            other, score = int(self.number[number]), self.score[number]
            match = ["", ""] if other < 0 else [written_text(self.to.names[other]), str(other)]
            told = "" if np.isnan(score) else f"{score:g}"
            yield "\t".join([written_text(text), str(number), *match, self.kind[number] or "none", told])

    def matches(self) -> Matches:
        """As a row plan takes it: rows of `to` for the tokens of `of`."""
        known = {**KIND, "mined": KIND["copied"], "counted": KIND["copied"], "": -1}
        return Matches(self.number.copy(), np.array([known[name] for name in self.kind], dtype=np.int8))


def by_text(of: Vocabulary, to: Vocabulary) -> TokenMap:
    """Special tokens by role, all others by their text as the files have it."""
    found = by_bytes(of, to)
    number, kind = found.number.copy(), list(found.kind)
    for own, text in of.names.items():
        if kind[own] != "special":
            number[own] = to.ids.get(text, -1)
            kind[own] = "kept" if number[own] >= 0 else ""
    return TokenMap(of, to, number, kind, found.score)


def by_bytes(of: Vocabulary, to: Vocabulary, *, fuzzy: bool = False) -> TokenMap:
    """As `suture.vocab.matching` has it."""
    found = matches_of(of, to, fuzzy=fuzzy)
    names = list(CLASSES)
    kind = [names[k] if k >= 0 else "" for k in found.kind.tolist()]
    return TokenMap(of, to, found.old, kind, np.full(of.size, np.nan))


def by_distance(of: Vocabulary, to: Vocabulary, *, threads: int = 1) -> TokenMap:
    """By bytes, and for the rest the token of least edit distance; of equal ones that of the least number.

    Distances are those of characters, a mark where a word begins being one. Special tokens and bytes are nobody's.

    Raises:
        UsageError: if the extra ``vocab`` is not installed.
    """
    distances, levenshtein = fuzz()
    found = by_bytes(of, to)
    number, kind, score = found.number.copy(), list(found.kind), found.score.copy()
    rest = [n for n in of.names if number[n] < 0 and plain(of.key(n))]
    others = [n for n in to.names if plain(to.key(n))]
    if not rest or not others:
        return found
    choices = [shown(to.key(n)) for n in others]
    step = max(_HELD // len(choices), 1)
    for start in range(0, len(rest), step):
        part = rest[start : start + step]
        asked = [shown(of.key(n)) for n in part]
        table = distances(asked, choices, scorer=levenshtein.distance, dtype=np.uint16, workers=threads)
        best = table.argmin(axis=1)
        for i, own in enumerate(part):
            number[own], kind[own] = others[best[i]], "mined"
            score[own] = int(table[i, best[i]])
    return TokenMap(of, to, number, kind, score)


def by_counts(
    of: Vocabulary, to: Vocabulary, counts: Mapping[int, Mapping[int, int]], *, reference: bool = False
) -> TokenMap:
    """By how often tokens stand beside each other in the same text.

    Of the tokens that one was seen with it gets the one seen most; of equal ones the nearest by edit distance, then the
    first. Special tokens go by role; one that was not seen by its bytes.

    Args:
        of: the vocabulary whose tokens are mapped.
        to: the one they are mapped to.
        counts: for each token of `of` those of `to` that it was seen with, and how often.
        reference: as published code chooses: the least product of edit distance, 0.1 where one holds the other, and
            the sigmoid of the count, which is for the rarer of two; what was not seen is the unknown, or the end.

    Raises:
        UsageError: if the extra ``vocab`` is not installed.
    """
    _, levenshtein = fuzz()
    found = by_bytes(of, to)
    number, kind, score = found.number.copy(), list(found.kind), found.score.copy()
    last = next((to.ids[to.roles[role]] for role in ("unk", "eos") if role in to.roles), -1)
    for own in of.names:
        seen = counts.get(own, {})
        if kind[own] == "special":
            continue
        if not seen:
            if reference and last >= 0:
                number[own], kind[own] = last, "fallback"
            continue
        text = shown(of.key(own), mark="")

        def rank(other: int, text: str = text, seen: Mapping[int, int] = seen) -> Any:
            theirs = shown(to.key(other), mark="")
            distance = levenshtein.distance(text, theirs)
            if not reference:
                return -seen[other], distance, other
            held = 0.1 if text in theirs or theirs in text else 1.0
            return distance * held / (1 + np.exp(-float(seen[other]))), other

        best = min(seen, key=rank)
        number[own], kind[own], score[own] = best, "counted", seen[best]
    return TokenMap(of, to, number, kind, score)


def shown(key: Key, mark: str = SPACE) -> str:
    """A token as it is compared: its text, with a mark where a word begins; a byte that is no text is one character."""
    return (mark if key.starts else "") + key.content.decode("utf-8", "surrogateescape")


def plain(key: Key) -> bool:
    """Whether a token stands for its text."""
    return not key.role and not key.byte


def fuzz() -> tuple[Any, Any]:
    """What computes edit distances.

    Raises:
        UsageError: if the extra ``vocab`` is not installed.
    """
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    except ImportError:
        raise UsageError("edit distances need the package rapidfuzz: pip install rapidfuzz") from None
    return cdist, Levenshtein
