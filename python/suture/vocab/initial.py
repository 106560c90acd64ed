"""What the row of a new token is made of: ``mean``, ``copy:X``, ``mix:0.7*X+0.3*Y``, ``subwords[:TEXT]``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from suture.errors import UsageError
from suture.vocab.tokens import Vocabulary

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_TERM = re.compile(rf"({_NUMBER})\*(.+)", re.DOTALL)
#: Where a term ends and the next begins; a token may hold a plus.
_BETWEEN = re.compile(rf"\+(?={_NUMBER}\*)")

#: Text into tokens' numbers.
Segment = Callable[[str], Sequence[int]]


@dataclass(frozen=True)
class Initial:
    """What a row is made of.

    Attributes:
        rows: rows of the model, ascending.
        weights: the weight of each.
        reason: what is said of it.
    """

    rows: tuple[int, ...]
    weights: tuple[float, ...]
    reason: str

    @property
    def copied(self) -> bool:
        """Whether it is a row as it is."""
        return self.weights == (1.0,)


def initial_of(text: str, token: str, vocabulary: Vocabulary, segment: Segment, spare: Sequence[int] = ()) -> Initial:
    """What the row of a token is made of.

    Args:
        text: how it is asked for.
        token: the token.
        vocabulary: the model's.
        segment: how the model's tokenizer segments text.
        spare: tokens that leave, which a mean is not of.

    Raises:
        UsageError: if it is no such thing, or names a token that the model does not have.
    """
    how, _, rest = text.partition(":")
    if text == "mean":
        leave = set(spare)
        numbers = tuple(number for number in sorted(vocabulary.names) if number not in leave)
        if not numbers:
            raise UsageError("init: no token is left that a mean could be of", at="init")
        reason = f"the mean of the rows of all {len(numbers):,} tokens"
        return Initial(numbers, (1 / len(numbers),) * len(numbers), reason)
    if how == "copy" and rest:
        return Initial((_number(vocabulary, rest, text),), (1.0,), f"a copy of the row of `{rest}`")
    if how == "mix" and rest:
        return _mix(rest, text, vocabulary)
    if text == "subwords" or (how == "subwords" and rest):
        return _subwords(rest or token, token, vocabulary, segment)
    message = "expected mean, copy:TOKEN, mix:0.7*TOKEN+0.3*TOKEN, subwords or subwords:TEXT"
    raise UsageError(f"init: {message}; found `{text:.60}`", at="init")


def _mix(rest: str, text: str, vocabulary: Vocabulary) -> Initial:
    weights: dict[int, float] = {}
    for term in _BETWEEN.split(rest):
        match = _TERM.fullmatch(term)
        if match is None:
            raise UsageError(f"init: expected WEIGHT*TOKEN in `{text:.60}`, found `{term:.40}`", at="init")
        weight = float(match[1])
        if not math.isfinite(weight):
            raise UsageError(f"init: expected a finite weight in `{text:.60}`, found `{match[1]:.40}`", at="init")
        number = _number(vocabulary, match[2], text)
        if number in weights:
            raise UsageError(f"init: names `{match[2]:.40}` twice in `{text:.60}`", at="init")
        weights[number] = weight
    numbers = tuple(sorted(weights))
    return Initial(numbers, tuple(weights[number] for number in numbers), f"the mix {rest}")


def _subwords(text: str, token: str, vocabulary: Vocabulary, segment: Segment) -> Initial:
    numbers = list(segment(text))
    if not numbers:
        raise UsageError(f"init: the tokenizer makes no tokens of `{text:.40}`, for `{token:.40}`", at="init")
    # A piece that is there twice counts twice.
    counts = {number: numbers.count(number) for number in sorted(set(numbers))}
    pieces = " ".join(f"`{vocabulary.names.get(number, '')}`" for number in numbers[:8])
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    weights = tuple(count / len(numbers) for count in counts.values())
    return Initial(tuple(counts), weights, f"the mean of its pieces {pieces}{more}")


def _number(vocabulary: Vocabulary, token: str, text: str) -> int:
    if (number := vocabulary.ids.get(token)) is None:
        raise UsageError(f"init: {vocabulary.folder} has no token `{token:.40}`, asked for in `{text:.60}`", at="init")
    return number
