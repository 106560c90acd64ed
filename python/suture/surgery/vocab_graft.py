"""Embeddings that were tuned on one checkpoint, put into its sibling."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.analysis.stored import Stored, tables
from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.rows import rewrite
from suture.surgery.trunk import Trunk, compared
from suture.surgery.vocab_model import without_adapters
from suture.vocab.graft import plan
from suture.vocab.rowplan import RowPlan

#: What to do about the weights of the trunk that the rows were tuned on.
TRUNK = ("check", "ignore")
#: So many tensors are named.
_NAMED = 5


def graft(
    model: str | PathLike[str],
    adapted: str | PathLike[str],
    out: str | PathLike[str],
    *,
    base: str | PathLike[str] | None = None,
    trunk: str = "check",
    keep: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Put the embeddings, heads and biases of `adapted` into `model` and write the result to the folder `out`.

    Rows that were tuned with the rest of a model kept fit all that was tuned from it (RAMEN, arXiv 2002.07306). That
    the rest was kept is checked: every tensor of `adapted` without rows of tokens has the hash it has in `base`. The
    vocabulary may be another: then the output has the tokenizer of `adapted`.

    Args:
        model: the model whose trunk the output has, bit for bit.
        adapted: the model whose rows the output has, bit for bit.
        out: the output folder.
        base: the model that `adapted` was tuned from; `model` itself unless told.
        trunk: ``check`` to fail if the trunk that the rows were tuned on is not that of `base`, ``ignore`` to go on.
        keep: where to keep the plan.
        settings: how to do the work.
        dry_run: only plan; the trunk is checked all the same.
        progress: called with the bytes done and the bytes in all.

    Raises:
        UsageError: if an option is none of these, or a model has no tokenizer that can be read.
        SutureError: if a model is not sound, they are not of one architecture, or the trunk differs.
    """
    made = planned(model, adapted, base=base, trunk=trunk, settings=settings)
    kept = None if keep is None else Path(keep)
    return rewrite(made, out, settings=settings, dry_run=dry_run, progress=progress, keep=kept)


def planned(
    model: str | PathLike[str],
    adapted: str | PathLike[str],
    *,
    base: str | PathLike[str] | None = None,
    trunk: str = "check",
    settings: Settings | None = None,
) -> RowPlan:
    """The plan that :func:`graft` carries out, with all its checks."""
    if trunk not in TRUNK:
        raise UsageError(f"trunk: expected check or ignore, found `{trunk}`", at="trunk")
    if base is not None and trunk == "ignore":
        raise UsageError("base: is what the trunk is checked against; leave it out, or check", at="base")
    for one in (model, adapted):
        without_adapters(one)
    into, source = Checkpoint.plain(model), Checkpoint.plain(adapted)
    told = _fits(into, source)
    threads = (settings or Settings()).thread_count
    options = {"from": fspath(adapted), "base": None if base is None else fspath(base), "trunk": trunk}
    figures: dict[str, Any] = {"trunk": None}
    if trunk == "check":
        against = into if base is None else Checkpoint.plain(base)
        found = compared(source, against, threads)
        if found.differing:
            raise SutureError(_differs(source, against, found, base is not None), source.path, found.differing[0])
        told += _alone(source, against, found)
        figures["trunk"] = {"tensors": found.tensors, "bytes": found.bytes, "hash": found.hash}
    rows = next(t.rows for t in tables(source) if t.role == "embedding")
    made = plan(into.folder, source.folder, rows, options=options)
    return RowPlan(**{**vars(made), "told": [*told, *made.told], "figures": {**made.figures, **figures}})


def _fits(into: Checkpoint, source: Checkpoint) -> list[str]:
    """Check that every table of a model has one it can be replaced by, and that all else is of one architecture.

    Returns:
        what the user should know.
    """
    own, theirs = tables(into), {t.name: t for t in tables(source)}
    for checkpoint, found in ((into, own), (source, list(theirs.values()))):
        if not any(t.role == "embedding" for t in found):
            raise SutureError(f"{checkpoint.path}: has no table of tokens", checkpoint.path)
    told = []
    used = set()
    for table in own:
        other = theirs.get(source._core.counterpart(table.name) or table.name)
        if other is None:
            message = f"has nothing for `{table.name}` of {into.path}; its rows cannot be replaced"
            raise SutureError(f"{source.path}: {message}", source.path, table.name)
        if table.width != other.width and table.role != "beside":
            message = f"`{other.name}` has rows of {other.width:,}, those of {into.path} are {table.width:,} wide"
            raise SutureError(f"{source.path}: {message}; expected models of one architecture", source.path, other.name)
        used.add(other.name)
        if other.role == "embedding" and table.role == "head":
            told.append(f"{source.path}: has no head of its own; `{table.name}` gets the rows of `{other.name}`")
    _same_rows(source, [t for t in theirs.values() if t.name in used and t.role != "beside"])
    for name in theirs:
        if name not in used and into._core.counterpart(name) is None:
            told.append(f"{source.path}: `{name}` has no place in {into.path} and is left out")
        elif name not in used and source._core.tied is not True:
            message = f"has a head of its own (`{name}`), and {into.path} ties its head to its embedding"
            raise SutureError(f"{source.path}: {message}; expected models of one architecture", source.path, name)
    shapes = {name: into.info(name).shape for name in into.names}
    for name in source.names:
        there = into._core.counterpart(name)
        shape = source.info(name).shape
        if name not in theirs and there is not None and shapes[there] != shape:
            message = f"tensor `{name}` has shape {list(shape)}, in {into.path} {list(shapes[there])}"
            raise SutureError(f"{source.path}: {message}; expected models of one architecture", source.path, name)
    return told


def _same_rows(source: Checkpoint, used: Sequence[Stored]) -> None:
    if len({t.rows for t in used}) > 1:
        listed = ", ".join(f"`{t.name}` has {t.rows:,}" for t in used)
        raise SutureError(f"{source.path}: tables have different numbers of rows: {listed}", source.path, used[-1].name)


def _differs(source: Checkpoint, against: Checkpoint, found: Trunk, based: bool) -> str:
    names = ", ".join(f"`{name}`" for name in found.differing[:_NAMED])
    more = f" and {len(found.differing) - _NAMED:,} more" if len(found.differing) > _NAMED else ""
    what = (
        f"{len(found.differing):,} of {found.tensors:,} tensors of the trunk differ from {against.path}: {names}{more}"
    )
    other = "" if based else "give the model it was tuned from (--base), or "
    advice = "go on all the same (--trunk ignore)"
    return f"{source.path}: {what}; its rows were not tuned on that trunk; {other}{advice}"


def _alone(source: Checkpoint, against: Checkpoint, found: Trunk) -> list[str]:
    if not found.alone:
        return []
    names = ", ".join(f"`{name}`" for name in found.alone[:_NAMED])
    more = f" and {len(found.alone) - _NAMED:,} more" if len(found.alone) > _NAMED else ""
    return [f"{source.path}: {names}{more} outside the layers is not in {against.path} and could not be checked"]
