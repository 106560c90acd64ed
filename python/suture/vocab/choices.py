"""What a model that lacks a token gets for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suture.errors import UsageError
from suture.recipe.vocabulary import Row, Tokenizer
from suture.vocab.lead import Lead, place_of
from suture.vocab.rowplan import PAD, ZERO
from suture.vocab.segments import MEAN
from suture.vocab.tokens import Vocabulary


@dataclass(frozen=True)
class Choices:
    """What models that lack a token get for it, the same for all.

    Attributes:
        model: for each row the model it is from, or `MEAN`, `ZERO` or `PAD`.
        row: its row there.
        forced: for each row whether models that have the token get this one too.
        means: the models and rows that each row that is a mean is the mean of.
        nobody: the tokens that are zeros because nobody has a row for them.
    """

    model: NDArray[np.int64]
    row: NDArray[np.int64]
    forced: NDArray[np.bool_]
    means: Mapping[int, list[list[int]]]
    nobody: Sequence[str]


def chosen(
    wanted: Tokenizer,
    lead: Lead,
    models: Sequence[Path],
    base: Path | None,
    have: Sequence[NDArray[np.int64]],
    rows: Sequence[int],
    named: NDArray[np.bool_],
) -> Choices:
    """The choice for every row.

    Args:
        wanted: what the config asks for.
        lead: the output's tokens.
        models: the models, in their order.
        base: the base, if there is one.
        have: for each model its row of each token, -1 where it has none.
        rows: how many rows the table of each model has.
        named: for each number whether it has a token.

    Raises:
        UsageError: if a source that the config names is no model of the merge, or has no such row.
    """
    table = np.stack(have)
    owners = (table >= 0).sum(axis=0)
    donor = (table >= 0).argmax(axis=0)
    at_base = place_of(base, models)
    of_base = owners < 0 if at_base is None else table[at_base] >= 0
    donor = donor if at_base is None else np.where(of_base, at_base, donor)
    row = np.take_along_axis(table, donor[None], axis=0)[0]
    model = np.select([(owners == 1) | of_base, owners > 1, named], [donor, MEAN, ZERO], PAD)
    forced = np.zeros(len(model), dtype=bool)
    places = {name: i for i, name in enumerate(lead.names)} if wanted.tokens else {}
    told = set()
    for token, asked in wanted.tokens.items():
        at = places[token]
        forced[at] = asked.force
        if asked.zero:
            model[at], row[at] = ZERO, 0
            told.add(at)
        elif asked.model is not None:
            model[at], row[at] = _source(asked, token, lead, models, rows)
    # Where every model has its own row nobody gets the mean.
    lacked = np.flatnonzero((model == MEAN) & (owners < len(models)))
    means = {
        at: [[m, number] for m, number in enumerate(numbers) if number >= 0]
        for at, numbers in zip(lacked.tolist(), table[:, lacked].T.tolist(), strict=True)
    }
    nobody = [str(lead.names[at]) for at in np.flatnonzero(model == ZERO) if at not in told]
    return Choices(model, row, forced, means, nobody)


def _source(asked: Row, token: str, lead: Lead, models: Sequence[Path], rows: Sequence[int]) -> tuple[int, int]:
    """The model and row that the config names.

    Raises:
        UsageError: if there is no such model or row.
    """
    folder = Path(str(asked.model))
    m = place_of(folder, models)
    if m is None:
        raise UsageError(f"{asked.at}: {folder} is none of the models that are merged", at=asked.at)
    text = token if asked.token is None else asked.token
    number = text if isinstance(text, int) else _number(lead.vocabularies[models[m]], text, asked)
    if number >= rows[m]:
        message = f"token {number} of {folder} has no row; its table has {rows[m]:,} rows"
        raise UsageError(f"{asked.at}: {message}", at=asked.at)
    return m, number


def _number(vocabulary: Vocabulary, text: str, asked: Row) -> int:
    if (number := vocabulary.ids.get(text)) is None:
        raise UsageError(f"{asked.at}: {vocabulary.folder} has no token `{text:.40}`", at=asked.at)
    return number
