"""Vectors of tokens that a user brings, by which tokens are compared.

Three forms, told by the end of the file's name:

* ``.npy``: a matrix [tokens, width]; its tokens, one a line, in the file of the same name with ``.txt`` instead.
* ``.safetensors``: one matrix [tokens, width]; its tokens in a ``.txt`` as above, or, where there is none, the row of
  each is the token's number.
* anything else: text as word2vec writes it: a token and its numbers a line, between spaces; a first line of two
  numbers, how many and how wide, is passed over.

Tokens are written as the tokenizer's files have them (``Ġthe``, ``▁the``, ``##ing``), a ``\\t``, ``\\n`` or
backslash in one as in a map of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suture.errors import SutureError
from suture.vocab.columns import plain_text
from suture.vocab.segmenter import lines_of
from suture.vocab.stored import Held
from suture.vocab.tokens import Vocabulary


@dataclass(frozen=True)
class Vectors:
    """Vectors of tokens.

    Attributes:
        path: where they are from.
        table: the vectors.
        rows: the row of each token that has one, by its text; None where rows are the tokens' numbers.
    """

    path: Path
    table: Held = field(repr=False)
    rows: Mapping[str, int] | None = field(default=None, repr=False)

    def of(self, vocabulary: Vocabulary) -> NDArray[np.int64]:
        """int64 [numbers]: the row of each token of a vocabulary; -1 where it has none.

        Raises:
            SutureError: if none has.
        """
        found = np.full(vocabulary.size, -1, dtype=np.int64)
        for number, text in vocabulary.names.items():
            row = number if self.rows is None else self.rows.get(text, -1)
            if row < self.table.count:
                found[number] = row
        if not (found >= 0).any():
            raise SutureError(f"{self.path}: has no vector of any token of {vocabulary.folder}", self.path)
        return found


def read_vectors(path: Path) -> Vectors:
    """The vectors in a file.

    Raises:
        SutureError: if it cannot be read, or is not of its form, or has NaN or infinities.
    """
    if not path.is_file():
        raise SutureError(f"{path}: no such file; expected vectors of tokens", path)
    beside = path.with_suffix(".txt")
    if path.suffix == ".npy":
        values, rows = _matrix(path), _listed(beside, path, needed=True)
    elif path.suffix == ".safetensors":
        values, rows = _tensor(path), _listed(beside, path, needed=False)
    else:
        values, rows = _words(path)
    if values.ndim != 2 or not values.size:
        raise SutureError(f"{path}: expected a matrix of a row for each token, found shape {values.shape}", path)
    if rows is not None and len(rows) != len(values):
        raise SutureError(f"{beside}: expected {len(values):,} tokens, one a line; found {len(rows):,}", beside)
    odd = ~np.isfinite(values).all(axis=1)
    if odd.any():
        raise SutureError(f"{path}: row {int(odd.argmax())} has NaN or infinities", path)
    return Vectors(path, Held(values), rows)


def _matrix(path: Path) -> NDArray[np.float32]:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as e:
        raise SutureError(f"{path}: cannot be read as a matrix: {e}", path) from None
    if found.dtype.kind != "f":
        raise SutureError(f"{path}: expected floats, found {found.dtype}", path)
    return np.asarray(found, dtype=np.float32)


def _tensor(path: Path) -> NDArray[np.float32]:
    from suture.checkpoint import Checkpoint

    checkpoint = Checkpoint(path)
    names = [name for name in checkpoint.names if len(checkpoint.info(name).shape) == 2]
    if len(names) != 1:
        raise SutureError(f"{path}: expected one matrix, found {len(names)}", path)
    found = checkpoint.numpy(names[0])
    if found.dtype.kind != "f":
        raise SutureError(f"{path}: `{names[0]}`: expected floats, found {checkpoint.info(names[0]).dtype}", path)
    return np.asarray(found, dtype=np.float32)


def _listed(beside: Path, path: Path, *, needed: bool) -> dict[str, int] | None:
    if not beside.is_file():
        if needed:
            raise SutureError(f"{path}: expected its tokens, one a line, in {beside.name} beside it", path)
        return None
    rows: dict[str, int] = {}
    for i, line in enumerate(lines_of([beside])):
        if rows.setdefault(plain_text(line), i) != i:
            raise SutureError(f"{beside}:{i + 1}: `{line:.40}` a second time", beside)
    return rows


def _words(path: Path) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Text as word2vec writes it."""
    rows: dict[str, int] = {}
    values: list[NDArray[np.float32]] = []
    width = 0
    for i, line in enumerate(lines_of([path])):
        token, *numbers = line.rstrip(" ").split(" ")
        if i == 0 and len(numbers) == 1 and token.isdecimal() and numbers[0].isdecimal():
            continue
        if not line:
            continue
        try:
            row = np.array(numbers, dtype=np.float32)
        except ValueError:
            raise SutureError(f"{path}:{i + 1}: expected a token and numbers, found `{line:.40}`", path) from None
        width = width or len(row)
        if len(row) != width or not width:
            raise SutureError(f"{path}:{i + 1}: expected {width or 'some'} numbers, found {len(row)}", path)
        if rows.setdefault(plain_text(token), len(values)) != len(values):
            raise SutureError(f"{path}:{i + 1}: `{token:.40}` a second time", path)
        values.append(row)
    return (np.stack(values) if values else np.zeros((0, 0), dtype=np.float32)), rows
