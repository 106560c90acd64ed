"""Problems, their split, and the rows of tokens that models are trained and tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from language import HELD_OUT, Language, Pair

Numbers = tuple[int, ...]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: What each operation makes of a list of numbers `xs` with the parameter `k`, modulo `m`.
OPERATIONS: Mapping[str, Callable[[Numbers, int, int], Sequence[int]]] = {
    "do plus": lambda xs, k, m: [(x + k) % m for x in xs],
    "undo plus": lambda xs, k, m: [(x - k) % m for x in xs],
    "do times": lambda xs, k, m: [x * k % m for x in xs],
    "do max": lambda xs, k, m: [max(x, k) for x in xs],
    "undo max": lambda xs, k, m: [min(x, k) for x in xs],
    "do next": lambda xs, k, m: [(x + 1) % m for x in xs],
    "undo next": lambda xs, k, m: [(x - 1) % m for x in xs],
    "do copy": lambda xs, k, m: xs,
    "undo copy": lambda xs, k, m: xs,
    "do reverse": lambda xs, k, m: xs[::-1],
    "undo reverse": lambda xs, k, m: xs[::-1],
    "do sort": lambda xs, k, m: sorted(xs),
    "undo sort": lambda xs, k, m: sorted(xs, reverse=True),
}
KNOWN = tuple(name for name in OPERATIONS if name != HELD_OUT)

Row = tuple[list[int], int]  # tokens, and where what is to be predicted begins


@dataclass(frozen=True)
class Operands:
    """Every problem's numbers, the parameter first, in three parts that share none."""

    train: Ints
    validation: Ints
    test: Ints

    @classmethod
    def split(cls, modulus: int, length: int, seed: int = 0, validation: int = 500, test: int = 1000) -> Operands:
        """Shuffle all tuples of a parameter and `length` numbers."""
        every = np.indices((modulus,) * (length + 1)).reshape(length + 1, -1).T
        every = np.random.default_rng(seed).permutation(every)
        return cls(every[test + validation :], every[test : test + validation], every[:test])


def said(language: Language, numbers: Sequence[int]) -> list[int]:
    """Tokens of some numbers."""
    return [token for n in numbers for token in language.numbers[n]]


def question(language: Language, operation: str, operands: Sequence[int]) -> list[int]:
    """An operation and its operands."""
    return [token for word in operation.split() for token in language.words[word]] + said(language, operands)


def problem(language: Language, operation: str, operands: Sequence[int], modulus: int) -> Row:
    """A question and its answer."""
    asked = [*question(language, operation, operands), *language.words["equals"]]
    result = OPERATIONS[operation](tuple(operands[1:]), operands[0], modulus)
    return asked + said(language, result), len(asked)


def translation(source: Language, target: Language, operation: str, operands: Sequence[int]) -> Row:
    """A question in one language and the same in the other; the answer is not given, so any operation may occur."""
    asked = [*question(source, operation, operands), *source.words["translate"]]
    return asked + question(target, operation, operands), len(asked)


def mixed(pair: Pair, operation: str, operands: Sequence[int], choices: Sequence[int]) -> Row:
    """A question that changes language from word to word, answered in the language of its last word.

    `choices` says for each operand, the two words of the operation and the last word whether it is in the first
    language (0) or not.
    """
    sides = [(pair.a, pair.b)[c] for c in choices]
    *_, first, second, last = sides
    verb, noun = operation.split()
    numbers = [t for n, side in zip(operands, sides, strict=False) for t in side.numbers[n]]
    asked = [*first.words[verb], *second.words[noun], *numbers, *last.words["equals"]]
    result = OPERATIONS[operation](tuple(operands[1:]), operands[0], pair.modulus)
    return asked + said(last, result), len(asked)


@dataclass(frozen=True)
class Mix:
    """How often each kind of text occurs, as weights.

    Attributes:
        known_a: known operations in A.
        known_b: known operations in B.
        parallel: questions of any operation, without answers, translated one way or the other.
        mixed: known operations in text that changes language from word to word (code switching).
        held_out_a: the left-out operation in A.
        switch: in text that changes language, the share of words in B.
        operations: the known operations used.
    """

    known_a: float = 0.0
    known_b: float = 0.0
    parallel: float = 0.0
    mixed: float = 0.0
    held_out_a: float = 0.0
    switch: float = 0.5
    operations: tuple[str, ...] = KNOWN

    def rows(self, pair: Pair, operands: Ints, n: int, rng: np.random.Generator) -> list[Row]:
        """Random rows."""
        weights = np.array([self.known_a, self.known_b, self.parallel, self.mixed, self.held_out_a])
        kinds = rng.choice(len(weights), n, p=weights / weights.sum()).tolist()
        chosen = operands[rng.integers(len(operands), size=n)].tolist()
        names = rng.integers(len(self.operations), size=n).tolist()
        sides = rng.integers(2, size=n).tolist()
        choices = (rng.random((n, operands.shape[1] + 3)) < self.switch).astype(int).tolist()
        anything = (*self.operations, HELD_OUT)
        others = rng.integers(len(anything), size=n).tolist()
        m, found = pair.modulus, []
        for kind, xs, i, side, j, c in zip(kinds, chosen, names, sides, others, choices, strict=True):
            first, second = (pair.a, pair.b) if side else (pair.b, pair.a)
            if kind == 0:
                found.append(problem(pair.a, self.operations[i], xs, m))
            elif kind == 1:
                found.append(problem(pair.b, self.operations[i], xs, m))
            elif kind == 2:
                found.append(translation(first, second, anything[j], xs))
            elif kind == 3:
                found.append(mixed(pair, self.operations[i], xs, c))
            else:
                found.append(problem(pair.a, HELD_OUT, xs, m))
        return found


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right.

    Attributes:
        ids: tokens.
        asked: where the *next* token is to be predicted.
    """

    ids: Ints
    asked: Bools

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Batch:
        """Pad rows to the longest."""
        length = max(len(tokens) for tokens, _ in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64)
        asked = np.zeros((len(rows), length), dtype=np.bool_)
        for i, (tokens, start) in enumerate(rows):
            ids[i, : len(tokens)] = tokens
            asked[i, start - 1 : len(tokens) - 1] = True
        return cls(ids, asked)

    def json(self) -> dict[str, Any]:
        """As lists: the tokens, and where the answer begins."""
        return {"ids": self.ids.tolist(), "answer": (self.asked.argmax(axis=1) + 1).tolist()}
