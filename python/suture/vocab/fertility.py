"""How a tokenizer cuts text: tokens for a word, a character and a byte, by script."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.vocab.scripts import characters, script_of
from suture.vocab.segmenter import batches
from suture.vocab.tokens import Vocabulary

#: A word is what stands between spaces.
_WORD = re.compile(r"\S+")


@dataclass
class Counts:
    """What was counted in some words, or in a whole text.

    Attributes:
        words: runs of characters other than spaces.
        characters: characters, of a whole text those between words too.
        bytes: the same in UTF-8.
        tokens: tokens that begin in these words, of a whole text all.
        unknown: those that stand for what the vocabulary cannot write.
        single: those of one character, or a part of one.
        continued: words of two tokens or more.
        lost: words without a token: some tokenizers drop what they cannot write.
    """

    words: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    unknown: int = 0
    single: int = 0
    continued: int = 0
    lost: int = 0

    def add(self, other: Counts) -> None:
        """Add what was counted elsewhere."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass
class Measured:
    """What was counted in a text.

    Attributes:
        lines: its lines.
        whole: all of it.
        scripts: its words, by their script.
    """

    lines: int
    whole: Counts
    scripts: dict[str, Counts]


def unknown_of(vocabulary: Vocabulary) -> int | None:
    """The number of the token that stands for what a vocabulary cannot write; None if there is none."""
    model = (vocabulary.whole or {}).get("model") or {}
    if model.get("type") == "Unigram" or "unk_id" in model:
        return model.get("unk_id")
    text = model.get("unk_token") if vocabulary.whole is not None else vocabulary.roles.get("unk")
    return None if text is None else vocabulary.ids.get(text)


def single_of(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Whether each number is a token of one character or a part of one, or of a space alone, [size]."""
    found = np.zeros(vocabulary.size, dtype=bool)
    for number in vocabulary.names:
        key = vocabulary.key(number)
        found[number] = not key.role and characters(key.content) <= 1
    return found


def measure(vocabulary: Vocabulary, segmenter: Any, lines: Iterable[str]) -> Measured:
    """Count the words and tokens of a text.

    A token belongs to the word it begins in, behind any space it begins with; a token of spaces to none. The script of
    a word is that of most of its letters.
    """
    unknown, single = unknown_of(vocabulary), single_of(vocabulary)
    whole, scripts, count = Counts(), defaultdict[str, Counts](Counts), 0
    for batch in batches(lines):
        for text, encoded in zip(batch, segmenter.encode_batch(batch, add_special_tokens=False), strict=True):
            count += 1
            ids = np.array(encoded.ids, dtype=np.int64)
            what = (ids == unknown if unknown is not None else np.zeros(len(ids), bool), _at(single, ids))
            offsets = np.array(encoded.offsets, dtype=np.int64).reshape(-1, 2)
            _line(text, offsets, what, whole, scripts)
    return Measured(count, whole, dict(sorted(scripts.items(), key=lambda pair: (-pair[1].words, pair[0]))))


def _at(single: NDArray[np.bool_], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
    known = ids < len(single)
    return known & single[np.where(known, ids, 0)] if len(single) else known


def _line(
    text: str,
    offsets: NDArray[np.int64],
    what: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    whole: Counts,
    scripts: dict[str, Counts],
) -> None:
    """Count a line; `what` is which tokens are unknown, and which a single character."""
    unknown, single = what
    spans = [match.span() for match in _WORD.finditer(text)]
    bounds = np.array(spans, dtype=np.int64).reshape(-1, 2)
    # The word that a token begins in, or that comes next where it begins with a space.
    word = np.searchsorted(bounds[:, 1], offsets[:, 0], side="right")
    inside = word < len(spans)
    starts = bounds[np.where(inside, word, 0), 0] if spans else np.zeros(len(word), dtype=np.int64)
    # One without any text, such as a space put in front of it, belongs to what comes next.
    inside &= (offsets[:, 1] > starts) | (offsets[:, 0] == offsets[:, 1])
    per_word = np.bincount(word[inside], minlength=len(spans))
    per_unknown = np.bincount(word[inside & unknown], minlength=len(spans))
    per_single = np.bincount(word[inside & single], minlength=len(spans))
    for i, (start, end) in enumerate(spans):
        script, size = _word(text[start:end])
        tokens = int(per_word[i])
        parts = (int(per_unknown[i]), int(per_single[i]), int(tokens > 1), int(tokens == 0))
        scripts[script].add(Counts(1, end - start, size, tokens, *parts))
    words = (int((per_word > 1).sum()), int((per_word == 0).sum()))
    size = len(text.encode("utf-8", "surrogatepass"))
    whole.add(Counts(len(spans), len(text), size, len(word), int(unknown.sum()), int(single.sum()), *words))


@lru_cache(maxsize=2**17)
def _word(text: str) -> tuple[str, int]:
    """The script of a word, and its bytes."""
    return script_of(text), len(text.encode("utf-8", "surrogatepass"))
