"""What a model's vocabulary is: its kind, sizes, special tokens, scripts, how it cuts text, which rows are trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path

from suture.analysis.stored import Stored, has_weights, tables
from suture.analysis.undertrained import trained_rows
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results.vocabulary import Cut, CutText, RoleToken, TrainedRows, VocabInspection, VocabKind, VocabSizes
from suture.sidecars.gguf import folder_of
from suture.vocab.fertility import Counts, measure
from suture.vocab.overlap import scripts_of
from suture.vocab.segmenter import lines_of, segmenter
from suture.vocab.tokens import Vocabulary, read
from suture.vocab.unused import known_unused


def inspect(
    model: str | PathLike[str], *, text: Sequence[str | PathLike[str]] = (), weights: bool = True
) -> VocabInspection:
    """Describe the vocabulary of a model, or of a tokenizer alone.

    Args:
        model: the model, or a folder with the files of a tokenizer.
        text: files of text in UTF-8, which are cut into tokens line by line.
        weights: look for rows that are hardly trained, which reads the embeddings and heads twice. A block of
            16 MiB is held.

    Returns:
        ``kind``, ``sizes``, ``special`` tokens, ``scripts`` of tokens, ``tables`` with their rows, and what became of
        the ``text``, see :class:`suture.results.vocabulary.VocabInspection`.

    Raises:
        UsageError: if there is no tokenizer that can be read, or with `text` the package tokenizers is missing.
        SutureError: if a file is not sound, or a line of the text is not UTF-8.
    """
    checkpoint = opened(model)
    folder = Path(model) if checkpoint is None else folder_of(checkpoint.folder)
    vocabulary = vocabulary_of(folder)
    stored = [] if checkpoint is None else tables(checkpoint)
    # First, as a text that cannot be read is found before a table of gigabytes is.
    cut = _text(vocabulary, text) if text else None
    warnings = [] if checkpoint is None else list(checkpoint._core.warnings)
    warnings += _doubts(vocabulary, stored)
    if cut is not None and cut["whole"]["lost"]:
        warnings.append(f"{folder}: {cut['whole']['lost']:,} words of the text have no token: they are dropped")
    scripts = Counter(scripts_of(vocabulary).values())
    found: list[TrainedRows] = []
    for table in stored if weights else ():
        if table.role == "beside":
            continue
        try:
            table.table()
        except SutureError as e:
            warnings.append(f"{e}; its rows are not looked at")
            continue
        found.append(trained_rows(table, vocabulary, known_unused(vocabulary, table.rows)))
    return {
        "schema": 1,
        "path": fspath(model),
        "kind": kind_of(vocabulary),
        "sizes": sizes_of(vocabulary, stored),
        "special": _special(vocabulary),
        "added": sum(not token.special for token in vocabulary.added.values()),
        "scripts": [
            {"script": script, "tokens": n, "share": n / len(vocabulary.ids)}
            for script, n in sorted(scripts.items(), key=lambda pair: (-pair[1], pair[0]))
        ],
        "tables": found,
        "text": cut,
        "warnings": warnings,
    }


def opened(model: str | PathLike[str]) -> Checkpoint | None:
    """The checkpoint of a model; None of a folder that has a tokenizer alone.

    Raises:
        SutureError: if it is not sound.
    """
    return None if Path(model).is_dir() and not has_weights(Path(model)) else Checkpoint.plain(model)


def vocabulary_of(folder: Path) -> Vocabulary:
    """The vocabulary of a model, which must have one that can be read.

    Raises:
        UsageError: if it has none, or one that other libraries alone read.
        SutureError: if a file of it is not sound.
    """
    found = read(folder)
    if found.form == "none":
        raise UsageError(f"{folder}: has no tokenizer; expected a tokenizer.json beside the weights")
    if found.form == "slow":
        raise UsageError(
            f"{folder}: has no tokenizer.json, and its tokens cannot be told from what it has; "
            "load its tokenizer with transformers once and save it, which writes that file"
        )
    return found


def kind_of(vocabulary: Vocabulary) -> VocabKind:
    """What a tokenizer is."""
    bytes_ = sum(vocabulary.key(n).byte for n in vocabulary.names) if vocabulary.marks == "pieces" else 0
    model = (vocabulary.whole or {}).get("model") or {}
    return {
        "form": vocabulary.form,
        "marks": vocabulary.marks,
        "byte_level": vocabulary.marks == "bytes",
        "byte_fallback": bool(model.get("byte_fallback")),
        "byte_tokens": bytes_,
    }


def sizes_of(vocabulary: Vocabulary, stored: Sequence[Stored]) -> VocabSizes:
    """How large a vocabulary is, and the table of its embedding."""
    rows = next((table.rows for table in stored if table.role == "embedding"), None)
    return {
        "tokens": len(vocabulary.ids),
        "numbers": vocabulary.size,
        "holes": vocabulary.size - len(vocabulary.ids),
        "rows": rows,
        "padding": None if rows is None else max(rows - vocabulary.size, 0),
        "beyond": None if rows is None else sum(n >= rows for n in vocabulary.names),
    }


def _doubts(vocabulary: Vocabulary, stored: Sequence[Stored]) -> list[str]:
    """What a user should know before the model is used."""
    told = []
    sizes = sizes_of(vocabulary, stored)
    if sizes["holes"]:
        told.append(f"{vocabulary.folder}: {sizes['holes']:,} numbers have no token; their rows stand for nothing")
    if sizes["beyond"]:
        what = f"{sizes['beyond']:,} tokens have numbers beyond the {sizes['rows']:,} rows of the embedding"
        told.append(f"{vocabulary.folder}: {what}; text with them cannot be read")
    rows = {table.rows for table in stored if table.role != "beside"}
    if len(rows) > 1:
        listed = ", ".join(f"`{t.name}` has {t.rows:,}" for t in stored if t.role != "beside")
        told.append(f"{vocabulary.folder}: tables have different numbers of rows: {listed}")
    return told


def _special(vocabulary: Vocabulary) -> list[RoleToken]:
    """Special tokens, those with a role first; a token with several roles stands once for each."""
    named: list[RoleToken] = [
        {"role": role, "token": text, "id": vocabulary.ids[text]} for role, text in vocabulary.roles.items()
    ]
    rest: list[RoleToken] = [
        {"role": "", "token": token.text, "id": number}
        for number, token in sorted(vocabulary.added.items())
        if token.special and token.text not in vocabulary.roles.values()
    ]
    return named + rest


def _text(vocabulary: Vocabulary, files: Sequence[str | PathLike[str]]) -> CutText:
    found = measure(vocabulary, segmenter(vocabulary.folder), lines_of(files))
    return {
        "files": [fspath(file) for file in files],
        "lines": found.lines,
        "whole": _cut("all", found.whole),
        "scripts": [_cut(script, counts) for script, counts in found.scripts.items()],
    }


def _cut(script: str, counts: Counts) -> Cut:
    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return {
        "script": script,
        "words": counts.words,
        "characters": counts.characters,
        "bytes": counts.bytes,
        "tokens": counts.tokens,
        "unknown": counts.unknown,
        "single": counts.single,
        "continued": counts.continued,
        "lost": counts.lost,
        "per_word": share(counts.tokens, counts.words),
        "per_character": share(counts.tokens, counts.characters),
        "per_byte": share(counts.tokens, counts.bytes),
        "unknown_share": share(counts.unknown, counts.tokens),
        "single_share": share(counts.single, counts.tokens),
        "continued_share": share(counts.continued, counts.words),
    }
