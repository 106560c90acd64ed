"""Several outputs of one call, each a folder in OUT: all are planned and checked before the first is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path

from suture.errors import SutureError, UsageError
from suture.recipe import OUTPUTS
from suture.results.report import Report
from suture.settings import Progress, Settings
from suture.surgery.assembly import Assembly, compiled
from suture.surgery.job import refuse_stores
from suture.surgery.ledger import Ledger, in_the_way, remove_output, stale, write_whole
from suture.surgery.room import check_inputs, check_room
from suture.surgery.run import run_together, together, with_warnings


def assemble_all(
    made: Mapping[str, Assembly],
    out: str | PathLike[str],
    *,
    settings: Settings | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Carry assemblies out, each into the folder of its name in `out`, where outputs.json lists them at the end.

    What an interrupted call has made is its own: the same call goes on.

    Raises:
        UsageError: if a setting is wrong, or a name is none for a folder.
        SutureError: if a model is not sound, a place is taken, or an output cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    settings = settings or Settings()
    refuse_stores(out)
    settings.refuse_parts("several outputs are made, each as a whole")
    for name in made:
        if (
            name in ("", OUTPUTS)
            or name.startswith(".")
            or "/" in name
            or "\0" in name
            or name.endswith(".safetensors")
        ):
            raise UsageError(f"`{name}`: is no name for a folder of the output", at="out")
    folder, places = Path(out), {name: Path(out) / name for name in made}
    ledger, there = Ledger(folder), folder.exists()
    found = {name: compiled(own, places[name], settings) for name, own in made.items()}
    try:
        problems: list[SutureError] = in_the_way(folder / OUTPUTS, "outputs", settings.overwrite)
        begun = [folder / name for name in ledger.names if name not in made and (folder / name).exists()]
        if begun and not settings.overwrite:
            message = "is of another call, which did not end: call that again, or pass --overwrite"
            problems.append(SutureError(f"{begun[0]}: {message}", begun[0]))
        jobs = {}
        for name, (recipe, job, _) in found.items():
            ours = ledger.owns(name, places[name], recipe, settings)
            how = replace(job.settings, overwrite=settings.overwrite or ours)
            jobs[name] = replace(job, settings=how)
            try:
                job.plan.check_target(str(places[name]), how.overwrite)
            except SutureError as e:
                problems.append(e)
        problems += check_inputs([(n, places[n], job.inputs) for n, job in jobs.items()])
        problems += check_room([(places[n], job.plan.write_bytes) for n, job in jobs.items()])
        if dry_run:
            looks = {name: job.look(places[name]) for name, job in jobs.items()}
            report = Report(_listed(looks), folder, dry=True, parts=looks)
            return with_warnings(report, [str(p) for p in problems])
        if problems:
            raise problems[0]
        for name, (recipe, job, _) in found.items():
            ledger.note(name, recipe, settings, job.plan.hash)
        reports: dict[str, Report] = {}
        names = iter(jobs)
        for group in together(list(jobs.values())):
            own = [next(names) for _ in group]
            done = run_together([(jobs[n], places[n]) for n in own], progress)
            reports |= dict(zip(own, done, strict=True))
        told = []
        for place in [*begun, *stale(folder, OUTPUTS, set(made))] if settings.overwrite else ():
            told += [f"{p}: is none of ours, and was left there" for p in remove_output(place)]
        text = _listed(reports, told)
        write_whole(folder / OUTPUTS, text)
        ledger.close()
        return Report(text, folder, parts=reports)
    finally:
        # What was computed for an output is the same folder when the call goes on: it is made again.
        for _, _, given in found.values():
            if given is not None and (given.new or not dry_run):
                shutil.rmtree(given.folder, ignore_errors=True)
        if dry_run and not there:
            with suppress(OSError):
                folder.rmdir()


def _listed(reports: Mapping[str, Report], told: list[str] | None = None) -> str:
    """outputs.json: what there is, and the warnings of all."""
    titles = {name: report.data["title"] for name, report in reports.items()}
    warnings = [*(told or ()), *(f"{name}: {w}" for name, report in reports.items() for w in report.warnings)]
    return json.dumps({"schema": 1, "outputs": titles, "warnings": warnings}, indent=2) + "\n"
