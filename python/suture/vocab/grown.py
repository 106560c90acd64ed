"""What plans that keep all rows of a model and put others behind them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError, UsageError
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.rowplan import CLASSES, MIX, Rows
from suture.vocab.tokens import Vocabulary, read

#: The number of each class in `RowPlan.kind`.
KIND = {name: i for i, name in enumerate(CLASSES)}


def vocabulary_of(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a model whose tables have so many rows, every token of which has one.

    Raises:
        UsageError: if the model has no tokenizer, or one that cannot be read.
        SutureError: if a file of it is not sound, or tokens have no row.
    """
    found = read(folder)
    if found.form == "none":
        raise UsageError(f"{folder}: has no tokenizer")
    if found.form == "slow":
        message = (
            "has no tokenizer.json, and its tokens cannot be told from what it has; load its tokenizer with "
            "transformers once and save it, which writes that file"
        )
        raise UsageError(f"{folder}: {message}")
    if found.size > rows:
        text = found.names[found.size - 1]
        message = f"token {found.size - 1:,} (`{text:.40}`) has no row: the tables have {rows:,}"
        raise SutureError(f"{folder}: {message}", folder)
    return found


def tokenizer_files(folder: Path) -> list[tuple[str, str]]:
    """The files of a tokenizer as they are, to be copied."""
    return [(name, str(folder / name)) for name in TOKENIZER_FILES if (folder / name).is_file()]


def numbers_of(vocabulary: Vocabulary, tokens: Iterable[str], what: str) -> list[int]:
    """The numbers of tokens.

    Raises:
        UsageError: if there is one that the model does not have.
    """
    listed = list(tokens)
    missing = [text for text in listed if text not in vocabulary.ids]
    if missing:
        more = f" and {len(missing) - 1:,} more of the list" if len(missing) > 1 else ""
        raise UsageError(f"{what}: {vocabulary.folder} has no token `{missing[0]:.40}`{more}", at=what)
    return [vocabulary.ids[text] for text in listed]


@dataclass
class Grown:
    """The rows of an output: those of a model, in their order, and further ones.

    Attributes:
        vocabulary: the model's.
        rows: how many rows its tables have.
    """

    vocabulary: Vocabulary | None
    rows: int
    source: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    kind: list[int] = field(default_factory=list)
    why: list[int] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    mixes: list[tuple[Sequence[int], Sequence[float]]] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def own(self, first: int = 0, end: int | None = None) -> None:
        """Rows of the model as they are."""
        named = None if self.vocabulary is None else self.vocabulary.names
        end = self.rows if end is None else end
        kept, padding = self._reason("the model's own"), self._reason("the model's own, of no token")
        for number in range(first, end):
            token = named is None or number in named
            self._put(0, number, KIND["kept" if token else "padding"], kept if token else padding)

    def copy(self, number: int, kind: str, reason: str) -> None:
        """A row of the model once more."""
        self._put(0, number, KIND[kind], self._reason(reason))

    def mix(self, rows: Sequence[int], weights: Sequence[float], noise: float = 0.0) -> int:
        """A mix for :meth:`mixed`, of rows in ascending order; its number."""
        self.mixes.append((rows, weights))
        self.noise.append(noise)
        return len(self.mixes) - 1

    def mixed(self, mix: int, kind: str, reason: str) -> None:
        """A row that is a mix, several may be the same."""
        self._put(MIX, mix, KIND[kind], self._reason(reason))

    def filled(self, source: int, reason: str) -> None:
        """A row of no token."""
        self._put(source, 0, KIND["padding"], self._reason(reason))

    def table(self) -> Rows:
        """All rows."""
        starts = np.cumsum([0, *(len(rows) for rows, _ in self.mixes)], dtype=np.int64)
        index = [np.asarray(rows, dtype=np.int64) for rows, _ in self.mixes]
        weight = [np.asarray(weights, dtype=np.float64) for _, weights in self.mixes]
        return Rows(
            np.array(self.source, dtype=np.int64),
            np.array(self.row, dtype=np.int64),
            starts,
            np.concatenate([np.zeros(0, dtype=np.int64), *index]),
            np.concatenate([np.zeros(0), *weight]),
            np.array(self.noise, dtype=np.float64),
        )

    def kinds(self) -> tuple[NDArray[np.int8], list[str], NDArray[np.int32]]:
        """The class of each row, reasons, and the reason of each row."""
        return np.array(self.kind, dtype=np.int8), self.reasons, np.array(self.why, dtype=np.int32)

    def _put(self, source: int, row: int, kind: int, why: int) -> None:
        self.source.append(source)
        self.row.append(row)
        self.kind.append(kind)
        self.why.append(why)

    def _reason(self, text: str) -> int:
        # Reasons come in runs.
        if self.reasons and self.reasons[-1] == text:
            return len(self.reasons) - 1
        if text in self.reasons[:64]:
            return self.reasons.index(text)
        self.reasons.append(text)
        return len(self.reasons) - 1


def names_of(vocabulary: Vocabulary | None, rows: int) -> list[str | None]:
    """The text of the token of each row; None where it has none, for a config may name such a row too."""
    names: list[str | None] = [None] * rows
    for text, number in ({} if vocabulary is None else vocabulary.ids).items():
        names[number] = text
    return names
