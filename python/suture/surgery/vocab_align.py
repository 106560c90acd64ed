"""The verb ``suture vocab align``: a map of tokens, as a table, or as a model with another's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from suture.errors import SutureError, UsageError, near
from suture.reference import Model as Named
from suture.results.report import Report
from suture.results.token_map import TokenMapping
from suture.settings import Progress, Settings

if TYPE_CHECKING:
    from suture.vocab.rowplan import RowPlan
    from suture.vocab.tokenmap import TokenMap

METHODS = ("exact", "bytes", "mined", "stats")


def vocab_align(
    of: Named,
    to: Named,
    *,
    method: str,
    texts: Sequence[str | PathLike[str]] = (),
    fuzzy: bool = False,
    reference: bool = False,
    output: str | PathLike[str] | None = None,
    overwrite: bool = False,
    settings: Settings | None = None,
) -> tuple[TokenMap, TokenMapping]:
    """Find for each token of `of` one of `to`; with `output` write the map there, as a table of tabs.

    Args:
        of: a model, or a folder of tokenizer files, whose tokens are mapped.
        to: one whose tokens they are mapped to.
        method: ``exact``: the same text. ``bytes``: the same bytes and word start, however written. ``mined``: the
            same, and else the least edit distance. ``stats``: what stands for the same text in `texts` most often.
        texts: stats: texts, UTF-8, a document or sentence a line.
        fuzzy: bytes: tokens that differ by case or word start alone are the same.
        reference: stats: as published code chooses, see `suture.vocab.tokenmap.by_counts`.
        output: the file for the table: token, id, match, match_id, class, score.
        overwrite: replace it if it exists.
        settings: how to do the work: threads.

    Raises:
        UsageError: if an option is wrong, or a tokenizer cannot be read.
        SutureError: if a file is not sound or cannot be written.
    """
    from suture.surgery.vocab_models import model_at
    from suture.vocab import tokenmap, warping
    from suture.vocab.transplant import known

    if method not in METHODS:
        raise UsageError(f"method: expected {', '.join(METHODS)}, found `{method}`{near(method, METHODS)}", at="method")
    if (method == "stats") != bool(texts):
        what = f"are of the method stats, not of {method}; leave --text out" if texts else "are missing; give --text"
        raise UsageError(f"texts: {what}", at="texts")
    for name, asked, only in (("fuzzy", fuzzy, "bytes"), ("reference", reference, "stats")):
        if asked and method != only:
            raise UsageError(f"{name}: belongs to method {only}, not to {method}", at=name)
    target = None if output is None else Path(output)
    if target is not None and target.exists() and not overwrite:
        raise UsageError(f"{target}: exists; give another name, or --overwrite", at="output")
    own, theirs = (known(model_at(place, bare=True)).vocabulary for place in (of, to))
    if method == "exact":
        found_map = tokenmap.by_text(own, theirs)
    elif method == "bytes":
        found_map = tokenmap.by_bytes(own, theirs, fuzzy=fuzzy)
    elif method == "mined":
        found_map = tokenmap.by_distance(own, theirs, threads=(settings or Settings()).thread_count)
    else:
        counts = warping.counted(own, theirs, [Path(text) for text in texts])
        found_map = tokenmap.by_counts(own, theirs, counts, reference=reference)
    if target is not None:
        _write(found_map, target)
    classes = found_map.counts()
    mined = [found_map.score[n] for n in own.names if found_map.kind[n] == "mined"]
    told = TokenMapping(
        of=str(own.folder),
        to=str(theirs.folder),
        method=method,
        tokens=len(own.names),
        classes=classes,
        coverage=1 - classes.get("none", 0) / len(own.names),
        distance=float(sum(mined) / len(mined)) if mined else None,
        output=None if target is None else fspath(target),
    )
    return found_map, told


def write_aligned(
    found: TokenMap,
    to: Named,
    of: Named,
    out: str | PathLike[str],
    *,
    method: str,
    keep: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the model `to` with the tokenizer of `of` to `out`: each token has the row that the map has for it.

    A token without a match gets the mean of its pieces in the tokenizer of `to`.

    Raises:
        SutureError: if a model is not sound, or the output cannot be written.
    """
    from suture.surgery.rows import rewrite

    plan = aligned_plan(found, to, of, method)
    return rewrite(plan, out, settings=settings or Settings(), dry_run=dry_run, progress=progress, keep=keep)


def aligned_plan(found: TokenMap, to: Named, of: Named, method: str) -> RowPlan:
    """The plan of :func:`write_aligned`."""
    from suture.surgery.vocab_models import model_at
    from suture.vocab.transplant import plan_of

    options = {"method": method, "from": fspath(of)}
    model, donor = model_at(to), model_at(of, bare=True)
    return plan_of(model, donor, None, options=options, verb="align", matches=found.matches())


def _write(found: TokenMap, target: Path) -> None:
    """The table, whole or not at all.

    Raises:
        SutureError: if it cannot be written.
    """
    beside = target.with_name(f".{target.name}.suture-partial")
    try:
        with beside.open("w", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            file.writelines(f"{line}\n" for line in found.lines())
        beside.replace(target)
    except OSError as e:
        beside.unlink(missing_ok=True)
        raise SutureError(f"{target}: cannot be written: {e.strerror}", target) from None
