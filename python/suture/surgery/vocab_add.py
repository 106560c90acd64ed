"""Add tokens to a model: target languages, turns of a chat, language codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.rows import rewrite
from suture.surgery.vocab_model import vocab_model


def add(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    tokens: Sequence[str] | Mapping[str, str] | str | PathLike[str],
    init: str = "mean",
    special: bool = True,
    reserved: str | None = None,
    keep: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model with further tokens to the folder `out`; the logits of those it has stay, bit for bit.

    Tokens take rows that no token has first, then new ones. With rows of heads that are the mean of all n tokens', m
    new tokens change predictions by a Kullback-Leibler divergence of at most ln(1 + m/n).

    Args:
        model: the model.
        out: the output folder.
        tokens: the tokens: a list, or a mapping that says what the row of each is made of; or a file with one a line,
            behind a tab what its row is made of if not `init`; or text with commas between them.
        init: what rows are made of: ``mean``, ``copy:X``, ``mix:0.7*X+0.3*Y``, ``subwords`` or ``subwords:TEXT``.
        special: whether they are special tokens.
        reserved: a pattern of names, such as ``<|reserved_special_token_*|>``, of tokens that give up their numbers.
        keep: a file to keep the plan in.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if a token is there already, or another is not that a row is to be made of.
        SutureError: if the model is not sound or the output cannot be written.
    """
    from suture.vocab.add import add as plan_of
    from suture.vocab.lists import asked_in

    listed = asked_in(tokens, init) if isinstance(tokens, str | PathLike) else tokens
    found = vocab_model(model)
    plan = plan_of(found.folder, found.rows, listed, init=init, special=special, reserved=reserved)
    where = None if keep is None else Path(keep)
    return rewrite(plan, out, settings=settings or Settings(), dry_run=dry_run, progress=progress, keep=where)
