"""Clone tokens: give a model a second language that means the same as its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.rows import rewrite
from suture.surgery.vocab_model import vocab_model


def clone(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    share: float = 1.0,
    shift: bool = False,
    tokens: Sequence[str] | str | PathLike[str] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    keep: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write a model whose tokens are there twice to the folder `out` (Schäfer et al., arXiv 2404.07982).

    Every table of tokens [V, d], every head and bias gets the rows of clones behind its own, as bytes. Text in clones,
    or in any mix of tokens and clones, then has the same hidden states and logits, bit for bit; with all rows cloned
    the probability of each token is split evenly between both and the log-sum-exp rises by ln 2. The tokenizer stays.

    Args:
        model: the model.
        out: the output folder.
        share: the part of all rows that is cloned, drawn from `seed` as the paper's code draws it.
        shift: whether the clone of row i is row i + V, padding where a row is not cloned; else clones follow one
            another. With all rows cloned both are the same.
        tokens: the tokens that are cloned: a list, or a file with one a line.
        noise: standard deviation of what is added to the rows of clones, as a share of each row's root mean square;
            clones are not exact then.
        seed: of the share and of the noise.
        keep: a file to keep the plan in, for :func:`suture.vocab` ``apply`` and ``undo``.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if options do not go together, or there is no such token.
        SutureError: if the model is not sound or the output cannot be written.
    """
    from suture.vocab.clone import clone as plan_of
    from suture.vocab.lists import tokens_in

    listed = tokens_in(Path(tokens)) if isinstance(tokens, str | PathLike) else tokens
    found = vocab_model(model)
    plan = plan_of(found.folder, found.rows, share=share, shift=shift, tokens=listed, noise=noise, seed=seed)
    where = None if keep is None else Path(keep)
    how = replace(settings or Settings(), seed=seed)
    return rewrite(plan, out, settings=how, dry_run=dry_run, progress=progress, keep=where)
