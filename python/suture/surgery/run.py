"""What every verb that writes does: compile the recipe, look at the plan, run it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError
from suture.escape import shown_in
from suture.recipe import Config, as_json, check_values, verb_of
from suture.recipe.vocabulary import template_of
from suture.reference import Reference, plain
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.sidecars.card import model_card
from suture.sidecars.carried import Beside, carried_over
from suture.sidecars.files import as_bytes
from suture.sidecars.gguf import Given, folder_of, is_gguf, lacking
from suture.surgery import device
from suture.surgery.aligned import Alignment, alignment, unlike, with_alignment
from suture.surgery.job import Job, is_file, run_together, together

__all__ = [
    "Apart",
    "Job",
    "carry_out",
    "copy_of",
    "for_output",
    "is_file",
    "prepare",
    "run_together",
    "together",
    "with_warnings",
]

#: Says what goes beside an output: of the folders of its models, and what the plan says of config.json.
Apart = Callable[[Sequence[Path], Mapping[str, Any]], Beside]


def prepare(
    recipe: dict[str, Any],
    settings: Settings,
    *,
    config: Config | None = None,
    beside: Sequence[tuple[str, bytes]] = (),
    warnings: Sequence[str] = (),
    tokenizer: str | PathLike[str] | None = None,
    template: str | None = None,
    vocabulary: Alignment | None = None,
    tuned: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    notes: Sequence[tuple[str, str]] = (),
    apart: Apart | None = None,
) -> Job:
    """Compile a recipe.

    Args:
        recipe: what to do, with its models by their paths.
        settings: how to do the work.
        config: the merge config it comes from, for messages.
        beside: further files of the output, and their bytes.
        warnings: what the user should know besides what the plan says.
        tokenizer: the model whose tokenizer goes with the output, if not the one that lends its config.
        template: the chat template asked for, where the recipe does not say.
        vocabulary: the rows of the output's tables, if not what the recipe asks for.
        tuned: makes the output's config.json of what the plan makes of its model's.
        notes: what was found of the inputs, for the report: a title and a text each.
        apart: says what goes beside the output, where its models are parts that nothing has to agree in.

    Raises:
        UsageError: if the recipe is wrong, with its line in the config, or a setting, without one.
        SutureError: if an input is not sound.
    """
    if (verb := verb_of(recipe)) is not None:
        settings.refuse_those_of_merges()
        if settings.to is not None:
            recipe = {**recipe, verb: {**recipe[verb], "to": settings.to}}
    device.check(settings)
    try:
        check_values(recipe if verb is None else recipe[verb])
        found = vocabulary or alignment(recipe, settings)
        rows = None if found is None else found.text
        plan = _core.Plan(as_json(recipe), settings.shard_bytes, settings.seed, warnings, rows)
    except UsageError as e:
        if settings.dtype is not None and e.at == "out_dtype":
            # The dtype was put into the recipe by us: the config does not hold it.
            raise UsageError(f"dtype: {str(e).removeprefix(f'{e.at}: ')}", at="dtype") from None
        raise (config.locate(e) if config else e) from None
    except SutureError as e:
        raise unlike(e, recipe) from None
    budget = device.budget([plan], settings)
    inputs = plan.paths
    given = Given(settings.config_json, settings.tokenizer_json)
    for name, file in (("config", given.config), ("tokenizer", given.tokenizer)):
        if file is not None and not any(is_gguf(Path(path)) for path in inputs):
            raise UsageError(f"{name}: goes with a GGUF model that lacks it, and no model here is one", at=name)
    lent = None if tokenizer is None else folder_of(_core.Checkpoint(plain(tokenizer)).path, given)
    try:
        change = json.loads(plan.config_json())
        asked = template if template is not None else template_of(recipe)
        folders = [folder_of(path, given) for path in inputs]
        lacks = lacking(inputs[change["from"]], given) if apart is None else []
        if lacks and settings.shard_size != _ONE_FILE:
            raise SutureError("\n".join(lacks), inputs[change["from"]])
        if apart is not None:
            side = apart(folders, change)
            if found is not None:
                side = replace(side, told=[*found.told, *side.told], notes=[*found.notes, *side.notes])
        else:
            side = _side_files(recipe, folders, change, lent, found, asked, settings)
    except UsageError as e:
        raise (config.locate(e) if config else e) from None
    written = [*side.written, *beside]
    if tuned is not None:
        written = [(n, as_bytes(tuned(json.loads(data))) if n == "config.json" else data) for n, data in written]
    if settings.model_card:
        written.append(("README.md", model_card(recipe, inputs)))
    # What is written for others to read names no folder that goes with this process.
    written = [(name, shown_in(data)) for name, data in written]
    told = list(side.told)
    form = (change.get("encoded") or {}).get("form")
    if form in ("fp8", "mxfp4") and (settings.shard_size == _ONE_FILE or "config.json" not in dict(written)):
        told.append(f"no config.json goes with the weights, which would say to loaders that they are {form}")
    if form == "gguf:q8_0":
        from suture.sidecars.ggml import said

        files: dict[str, bytes | Path] = {name: Path(path) for name, path in side.copied}
        own = json.loads(dict(written).get("config.json", b"{}"))
        header = said(own, files | dict(written), inputs[change["from"]].name)
        plan, told = plan.in_gguf(header.whole, header.factors), [*told, *header.told]
    return Job(plan.telling(told, [*side.notes, *notes]), inputs, written, side.copied, budget, settings, config)


def _side_files(
    recipe: Mapping[str, Any],
    inputs: Sequence[Path],
    change: Mapping[str, Any],
    lent: Path | None,
    vocabulary: Alignment | None,
    asked: str | None,
    settings: Settings,
) -> Beside:
    """What goes beside the tensors: whose tokenizer, with which chat template."""
    base = folder_of(plain(recipe["base_model"])) if isinstance(recipe.get("base_model"), str | Reference) else None
    told: list[str] = []
    notes: list[tuple[str, str]] = []
    if vocabulary is not None:
        lent, told, notes = vocabulary.lead, [*vocabulary.told], [*vocabulary.notes]
    one = vocabulary is not None and vocabulary.files is not None
    side = carried_over(inputs, change, tokenizer=lent, mixed=settings.allow_mixed, one_vocabulary=one)
    if vocabulary is not None:
        side = with_alignment(side, vocabulary, inputs[change["from"]])
    if asked is not None:
        from suture.sidecars.template import lacks, template, with_template

        found, whose = template(asked, inputs, base)
        notes.append(("template", whose))
        if found is not None:
            told += lacks(side, found)
            side = with_template(side, found)
    return replace(side, told=[*told, *side.told], notes=notes)


def copy_of(model: str | Reference, title: str, dtype: str | None, **more: Any) -> dict[str, Any]:
    """The recipe of a model as it is, its adapters folded in, under the `title` of its report."""
    asked = {"model": model, "title": title, "dtype": dtype}
    return {"copy": {key: value for key, value in asked.items() if value is not None} | more}


#: More than any model has: the size of the shards of an output that is one file.
_ONE_FILE = 10**17


def for_output(out: str | PathLike[str], settings: Settings) -> Settings:
    """The settings for an output: what goes into one file has one shard.

    Raises:
        UsageError: if a size of shards is asked for, or a model card.
    """
    if not is_file(out):
        return settings
    if settings.shard_size is not None or settings.model_card:
        option = "shard_size" if settings.shard_size is not None else "model_card"
        raise UsageError(f"{option}: the output is a single file; give a folder instead of `{fspath(out)}`", at=option)
    return replace(settings, shard_size=_ONE_FILE)


def carry_out(job: Job, out: str | PathLike[str], dry_run: bool, progress: Progress | None) -> Report:
    """Run a job, or a part of it, into the folder `out`; with `dry_run` look: what is in its way is then a warning."""
    if "://" in fspath(out):
        # Most outputs go to folders.
        from suture.store import is_url, refuse_unknown
        from suture.surgery import to_store

        refuse_unknown(fspath(out))
        if is_url(fspath(out)):
            return to_store.carry_out(job, fspath(out), dry_run, progress)
    if is_file(out):
        job = replace(job, written=[], copied=[])
    if job.settings.part is not None:
        # Most runs have no parts.
        from suture.surgery import parts

        return parts.carry_out(job, out, dry_run, progress)
    if job.settings.ray is not None:
        from suture.surgery import cluster

        return cluster.carry_out(job, out, dry_run, progress)
    if not dry_run:
        return job.run(Path(out), progress)
    try:
        job.plan.check_target(fspath(out), job.settings.overwrite)
    except SutureError as e:
        return with_warnings(job.look(Path(out)), [str(e)])
    return job.look(Path(out))


def with_warnings(report: Report, warnings: Sequence[str]) -> Report:
    """A report with further warnings behind its own."""
    if not warnings:
        return report
    return replace(report, text=json.dumps({**report.data, "warnings": [*report.warnings, *warnings]}), told=None)
