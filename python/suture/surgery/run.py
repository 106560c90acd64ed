"""What every verb that writes does: compile the recipe, look at the plan, run it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture import _core
from suture.errors import SutureError, UsageError
from suture.recipe import Config, as_json, check_values
from suture.recipe.vocabulary import template_of
from suture.reference import Reference, plain
from suture.results.report import Report
from suture.results.surgery import Budget
from suture.settings import Progress, Settings
from suture.sidecars.card import model_card
from suture.sidecars.carried import Beside, carried_over
from suture.surgery import device
from suture.surgery.aligned import Alignment, alignment, unlike, with_alignment


@dataclass(frozen=True)
class Job:
    """A compiled recipe with everything that goes beside its tensors.

    Attributes:
        plan: the plan.
        inputs: the models it reads.
        written: files to write beside the tensors, and their bytes.
        copied: files to copy there, and their sources.
        budget: what the run takes of memory.
        settings: how to do the work.
        config: the merge config, for the lines of its keys.
    """

    plan: _core.Plan
    inputs: list[Path]
    written: list[tuple[str, bytes]]
    copied: list[tuple[str, str]]
    budget: Budget
    settings: Settings
    config: Config | None

    def look(self, out: Path) -> Report:
        """The plan as a report."""
        beside = {
            "suture": _core.__version__,
            "plan": self.plan.hash,
            "budget": self.budget,
            "sidecars": [name for name, _ in self.written + self.copied],
        }
        # Put into the text as it is: to read a plan of 50,000 tensors and write it again took 0.8 s.
        text = f"{self.plan.to_json().removesuffix('}')}, {json.dumps(beside).removeprefix('{')}"
        return Report(text, out, dry=True, config=self.config, told=self.plan.warnings)

    def run(self, out: Path, progress: Progress | None) -> Report:
        """Run the plan into the folder `out`."""
        return run_together([(self, out)], progress)[0]


MOST_TOGETHER = 64
"""Outputs that are made side by side at most: each keeps a few files open."""


def run_together(jobs: Sequence[tuple[Job, Path]], progress: Progress | None) -> list[Report]:
    """Run jobs of the same settings side by side, each into its folder; what several of them read is read once.

    If one fails while tensors are made none of them is published; the same call resumes all.
    """
    total, began, settings = sum(job.plan.work_bytes for job, _ in jobs), time.monotonic(), jobs[0][0].settings
    texts = _core.run(
        [(job.plan, str(out), job.settings.overwrite, job.written, job.copied) for job, out in jobs],
        threads=settings.thread_count,
        io=settings.io,
        memory=device.shares(settings).engine,
        chunk=settings.chunk_elements,
        allow_nonfinite=settings.nan == "allow",
        progress=None if progress is None else lambda done: progress(min(done, total), total),
        device=device.opened(settings, [job.plan for job, _ in jobs]),
    )
    seconds = time.monotonic() - began
    return [Report(text, out, config=job.config, seconds=seconds) for text, (job, out) in zip(texts, jobs, strict=True)]


def together(jobs: Sequence[Job]) -> list[Sequence[Job]]:
    """Which of some jobs to run side by side: all, where two read the same model and the memory is enough for all."""
    if len(jobs) > MOST_TOGETHER:
        return [group for i in range(0, len(jobs), MOST_TOGETHER) for group in together(jobs[i : i + MOST_TOGETHER])]
    read = [path for job in jobs for path in set(job.inputs)]
    if len(set(read)) == len(read):
        return [[job] for job in jobs]
    settings = jobs[0].settings
    try:
        device.budget([job.plan for job in jobs], settings)
    except UsageError:
        return [[job] for job in jobs]
    return [jobs]


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

    Raises:
        UsageError: if the recipe is wrong, with its line in the config, or a setting, without one.
        SutureError: if an input is not sound.
    """
    if "swap" in recipe or "copy" in recipe:
        settings.refuse_those_of_merges()
    device.check(settings)
    try:
        check_values(recipe.get("swap", recipe.get("copy", recipe)))
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
    lent = None if tokenizer is None else _core.Checkpoint(plain(tokenizer)).path
    try:
        change = json.loads(plan.config_json())
        asked = template if template is not None else template_of(recipe)
        side = _side_files(recipe, inputs, change, lent, found, asked, settings)
    except UsageError as e:
        raise (config.locate(e) if config else e) from None
    written = [*side.written, *beside]
    if settings.model_card:
        written.append(("README.md", model_card(recipe, inputs)))
    return Job(plan.telling(side.told, side.notes), inputs, written, side.copied, budget, settings, config)


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
    base = Path(plain(recipe["base_model"])) if isinstance(recipe.get("base_model"), str | Reference) else None
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


def is_file(out: str | PathLike[str]) -> bool:
    """Whether an output is to be one file of tensors, without anything beside it but its report."""
    return fspath(out).endswith(".safetensors") and not Path(out).is_dir()


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
    return replace(settings, shard_size=10**17)


def carry_out(job: Job, out: str | PathLike[str], dry_run: bool, progress: Progress | None) -> Report:
    """Run a job into the folder `out`, or with `dry_run` look at it: what is in its way is then a warning."""
    if is_file(out):
        job = replace(job, written=[], copied=[])
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
