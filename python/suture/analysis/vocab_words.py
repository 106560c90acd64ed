"""Static word vectors of a model: the mean of the embedding's rows of a word's tokens (Green et al., BabelBERT)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suture.analysis import word_files
from suture.analysis.lexicon import NEIGHBOURS, induce
from suture.analysis.stored import embedding
from suture.analysis.vocab_inspect import vocabulary_of
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results.vocabulary import Induction, WordVectors
from suture.vocab.fertility import unknown_of
from suture.vocab.segmenter import batches, lines_of, segmenter
from suture.vocab.tables import BLOCK, Table
from suture.vocab.tokens import Vocabulary


def words(
    model: str | PathLike[str],
    words: str | PathLike[str] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    dictionary: str | PathLike[str] | None = None,
    other: str | PathLike[str] | None = None,
    neighbours: int = NEIGHBOURS,
    overwrite: bool = False,
) -> WordVectors:
    """Make static vectors of words, and look up translations among them.

    A word is cut as behind a space; its vector is the mean of its tokens' rows, summed in float64 and rounded to
    float32. Tokens of a space alone do not count. A word that the vocabulary cannot write has no vector.

    Args:
        model: the model.
        words: a file of words, one a line, in UTF-8; of a word given twice the first counts.
        out: where to write their vectors: word2vec's text (``.vec``, ``.txt``), an array with a list of words beside
            it (``.npy``), or ``.safetensors``. They are written a block at a time.
        dictionary: a file of source and target words, a pair a line, with a tab between: the sources are looked up
            among all its targets. Vectors of its words are held.
        other: the model that target words are of, if not `model`.
        neighbours: of CSLS.
        overwrite: replace files of that name.

    Returns:
        How many words there are, those without a vector, the files, and how many translations were found: see
        :class:`suture.results.vocabulary.WordVectors`.

    Raises:
        UsageError: if neither words nor a dictionary are given, a file is missing, or `out` is there already.
        SutureError: if a file is not sound, a line not UTF-8 or no pair, or the models' rows are not of one width.
    """
    if words is None and dictionary is None:
        raise UsageError("words: give a file of words, or a dictionary", at="words")
    for name, value, needed in (("out", out, words), ("other", other, dictionary)):
        if value is not None and needed is None:
            raise UsageError(f"{name}: needs {'words' if name == 'out' else 'a dictionary'}", at=name)
    if neighbours < 1:
        raise UsageError(f"neighbours: expected a number from 1 on, found {neighbours}", at="neighbours")
    pairs = None if dictionary is None else _pairs(Path(dictionary))
    space = _space(model)
    listed = [] if words is None else [word for line in lines_of([words]) if (word := line.strip())]
    if words is not None and not listed:
        raise UsageError(f"{fspath(words)}: has no words; expected one a line", at="words")
    unique = list(dict.fromkeys(listed))
    cut = space.cut(unique)
    known = [word for word, own in zip(unique, cut, strict=True) if own is not None]
    rows = [own for own in cut if own is not None]
    written: list[str] = []
    if out is not None:
        word_files.check(out, known, overwrite, None if words is None else Path(words))
    found = None if pairs is None else _looked_up(space, space if other is None else _space(other), pairs, neighbours)
    if out is not None:
        written = word_files.write(out, known, space.table.width, space.vectors(rows))
    return {
        "schema": 1,
        "model": fspath(model),
        "other": None if other is None else fspath(other),
        "table": space.table.name,
        "words": len(known),
        "dimensions": space.table.width,
        "rows_per_word": sum(map(len, rows)) / len(rows) if rows else None,
        "unknown": [word for word, own in zip(unique, cut, strict=True) if own is None],
        "repeated": len(listed) - len(unique),
        "files": written,
        "dictionary": found,
        "warnings": list(space.checkpoint._core.warnings),
    }


@dataclass(frozen=True)
class _Space:
    """An embedding and the tokenizer that says which rows a word has."""

    table: Table
    checkpoint: Checkpoint
    vocabulary: Vocabulary

    def cut(self, words: Sequence[str]) -> list[NDArray[np.int64] | None]:
        """The rows of each word; None of one that the vocabulary cannot write.

        Raises:
            SutureError: if a token has no row.
        """
        tokenizer, unknown = segmenter(self.vocabulary.folder), unknown_of(self.vocabulary)
        found: list[NDArray[np.int64] | None] = []
        for batch in batches(words):
            plain = [e.ids for e in tokenizer.encode_batch(list(batch), add_special_tokens=False)]
            spaced = [e.ids for e in tokenizer.encode_batch([f" {w}" for w in batch], add_special_tokens=False)]
            for one, other in zip(plain, spaced, strict=True):
                # Tokenizers that put no space in front of a text see a word within one otherwise than at its start.
                ids = other if not self._starts(one) and self._starts(other) else one
                ids = [n for n in ids if not self._space(n)] or ids
                if beyond := [n for n in ids if n >= self.table.rows]:
                    message = f"token {beyond[0]} has no row: `{self.table.name}` has {self.table.rows:,}"
                    raise SutureError(f"{self.vocabulary.folder}: {message}", self.vocabulary.folder, self.table.name)
                found.append(np.array(ids, dtype=np.int64) if ids and unknown not in ids else None)
        return found

    def _starts(self, ids: Sequence[int]) -> bool:
        return bool(ids) and ids[0] in self.vocabulary.names and self.vocabulary.key(ids[0]).starts

    def _space(self, number: int) -> bool:
        key = self.vocabulary.key(number) if number in self.vocabulary.names else None
        return key is not None and not key.role and not key.content

    def vectors(self, rows: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.float32]]:
        """The mean of some rows for each word, in blocks of float32 [n, width]."""
        step = max(BLOCK // (4 * self.table.width), 1)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            needed, at = np.unique(np.concatenate(part), return_inverse=True)
            taken = self.table.take(needed)
            lengths = np.array([len(own) for own in part])
            made = np.empty((len(part), self.table.width), dtype=np.float32)
            for i, own in enumerate(np.split(at, np.cumsum(lengths)[:-1])):
                made[i] = taken[own].mean(axis=0, dtype=np.float64)
            yield made


def _space(model: str | PathLike[str]) -> _Space:
    checkpoint = Checkpoint.plain(model)
    return _Space(embedding(checkpoint).table(), checkpoint, vocabulary_of(checkpoint.folder))


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a dictionary.

    Raises:
        SutureError: if a line is no pair.
    """
    found = []
    for number, line in enumerate(lines_of([path]), 1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts):
            message = f"line {number}: expected two words with a tab between, found `{line:.60}`"
            raise SutureError(f"{path}: {message}", path)
        found.append((parts[0], parts[1]))
    if not found:
        raise SutureError(f"{path}: has no pairs; expected two words a line, with a tab between", path)
    return found


def _looked_up(source: _Space, target: _Space, pairs: Sequence[tuple[str, str]], neighbours: int) -> Induction:
    """Look up the sources of a dictionary among its targets."""
    if source.table.width != target.table.width:
        message = f"rows of {source.vocabulary.folder} are {source.table.width:,} wide"
        other = f"those of {target.vocabulary.folder} {target.table.width:,}; words of both have no space in common"
        raise SutureError(f"{message}, {other}", target.vocabulary.folder, target.table.name)
    sides = []
    for space, side in ((source, 0), (target, 1)):
        unique = list(dict.fromkeys(pair[side] for pair in pairs))
        known = [(w, own) for w, own in zip(unique, space.cut(unique), strict=True) if own is not None]
        vectors = list(space.vectors([own for _, own in known]))
        sides.append(({w: i for i, (w, _) in enumerate(known)}, vectors))
    (sources, of_sources), (targets, of_targets) = sides
    if not sources or not targets:
        raise SutureError(f"{source.vocabulary.folder}: the vocabulary can write no word of the dictionary",
                          source.vocabulary.folder)  # fmt: skip
    gold: dict[int, list[int]] = {}
    unique_pairs = list(dict.fromkeys(pairs))
    for one, other in unique_pairs:
        if one in sources and other in targets:
            gold.setdefault(sources[one], []).append(targets[other])
    left_out = len(unique_pairs) - sum(map(len, gold.values()))
    return induce(
        np.concatenate(of_sources),
        np.concatenate(of_targets),
        gold,
        neighbours=neighbours,
        pairs=len(unique_pairs),
        left_out=left_out,
    )
