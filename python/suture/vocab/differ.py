"""What is in the rows that one model has and another lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from suture.errors import SutureError
from suture.vocab.tokens import Vocabulary, read
from suture.vocab.told import named


def rows_differ(models: Sequence[Path], rows: Sequence[int]) -> str:
    """How the tables of models differ in rows, for a message; empty if they do not.

    Each model is compared with the first: by how many rows, which tokens these are, and whether they are only padding.

    Args:
        models: the models.
        rows: how many rows the table of each has.
    """
    found = []
    for folder, count in zip(models[1:], rows[1:], strict=True):
        if count != rows[0]:
            more, less = (folder, models[0]) if count > rows[0] else (models[0], folder)
            what = _inside(_read(more), _read(less), min(count, rows[0]), max(count, rows[0]))
            n = abs(count - rows[0])
            found.append(f"{more} has {n:,} row{'' if n == 1 else 's'} more than {less}: {what}")
    return "; ".join(found)


def _inside(more: Vocabulary | None, less: Vocabulary | None, start: int, end: int) -> str:
    """What the rows from `start` to `end` are."""
    if more is None:
        return "what they are cannot be told, as its tokenizer cannot be read"
    tokens = [more.names[i] for i in range(start, min(end, more.size)) if i in more.names]
    if not tokens:
        return "only padding"
    shared = sum(text in less.ids for text in tokens) if less is not None else 0
    padding = end - start - len(tokens)
    parts = [named(tokens)]
    if shared:
        parts.append(f"{shared:,} of them with another number in the other")
    if padding:
        parts.append(f"{padding:,} of padding")
    return ", ".join(parts)


def _read(folder: Path) -> Vocabulary | None:
    """The vocabulary of a model; None where it cannot be had: what is wrong with it is not what the message is of."""
    try:
        found = read(folder)
    except (SutureError, OSError):
        return None
    return found if found.ids else None
