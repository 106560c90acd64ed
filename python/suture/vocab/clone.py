"""A model whose tokens are there twice, as a second language that means the same (Schäfer et al., arXiv 2404.07982)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suture.errors import UsageError
from suture.vocab.grown import Grown, names_of, numbers_of, tokenizer_files, vocabulary_of
from suture.vocab.rowplan import PAD, RowPlan
from suture.vocab.tokens import read


def clone(
    folder: Path,
    rows: int,
    *,
    share: float = 1.0,
    shift: bool = False,
    tokens: Sequence[str] | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> RowPlan:
    """The plan [I; I_S]: all rows, and those of a set S of tokens once more behind them.

    A model with it gives clones of tokens the logits of these, whichever of the two the text has; with all rows cloned
    the log-sum-exp of its logits rises by ln 2. The tokenizer knows nothing of clones.

    Args:
        folder: the model.
        rows: how many rows its tables have.
        share: the part of all rows that is cloned: of their numbers, shuffled by Python's generator from `seed`, the
            first, as the paper's code draws them (from 0).
        shift: whether the clone of row i is row i + rows; else clones follow one another in the order of numbers.
            With `shift` and a `share`, rows of no clone are padding.
        tokens: the tokens that are cloned, instead of a share of all rows.
        noise: the standard deviation of what is added to clones, as a share of the root mean square of each row.
        seed: of the share, and of the noise.

    Raises:
        UsageError: if options do not go together, or there is no such token.
        SutureError: if the tokenizer is not sound.
    """
    _check(share, shift, tokens, noise)
    # What tokens are called is of no concern where all rows are cloned.
    nameless = tokens is None and read(folder).form in ("none", "slow")
    vocabulary = None if nameless else vocabulary_of(folder, rows)
    if tokens is not None and vocabulary is not None:
        chosen = sorted(set(numbers_of(vocabulary, tokens, "tokens")))
    else:
        chosen = _share_of(rows, share, seed)
    grown = Grown(vocabulary, rows)
    grown.own()
    cloned = set(chosen)
    for number in range(rows) if shift else chosen:
        if number not in cloned:
            grown.filled(PAD, "a place whose token is not cloned")
        elif noise:
            grown.mixed(grown.mix([number], [1.0], noise), "copied", "the clone of a row, with noise")
        else:
            grown.copy(number, "copied", "the clone of a row")
    kind, reasons, why = grown.kinds()
    options: dict[str, Any] = {"share": share, "shift": shift, "noise": noise, "seed": seed}
    if tokens is not None:
        options["tokens"] = list(tokens)
    return RowPlan(
        verb="clone",
        options=options,
        models=[folder],
        names=names_of(vocabulary, rows),
        table=grown.table(),
        kind=kind,
        reasons=reasons,
        why=why,
        moved={number: number for number in range(rows)},
        written=[],
        copied=tokenizer_files(folder),
        undo=True,
        told=_told(rows, len(chosen), shift, noise),
        figures={"cloned": len(chosen), "first_clone": rows},
    )


def _check(share: float, shift: bool, tokens: Sequence[str] | None, noise: float) -> None:
    if not 0 < share <= 1:
        raise UsageError(f"share: expected a share above 0, at most 1; found {share}", at="share")
    if not (math.isfinite(noise) and noise >= 0):
        raise UsageError(f"noise: expected a number, 0 or above; found {noise}", at="noise")
    if tokens is not None and share != 1:
        raise UsageError("share: goes with all rows; give either a share or tokens", at="share")
    if tokens is not None and shift:
        raise UsageError("shift: goes with all rows or a share of them; give either shift or tokens", at="shift")
    if tokens is not None and not tokens:
        raise UsageError("tokens: expected at least one token, found none", at="tokens")


def _share_of(rows: int, share: float, seed: int) -> list[int]:
    """The numbers of the rows that are cloned, ascending.

    Raises:
        UsageError: if there are none.
    """
    if share == 1:
        return list(range(rows))
    numbers = list(range(rows))
    random.Random(seed).shuffle(numbers)
    count = int(share * rows)
    if not count:
        raise UsageError(f"share: {share} of {rows:,} rows is none", at="share")
    return sorted(numbers[:count])


def _told(rows: int, count: int, shift: bool, noise: float) -> list[str]:
    offset = shift or count == rows
    where = f"the clone of token i is i + {rows:,}" if offset else f"clones are {rows:,} and on, in their tokens' order"
    told = [
        f"{where}; the tokenizer makes and knows none of them, and roles (bos, eos, pad) stay with their tokens alone"
    ]
    if noise:
        told.append(f"with noise of {noise:g} of each row's root mean square clones are not exact")
    return told
