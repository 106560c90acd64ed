"""Adapters: folded into a model, or merged with each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.reference import Reference, model_of, plain
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.adapter import adapter_path, own_config
from suture.surgery.room import temporary_folder
from suture.surgery.run import carry_out, copy_of, for_output, is_file, prepare


def fold(
    model: str | PathLike[str],
    adapters: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Fold adapters into a model, one after the other, and write the result to the folder `out`.

    Every weight is W + sum w_i s_i B_i A_i, formed in f64 and rounded once to the model's dtype, or `settings.dtype`.
    What no adapter changes is moved bit for bit.

    Args:
        model: the model.
        adapters: the adapters, as PEFT writes them.
        out: the output folder; or one file, if it ends in ``.safetensors``.
        weights: what the change of each is multiplied by; 1 each if not given.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there is no adapter, or there are not as many weights.
        SutureError: if an adapter is not one of the model, an input is not sound, or the output cannot be written.
    """
    settings = settings or Settings()
    scales = weights_of(weights, adapters)
    own = model_of(model)
    given = own if isinstance(own, Reference) else Reference(own)
    applied = tuple((plain(a), weight) for a, weight in zip(adapters, scales, strict=True))
    whole = Reference(given.path, (*given.adapters, *applied), given.name)
    return carry_out(prepare(copy_of(whole, "fold", settings.dtype), for_output(out, settings)), out, dry_run, progress)


def merge_adapters(
    adapters: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Merge adapters of one model into one, whose change is the sum of theirs, and write it to the folder `out`.

    The factors are put side by side, [w_1 s_1 B_1, w_2 s_2 B_2] and [A_1; A_2], so that the sum is exact but for one
    rounding of B; where all w_i s_i are equal they go into `lora_alpha`, and the bytes stay. The factors themselves are
    never averaged: the average of products is not the product of averages.

    Args:
        adapters: the adapters, as PEFT writes them.
        out: the output folder.
        weights: what the change of each is multiplied by; 1 each if not given.
        rank: the most ranks of a module. The best approximation of so few is taken (QR of both factors, singular
            values of what remains), and the report tells how much it misses.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if there is no adapter, or there are not as many weights, or `rank` is none.
        SutureError: if they are not of one model, hold what no sum of adapters is, or cannot be read or written.
    """
    # NumPy is for those who merge adapters.
    from suture.surgery.factors import joined

    settings = settings or Settings()
    settings.refuse_those_of_merges()
    scales = weights_of(weights, adapters)
    if rank is not None and rank < 1:
        raise UsageError(f"rank: expected at least 1, found {rank}")
    if is_file(out):
        raise UsageError(f"an adapter is a folder, with its config; found the file `{fspath(out)}`")
    paths = [str(adapter_path(Path(plain(a)))) for a in adapters]
    if scales == [1.0] and rank is None:
        # The sum of one is that one, whatever it holds besides factors.
        copy = copy_of(paths[0], "lora merge", settings.dtype)
        config = own_config(Path(paths[0]))
        if config is None:
            raise SutureError(f"{paths[0]}: is no adapter; expected factors, and adapter_config.json", paths[0])
        beside = [("adapter_config.json", config)]
        return carry_out(prepare(copy, settings, beside=beside), out, dry_run, progress)
    settings.refuse_parts("adapters are merged in memory, as a whole")
    with temporary_folder() as temporary:
        folder = Path(temporary) / Path(out).resolve().name
        made = joined([Path(p) for p in paths], scales, rank, folder, finite=settings.nan != "allow")
        listed = [{"model": str(Path(p).resolve()), "weight": w} for p, w in zip(paths, scales, strict=True)]
        dtype = settings.dtype or made.dtype
        recipe = copy_of(str(folder), "lora merge", dtype, of=listed)
        beside = [("adapter_config.json", made.config)]
        job = prepare(recipe, settings, beside=beside, warnings=made.told)
        return carry_out(job, out, dry_run, progress)


def weights_of(given: Sequence[float] | None, adapters: Sequence[Any], what: str = "adapter") -> list[float]:
    """A weight for each adapter, or delta.

    Raises:
        UsageError: if there is none, or there are not as many weights.
    """
    if isinstance(adapters, str | PathLike):
        raise UsageError(f"expected a list of {what}s, found `{fspath(adapters)}`; write [{fspath(adapters)!r}]")
    if not adapters:
        raise UsageError(f"expected at least one {what}, found none")
    if given is None:
        return [1.0] * len(adapters)
    if len(given) != len(adapters):
        raise UsageError(f"weights: expected one for each of {len(adapters)} {what}s, found {len(given)}")
    if not all(abs(w) < float("inf") for w in given):
        raise UsageError(f"weights: expected finite numbers, found {json.dumps(list(given))}")
    return [float(w) for w in given]
