"""The tokens of an output: a model's, or those of all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from suture.errors import UsageError
from suture.recipe.vocabulary import Tokenizer
from suture.sidecars.tokenizer import TOKENIZER_FILES, same_file
from suture.vocab.enter import inert_in
from suture.vocab.entries import Added
from suture.vocab.tokens import Vocabulary, read


@dataclass(frozen=True)
class Lead:
    """The tokens of an output.

    Attributes:
        own: the vocabulary they are, or begin with.
        union: whether tokens of all models are among them.
        same: whether all models have the same, and as many rows, and nothing else is asked for.
        names: the token of each number; None where a number has none.
        sources: for each token that `own` lacks, the first model that has it, by its place; -1 for the config's alone.
        added: those of them that are found in text before it is segmented.
        hidden: those of them that the tokenizer of `own` cannot have without segmenting text otherwise; the last ones.
        vocabularies: the vocabulary of each folder.
    """

    own: Vocabulary
    union: bool
    same: bool
    names: list[str | None]
    sources: Mapping[str, int]
    added: Mapping[str, Added]
    hidden: frozenset[str]
    vocabularies: Mapping[Path, Vocabulary]


def lead_of(wanted: Tokenizer, models: Sequence[Path], config: Path, base: Path | None, rows: Sequence[int]) -> Lead:
    """Read all vocabularies and find the output's tokens.

    Raises:
        UsageError: if a tokenizer that is needed is not there or cannot be read.
        SutureError: if a tokenizer file is not sound.
    """
    union = wanted.source == "union"
    # Without a base, what lends its config stands for it.
    folder = (base or config) if wanted.source in ("base", "union") else Path(wanted.source)
    found = {one: read(one) for one in dict.fromkeys([folder, *models])}
    for one in found.values():
        if one.form == "none":
            raise UsageError(f"{wanted.at}: {one.folder} has no tokenizer", at=wanted.at)
    own = found[folder]
    plain = not wanted.tokens and wanted.pad_to_multiple_of is None
    if plain and len(set(rows)) == 1 and all(_alike(own, one) for one in found.values()):
        return Lead(own, union, True, [], {}, {}, frozenset(), found)
    for one in found.values():
        if one.form == "slow":
            message = (
                f"{wanted.at}: {one.folder} has no tokenizer.json, and its tokens cannot be told from what it has; "
                "load its tokenizer with transformers once and save it, which writes that file"
            )
            raise UsageError(message, at=wanted.at)
    names: list[str | None] = [None] * own.size
    for text, number in own.ids.items():
        names[number] = text
    sources: dict[str, int] = {}
    added: dict[str, Added] = {}
    for m, model in enumerate(models if union else ()):
        one = found[model]
        sources.update({text: m for text in one.names.values() if text not in own.ids and text not in sources})
        for token in one.added.values():
            if token.text in sources:
                added.setdefault(token.text, token)
    for text in wanted.tokens:
        if text not in own.ids and text not in sources:
            m = next((m for m, folder in enumerate(models) if text in found[folder].ids), -1)
            sources[text] = m
            added[text] = _entry(text, None if m < 0 else found[models[m]])
    inert = inert_in(own)
    hidden = frozenset(text for text in sources if text not in added and not inert(text))
    # Behind those with a place in the tokenizer, whose numbers must follow one another.
    sources = dict(sorted(sources.items(), key=lambda pair: pair[0] in hidden))
    return Lead(own, union, False, [*names, *sources], sources, added, hidden, found)


def _entry(text: str, donor: Vocabulary | None) -> Added:
    """How a token that the config adds is found in text: as the donor finds it, else as it is written."""
    if donor is not None and (token := donor.added.get(donor.ids[text])) is not None:
        return token
    return Added(text)


def place_of(folder: Path | None, models: Sequence[Path]) -> int | None:
    """Where a folder is among the models, however its path is written; None if it is not."""
    if folder is None or folder in models:
        return None if folder is None else models.index(folder)
    real = os.path.realpath(folder)
    return next((i for i, model in enumerate(models) if os.path.realpath(model) == real), None)


def _alike(one: Vocabulary, other: Vocabulary) -> bool:
    """Whether two vocabularies are one."""
    if one.folder == other.folder:
        return True
    if "slow" in (one.form, other.form):
        return all(same_file(one.folder / name, other.folder / name) for name in TOKENIZER_FILES)
    return one.ids == other.ids
