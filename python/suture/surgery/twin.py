"""Twins (Twin-Merging, arXiv 2406.15479): a shared expert, and of each expert what it has beyond that, compressed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.analysis.methods import methods
from suture.checkpoint import opened
from suture.errors import SutureError, UsageError
from suture.reference import Reference, called, located, model_of
from suture.results.report import Report
from suture.results.twin import EXPERTS, SHARED, TwinExpert, TwinInfo, TwinShared, read_twin, weights_by_name
from suture.settings import Progress, Settings
from suture.surgery import delta
from suture.surgery.excluded import excluded
from suture.surgery.job import refuse_stores
from suture.surgery.merge import merge
from suture.surgery.run import carry_out, copy_of, for_output, prepare
from suture.surgery.twin_folder import begun, bytes_of, free, listed_in, publish, weights_in, write_record

FORMS = ("svd", "magnitude", "random")
HEADS = ("shared", "whole")
SHARE = 0.1
"""What is kept if nothing is said: of ranks, or of elements (the paper masks 0.9)."""
LAMBDA = 0.3
"""The factor of task arithmetic in the paper (of Qwen-14B; 0.29 of RoBERTa)."""


def make(
    base: str | PathLike[str],
    experts: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    shared: str,
    parameters: Mapping[str, Any] | None = None,
    rank_share: float | None = None,
    density: float | None = None,
    form: str = "svd",
    heads: str = "shared",
    exact_svd: bool = False,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Merge experts into a shared one, and write it with what each expert has beyond it to the folder `out`.

    What an expert has beyond the shared one is kept, of each matrix, as U S V' of the rank int(share * min(m, n)), at
    least 1 (``svd``); as the int(density * m * n) largest elements (``magnitude``); or as elements drawn at random,
    each with the chance `density`, times 1 / `density` (``random``, as DARE). Norms, and matrices that this would not
    make smaller, are kept whole. Output heads and biases are those of the shared expert, as in the paper, unless
    `heads` is ``whole``. `out` is complete or not there.

    Args:
        base: the model that the experts were tuned from.
        experts: fine-tunes of it; each is called by its folder.
        out: the output folder: ``twin.json``, ``shared/`` (a model), ``experts/NAME/`` (deltas of it).
        shared: the merge method, one of :func:`suture.methods`.
        parameters: its parameters; a list is one value for each expert. Of ``task_arithmetic`` `weight` is 1 and
            `lambda` 0.3 if not given, as in the paper.
        rank_share: the rank of each matrix as a share of its smaller side, for ``svd``; 0.1 if not given.
        density: the share of each matrix's elements that is kept, for ``magnitude`` and ``random``; 0.1 if not given.
        form: how differences are compressed: ``svd``, ``magnitude`` or ``random``.
        heads: output heads, biases: ``shared`` (all have the shared expert's) or ``whole`` (each expert's are kept).
        exact_svd: decompose by the Gram matrix in f64, not by a block Krylov space.
        settings: how to do the work; `overwrite` replaces a twin that is there, `dtype` is that of factors, float32 if
            not given; `seed` is that of the merge and of ``random``.
        dry_run: return the plan of the shared expert, and what the differences take at most, from headers.
        progress: called with the bytes done and the bytes in all of each step, a few times a second.

    Raises:
        UsageError: if the method, a parameter, an option or a name is wrong.
        SutureError: if a model is not sound, or the output cannot be written.
    """
    settings = settings or Settings()
    settings.refuse_parts("a twin is made as a whole")
    refuse_stores(out)
    names = _names(experts)
    how = _how(form, rank_share, density, heads, exact_svd, settings)
    given = _parameters(shared, parameters or {}, len(names))
    for model in (base, *experts):
        if (form_of := _core.Checkpoint.plain(opened(model_of(model))).decoded()) is not None:
            message = "and differences are of plain weights; `suture convert` writes it plain"
            raise SutureError(f"{fspath(model)}: is quantised ({form_of}), {message}", fspath(model))
    in_the_way = []
    try:
        target = free(out, [base, *experts], settings.overwrite)
    except SutureError as e:
        if not dry_run or isinstance(e, UsageError):
            raise
        target, in_the_way = Path(out).absolute(), [str(e)]
    own = {name: getattr(settings, name) for name in ("memory", "threads", "io", "nan", "dtype")}
    asked: dict[str, Any] = {**how, "settings": Settings(**own)}
    which = "left" if heads == "shared" else "whole"
    config = _config(shared, base, experts, given)
    quick = replace(settings, overwrite=False, dtype=None)
    # What headers can show is told before the merge, not behind it.
    plan = merge(config, target / SHARED, settings=quick, dry_run=True)
    asked[which] = excluded(opened(model_of(base)))
    looks = [delta.extract(base, expert, target, dry_run=True, **asked) for expert in experts]
    if dry_run:
        record = _record(base, experts, names, shared, given, form, how, which, asked[which])
        return _planned(plan, looks, record, Path(out), in_the_way)
    made = begun(target)
    try:
        (made / EXPERTS).mkdir()
        told = merge(config, made / SHARED, settings=quick, progress=progress)
        apart = asked[which] = excluded(opened(str(made / SHARED)))
        reports = [
            delta.extract(made / SHARED, expert, made / EXPERTS / name, progress=progress, **asked)
            for name, expert in zip(names, experts, strict=True)
        ]
        record = _record(base, experts, names, shared, given, form, how, which, apart)
        _count(record, weights_in(made / SHARED), [weights_in(made / EXPERTS / n) for n in names])
        record["files"] = listed_in(made)
        write_record(made, record)
        publish(made, target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    warnings = [*told.warnings, *(f"{n}: {w}" for n, r in zip(names, reports, strict=True) for w in r.warnings)]
    data = {**told.data, "title": "twin make", "notes": _notes(record), "warnings": warnings, "twin": record}
    return Report(json.dumps(data), Path(out))


def materialise(
    twin: str | PathLike[str],
    out: str | PathLike[str],
    *,
    weights: Sequence[float] | Mapping[str, float] | None = None,
    only: str | None = None,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Write the model theta* + sum_t w_t U_t S_t V_t' of a twin to `out`, the sum formed in f64 and rounded once.

    Args:
        twin: the folder that :func:`make` wrote.
        out: the output folder; or one file, if it ends in ``.safetensors``.
        weights: a number for each expert, in the order of ``twin.json``, or by name, 0 for those not named. They need
            not sum to 1; with all 0 it is the shared expert.
        only: the one expert that is wanted, by its name.
        settings: how to do the work.
        dry_run: return the plan instead of running it.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Raises:
        UsageError: if not one of `weights` and `only` is given, or not as many weights, or there is no such expert.
        SutureError: if the folder holds no twin, or is damaged, or the output cannot be written.
    """
    settings = settings or Settings()
    folder = Path(located(twin))
    said = read_twin(folder)
    put_in = weights_by_name(said, weights, only)
    applied = tuple((str(folder / EXPERTS / name), weight) for name, weight in put_in.items() if weight != 0)
    for place, _ in applied:
        if not (Path(place) / "delta.json").is_file():
            raise SutureError(f"{place}: is missing, or no delta; make the twin again", place)
    whole = Reference(str(folder / SHARED), applied)
    recipe = copy_of(whole, "twin materialise", settings.dtype)
    return carry_out(prepare(recipe, for_output(out, settings)), out, dry_run, progress)


def info(twin: str | PathLike[str]) -> TwinInfo:
    """What a twin is: its shared expert, its experts, and their sizes.

    Raises:
        UsageError: if there is no such folder.
        SutureError: if it is no twin.
    """
    return read_twin(located(twin))


def _how(
    form: str, rank_share: float | None, density: float | None, heads: str, exact_svd: bool, settings: Settings
) -> dict[str, Any]:
    """How differences are taken, as :func:`suture.delta.extract` is asked for it.

    Raises:
        UsageError: if an option is wrong, or of another form.
    """
    if form not in FORMS:
        raise UsageError(f"form: expected {', '.join(FORMS[:-1])} or {FORMS[-1]}, found `{form}`", at="form")
    if heads not in HEADS:
        raise UsageError(f"heads: expected shared or whole, found `{heads}`", at="heads")
    factors = {"rank_share": rank_share, "exact_svd": exact_svd or None, "dtype": settings.dtype}
    for name, value in {"density": density}.items() if form == "svd" else factors.items():
        if value is not None:
            whose = "magnitude and random" if name == "density" else "svd"
            raise UsageError(f"{name}: is of the form {whose}, and `{form}` takes none", at=name)
    name, share = ("rank_share", rank_share) if form == "svd" else ("density", density)
    share = SHARE if share is None else share
    if not 0 < share <= 1:
        raise UsageError(f"{name}: expected a share above 0, at most 1; found {share}", at=name)
    if form == "svd":
        return {"form": "lowrank", "rank_share": share, "embed": True, "exact_svd": exact_svd}
    drawn = {"random": settings.seed} if form == "random" else {}
    return {"form": "sparse", "density": share, "by_tensor": True, **drawn}


def _record(
    base: str | PathLike[str],
    experts: Sequence[str | PathLike[str]],
    names: Sequence[str],
    method: str,
    given: dict[str, Any],
    form: str,
    how: Mapping[str, Any],
    which: str,
    apart: list[str],
) -> TwinInfo:
    """What a twin says of itself, but for the bytes that it takes and its files."""
    models = [opened(model_of(expert)) for expert in experts]
    kept = [TwinExpert(name=n, bytes=0, own_bytes=bytes_of(m)) for n, m in zip(names, models, strict=True)]
    return TwinInfo(
        schema=1,
        suture=_core.__version__,
        form=form,
        rank_share=how.get("rank_share"),
        density=how.get("density"),
        seed=how.get("random"),
        base=_name(base),
        shared=TwinShared(method=method, parameters=given, bytes=0),
        experts=kept,
        excluded=apart if which == "left" else [],
        whole=apart if which == "whole" else [],
        bytes=0,
        own_bytes=sum(e["own_bytes"] for e in kept),
        files=[],
    )


def _count(record: TwinInfo, shared: int, experts: Sequence[int]) -> None:
    """Enter the bytes of the shared expert and of every difference."""
    record["shared"]["bytes"], record["bytes"] = shared, shared + sum(experts)
    for expert, own in zip(record["experts"], experts, strict=True):
        expert["bytes"] = own


def _planned(plan: Report, looks: Sequence[Report], record: TwinInfo, out: Path, warnings: Sequence[str]) -> Report:
    """The plan of the shared expert, and what the differences take at most: they are looked at beside the base."""
    written = [look.data["write_bytes"] for look in looks]
    _count(record, plan.data["write_bytes"], written)
    notes = [[title, f"at most {text}" if title != "shared" else text] for title, text in _sized(record)]
    names = [expert["name"] for expert in record["experts"]]
    ranks = [(n, text) for n, look in zip(names, looks, strict=True) for t, text in look.data["notes"] if t == "ranks"]
    notes += (
        [["ranks", ranks[0][1]]]
        if len({text for _, text in ranks}) == 1
        else [["ranks", f"{n}: {t}"] for n, t in ranks]
    )
    folders = [(SHARED, plan), *((f"{EXPERTS}/{n}", look) for n, look in zip(names, looks, strict=True))]
    budgets = [one.data["budget"] for _, one in folders]
    data = {
        **plan.data,
        "title": "twin make",
        "notes": [*notes, *_left_out(record)],
        "warnings": [*plan.warnings, *warnings],
        "read_bytes": sum(one.data["read_bytes"] for _, one in folders),
        "write_bytes": record["bytes"],
        "shards": [
            {**shard, "file": f"{folder}/{shard['file']}"} for folder, one in folders for shard in one.data["shards"]
        ],
        "budget": max(budgets, key=lambda budget: budget["peak_bytes"]),
        "twin": record,
    }
    return Report(json.dumps(data), out, dry=True)


def _names(experts: Sequence[str | PathLike[str]]) -> list[str]:
    """What each expert is called."""
    if isinstance(experts, str | PathLike):
        raise UsageError(f"expected a list of experts, found `{fspath(experts)}`; write [{fspath(experts)!r}]")
    if not experts:
        raise UsageError("expected at least one expert, found none")
    names = [_name(expert) for expert in experts]
    for i, name in enumerate(names):
        if name in names[:i]:
            first, second = experts[names.index(name)], experts[i]
            both = f"`{fspath(first)}` and `{fspath(second)}`"
            raise UsageError(f"two experts are called `{name}`: {both}; rename one of their folders")
    return names


def _name(model: str | PathLike[str]) -> str:
    """What a model is called: by its folder, or by its name on a hub."""
    found = model_of(model)
    label = found.label(called(found.path)) if isinstance(found, Reference) else called(found)
    return label.replace("/", "--")


def _parameters(method: str, given: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """The parameters of the merge, those of the paper where nothing is said.

    Raises:
        UsageError: if there are not as many values as experts.
    """
    out = dict(given)
    if method == "task_arithmetic":
        out = {"weight": 1.0, "lambda": LAMBDA} | out
    for name in _by_expert(method):
        value = out.get(name)
        if isinstance(value, list | tuple) and len(value) != experts:
            raise UsageError(f"{name}: expected one value for each of {experts} experts, found {len(value)}", at=name)
    return out


def _by_expert(method: str) -> list[str]:
    """The parameters of a method that every model has its own of; none of a method that there is not."""
    found = next((spec for spec in methods() if spec["name"] == method), None)
    return [] if found is None else [p["name"] for p in found["parameters"] if p["per_input"]]


def _config(
    method: str, base: str | PathLike[str], experts: Sequence[str | PathLike[str]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """The config of the merge."""
    apart = {n for n in _by_expert(method) if isinstance(given.get(n), list | tuple)}

    def model(i: int) -> dict[str, Any]:
        own = {name: given[name][i] for name in sorted(apart)}
        return {"model": fspath(experts[i])} | ({"parameters": own} if own else {})

    models = [model(i) for i in range(len(experts))]
    together = {name: value for name, value in given.items() if name not in apart}
    config = {"merge_method": method, "models": models} | ({"parameters": together} if together else {})
    takes = next((spec["base"] for spec in methods() if spec["name"] == method), "required")
    whose = {"required": base, "optional": base, "first": experts[0]}.get(takes)
    return config | ({} if whose is None else {"base_model": fspath(whose)})


def _notes(said: TwinInfo) -> list[list[str]]:
    """What it came to, for people."""
    return [*_sized(said), *_left_out(said)]


def _sized(said: TwinInfo) -> list[list[str]]:
    """The bytes of the shared expert, of every difference, and of all."""

    def share(part: int, of: int) -> str:
        return f"{part:,} bytes, {100 * part / max(of, 1):.1f} % of"

    return [
        ["shared", f"{said['shared']['method']}, {said['shared']['bytes']:,} bytes"],
        *(
            [e["name"], f"{share(e['bytes'], e['own_bytes'])} its {e['own_bytes']:,} as it was"]
            for e in said["experts"]
        ),
        ["all", f"{share(said['bytes'], said['own_bytes'])} the experts' {said['own_bytes']:,}"],
    ]


def _left_out(said: TwinInfo) -> list[list[str]]:
    """What is excluded."""
    if not said["excluded"]:
        return []
    many = f"{len(said['excluded'])} tensor" + ("" if len(said["excluded"]) == 1 else "s")
    return [["excluded", f"{many} (heads, biases, what has no arithmetic): as the shared expert has them"]]
