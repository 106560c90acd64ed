"""Which tokens of a vocabulary get which numbers, for all files that say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from suture.errors import UsageError
from suture.vocab.entries import Added
from suture.vocab.tokens import Vocabulary

T = TypeVar("T")

#: What a token that joins can be: one that text is segmented into, one that stands for something, one that is found in
#: text before the rest is segmented, a byte.
KINDS = ("normal", "special", "added", "byte")


@dataclass(frozen=True)
class NewToken:
    """A token that joins a vocabulary.

    Attributes:
        text: it, as the vocabulary writes its tokens.
        kind: one of `KINDS`.
        score: of a Unigram tokenizer its log probability; of a SentencePiece file its score.
        flags: those of `entries.FLAGS`, of an added or special token.
    """

    text: str
    kind: str = "normal"
    score: float = 0.0
    flags: frozenset[str] = frozenset()

    @property
    def inside(self) -> bool:
        """Whether it is a token of the model that segments, and not found before."""
        return self.kind in ("normal", "byte")

    def added(self) -> Added:
        """It, as files list what is found in text."""
        return Added(self.text, self.flags | {"special"} if self.kind == "special" else self.flags)


@dataclass(frozen=True)
class Moves:
    """From the numbers of a vocabulary to those of another made of it.

    Attributes:
        own: the vocabulary.
        moved: the new number of each token that stays, by its old one.
        new: the tokens that join, by their number.
        merges: all merges of the output, in their order; None for those of `own` whose tokens are all there.
    """

    own: Vocabulary
    moved: Mapping[int, int]
    new: Mapping[int, NewToken] = field(default_factory=dict)
    merges: Sequence[tuple[str, str]] | None = None

    def check(self) -> None:
        """Refuse what makes no vocabulary.

        Raises:
            UsageError: if a token does not exist, two get one number or one text.
        """
        names, at = self.own.names, str(self.own.folder)
        if wrong := [old for old in self.moved if old not in names]:
            raise UsageError(f"{at}: has no token {min(wrong)}, which cannot be kept", at=at)
        numbers = [*self.moved.values(), *self.new]
        if len(set(numbers)) != len(numbers) or min(numbers, default=0) < 0:
            twice = next((n for n in numbers if numbers.count(n) > 1 or n < 0), 0)
            raise UsageError(f"{at}: two tokens cannot both have number {twice}", at=at)
        texts = {token.text for token in self.new.values()}
        if len(texts) != len(self.new):
            raise UsageError(f"{at}: two tokens that join have the same text", at=at)
        known = self.own.ids
        if twins := sorted(text for text in texts if known.get(text) in self.moved):
            raise UsageError(f"{at}: `{twins[0]:.40}` is a token already", at=at)

    def left(self, text: str) -> bool:
        """Whether a token is no longer there."""
        number = self.own.ids.get(text)
        return number is not None and number not in self.moved

    def of(self, text: str) -> int | None:
        """The new number of a token of the vocabulary; None where it leaves, or never was."""
        number = self.own.ids.get(text)
        return None if number is None else self.moved.get(number)

    def added(self) -> dict[int, Added]:
        """All tokens of the output that are found in text before the rest, by their number."""
        found = {self.moved[old]: token for old, token in self.own.added.items() if old in self.moved}
        found |= {at: token.added() for at, token in self.new.items() if not token.inside}
        return dict(sorted(found.items()))

    def listed(self, stay: Mapping[int, T], make: Callable[[NewToken], T], first: int = 0) -> list[T] | None:
        """What a file lists by place: those that stay, by their new place, and those that join among or behind them.

        Args:
            stay: what stays, by its place.
            make: the entry of a token that joins.
            first: the number of the token in place 0.

        Returns:
            the list; None if places between would be empty.
        """
        made = dict(stay)
        made |= {at - first: make(token) for at, token in self.new.items() if token.inside}
        last = max(made, default=-1)
        made |= {at - first: make(token) for at, token in self.new.items() if not token.inside and at - first < last}
        in_order = sorted(made)
        return [made[at] for at in in_order] if in_order == list(range(len(made))) else None


def without(value: Any, moves: Moves) -> Any:
    """A list or mapping of tokens without those that leave; what is none of these as it is."""

    def gone(entry: Any) -> bool:
        text = entry.get("content") if isinstance(entry, dict) else entry
        return isinstance(text, str) and moves.left(text)

    if isinstance(value, list):
        return [entry for entry in value if not gone(entry)]
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if not gone(entry)}
    return value
