"""Which tokens texts use, and what the segmentation of each line was, to be compared with another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError
from suture.vocab.lines import batches
from suture.vocab.numbered import Segmenter, flat

#: Bytes that a line's segmentation is known again by.
_BYTES = 8
#: Each tenth line is left aside, to tell how text fares that was not seen.
TENTH = 10


@dataclass
class Used:
    """What texts use.

    Attributes:
        counts: int64 [texts, tokens]: how often each token is used, but for the lines left aside.
        aside: the same of these.
        lines: lines of each text.
        merged: bool [tokens]: whether a token is a part of a word somewhere, so that merges made it; of a tokenizer
            that looks whole words up.
        failed: words that the tokenizer has no tokens for, of a WordPiece tokenizer.
        marks: `_BYTES` bytes of each line's segmentation, in order.
    """

    counts: NDArray[np.int64]
    aside: NDArray[np.int64]
    lines: list[int]
    merged: NDArray[np.bool_]
    failed: set[str] = field(default_factory=set)
    marks: bytearray = field(default_factory=bytearray)


def used(
    segmenter: Segmenter,
    texts: Mapping[str, Sequence[Path]],
    size: int,
    *,
    unknown: int | None = None,
    looks_up: bool = False,
    step: Callable[[int], None] = lambda n: None,
) -> Used:
    """Segment texts, and count.

    Args:
        segmenter: the tokenizer.
        texts: the files of each language, by its name.
        size: how many numbers tokens take.
        unknown: the number of the unknown token of a WordPiece tokenizer: words that it stands for are kept.
        looks_up: whether the tokenizer looks words up before it merges.
        step: called with the bytes of each batch.
    """
    shape = (len(texts), size)
    found = Used(np.zeros(shape, np.int64), np.zeros(shape, np.int64), [0] * len(texts), np.zeros(size, bool))
    for batch in _batches(texts):
        encodings = segmenter.encodings(batch.lines)
        numbers, ends = flat(encodings)
        if numbers.size and int(numbers.max()) >= size:
            raise SutureError(f"the tokenizer gives token {int(numbers.max())}, but there are {size:,}")
        left = _tokens_of(batch.aside(), ends)
        found.aside[batch.text] += np.bincount(numbers[left], minlength=size)
        found.counts[batch.text] += np.bincount(numbers[~left], minlength=size)
        found.lines[batch.text] += len(batch.lines)
        found.marks += b"".join(_marks(numbers, ends))
        if looks_up:
            found.merged |= _merged(numbers, encodings, size)
        if unknown is not None:
            for i in _lines_with(numbers == unknown, ends):
                found.failed.update(segmenter.words(batch.lines[i]))
        step(batch.size)
    return found


#: A tokenizer, and the number in another of each of its tokens.
Other: TypeAlias = tuple[Segmenter, NDArray[np.int32]]


@dataclass
class Compared:
    """How texts fare under another tokenizer.

    Attributes:
        changed: lines of each text that are segmented otherwise.
        first: where the first of all is: its file and line; and its text.
        broken: the first line that is segmented otherwise although all its tokens are there.
    """

    changed: list[int]
    first: tuple[Path, int, str] | None = None
    broken: tuple[Path, int, str] | None = None


def compared(
    new: Other,
    old: Callable[[], Segmenter],
    stays: NDArray[np.bool_],
    texts: Mapping[str, Sequence[Path]],
    found: Used,
    step: Callable[[int], None] = lambda n: None,
) -> Compared:
    """Segment texts again, line by line, and compare.

    Args:
        new: another tokenizer.
        old: loads the one that `found` is of, where that is needed.
        stays: bool [tokens]: which tokens of the old one are in the new one.
        texts: the same texts.
        found: what the old tokenizer made of them.
        step: called with the bytes of each batch.

    Raises:
        SutureError: if a text is not what it was.
    """
    result = Compared([0] * len(texts))
    again: Segmenter | None = None
    for batch, was in _with_marks(texts, found):
        changed = _changed(new, batch, range(len(batch.lines)), was)
        result.changed[batch.text] += len(changed)
        if changed and result.first is None:
            result.first = batch.place(changed[0])
        if changed and result.broken is None:
            again = again or old()
            numbers, ends = flat(again.encodings([batch.lines[i] for i in changed]))
            gone = set(_lines_with(~stays[numbers], ends))
            result.broken = next((batch.place(i) for k, i in enumerate(changed) if k not in gone), None)
        step(batch.size)
    return result


def aside(
    new: Other,
    texts: Mapping[str, Sequence[Path]],
    found: Used,
    step: Callable[[int], None] = lambda n: None,
) -> list[tuple[int, int]]:
    """Of each text how many lines were left aside, and how many of them another tokenizer segments otherwise.

    Args:
        new: a tokenizer made without these lines.
        texts: the same texts.
        found: what the old tokenizer made of them.
        step: called with a tenth of the bytes of each batch.

    Raises:
        SutureError: if a text is not what it was.
    """
    result = [(0, 0)] * len(texts)
    for batch, was in _with_marks(texts, found):
        picked = batch.aside()
        seen, wrong = result[batch.text]
        result[batch.text] = seen + len(picked), wrong + len(_changed(new, batch, picked, was))
        step(batch.size // TENTH)
    return result


def _with_marks(texts: Mapping[str, Sequence[Path]], found: Used) -> Iterator[tuple[_Batch, list[bytes]]]:
    """The lines of texts, with what the segmentation of each was."""
    done = 0
    for batch in _batches(texts):
        end = done + len(batch.lines) * _BYTES
        if end > len(found.marks):
            break
        yield batch, [bytes(found.marks[i : i + _BYTES]) for i in range(done, end, _BYTES)]
        done = end
    if done != len(found.marks):
        raise SutureError("the texts have changed while they were read; run it again")


@dataclass(frozen=True)
class _Batch:
    """Lines of a text: its place among the texts, the file, the number there of the first line, how many lines the text
    has before them, and their bytes."""

    text: int
    path: Path
    first: int
    before: int
    size: int
    lines: list[str]

    def aside(self) -> range:
        """The lines that are left aside."""
        return range((-1 - self.before) % TENTH, len(self.lines), TENTH)

    def place(self, i: int) -> tuple[Path, int, str]:
        return self.path, self.first + i, self.lines[i]


def _batches(texts: Mapping[str, Sequence[Path]]) -> Iterator[_Batch]:
    for at, files in enumerate(texts.values()):
        before = 0
        for path in files:
            for first, size, lines in batches(path):
                yield _Batch(at, path, first, before, size, lines)
                before += len(lines)


def _changed(new: Other, batch: _Batch, picked: range, was: Sequence[bytes]) -> list[int]:
    """Which of some lines are segmented otherwise than they were."""
    numbers, ends = flat(new[0].encodings([batch.lines[i] for i in picked]))
    return [i for i, mark in zip(picked, _marks(new[1][numbers], ends), strict=True) if mark != was[i]]


def _marks(numbers: NDArray[np.int32], ends: NDArray[np.int64]) -> Iterator[bytes]:
    """What the segmentation of each line is known again by."""
    raw = memoryview(numbers.astype("<i4").tobytes())
    start = 0
    for end in ends.tolist():
        yield blake2b(raw[4 * start : 4 * end], digest_size=_BYTES).digest()
        start = end


def _tokens_of(picked: range, ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which tokens are of some lines."""
    lines = np.zeros(len(ends), dtype=bool)
    lines[picked.start : picked.stop : picked.step] = True
    return np.repeat(lines, np.diff(ends, prepend=0))


def _lines_with(tokens: NDArray[np.bool_], ends: NDArray[np.int64]) -> list[int]:
    """The lines that some of the tokens are in."""
    return sorted(set(np.searchsorted(ends, np.flatnonzero(tokens), side="right").tolist()))


def _merged(numbers: NDArray[np.int32], encodings: Sequence[Any], size: int) -> NDArray[np.bool_]:
    """Which tokens are only a part of a word somewhere: these were made by merges, and not looked up."""
    made = np.zeros(size, dtype=bool)
    at = 0
    for encoding in encodings:
        words = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
        same = words[1:] == words[:-1]
        parts = np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(words) else same
        made[numbers[at : at + len(words)][parts]] = True
        at += len(words)
    return made
