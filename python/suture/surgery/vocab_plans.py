"""Row plans that were kept: carried out again on another model, and undone."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from suture.errors import SutureError, UsageError
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES
from suture.surgery.rows import rewrite
from suture.surgery.vocab_model import VocabModel, vocab_model
from suture.vocab.entries import CONFIG
from suture.vocab.kept import NAME, Kept, load
from suture.vocab.rowplan import CLASSES, RowPlan, Rows
from suture.vocab.tokens import Vocabulary, read


def apply(
    plan: str | PathLike[str],
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Carry out a kept plan on another model of the same vocabulary: the chat model of a base, a fine-tune.

    Args:
        plan: the plan, of ``--plan`` or beside an output, or the folder of that output.
        model: the model, whose tokens and number of rows must be those that the plan was made for.
        out: the output folder.
        settings: how to do the work.
        dry_run: return the plan of the work instead of doing it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        SutureError: if the plan is not sound, or the model has other tokens or rows.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found = _load(plan)
    own = vocab_model(model)
    vocabulary = _fits(found, own)
    files, told = siblings(found, own.folder)
    made = replace(
        found.plan,
        models=[own.folder, *found.plan.models[1:]],
        written=files,
        told=[f"{found.path}: what follows was told when the plan was made", *found.plan.told]
        if found.plan.told
        else [],
    )
    made = replace(made, told=[*made.told, *told])
    return rewrite(made, out, settings=settings, dry_run=dry_run, progress=progress, own=vocabulary)


def undo(
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    plan: str | PathLike[str] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Give a model back the vocabulary that it had before a plan: the bytes of its rows, its tokenizer, its numbers.

    Args:
        model: a model that a plan made, or a fine-tune of it with the same rows.
        out: the output folder.
        plan: the plan, if it does not lie in the model's folder.
        settings: how to do the work.
        dry_run: return the plan of the work instead of doing it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if the plan left rows out, or its table and head have rows from different places.
        SutureError: if there is no plan, or the model has other rows than it made.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    found = _load(Path(model) if plan is None else plan)
    rows = _inverse(found)
    own = vocab_model(model)
    folder = own.folder
    if own.rows != found.plan.rows:
        message = f"has {own.rows:,} rows of tokens, and the plan {found.path} made {found.plan.rows:,}"
        raise SutureError(f"{folder}: {message}; it is of another model", folder)
    wanted = {number: name for number, name in enumerate(found.plan.names) if name is not None}
    if read(folder).names != wanted:
        message = f"its tokens are not those that the plan {found.path} made"
        raise SutureError(f"{folder}: {message}; undo what was done since first", folder)
    written = [(name, content) for name, content in found.before if name in TOKENIZER_FILES]
    moved = {new: old for old, new in sorted(found.plan.moved.items(), reverse=True)}
    names = _names(found.plan)
    kinds = np.full(found.rows, list(CLASSES).index("kept"), dtype=np.int8)
    kinds[len(names) :] = list(CLASSES).index("padding")
    back = RowPlan(
        verb="undo",
        options={"plan": found.plan.verb},
        models=[folder],
        names=names,
        table=rows,
        kind=kinds,
        reasons=["what it was before"],
        why=np.zeros(found.rows, dtype=np.int32),
        moved=moved,
        written=written,
        copied=[],
    )
    return rewrite(back, out, settings=settings, dry_run=dry_run, progress=progress)


def _names(plan: RowPlan) -> list[str | None]:
    """The tokens of the vocabulary that a plan was made for, all of which it kept, by their number."""
    names: list[str | None] = [None] * (max(plan.moved, default=-1) + 1)
    for old, new in plan.moved.items():
        names[old] = plan.names[new]
    return names


def _load(plan: str | PathLike[str]) -> Kept:
    path = Path(plan)
    if path.is_dir():
        if not (path / NAME).is_file():
            message = f"has no {NAME}: no plan of `suture vocab` made it; give the plan (--plan FILE)"
            raise SutureError(f"{path}: {message}", path)
        path = path / NAME
    return load(path)


def siblings(found: Kept, folder: Path) -> tuple[list[tuple[str, bytes]], list[str]]:
    """The tokenizer's files of a sibling's output, and what to tell.

    Of files that the plan leaves as they were the sibling's own are taken. Of files that the plan made anew, and that
    the sibling has otherwise than the model that the plan was made for, the plan's are, but for its chat template.
    Files that the sibling alone has stay where the plan leaves the tokenizer as it was; else they might not fit.
    """
    had = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}
    left = {name for name, content in found.plan.written if found.digests.get(name) == sha256(content).hexdigest()}
    alone = [name for name in had if name not in found.digests and name not in dict(found.plan.written)]
    files, apart = [], []
    for name, content in found.plan.written:
        made = content
        if name in had and name in left:
            made = had[name]
        elif name in had and sha256(had[name]).hexdigest() != found.digests.get(name):
            apart.append(name)
            made = _with_template(content, read_config(folder, CONFIG) or {}) if name == CONFIG else content
        files.append((name, made))
    if len(left) == len(files):
        return [*files, *((name, had[name]) for name in alone)], []
    told = []
    if apart:
        kept = "; its chat template stays" if CONFIG in apart else ""
        what = f"has {', '.join(apart)} otherwise than the plan's model"
        told.append(f"{folder}: {what}; the plan's are written{kept}: look at them")
    # A chat template is carried over as with every plan.
    if lost := [name for name in alone if not name.startswith("chat_template")]:
        told.append(f"{folder}: {', '.join(lost)}, which the plan's model lacks, may not fit what it made; left out")
    return files, told


def _with_template(content: bytes, own: dict[str, Any]) -> bytes:
    """A tokenizer_config.json with the chat template of another."""
    data = json.loads(content)
    changed = {key: own[key] for key in ("chat_template",) if key in own}
    return content if data | changed == data else as_bytes(data | changed)


def _fits(found: Kept, model: VocabModel) -> Vocabulary:
    """The vocabulary of a model, which must be the one that a plan was made for.

    Raises:
        SutureError: if it has not.
    """
    folder, rows = model.folder, model.rows
    if rows != found.rows:
        raise SutureError(
            f"{folder}: has {rows:,} rows of tokens, expected {found.rows:,}, as {found.path} says", folder
        )
    own = read(folder)
    if own.digest != found.digest:
        message = f"its tokens are not those that {found.path} was made for"
        raise SutureError(f"{folder}: {message}; plans are for models of one vocabulary", folder)
    return own


def _inverse(found: Kept) -> Rows:
    """Where each row of the model that there was lies in what a plan made.

    Raises:
        UsageError: if the plan cannot be undone.
    """
    plan, path = found.plan, found.path
    if not plan.undo or not found.before:
        raise UsageError(f"{path}: a plan of `vocab {plan.verb}` leaves rows out, or changes them; it cannot be undone")
    places = []
    for rows in (plan.table, plan.head or plan.table):
        at = np.full(found.rows, -1, dtype=np.int64)
        own = np.flatnonzero((rows.source == 0) & (rows.row < found.rows))
        # The first place of a row that is there several times.
        at[rows.row[own][::-1]] = own[::-1]
        if (at < 0).any():
            raise UsageError(
                f"{path}: {int((at < 0).sum()):,} rows of the model are not in what it made; it cannot be undone"
            )
        places.append(at)
    if (places[0] != places[1]).any():
        raise UsageError(f"{path}: its heads have rows from other places than its table; it cannot be undone")
    return Rows.copies(places[0])
