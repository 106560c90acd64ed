"""Several merges in a config: what is made where and in which order, checked as a whole before anything is made."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.recipe import OUTPUTS, Config, made_names, with_made, with_models
from suture.recipe.all_of import TABLE
from suture.recipe.groups import ROUTING
from suture.reference import Reference, existing, model_of
from suture.results.report import Report
from suture.settings import FORMS, Progress, Settings
from suture.surgery.hollow import write_hollow
from suture.surgery.ledger import Ledger, in_the_way, remove_marked, remove_output, stale, write_whole
from suture.surgery.room import check_inputs, check_room, temporary_folder
from suture.surgery.run import Job, prepare, run_together, together, with_warnings


@dataclass(frozen=True)
class Step:
    """A merge of a config.

    Attributes:
        config: its document.
        place: the folder it goes to.
        recipe: the recipe, with the folders of what other documents make.
        needs: names of these.
    """

    config: Config
    place: Path
    recipe: dict[str, Any]
    needs: frozenset[str]

    @property
    def name(self) -> str:
        """What the config calls it; nothing for the one that goes to OUT itself."""
        return self.config.name or ""

    def told(self, warnings: list[str]) -> list[str]:
        """Warnings with the document's name in front, if it has one."""
        return [f"{self.name}: {w}" for w in warnings] if self.name else warnings


@dataclass(frozen=True)
class Beside:
    """A file that says more of several outputs, beside outputs.json.

    Attributes:
        name: what it is called.
        mark: a key that only such a file has: what lacks it is somebody else's.
        make: what it holds, by the plans of the outputs and their reports; of a dry run, which has no reports, nothing
            where it takes what is made.
        warnings: what the user should know of the whole.
    """

    name: str
    mark: str
    make: Callable[[Mapping[str, Report], Mapping[str, Report] | None], dict[str, Any] | None]
    warnings: list[str]


def recipe_of(config: Config, settings: Settings) -> dict[str, Any]:
    """A config's recipe, with the settings that decide what a tensor becomes."""
    routers = None if settings.routers_from is None else model_of(settings.routers_from)
    if isinstance(routers, str) and existing(routers, None) is None:
        raise UsageError(f"routers_from: no such file or folder: {routers}", at="routers_from")
    given: dict[str, Any] = {
        "out_dtype": settings.dtype,
        "to": settings.to,
        "missing": settings.missing,
        "routers_from": routers,
    }
    given |= {"ignore_unknown": settings.ignore_unknown or None, "experts": settings.experts}
    return {**config.recipe, **{key: value for key, value in given.items() if value is not None}}


def merge_documents(
    configs: list[Config],
    out: Path,
    settings: Settings,
    dry_run: bool,
    progress: Progress | None,
    beside: Beside | None = None,
) -> Report:
    """Run the merges of a config in the order they need each other.

    If one of them has no name, it goes to `out`, and the others are made in a hidden folder beside it and removed at
    the end. If all have names, each goes to a folder of its own in `out`, and outputs.json lists them, with the file
    `beside` it.
    """
    final = next((c for c in configs if c.name is None), None)
    used = {name for c in configs for name in made_names(c.recipe)}
    for c in configs:
        if final is not None and c.name is not None and c.name not in used:
            raise c.locate(UsageError(f"no merge uses `{c.name}`; use it as a model, or give all merges a name"))
    target = out.resolve()
    folder = out if final is None else target.parent / f".{target.name}.suture-stages"
    steps = _steps(configs, out, folder, settings)
    ledger = Ledger(folder)
    looks, problems = _look(steps, settings, ledger)
    if final is None:
        problems = [*in_the_way(out / OUTPUTS, "outputs", settings.overwrite), *problems]
    if beside is not None:
        # An interrupted run may have written it, and made nothing else that is not to be made again.
        more = in_the_way(out / beside.name, beside.mark, settings.overwrite or ledger.begun)
        problems += [p for p in more if str(p) not in map(str, problems)]
    # What can be known of it now is: it may find a mistake, and before anything is made.
    held = None if beside is None else beside.make(looks, None)
    told = [] if beside is None else [*beside.warnings]
    old = _old(out, steps, settings) if final is None else []
    if dry_run:
        told += [f"{place}: is of an earlier run of several merges, and will be removed" for place in old]
        report = _planned(steps, looks, problems, out, told)
        return report if beside is None or held is None else replace(report, beside={beside.name: held})
    if problems:
        raise problems[0]
    reports: dict[str, Report] = {}
    while len(reports) < len(steps):
        ready = [s for s in steps if s.name not in reports and s.needs <= reports.keys()]
        jobs: list[Job] = []
        for step in ready:
            # What goes to OUT is made last and alone: all others are needed for it.
            known = [] if step.name else [w for s in steps if s.name for w in s.told(reports[s.name].warnings)]
            ours = ledger.owns(step.name, step.place, step.recipe, settings)
            how = replace(settings, overwrite=settings.overwrite or ours)
            jobs.append(prepare(step.recipe, how, config=step.config, warnings=known))
        rest = iter(ready)
        for group in together(jobs):
            made = [(next(rest), job) for job in group]
            for step, job in made:
                if step.name:
                    ledger.note(step.name, step.recipe, settings, job.plan.hash)
            found = run_together([(job, step.place) for step, job in made], progress)
            reports |= {step.name: report for (step, _), report in zip(made, found, strict=True)}
    if final is None:
        # Before the list that knows of them is replaced. What is no file of theirs stays.
        told += [f"{p}: is none of ours, and was left there" for place in old for p in remove_output(place)]
        for name, mark in _MARKS.items():
            if beside is None or name != beside.name:
                remove_marked(out / name, mark)
        text = _outputs(steps, reports, told)
        if beside is not None:
            held = held if held is not None else beside.make(looks, reports)
            # First: where outputs.json stands all is done.
            write_whole(out / beside.name, json.dumps(held, indent=2) + "\n")
        write_whole(out / OUTPUTS, text)
        ledger.close()
        found_beside = {} if beside is None or held is None else {beside.name: held}
        return Report(text, out, parts=reports, beside=found_beside)
    left = [p for s in steps if s.name for p in remove_output(s.place)]
    ledger.close()
    return reports[""] if not left else with_warnings(reports[""], [f"{left[0]}: is none of ours, and was left there"])


#: Files beside outputs.json, and a key that only such a file has.
_MARKS = {TABLE: "left_out", ROUTING: "routes"}


def _old(out: Path, steps: list[Step], settings: Settings) -> list[Path]:
    """Outputs of an earlier config in the same place, which this one replaces; not those that it reads."""
    if not settings.overwrite:
        return []
    read: set[Path] = set()

    def note(model: Any, _: str) -> Any:
        for place in (model.path, *(path for path, _ in model.adapters)) if isinstance(model, Reference) else (model,):
            if isinstance(place, str | os.PathLike):
                read.add(Path(place).resolve())
        return model

    for step in steps:
        with_models(step.recipe, note)
    found = [place.resolve() for place in stale(out, OUTPUTS, {s.name for s in steps})]
    return [place for place in found if not any(place == r or place in r.parents for r in read)]


def _for_step(config: Config, configs: list[Config], settings: Settings) -> Settings:
    """The settings for a merge: what is made for others alone, and removed at the end, is not written quantised."""
    for_others = config.name is not None and any(c.name is None for c in configs)
    return replace(settings, to=None) if for_others and settings.to in FORMS else settings


def _steps(configs: list[Config], out: Path, folder: Path, settings: Settings) -> list[Step]:
    """The merges, each after those it needs."""
    places = {c.name: folder / c.name for c in configs if c.name is not None}
    used = {name for c in configs for name in made_names(c.recipe)}
    steps: dict[str | None, Step] = {}
    while len(steps) < len(configs):
        ready = [c for c in configs if c.name not in steps and made_names(c.recipe) <= steps.keys()]
        if not ready:
            names = ", ".join(f"`{c.name}`" for c in configs if c.name not in steps)
            raise configs[0].locate(UsageError(f"{names} need each other in a circle"))
        config = ready[0]
        needs = frozenset(made_names(config.recipe))
        place = out if config.name is None else places[config.name]
        recipe = recipe_of(config, _for_step(config, configs, settings))
        if recipe.get("to") in FORMS and config.name in used:
            what = f"to: `{config.name}` is written as {recipe['to']}, and another merge reads it"
            raise config.locate(UsageError(f"{what}, which would round it twice; write it apart, or in a dtype"))
        steps[config.name] = Step(config, place, with_made(recipe, places), needs)
    # What goes to OUT comes last: it says what was to be said of the others.
    return sorted(steps.values(), key=lambda s: s.name == "")


def _look(steps: list[Step], settings: Settings, ledger: Ledger) -> tuple[dict[str, Report], list[SutureError]]:
    """Compile every merge, those too that need what is not made yet, and check where they go.

    Raises:
        SutureError: for any mistake in a recipe or an input. What is in the way of an output is returned.
    """
    looks: dict[str, Report] = {}
    jobs: list[tuple[Step, Job]] = []
    problems: list[SutureError] = []
    with temporary_folder() as temporary:
        folder = Path(temporary).resolve()
        # Under the same last names: models are called by these.
        stand_ins = {str(s.place): str(folder / s.place.parent.name / s.name) for s in steps if s.name}
        for step in steps:
            try:
                recipe = with_models(step.recipe, lambda model, _: stand_ins.get(model, model))
                job = prepare(recipe, settings, config=step.config)
            except SutureError as e:
                raise _told_of(e, stand_ins) from None
            look = job.look(step.place)
            if any(step.name in s.needs for s in steps):
                write_hollow(Path(stand_ins[str(step.place)]), look.data, job.written, job.copied)
            try:
                ours = ledger.owns(step.name, step.place, step.recipe, settings)
                job.plan.check_target(str(step.place), settings.overwrite or ours)
            except SutureError as e:
                look, problems = with_warnings(look, [str(e)]), [*problems, e]
            jobs.append((step, job))
            looks[step.name] = _with_places(look, stand_ins) if step.needs else look
        known = [(s.name, s.place, [p for p in j.inputs if folder not in p.parents]) for s, j in jobs]
        room = [(s.place, j.plan.write_bytes) for s, j in jobs]
        return looks, [*problems, *check_inputs(known), *check_room(room)]


def _told_of(error: SutureError, stand_ins: Mapping[str, str]) -> SutureError:
    """An error that names the places where models will be, not those of their stand-ins."""
    message, path = str(error), error.path and str(error.path)
    for place, stand_in in stand_ins.items():
        message, path = message.replace(stand_in, place), path and path.replace(stand_in, place)
    return type(error)(message, path, error.tensor, error.at)


def _with_places(look: Report, stand_ins: Mapping[str, str]) -> Report:
    """A plan that names the places where models will be; its hash is known when they are made."""
    text = look.text
    for place, stand_in in stand_ins.items():
        text = text.replace(json.dumps(stand_in)[1:-1], json.dumps(place)[1:-1])
    return replace(look, text=json.dumps({**json.loads(text), "hash": None, "plan": None}))


def _planned(
    steps: list[Step], looks: dict[str, Report], problems: list[SutureError], out: Path, known: list[str]
) -> Report:
    """What a dry run returns: problems of the whole stand with what is made last, what is `known` of it in front."""
    last = steps[-1].name
    said = {w for look in looks.values() for w in look.warnings}
    looks[last] = with_warnings(looks[last], [str(p) for p in problems if str(p) not in said])
    named = {name: look for name, look in looks.items() if name}
    if "" not in looks:
        return Report(_outputs(steps, looks, known), out, dry=True, parts=named)
    told = [w for s in steps for w in s.told(looks[s.name].warnings)]
    return replace(looks[""], text=json.dumps({**looks[""].data, "warnings": told}), told=told, parts=named)


def _outputs(steps: list[Step], reports: Mapping[str, Report], known: list[str]) -> str:
    """outputs.json, with the warnings of all outputs behind those `known` of the whole."""
    titles = {s.name: reports[s.name].data["title"] for s in steps}
    warnings = [*known, *(w for s in steps for w in s.told(reports[s.name].warnings))]
    return json.dumps({"schema": 1, "outputs": titles, "warnings": warnings}, indent=2) + "\n"
