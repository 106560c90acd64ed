"""Give a model its tokens in another script too."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.rows import rewrite
from suture.surgery.vocab_model import vocab_model


def transliterate(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    map: str | PathLike[str] = "uroman",
    mode: str = "max",
    only: Sequence[str] | str | PathLike[str] | None = None,
    scripts: Sequence[str] | None = None,
    text: Sequence[str | PathLike[str]] = (),
    keep: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model that has its pieces in another script too to the folder `out` (TransMI, arXiv 2405.09913).

    Its tokenizer is a Unigram one, as in the paper, or BPE. Each form of pieces that is no token yet joins, with their
    row, or the mean of theirs, in tables, heads and biases; all that was there keeps its row, and ``<mask>`` and others
    behind the pieces move.

    Args:
        model: the model.
        out: the output folder.
        map: ``uroman``, or a file of two columns, token and form, with a tab between them.
        mode: of a form that several pieces have: the row of the one with the best score (``max``), the worst (``min``),
            or the ``mean`` of all.
        only: the tokens that are given other forms, if not all: a list, or a file with one a line.
        scripts: the scripts whose tokens are, such as ``["Cyrillic"]``; ``["!Latin"]`` for all but one.
        text: files of text: how many of their lines are cut otherwise is told, and which new pieces are in them.
        keep: a file to keep the plan in.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the tokenizer can have no pieces, an option is wrong, or there is nothing to add.
        SutureError: if the model or a file is not sound, or the output cannot be written.
    """
    from suture.vocab.lists import tokens_in
    from suture.vocab.transliterate import transliterate as plan_of

    found = vocab_model(model)
    plan = plan_of(
        found.folder,
        found.rows,
        table=None if map == "uroman" else Path(map),
        mode=mode,
        only=tokens_in(Path(only)) if isinstance(only, str | PathLike) else only,
        scripts=scripts,
        texts=[Path(one) for one in text],
    )
    where = None if keep is None else Path(keep)
    return rewrite(plan, out, settings=settings or Settings(), dry_run=dry_run, progress=progress, keep=where)
