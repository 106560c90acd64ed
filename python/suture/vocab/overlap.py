"""Which tokens two vocabularies share, by role, by bytes and word start; and which are nearly shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from suture.errors import UsageError
from suture.vocab.fertility import unknown_of
from suture.vocab.keys import SPACE, Key
from suture.vocab.scripts import SPECIAL, script_of_bytes
from suture.vocab.tokens import Vocabulary

#: How tokens of two vocabularies can be the same.
CLASSES = ("special", "exact", "byte")
#: How a token that is not shared can come near one of the other vocabulary.
NEAR = ("word start", "case", "both")


@dataclass(frozen=True)
class Overlap:
    """What two vocabularies share.

    Attributes:
        pairs: for each number of the first the second's number of the same token, ascending.
        kinds: how each of these is the same, one of `CLASSES`.
    """

    pairs: Mapping[int, int] = field(repr=False)
    kinds: Mapping[int, str] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many tokens are shared in each way."""
        found = Counter(self.kinds.values())
        return {kind: found[kind] for kind in CLASSES}

    @property
    def same_number(self) -> int:
        """How many of the shared tokens have the same number in both."""
        return sum(a == b for a, b in self.pairs.items())


def overlap(a: Vocabulary, b: Vocabulary) -> Overlap:
    """The tokens that two vocabularies share.

    Tokens of one role are the same, whatever their text; other special tokens those of one text; all else is the same
    by its bytes and whether a word begins with it. A byte that is written by its number is the same as a token of that
    byte alone, if the other has no such byte.
    """
    pairs: dict[int, int] = {}
    kinds: dict[int, str] = {}
    taken: set[int] = set()

    def pair(one: int, other: int, kind: str) -> None:
        if one not in pairs and other not in taken:
            pairs[one], kinds[one] = other, kind
            taken.add(other)

    for role, text in a.roles.items():
        if role in b.roles:
            pair(a.ids[text], b.ids[b.roles[role]], "special")
    there = _keys(b)
    for number, text in a.names.items():
        key = a.key(number)
        special = a.kind(number) == "special"
        if special or number in a.added:
            # The same text is found in text before all else in both, or stands for something in both.
            other = b.ids.get(text)
            if other is not None and (b.kind(other) == "special" or other in b.added):
                pair(number, other, "special" if special else "exact")
        elif key in there:
            pair(number, there[key], "exact")
    for number in a.names:
        if number not in pairs and (other := _as_byte(a.key(number), a, b, there)) is not None:
            pair(number, other, "byte")
    return Overlap(dict(sorted(pairs.items())), kinds)


def _keys(vocabulary: Vocabulary) -> dict[Key, int]:
    """The number of each key; of two tokens of one key the first."""
    found: dict[Key, int] = {}
    for number in vocabulary.names:
        found.setdefault(vocabulary.key(number), number)
    return found


def _as_byte(key: Key, a: Vocabulary, b: Vocabulary, there: Mapping[Key, int]) -> int | None:
    """The other's token of the same single byte."""
    if key.role or len(key.content) != 1 or key.starts:
        return None
    if key.byte and b.marks == "bytes":
        return there.get(key._replace(byte=False))
    return there.get(key._replace(byte=True)) if a.marks == "bytes" and not key.byte else None


def scripts_of(vocabulary: Vocabulary) -> dict[int, str]:
    """The script of each token, by its number; special tokens, and the one for what is unknown, have their own."""
    unknown = unknown_of(vocabulary)
    special = {number for number in vocabulary.names if number == unknown or vocabulary.kind(number) == "special"}
    return {
        number: SPECIAL if number in special else script_of_bytes(_content(vocabulary, number))
        for number in vocabulary.names
    }


def _content(vocabulary: Vocabulary, number: int) -> bytes:
    """The bytes of a token; of a space alone that space."""
    key = vocabulary.key(number)
    return key.content or (b" " if key.starts else b"")


@dataclass(frozen=True)
class Miss:
    """A token that is not shared, and the other vocabulary's that comes nearest.

    Attributes:
        one: its number.
        other: the other's number.
        what: one of `NEAR`, or how many characters differ.
    """

    one: int
    other: int
    what: str | int


def near_misses(a: Vocabulary, b: Vocabulary, shared: Overlap) -> Iterator[Miss]:
    """The tokens of the first that the second lacks, but for case or word start, in the order of their numbers."""
    folded: dict[tuple[str, bool], int] = {}
    for number in b.names:
        if (text := _plain(b, number)) is not None:
            folded.setdefault((text.casefold(), b.key(number).starts), number)
    exact = _keys(b)
    for number in a.names:
        text = None if number in shared.pairs else _plain(a, number)
        if not text:
            continue
        key = a.key(number)
        turned = key._replace(starts=not key.starts, byte=False)
        low = text.casefold()
        if turned in exact:
            yield Miss(number, exact[turned], "word start")
        elif (other := folded.get((low, key.starts))) is not None:
            yield Miss(number, other, "case")
        elif (other := folded.get((low, not key.starts))) is not None:
            yield Miss(number, other, "both")


def _plain(vocabulary: Vocabulary, number: int) -> str | None:
    """The text of a token that stands for its text and is whole characters."""
    key = vocabulary.key(number)
    if key.role or key.byte:
        return None
    try:
        return key.content.decode("utf-8")
    except UnicodeDecodeError:
        return None


def shown(vocabulary: Vocabulary, number: int) -> str:
    """A token for people: of bytes that are whole characters these, with SentencePiece's mark where a word begins."""
    text = _plain(vocabulary, number) if vocabulary.marks == "bytes" else None
    return vocabulary.names[number] if text is None else SPACE * vocabulary.key(number).starts + text


def nearest(a: Vocabulary, b: Vocabulary, numbers: list[int]) -> list[Miss]:
    """For each of some tokens of the first the second's that differs in the fewest characters (Levenshtein), of several
    the one of the lowest number. Tokens that nothing is nearer to than their own length are left out.

    Raises:
        UsageError: if the package rapidfuzz is not installed.
    """
    try:
        from rapidfuzz import process
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise UsageError("near tokens are found by the package rapidfuzz: pip install rapidfuzz") from None
    known = {number: text for number in b.names if (text := _plain(b, number))}
    at, choices = list(known), list(known.values())
    found = []
    for number in numbers:
        if text := _plain(a, number):
            best = process.extractOne(text, choices, scorer=Levenshtein.distance, score_cutoff=len(text) - 1)
            if best is not None:
                found.append(Miss(number, at[best[2]], int(best[1])))
    return found
