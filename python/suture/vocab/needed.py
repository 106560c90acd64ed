"""Tokens that a vocabulary cannot be without, whatever the text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.sidecars.files import INNER, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.vocab.fast import needed_by
from suture.vocab.ids import FILES, KEY
from suture.vocab.pieces import apart
from suture.vocab.replay import Merges
from suture.vocab.tokens import Vocabulary
from suture.vocab.usage import Used

#: Why a token stays; the first that holds is told.
REASONS = (
    "special, added, or needed by the tokenizer",
    "named by config.json or generation_config.json",
    "used by the texts",
    "a single byte",
    "a single character",
    "made on the way to a token that stays",
    "tried before a word is given up",
    "sets the score of unknown characters",
)
SPECIAL, NAMED, USED, BYTE, CHARACTER, MADE, TRIED, SCORE = range(len(REASONS))

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


@dataclass(frozen=True)
class Needed:
    """What stays of a vocabulary.

    Attributes:
        own: the vocabulary.
        rows: how many rows its tables have.
        always: the numbers of tokens that stay for each of `REASONS`, whatever the text.
        merges: those of a BPE tokenizer.
    """

    own: Vocabulary
    rows: int
    always: Mapping[int, frozenset[int]]
    merges: Merges | None

    def reasons_of(self, enough: NDArray[np.bool_], found: Used, mode: str) -> NDArray[np.int32]:
        """The place in `REASONS` of why each row stays, int32 [rows]; -1 of what leaves.

        Args:
            enough: bool [tokens]: whether the texts use a token often enough.
            found: what else was found in them.
            mode: what stays of BPE: ``exact`` or ``closure``.
        """
        why = np.full(self.rows, -1, dtype=np.int32)
        own = np.flatnonzero(enough).tolist()
        sets = {**self.always, USED: own, MADE: self._made(own, found, mode), TRIED: self._tried(found)}
        for reason in reversed(range(len(REASONS))):
            why[list(sets.get(reason, ()))] = reason
        return why

    def _made(self, tokens: list[int], found: Used, mode: str) -> set[int]:
        """What BPE makes on the way to tokens."""
        if self.merges is None:
            return set()
        if mode == "closure":
            return self.merges.ancestors(tokens)
        whole: Any = self.own.whole
        looks_up = bool(whole["model"].get("ignore_merges"))
        made: set[int] = set()
        lost: list[int] = []
        for token in tokens:
            # What is only ever looked up as a whole word needs no merges.
            if token in self.own.added or (looks_up and not found.merged[token]):
                continue
            seen = self.merges.replayed(self.own.names[token])
            if seen is None:
                lost.append(token)
            else:
                made |= seen
        # The unknown token, and what is written otherwise than its characters are.
        return made | self.merges.ancestors(lost)

    def _tried(self, found: Used) -> set[int]:
        """What WordPiece finds at the start of words that it then gives up: without these it might not."""
        model: Any = (self.own.whole or {})["model"]
        prefix = model.get("continuing_subword_prefix") or ""
        tried: set[int] = set()
        for word in found.failed:
            if len(word) <= model.get("max_input_chars_per_word", 100):
                tried.update(_greedy(word, self.own.ids, prefix))
        return tried


def _greedy(word: str, ids: Mapping[str, int], prefix: str) -> Iterator[int]:
    """The longest token at each place of a word, until there is none."""
    start = 0
    while start < len(word):
        before = prefix if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if before + word[start:end] in ids), None)
        if end is None:
            return
        yield ids[before + word[start:end]]
        start = end


def needed(own: Vocabulary, rows: int, characters: str) -> Needed:
    """What stays of a vocabulary whatever the text.

    Args:
        own: the vocabulary.
        rows: how many rows its tables have.
        characters: ``all`` for all single characters, ``used`` for none but those that texts use.

    Raises:
        SutureError: if a file is not sound.
    """
    whole: Any = own.whole
    model = whole["model"]
    texts = {*own.roles.values(), *needed_by(whole)}
    for name in TOKENIZER_FILES:
        if name.endswith((".model", ".spm")) and (own.folder / name).is_file():
            texts |= apart(own.folder / name)
    special = {own.ids[text] for text in texts if text in own.ids} | set(own.added)
    ends = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    letters: set[int] = set()
    units: set[int] = set()
    for text, number in own.ids.items():
        if (own.marks == "pieces" or model.get("byte_fallback")) and _BYTE.fullmatch(text):
            units.add(number)
        elif len(text) == 1 or len(text.removeprefix(ends[0]).removesuffix(ends[1])) == 1:
            (units if own.marks == "bytes" else letters).add(number)
    always = {
        SPECIAL: special,
        NAMED: {number for number in _named(own.folder) if number < rows},
        BYTE: units,
        CHARACTER: letters if characters == "all" else set(),
        SCORE: set(_outermost(model["vocab"], special)) if own.form == "Unigram" else set(),
    }
    merges = Merges(model) if own.form == "BPE" else None
    return Needed(own, rows, {reason: frozenset(found) for reason, found in always.items()}, merges)


def _outermost(vocab: list[Any], special: set[int]) -> Iterator[int]:
    """The tokens whose scores others are derived from: the lowest of all, lowest and highest of those not special."""
    normal = [i for i in range(len(vocab)) if i not in special] or [0]
    yield min(range(len(vocab)), key=lambda i: vocab[i][1])
    yield min(normal, key=lambda i: vocab[i][1])
    yield max(normal, key=lambda i: vocab[i][1])


def _named(folder: Path) -> Iterable[int]:
    """The tokens that the configs of a model name one by one, as those that it begins and ends with. Those that are
    listed to be suppressed are not needed for that."""
    for name in FILES:
        parts = [read_config(folder, name) or {}]
        while parts:
            for key, value in parts.pop().items():
                if key in INNER and isinstance(value, dict):
                    parts.append(value)
                elif KEY.fullmatch(key) and "suppress" not in key and key != "bad_words_ids":
                    # Of what is forced the first number is a place in the text.
                    pairs = key == "forced_decoder_ids" and isinstance(value, list)
                    yield from _numbers([one[1:] for one in value] if pairs else value)


def _numbers(value: Any) -> Iterator[int]:
    if type(value) is int and value >= 0:
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _numbers(one)
