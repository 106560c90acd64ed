"""Trans-tokenization: rows of new tokens as counts of the old tokens that they are aligned with.

From a table of units (words, written as tokens) of both languages and how often they were aligned: the row of a token
is sum_j (count_j / total) E[j] (Remy et al., arXiv 2408.04303). Without the smoothing it is RAMEN's p(e | f)
(Tran, arXiv 2002.07306).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm
from pathlib import Path

from suture.errors import SutureError, near
from suture.vocab.columns import columns_of, plain_text
from suture.vocab.tokens import Vocabulary

Counts = dict[int, dict[int, float]]
#: What a token that lends its translations to one without any counts in all; more if it begins a word.
_LENT, _LENT_START = 1000.0, 2000.0
#: A token is looked up by these: a space if a word begins there, and its bytes.
Spelling = bytes


@dataclass
class Table:
    """An alignment as counts.

    Attributes:
        counts: for each new token the old tokens that it is aligned with, and how often.
        pairs: how many lines were counted.
        rare: how many were below the least count.
        unknown: how many had a unit that is no token of its vocabulary, where units are words.
    """

    counts: Counts = field(default_factory=dict, repr=False)
    pairs: int = 0
    rare: int = 0
    unknown: int = 0


Units = Callable[[str, int], Sequence[int] | None]


def read_table(path: Path, old: Units, new: Units, *, min_count: float = 1.0) -> Table:
    """The counts of a table of aligned units.

    A line is ``old <tab> new``, ``old <tab> new <tab> count`` or ``old <tab> new <tab> log probability <tab> count``;
    without a count it counts as `min_count`. Lines with ``<eps>`` are passed over.

    Args:
        path: the table.
        old: the tokens of a unit of the model's vocabulary, by its text and line; None where it is passed over.
        new: those of a unit of the new vocabulary.
        min_count: lines that count less are passed over.

    Raises:
        SutureError: if the file is not such a table, or has no line that counts.
    """
    found = Table()
    for at, columns in columns_of(path):
        if not 2 <= len(columns) <= 4:
            message = f"{path}:{at}: expected 2 to 4 columns between tabs (old, new, count), found {len(columns)}"
            raise SutureError(message, path)
        if "<eps>" in columns[:2]:
            continue
        count = _number(columns[-1], path, at) if len(columns) > 2 else min_count
        if count < min_count:
            found.rare += 1
            continue
        sources, targets = old(columns[0], at), new(columns[1], at)
        if not sources or not targets:
            found.unknown += 1
            continue
        found.pairs += 1
        split(found.counts, sources, targets, count)
    if not found.pairs:
        beside = f"; {found.rare:,} count less than {min_count:g}" if found.rare else ""
        raise SutureError(f"{path}: has no line that counts{beside}", path)
    return found


def split(counts: Counts, old: Sequence[int], new: Sequence[int], count: float) -> None:
    """Give the count of a pair of units to pairs of their tokens.

    Of single tokens it is theirs. Else half of it is spread over all pairs, and half over the pairs that stand beside
    each other once both are repeated to the same length; each pair gets at least 1.
    """
    if len(old) == len(new) == 1:
        _add(counts, new[0], old[0], count)
        return
    share = max(count / 2 / (len(old) * len(new)), 1.0)
    for target in new:
        for source in old:
            _add(counts, target, source, share)
    steps = lcm(len(old), len(new))
    share = max(count / 2 / steps, 1.0)
    for i in range(steps):
        _add(counts, new[i * len(new) // steps], old[i * len(old) // steps], share)


def _add(counts: Counts, new: int, old: int, count: float) -> None:
    own = counts.setdefault(new, {})
    own[old] = own.get(old, 0.0) + count


def tokens_in(vocabulary: Vocabulary, path: Path) -> Units:
    """Units that are tokens, several with spaces or em dashes between, as the tokenizer's files have them.

    Raises, when called:
        SutureError: if a unit names what is no token.
    """

    def units(text: str, at: int) -> list[int]:
        found = []
        # An em dash may itself be a token, or part of one.
        parts = [text] if plain_text(text) in vocabulary.ids else text.split(" " if " " in text else "\u2014")
        for part in parts:
            number = vocabulary.ids.get(plain_text(part))
            if number is None:
                hint = near(part, vocabulary.ids) if len(vocabulary.ids) < 50_000 else ""
                message = f"{path}:{at}: {vocabulary.folder} has no token `{part:.40}`{hint}"
                raise SutureError(message, path)
            found.append(number)
        return found

    return units


def words_in(pieces: Callable[[bool, bytes], list[int]]) -> Units:
    """Units that are words, segmented as at the beginning of a word."""

    def units(text: str, at: int) -> list[int] | None:
        return pieces(True, text.encode("utf-8")) or None

    return units


def smooth(counts: Mapping[int, Mapping[int, float]], spellings: Mapping[int, Spelling]) -> Counts:
    """Counts for the tokens that have none, lent by tokens that are longer, or by their parts.

    A token is lent counts by each token with counts that begins with it, and by the longest tokens with counts that
    it holds, none inside another. Each lends its own counts, scaled to 1000 in all, or 2000 if it begins a word.

    A token is asked for by each of its beginnings, through a sorted list, and looks for each of its parts by a hash:
    the work grows with the letters of the vocabulary, not with its square.

    Args:
        counts: of the tokens that have them.
        spellings: of all tokens that take part, with or without counts: a space if a word begins there, then bytes.
    """
    lending: dict[Spelling, list[int]] = defaultdict(list)
    for number in counts:
        if spellings.get(number):
            lending[spellings[number]].append(number)
    falling = sorted(lending)
    longest = max(map(len, falling), default=0)
    made: Counts = {}
    for number, text in spellings.items():
        if number in counts or not text:
            continue
        lenders: list[Spelling] = []
        at = bisect_left(falling, text)
        while at < len(falling) and falling[at].startswith(text):
            lenders.append(falling[at])
            at += 1
        lenders += [part for part in _parts(text, lending, longest) if not part.startswith(text)]
        for lender in lenders:
            for other in lending[lender]:
                own = counts[other]
                scale = (_LENT_START if lender.startswith(b" ") else _LENT) / sum(own.values())
                for old, count in own.items():
                    _add(made, number, old, count * scale)
    return made


def _parts(text: Spelling, lending: Mapping[Spelling, object], longest: int) -> list[Spelling]:
    """The longest parts of a text that are known, none inside another, each once."""
    found: dict[Spelling, None] = {}
    reached = 0
    for start in range(len(text)):
        for stop in range(min(len(text), start + longest), max(reached, start), -1):
            if (part := text[start:stop]) in lending:
                found[part] = None
                reached = stop
                break
    return list(found)


def _number(text: str, path: Path, at: int) -> float:
    try:
        count = float(text)
    except ValueError:
        count = -1.0
    if not 0 <= count < float("inf"):
        raise SutureError(f"{path}:{at}: expected a count in the last column, found `{text:.40}`", path)
    return count
