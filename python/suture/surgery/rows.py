"""Carry out a row plan: a model with another vocabulary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from suture import _core
from suture.errors import SutureError, UsageError
from suture.recipe import as_json
from suture.reference import located, model_of
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.aligned import Alignment
from suture.surgery.ledger import write_whole
from suture.surgery.run import carry_out, copy_of, is_file, prepare
from suture.surgery.vocab_model import vocab_model
from suture.vocab.audit import audited
from suture.vocab.ids import moved_in
from suture.vocab.kept import NAME, kept
from suture.vocab.rowplan import RowPlan, Rows
from suture.vocab.segments import Segment, runs_of
from suture.vocab.tokens import Vocabulary, read
from suture.vocab.write import Files

#: Entries of mixes that are carried out; more would take longer to hand over than to compute.
MOST_ENTRIES = 2**25
#: Reasons that are told.
_TOLD = 6
#: Stay as they are unless a plan has others.
_TEMPLATES = ("chat_template.jinja", "chat_template.json")


def rewrite(
    plan: RowPlan,
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    keep: str | PathLike[str] | None = None,
    own: Vocabulary | None = None,
) -> Report:
    """Write the first model of a plan with the rows that the plan says, its tokenizer, and its numbers of tokens.

    Every other tensor is copied as it is. Beside the output lies the plan (`suture-vocabulary.json`), with which
    :func:`suture.surgery.vocab_plans.apply` does the same to a model of the same vocabulary, and `undo` the reverse.

    Args:
        plan: the plan.
        out: the output folder.
        settings: how to do the work. Noise is drawn by the plan's own seed.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.
        keep: a file for the plan too.
        own: the vocabulary of the first model, where it has been read.

    Raises:
        UsageError: if the output is to be one file, or the plan has more entries than are carried out.
        SutureError: if a table has not the rows that the plan takes, or an input is not sound.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    if is_file(out):
        raise UsageError(f"a single file has no tokenizer; give a folder instead of `{fspath(out)}`")
    if (problem := plan.problem()) is not None:
        raise SutureError(f"{plan.models[0]}: the plan of its rows is not sound: {problem}", plan.models[0])
    entries = len(plan.table.index) + (0 if plan.head is None else len(plan.head.index))
    if entries > MOST_ENTRIES:
        message = f"the plan mixes {entries:,} rows in all, and at most {MOST_ENTRIES:,} are carried out"
        raise UsageError(f"{message}; let fewer rows stand for one (--top-k)")
    found = vocab_model(plan.models[0])
    model = found.checkpoint
    if keep is not None:
        _check(Path(keep), [model.path, *plan.models[1:]])
    own = own or read(model.path)
    if plan.head is not None and not any(_core.is_vocabulary(n) and n not in model.tables() for n in model.names()):
        message = "ties its head to its table, and the plan has other rows for heads; write the head out first"
        raise SutureError(f"{model.path}: {message}", model.path)
    text = kept(plan, own, found.rows)
    if keep is not None and not settings.overwrite and Path(keep).exists() and Path(keep).read_bytes() != text:
        raise UsageError(f"{fspath(keep)}: is there already, with another plan; choose another name, or --overwrite")
    ids, told = moved_in(model.path, plan.moved, plan.rows, plan.roles)
    given = {name for name, _ in plan.written} | {name for name, _ in plan.copied}
    templates = [n for n in _TEMPLATES if (model.path / n).is_file() and not given & {*_TEMPLATES}]
    copied = [*plan.copied, *((name, str(model.path / name)) for name in templates)]
    files = Files(list(plan.written), copied)
    counts = ", ".join(f"{n:,} {name}" for name, n in plan.counts().items())
    notes = [("rows", f"{plan.rows:,}: {counts}"), *_reasons(plan), *_figures(plan)]
    alignment = Alignment(
        text=_text(plan, int(plan.options.get("seed", 0))), files=files, ids=ids, told=[*plan.told, *told], notes=notes
    )
    asked = json.dumps(plan.asked, sort_keys=True)
    recipe = copy_of(model_of(plan.models[0]), f"vocab {plan.verb}", settings.dtype, asked=asked)
    job = prepare(recipe, settings, vocabulary=alignment, beside=[(NAME, text)])
    report = carry_out(job, out, dry_run, progress)
    if keep is not None and not dry_run:
        write_whole(Path(keep), text.decode())
    told_of = {"verb": plan.verb, "rows": plan.rows, "counts": plan.counts(), "figures": dict(plan.figures)}
    # A part holds no whole tables.
    if not dry_run and settings.part is None:
        told_of["audit"] = audited(plan, Path(located(out)))
    return replace(report, beside={"vocabulary": told_of})


def _check(keep: Path, models: Sequence[Path]) -> None:
    """Refuse a place for a plan that cannot be written, or is a model's.

    Raises:
        UsageError: if it is so.
    """
    folder = keep.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"{keep}: its folder does not exist; make it first")
    if keep.is_dir():
        raise UsageError(f"{keep}: is a folder; expected a file for the plan")
    inside = {folder.resolve(), *folder.resolve().parents}
    if (model := next((m for m in models if m.resolve() in inside), None)) is not None:
        raise UsageError(f"{keep}: lies in the model {model}, which is read; choose another place for the plan")


def _reasons(plan: RowPlan) -> list[tuple[str, str]]:
    """Why rows are what they are, where there are several reasons, the commonest first."""
    found = np.bincount(plan.why, minlength=len(plan.reasons))
    some = [int(i) for i in np.argsort(-found, kind="stable") if found[i]][:_TOLD]
    told = "; ".join(f"{found[i]:,} {plan.reasons[i]}" for i in some)
    return [("because", told)] if len(some) > 1 else []


def _figures(plan: RowPlan) -> list[tuple[str, str]]:
    """Single numbers that a verb counted, for people."""
    plain = {name: value for name, value in plan.figures.items() if isinstance(value, int | float)}
    told = ", ".join(f"{name.replace('_', ' ')} {value:,.6g}" for name, value in plain.items())
    return [("counted", told)] if told else []


def _text(plan: RowPlan, seed: int) -> str:
    """What the core does to the tables, as JSON."""
    data: dict[str, Any] = {
        "models": json.loads(as_json([model_of(m) for m in plan.models])),
        "segments": [runs_of(plan.table), *(None for _ in plan.models[1:])],
    }
    mixes = [plan.table]
    if plan.head is not None:
        before = len(plan.table.starts) - 1
        data["heads"] = [_further(run, before) for run in runs_of(plan.head)]
        mixes.append(plan.head)
    data["mixes"] = _mixes(mixes, seed)
    return json.dumps(data, separators=(",", ":"))


def _further(run: Segment, before: int) -> Segment:
    """A run whose mix stands behind so many others."""
    return {"mix": run["mix"] + before} if isinstance(run, dict) and "mix" in run else run


def _mixes(given: list[Rows], seed: int) -> dict[str, Any]:
    starts: list[int] = [0]
    index: list[int] = []
    weight: list[float] = []
    noise: list[float] = []
    for rows in given:
        starts += (rows.starts[1:] + len(index)).tolist()
        index += rows.index.tolist()
        weight += rows.weight.tolist()
        noise += rows.noise.tolist() if len(rows.noise) else [0.0] * (len(rows.starts) - 1)
    found: dict[str, Any] = {"starts": starts, "index": index, "weight": weight}
    return {**found, "noise": noise, "seed": seed} if any(noise) else found
