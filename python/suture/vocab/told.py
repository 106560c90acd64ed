"""What a user is told of vocabularies that are aligned: what was chosen, and what to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from suture.escape import printable
from suture.recipe.vocabulary import Row, Tokenizer
from suture.reference import called
from suture.vocab.choices import Choices
from suture.vocab.lead import Lead

#: So many tokens are named.
_NAMED = 5
_PARTS = {
    "own": "its own",
    "borrowed": "another's",
    "mean": "the mean of others'",
    "zero": "zeros",
    "pad": "padding",
}


def notes_of(
    wanted: Tokenizer, lead: Lead, models: Sequence[Path], counts: Sequence[Mapping[str, int]], total: int
) -> list[tuple[str, str]]:
    """The notes of an alignment: whose tokens the output has, and whose rows each model has for them."""
    whose = f"of all models, {called(lead.own.folder)} first" if lead.union else f"of {called(lead.own.folder)}"
    notes = [("tokenizer", f"{len(lead.names):,} tokens, those {whose}, in {total:,} rows")]
    for folder, own in zip(models, counts, strict=True):
        parts = ", ".join(f"{own[name]:,} {text}" for name, text in _PARTS.items() if own[name])
        notes.append(("rows", f"{called(folder)}: {parts}"))
    said = [f"`{printable(token)}` {_source(row)}" for token, row in wanted.tokens.items() if _source(row)]
    if said:
        more = f"; {len(said) - _NAMED:,} more" if len(said) > _NAMED else ""
        notes.append(("tokens", "; ".join(said[:_NAMED]) + more))
    return notes


def _source(row: Row) -> str:
    """What the config says of a token."""
    if row.zero:
        what = "zeros"
    elif row.model is None:
        return ""
    else:
        token = "" if row.token is None else f" `{printable(str(row.token))}`"
        what = f"as{token} in {called(row.model)}"
    return what + (", in all models" if row.force else ", where a model lacks it")


def told_of(
    wanted: Tokenizer,
    lead: Lead,
    models: Sequence[Path],
    choices: Choices,
    rows: Sequence[int],
) -> list[str]:
    """The warnings of an alignment."""
    told = []
    for folder, count in zip(models, rows, strict=True):
        if beyond := [text for text, number in lead.vocabularies[folder].ids.items() if number >= count]:
            told.append(f"{folder}: has no rows for {named(beyond)}, which count as absent")
        if lead.vocabularies[folder].marks != lead.own.marks:
            told.append(
                f"{folder}: writes spaces and bytes otherwise than {lead.own.folder}; words are other tokens there"
            )
    if choices.nobody:
        told.append(f"{wanted.at}: no model has a row for {named(choices.nobody)}; zeros in the output")
    if hidden := [text for text in lead.sources if text in lead.hidden]:
        why = f"rows without a place in the tokenizer of {lead.own.folder}, which would segment text otherwise"
        told.append(f"{wanted.at}: {why}: {named(hidden)}")
    if new := [text for text, m in lead.sources.items() if m < 0]:
        told.append(f"{wanted.at}: no model has {named(new)}; the config adds {'it' if len(new) == 1 else 'them'}")
    return told


def named(tokens: Sequence[str]) -> str:
    """How many tokens, and the first few."""
    first = ", ".join(f"`{printable(text)[:40]}`" for text in tokens[:_NAMED])
    more = f" and {len(tokens) - _NAMED:,} more" if len(tokens) > _NAMED else ""
    return f"{len(tokens):,} token{'' if len(tokens) == 1 else 's'} ({first}{more})"
