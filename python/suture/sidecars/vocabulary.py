"""Whether models have one vocabulary, so that any of their tokenizers is that of a merge."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from suture.errors import UsageError
from suture.recipe.vocabulary import WORDS, Tokenizer
from suture.sidecars.tokenizer import VOCABULARIES, same_file, token_names

#: Files any of which says which token a number is.
_FILES = (*VOCABULARIES, "tekken.json")


def lender_of(wanted: Tokenizer, folders: Sequence[Path], config: Path, base: Path | None) -> tuple[Path, str]:
    """The model whose tokenizer files an output gets, and what to tell of it.

    Args:
        wanted: what the config asks for.
        folders: the models that are merged.
        config: the one that lends its config.
        base: the base, if there is one.

    Raises:
        UsageError: if the source has no tokenizer, or the vocabularies are not one.
    """
    for key, asked in (("tokens", wanted.tokens), ("pad_to_multiple_of", wanted.pad_to_multiple_of)):
        if asked:
            raise UsageError(f"tokenizer.{key}: is not supported yet; remove it", at=f"tokenizer.{key}")
    named = base if wanted.source == "base" else None if wanted.source in WORDS else Path(wanted.source)
    own = config if named is None else named
    if not any((own / name).is_file() for name in _FILES):
        raise UsageError(f"{wanted.at}: {own} has no tokenizer", at=wanted.at)
    for folder in folders:
        if (why := _unlike(own, folder)) is not None:
            raise UsageError(
                f"{wanted.at}: {folder} has another vocabulary than {own} ({why}); vocabularies are not aligned yet, "
                "and models must have one",
                at=wanted.at,
            )
    return own, f"all models have the vocabulary of {own}, whose tokenizer files are copied"


def _unlike(own: Path, other: Path) -> str | None:
    """Why two vocabularies are not one; None if they are."""
    if all(same_file(own / name, other / name) for name in _FILES):
        return None
    if not any((other / name).is_file() for name in _FILES):
        return "it has no tokenizer"
    mine, theirs = token_names(own), token_names(other)
    if not mine or not theirs:
        return "their files differ"
    if mine == theirs:
        return None
    unlike = sum(theirs.get(i) != token for i, token in mine.items() if i in theirs)
    return f"{len(mine):,} and {len(theirs):,} tokens, {unlike:,} ids are other ones"
