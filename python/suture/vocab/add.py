"""Further tokens for a model: target languages (Johnson et al., arXiv 1611.04558), turns of a chat, language codes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.sidecars.files import as_bytes, read_config
from suture.vocab.entries import CONFIG, MAP
from suture.vocab.grown import Grown, names_of, vocabulary_of
from suture.vocab.initial import Initial, initial_of
from suture.vocab.loaded import numbers_by
from suture.vocab.moves import NewToken
from suture.vocab.rewrite import rewritten
from suture.vocab.rowplan import RowPlan
from suture.vocab.tokens import Vocabulary
from suture.vocab.told import named
from suture.vocab.write import Files

#: Where files list special tokens that have no role.
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def add(
    folder: Path,
    rows: int,
    tokens: Sequence[str] | Mapping[str, str],
    *,
    init: str = "mean",
    special: bool = True,
    reserved: str | None = None,
) -> RowPlan:
    """The plan of a model with further tokens, all else as it is.

    A new token takes the first row that no token has (one that was left out, or padding), else one behind the last.
    With rows that are the mean of those of all n tokens, m new tokens change what the model predicts by a
    Kullback-Leibler divergence of at most ln(1 + m/n), if none took a row that was there.

    Args:
        folder: the model.
        rows: how many rows its tables have.
        tokens: the tokens; or with what each is made of where it is not `init`.
        init: what rows are made of: ``mean`` of all tokens, ``copy:X``, ``mix:0.7*X+0.3*Y``, ``subwords`` (the mean of
            the token's pieces as the tokenizer segments it), ``subwords:TEXT`` (of another text's).
        special: whether they are special tokens, which are not normalised and not decoded where these are skipped.
        reserved: a pattern of names, such as ``<|reserved_special_token_*|>``: tokens of these names leave, and the new
            ones take their numbers before any other.

    Raises:
        UsageError: if a token is there already, or another is not that a row is to be made of.
        SutureError: if the tokenizer is not sound, or its format cannot number the tokens.
    """
    vocabulary = vocabulary_of(folder, rows)
    asked = dict(tokens) if isinstance(tokens, Mapping) else dict.fromkeys(tokens, init)
    _check(vocabulary, tokens, asked)
    segment = numbers_by(folder)
    spare = _reserved(vocabulary, reserved)[: len(asked)]
    known: dict[str, Initial] = {}
    for token, how in asked.items():
        # A mean of 256,000 rows is the same for all.
        if (key := _full(how, token)) not in known:
            known[key] = initial_of(how, token, vocabulary, segment, spare)
    made = [known[_full(how, token)] for token, how in asked.items()]
    places = sorted([*spare, *_places(vocabulary, rows, len(asked) - len(spare))])
    flags = frozenset() if special else frozenset({"normalized"})
    new = {
        at: NewToken(token, "special" if special else "added", flags=flags)
        for at, token in zip(places, asked, strict=True)
    }
    grown = _rows(vocabulary, rows, places, made)
    kind, reasons, why = grown.kinds()
    moved = {number: number for number in range(rows) if number not in new}
    files = rewritten(vocabulary, {n: n for n in moved if n in vocabulary.names}, new=new)
    written, copied = _listed(files, vocabulary, new) if special else (files.written, files.copied)
    names = names_of(vocabulary, rows)
    names += [None] * (max(len(names), places[-1] + 1) - len(names))
    for at, one in new.items():
        names[at] = one.text
    reused = sum(at < rows for at in places)
    return RowPlan(
        verb="add",
        options={"tokens": asked, "special": special, "reserved": reserved},
        models=[folder],
        names=names,
        table=grown.table(),
        kind=kind,
        reasons=reasons,
        why=why,
        moved=moved,
        written=written,
        copied=copied,
        undo=not reused,
        told=[*_told(vocabulary, asked, places, rows, spare), *files.told],
        figures={
            "tokens": {token.text: at for at, token in new.items()},
            "reused_rows": reused,
            "old_tokens": len(vocabulary.names),
        },
    )


def _full(how: str, token: str) -> str:
    """What is asked for a token, without what it leaves unsaid."""
    return f"subwords:{token}" if how == "subwords" else how


def _check(vocabulary: Vocabulary, tokens: Sequence[str] | Mapping[str, str], asked: Mapping[str, str]) -> None:
    """Refuses tokens that cannot be added."""
    if not asked:
        raise UsageError("tokens: expected at least one token, found none", at="tokens")
    if len(asked) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if token in list(tokens)[:i])
        raise UsageError(f"tokens: `{twice:.40}` is listed twice", at="tokens")
    for token in asked:
        if token in vocabulary.ids:
            number = vocabulary.ids[token]
            message = f"{vocabulary.folder} has the token `{token:.40}` already, as number {number}"
            raise UsageError(f"tokens: {message}", at="tokens")
        if not token or token != token.strip():
            raise UsageError(f"tokens: expected text without space around it, found `{token:.40}`", at="tokens")


def _places(vocabulary: Vocabulary, rows: int, count: int) -> list[int]:
    """The numbers of new tokens: those without a token first."""
    # A Unigram model's tokens are numbered by their places in a list: none can be put into a gap.
    first = vocabulary.size if vocabulary.form == "Unigram" else 0
    free = [number for number in range(first, max(rows, vocabulary.size)) if number not in vocabulary.names]
    behind = max(rows, vocabulary.size)
    return [*free[:count], *range(behind, behind + count - len(free[:count]))]


def _rows(vocabulary: Vocabulary, rows: int, places: Sequence[int], made: Sequence[Initial]) -> Grown:
    grown = Grown(vocabulary, rows)
    mixes: dict[int, int] = {}

    def put(initial: Initial) -> None:
        if initial.copied:
            grown.copy(initial.rows[0], "copied", initial.reason)
            return
        # The same object where it is asked for in the same words.
        if id(initial) not in mixes:
            mixes[id(initial)] = grown.mix(initial.rows, initial.weights)
        grown.mixed(mixes[id(initial)], "mixed", initial.reason)

    first = 0
    for at, initial in zip(places, made, strict=True):
        grown.own(first, min(at, rows))
        put(initial)
        first = at + 1
    grown.own(first, rows)
    return grown


def _reserved(vocabulary: Vocabulary, pattern: str | None) -> list[int]:
    """The numbers of tokens that are there to be replaced, ascending.

    Raises:
        UsageError: if there are none.
    """
    if pattern is None:
        return []
    found = [number for number, text in vocabulary.names.items() if fnmatchcase(text, pattern)]
    if not found:
        raise UsageError(f"reserved: {vocabulary.folder} has no token like `{pattern:.60}`", at="reserved")
    roles = {vocabulary.ids[text]: role for role, text in vocabulary.roles.items()}
    if (taken := next((number for number in found if number in roles), None)) is not None:
        text = vocabulary.names[taken]
        raise UsageError(f"reserved: `{text:.40}` is not spare: it is the model's {roles[taken]}", at="reserved")
    return found


def _listed(
    files: Files, vocabulary: Vocabulary, new: Mapping[int, NewToken]
) -> tuple[list[tuple[str, bytes]], list[tuple[str, str]]]:
    """The tokenizer's files, with new special tokens in the lists of those that have no role, where there are any."""
    written, copied = dict(files.written), dict(files.copied)
    for name in (MAP, CONFIG):
        data = json.loads(written[name]) if name in written else read_config(vocabulary.folder, name)
        for key in _LISTS:
            if data is not None and isinstance(data.get(key), list) and data[key]:
                data[key] = [*data[key], *(token.text for token in new.values())]
                written[name] = as_bytes(data)
                copied.pop(name, None)
    return list(written.items()), list(copied.items())


def _told(
    vocabulary: Vocabulary, asked: Mapping[str, str], places: Sequence[int], rows: int, spare: Sequence[int]
) -> list[str]:
    told: list[str] = []
    if spare:
        told.append(f"{named([vocabulary.names[at] for at in spare])} left, new tokens have their numbers")
    reused = [at for at in places if at < rows and at not in spare]
    if reused:
        many = f"{len(reused):,} new token" + ("" if len(reused) == 1 else "s")
        told.append(f"{many} took rows that no token had, from {min(reused):,} on; they cannot be had back")
    settings: dict[str, Any] = read_config(vocabulary.folder, CONFIG) or {}
    if str(settings.get("tokenizer_class", "")).startswith("M2M100") and any(t.startswith("__") for t in asked):
        told.append(
            "M2M100's tokenizer takes source and target languages from a list in its code; give the new code's number "
            "as forced_bos_token_id, and put it before the source yourself"
        )
    return told
