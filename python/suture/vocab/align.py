"""Which rows of the models' tables make the rows of a merge whose models have different vocabularies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.recipe.vocabulary import Tokenizer
from suture.reference import called
from suture.vocab.choices import Choices, chosen
from suture.vocab.entries import Added
from suture.vocab.lead import Lead, lead_of
from suture.vocab.rowplan import PAD, ZERO
from suture.vocab.segments import MEAN, Segment, segments_of
from suture.vocab.tokens import Vocabulary
from suture.vocab.told import notes_of, told_of

#: Where the rows of a model are from.
CLASSES = ("own", "borrowed", "mean", "zero", "pad")


@dataclass(frozen=True)
class Aligned:
    """The vocabulary of an output, and the rows each model gives it.

    Attributes:
        same: whether all models have it and nothing else is asked for: tables stay as they are, padding included, and
            the files of the tokenizer are copied. Then there are no segments.
        lead: the model whose tokenizer the output's is, or begins with.
        union: whether tokens of others can stand behind those of `lead`.
        tokens: how many rows are tokens.
        rows: how many rows the output has.
        names: the token of each row up to `tokens`; None where the number has none.
        segments: for each model its rows, in the order of the output's, see `suture.vocab.segments`.
        counts: for each model how many rows of its new table are of each of `CLASSES`.
        told: what the user should know.
        notes: what was chosen: a title and a text each.
        vocabularies: what was read, by folder; of `lead` too.
        sources: for each token that `lead` lacks, the first model that has it, by its place; -1 for the config's alone.
        added: those of them that are found in text before it is segmented.
        hidden: those of them that have a row but no place in the tokenizer, which would segment text otherwise.
    """

    same: bool
    lead: Path
    union: bool
    tokens: int
    rows: int
    names: Sequence[str | None] = field(default=(), repr=False)
    segments: Sequence[Sequence[Segment]] = field(default=(), repr=False)
    counts: Sequence[Mapping[str, int]] = ()
    told: Sequence[str] = ()
    notes: Sequence[tuple[str, str]] = ()
    vocabularies: Mapping[Path, Vocabulary] = field(default_factory=dict, repr=False)
    sources: Mapping[str, int] = field(default_factory=dict, repr=False)
    added: Mapping[str, Added] = field(default_factory=dict, repr=False)
    hidden: frozenset[str] = field(default=frozenset(), repr=False)

    def as_data(self) -> dict[str, Any]:
        """What an engine needs of it, for JSON."""
        return {
            "same": self.same,
            "tokens": self.tokens,
            "rows": self.rows,
            "segments": [list(own) for own in self.segments],
            "counts": [dict(own) for own in self.counts],
        }


def plan(wanted: Tokenizer, models: Sequence[Path], config: Path, base: Path | None, rows: Sequence[int]) -> Aligned:
    """Find the vocabulary of an output and where each model has the rows of it from.

    A row is the model's own if it has the token; else what the config says; else that of the only model that has it;
    else the base's; else the mean of all that have it; else zeros. Rows behind the last token are the mean of the
    others of the model's new table.

    Args:
        wanted: what the config asks for.
        models: the models, in their order.
        config: the one that lends its config.
        base: the base, if there is one.
        rows: how many rows the table of each model has; tokens with numbers beyond count as absent.

    Raises:
        UsageError: if a model has no tokenizer, or one that cannot be read, or a token's source does not have it.
        SutureError: if a tokenizer file is not sound.
    """
    lead = lead_of(wanted, models, config, base, rows)
    if lead.same:
        size = lead.own.size
        name = called(lead.own.folder)
        notes = [("tokenizer", f"all models have the vocabulary of {name}, whose tokenizer files are copied")]
        return Aligned(True, lead.own.folder, False, size, rows[0], notes=notes, vocabularies=lead.vocabularies)
    have = _rows_of(lead, models, rows)
    tokens = len(lead.names)
    named = np.array([name is not None for name in lead.names], dtype=bool)
    choices = chosen(wanted, lead, models, base, have, rows, named)
    multiple = wanted.pad_to_multiple_of or 1
    total = -(-tokens // multiple) * multiple
    made, counts = [], []
    for m, own in enumerate(have):
        model, row = _of_model(m, own, choices)
        made.append(segments_of(model, row, choices.means, total - tokens))
        counts.append(_count(m, model, row, own, total - tokens))
    return Aligned(
        same=False,
        lead=lead.own.folder,
        union=lead.union,
        tokens=tokens,
        rows=total,
        names=lead.names,
        segments=made,
        counts=counts,
        told=told_of(wanted, lead, models, choices, rows),
        notes=notes_of(wanted, lead, models, counts, total),
        vocabularies=lead.vocabularies,
        sources=lead.sources,
        added=lead.added,
        hidden=lead.hidden,
    )


def _rows_of(lead: Lead, models: Sequence[Path], rows: Sequence[int]) -> list[NDArray[np.int64]]:
    """For each model the row it has each token of the output in; -1 where it has none."""
    places = {name: i for i, name in enumerate(lead.names) if name is not None}
    found = []
    for folder, count in zip(models, rows, strict=True):
        own = np.full(len(lead.names), -1, dtype=np.int64)
        ids = lead.vocabularies[folder].ids
        at = np.fromiter((places.get(text, -1) for text in ids), dtype=np.int64, count=len(ids))
        number = np.fromiter(ids.values(), dtype=np.int64, count=len(ids))
        there = (at >= 0) & (number < count)
        own[at[there]] = number[there]
        found.append(own)
    return found


def _of_model(m: int, own: NDArray[np.int64], choices: Choices) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The model (or `MEAN`, `ZERO`, `PAD`) and row that each row of a model's new table is from."""
    keep = (own >= 0) & ~choices.forced
    return np.where(keep, m, choices.model), np.where(keep, own, choices.row)


def _count(
    m: int, model: NDArray[np.int64], row: NDArray[np.int64], own: NDArray[np.int64], padding: int
) -> dict[str, int]:
    kept = (model == m) & (row == own)
    numbers = (
        kept.sum(),
        ((model >= 0) & ~kept).sum(),
        (model == MEAN).sum(),
        (model == ZERO).sum(),
        (model == PAD).sum() + padding,
    )
    return {name: int(n) for name, n in zip(CLASSES, numbers, strict=True)}
