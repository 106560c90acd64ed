"""Deltas: what leads from a model to its fine-tune, kept by itself; taken, applied, taken out again, composed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from suture import _core
from suture.checkpoint import opened
from suture.errors import SutureError, UsageError
from suture.reference import Reference, model_of
from suture.results.delta import DeltaInfo
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.as_written import as_written
from suture.surgery.job import refuse_stores
from suture.surgery.run import carry_out, copy_of, for_output, prepare

FORMS = ("sparse", "lowrank", "lora", "bits", "xor")
"""How a delta keeps changes."""


def extract(
    base: str | PathLike[str],
    tuned: str | PathLike[str],
    out: str | PathLike[str],
    *,
    form: str,
    rank: int | None = None,
    energy: float | None = None,
    density: float | None = None,
    keep: int | None = None,
    exact: bool = False,
    embed: bool = False,
    exact_svd: bool = False,
    rank_share: float | None = None,
    by_tensor: bool = False,
    random: int | None = None,
    left: Sequence[str] = (),
    whole: Sequence[str] = (),
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Take what leads from `base` to `tuned` out of them, and write it to the folder `out`.

    Args:
        base: the model. One that is made of others (``base+adapter``) is written beside `out` first, and removed again:
            the delta belongs to what `suture lora fold` or `apply` write of it.
        tuned: its fine-tune, of the same names and shapes; what it has otherwise is kept whole.
        out: the output folder. Of the form ``lora`` it is an adapter that PEFT loads, too.
        form: ``sparse`` (the largest changes of the whole model, one by one, or all), ``lowrank`` (U, S and V of every
            matrix), ``lora`` (the same as an adapter), ``bits`` (signs and their mean size, BitDelta) or ``xor`` (all,
            bit for bit, compressed).
        rank: most ranks of a matrix, for ``lowrank`` and ``lora``.
        energy: share of the squares of each matrix's change to be kept, for these two.
        density: share of the model's elements to be kept, for ``sparse``; of equal changes the first ones.
        keep: the same as their number.
        exact: keep besides what makes applying it give the bytes of `tuned`, and reverting those of `base`.
        embed: treat tables of tokens and heads over them as other matrices; else they are kept whole where factors and
            signs are.
        exact_svd: decompose by the Gram matrix in f64, not by random projections.
        rank_share: the rank of each matrix as a share of its smaller side, rounded down, at least 1.
        by_tensor: of each matrix its own int(density * elements) largest changes, at least one, for ``sparse``; all
            else is kept whole, and so is what that would not make smaller.
        random: elements drawn with this seed, each with the chance `density` and times 1 / `density`, not the largest.
        left: tensors, by name, whose change is not kept.
        whole: tensors that are kept whole, not element by element, as factors or signs.
        settings: how to do the work; `dtype` is that of factors, float32 if not given.
        dry_run: return what would be kept how, and the bytes that it takes at most, from headers.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if an option is wrong, or does not go with the form.
        SutureError: if a model is not sound, or the output cannot be written.
    """
    settings = settings or Settings()
    settings.refuse_parts("a delta is made as a whole")
    refuse_stores(out)
    settings.refuse_those_of_merges()
    if form not in FORMS:
        raise UsageError(f"form: expected {', '.join(FORMS[:-1])} or {FORMS[-1]}, found `{form}`", at="form")
    asked = {
        "form": form,
        "rank": rank,
        "energy": energy,
        "density": density,
        "keep": keep,
        "exact": exact,
        "embed": embed,
        "full": exact_svd,
        "rank_share": rank_share,
        "by_tensor": by_tensor,
        "random": random,
        "left": [*left],
        "whole": [*whole],
        "dtype": settings.dtype,
        "allow_nonfinite": settings.nan == "allow",
        "memory": settings.memory_bytes,
    }
    options = json.dumps(asked)
    models = opened(model_of(base)), opened(model_of(tuned))
    looked = json.loads(_core.look_delta(*models, options, settings.thread_count))
    if dry_run:
        return Report(json.dumps(_planned(looked, models, asked)), Path(out), dry=True)
    total = int(looked["read_bytes"])
    with as_written((base, tuned), Path(out), replace(settings, dtype=None)) as (own, other):
        text = _core.extract_delta(
            own,
            other,
            options,
            fspath(out),
            settings.overwrite,
            [],
            settings.io,
            settings.thread_count,
            None if progress is None else lambda done: progress(min(done, total), total),
        )
    return Report(text, Path(out))


def apply(
    base: str | PathLike[str],
    deltas: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Put deltas into the model they belong to, and write the result to `out`.

    One delta that is exact gives the tuned model's bytes. Several are added: the sum is formed in f64 and rounded once.

    Args:
        base: the model.
        deltas: deltas of it, or adapters; a delta of what those before it make may follow them.
        out: the output folder; or one file, if it ends in ``.safetensors``.
        weights: what the change of each is multiplied by; 1 each if not given.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there is no delta, or there are not as many weights.
        SutureError: if a delta is not one of the model, or damaged, or the output cannot be written.
    """
    from suture.surgery.lora import weights_of

    settings = settings or Settings()
    scales = weights_of(weights, deltas, "delta")
    own = _whole(model_of(base), "BASE DELTA... OUT")
    given = own if isinstance(own, Reference) else Reference(own)
    applied = tuple((_place(d), weight) for d, weight in zip(deltas, scales, strict=True))
    whole = Reference(given.path, (*given.adapters, *applied), given.name)
    recipe = copy_of(whole, "delta apply", settings.dtype, as_stored=True)
    return carry_out(prepare(recipe, for_output(out, settings)), out, dry_run, progress)


def revert(
    tuned: str | PathLike[str],
    delta: str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Take a delta out of the model that it leads to, and write its base to `out`.

    A delta that is exact gives the base's bytes; of another the changes are subtracted, which comes near.

    Args:
        tuned: the model with the delta in it.
        delta: the delta.
        out: the output folder; or one file, if it ends in ``.safetensors``.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        SutureError: if the delta does not lead to the model, or holds too little to be taken out.
    """
    settings = settings or Settings()
    own = _whole(model_of(tuned), "TUNED DELTA OUT")
    place = _place(delta)
    if not _is_delta(place):
        raise SutureError(f"{place}: is no delta; expected a folder with delta.json", place)
    model = (own if isinstance(own, Reference) else Reference(own)).data()
    model["adapters"] = [*model["adapters"], {"path": place, "weight": 1.0, "revert": True}]
    recipe = copy_of("", "delta revert", settings.dtype, as_stored=True)
    recipe["copy"]["model"] = model
    return carry_out(prepare(recipe, for_output(out, settings)), out, dry_run, progress)


def compose(
    deltas: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    settings: Settings | None = None,
) -> Report:
    """Write several deltas as one to the folder `out`.

    Deltas of one base are added, each times its weight: sparse ones element by element, factors side by side. Lossless
    ones (``xor``) of which each belongs to what the one before makes become the step from the first base to the last
    model.

    Args:
        deltas: the deltas.
        out: the output folder.
        weights: what the change of each is multiplied by; 1 each if not given.
        settings: how to do the work.

    Raises:
        UsageError: if there is no delta, or there are not as many weights.
        SutureError: if they do not go together, or the output cannot be written.
    """
    from suture.surgery.lora import weights_of

    settings = settings or Settings()
    settings.refuse_parts("a delta is made as a whole")
    refuse_stores(out)
    settings.refuse_those_of_merges()
    scales = weights_of(weights, deltas, "delta")
    listed = [(info(delta)["path"], weight) for delta, weight in zip(deltas, scales, strict=True)]
    text = _core.compose_deltas(listed, fspath(out), settings.overwrite, settings.thread_count, settings.memory_bytes)
    return Report(text, Path(out))


def read_diff(
    base: str | PathLike[str],
    file: str | PathLike[str],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
) -> Report:
    """Write LT-SFT's `pytorch_diff.bin` as a sparse delta of `base` to the folder `out`.

    Raises:
        UsageError: if torch, which reads it, is not installed.
        SutureError: if it is none, or of another model, or the output cannot be written.
    """
    from suture.surgery.diffs import as_delta
    from suture.surgery.room import temporary_folder

    settings = settings or Settings()
    settings.refuse_parts("a delta is made as a whole")
    refuse_stores(out)
    with temporary_folder() as temporary:
        folder = Path(temporary) / Path(file).stem
        extract(base, base, folder, form="sparse", settings=Settings(threads=settings.threads, io=settings.io))
        null = json.loads((folder / "delta.json").read_text())
        as_delta(file, null, folder)
        return compose([folder], out, settings=settings)


def write_diff(
    delta: str | PathLike[str], out: str | PathLike[str], *, mask: bool = False, overwrite: bool = False
) -> None:
    """Write a sparse delta as LT-SFT's `pytorch_diff.bin`, or with `mask` where it changes something, as BOOL tensors.

    Raises:
        UsageError: if torch, which writes a diff, is not installed.
        SutureError: if the delta is not sparse, or the output cannot be written.
    """
    from suture.surgery import diffs

    found = info(delta)
    write = diffs.mask if mask else diffs.write
    write(found["path"], found["tensors"], Path(out), overwrite)


def info(delta: str | PathLike[str]) -> DeltaInfo:
    """What a delta is: its form, the models it belongs to, and figures of every tensor's change.

    Raises:
        SutureError: if it is none, or damaged.
    """
    place = _place(delta)
    if not _is_delta(place):
        raise SutureError(f"{place}: is no delta; expected a folder with delta.json", place)
    said = json.loads(_core.delta_json(place))
    return cast(DeltaInfo, {"schema": 1, "path": place, **said})


def _is_delta(place: str) -> bool:
    return (Path(place) / "delta.json").is_file()


def _whole(model: str | Reference, order: str) -> str | Reference:
    """The model that a delta is put into or taken out of, as it was named.

    Raises:
        UsageError: if it is a delta itself: the paths were given the other way round.
    """
    place = model.path if isinstance(model, Reference) else model
    if _is_delta(place):
        base = json.loads(_core.delta_json(place))["base"]["name"]
        raise UsageError(f"`{place}` is a delta of `{base}`, and a model is expected first: {order}")
    return model


def _place(delta: str | PathLike[str]) -> str:
    """Where a delta lies."""
    found = model_of(delta, kind="adapter")
    if isinstance(found, Reference):
        if found.adapters:
            raise UsageError(f"`{fspath(delta)}`: expected a delta, found a model with adapters")
        return found.path
    if not Path(found).exists():
        raise UsageError(f"`{fspath(delta)}`: no such file or folder")
    return found


def _planned(looked: dict[str, Any], models: Sequence[_core.Checkpoint], asked: dict[str, Any]) -> dict[str, Any]:
    """What would be kept how, in the shape of a plan."""
    labels = [model.path.name for model in models]

    def planned(tensor: dict[str, Any]) -> dict[str, Any]:
        inputs = [[label, tensor["name"]] for label in labels]
        own = {key: tensor[key] for key in ("name", "dtype", "shape", "parts")}
        size = {key: tensor[key] for key in ("bytes", "rank") if tensor[key] is not None}
        return {**own, **size, "shard": 0, "offset": 0, "action": f"kept {tensor['kept']}", "inputs": inputs}

    return {
        "schema": 1,
        "suture": _core.__version__,
        "title": f"delta extract {looked['form']}",
        "recipe": {"delta": {key: value for key, value in asked.items() if value not in (None, False, [])}},
        "models": [{"label": label} for label in labels],
        "notes": looked["notes"],
        "warnings": [],
        "unused": [],
        "read_bytes": looked["read_bytes"],
        "write_bytes": looked["write_bytes"],
        "shards": looked["files"],
        "hash": "",
        "budget": {"chunk_elements": 0, "peak_bytes": looked["peak_bytes"]},
        "tensors": [planned(tensor) for tensor in looked["tensors"]],
    }
