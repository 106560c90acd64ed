"""Parts of an output, made by several processes or machines that share nothing but a folder.

:func:`begin` leaves the job in a folder beside the output, :func:`run_part` makes a part (or with `round` scans it),
:func:`settle` joins what a round has found, :func:`finish` puts the parts together. A process that makes a part needs
no more than the folder and the number of the part; the models must lie at the same paths.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, cast

from suture import _core
from suture.errors import SutureError, UsageError
from suture.escape import shown
from suture.results.parts import Division, Manifest, Settlement
from suture.results.report import Report
from suture.settings import Progress, Settings, size
from suture.surgery import device
from suture.surgery import parts_folder as at
from suture.surgery.job import Job, is_file
from suture.surgery.parts_finish import check_digests, is_published, is_there, publish
from suture.surgery.parts_job import SAME, Parts, check_inputs, opened, read_job
from suture.surgery.parts_report import of_parts

__all__ = ["Parts", "begin", "carry_out", "finish", "make", "opened", "report_of", "run_part", "settle"]


def begin(job: Job, out: str | PathLike[str], n: int) -> Parts:
    """Leave a job in the folder of its parts; where that is done already, for the same job, nothing is written.

    Args:
        job: the job, of :func:`suture.surgery.run.prepare`.
        out: the output.
        n: how many parts.

    Raises:
        UsageError: if there is no such number of parts.
        SutureError: if parts of another job lie there, or the output cannot be written.
    """
    if not 1 <= n <= 100_000:
        raise UsageError(f"part: expected 1 to 100000 parts, found {n}", at="part")
    settings = job.settings
    folder = at.folder_of(out)
    job.plan.check_place(str(out), settings.overwrite)
    if is_file(out):
        job = replace(job, written=[], copied=[])
    computes = None if settings.device == "cpu" else settings.device
    outline, shards, index = _core.outline_json(job.plan, str(out), (job.written, job.copied), computes)
    said: dict[str, Any] = {
        "schema": 1,
        "suture": _core.__version__,
        "plan": job.plan.hash,
        "parts": n,
        **{key: getattr(settings, key) for key in SAME},
        "beside": json.loads(outline)["beside"],
    }
    there = read_job(folder)
    if there is None:
        written = [*job.written, *([index] if index is not None else [])]
        said |= {
            "overwrite": settings.overwrite,
            "host": at.host(),
            "inputs": [file for model in json.loads(shown(job.plan.files_json())) for file in model],
            "shards": json.loads(shards),
            "divided": _divided(job.plan, n),
            "rounds": _core.settle_parts(job.plan, n)[1],
            "files": [*(name for name, _ in written), *(name for name, _ in job.copied)],
        }
        at.put_folder(
            folder / at.JOB,
            [
                ("job.json", json.dumps(said, indent=1)),
                (at.PLAN, shown(json.dumps(_absolute(json.loads(job.plan.to_json()))))),
                (at.OUTLINE, shown(outline)),
                *((f"{at.BESIDE}/{i}", data) for i, (_, data) in enumerate(written)),
                *((f"{at.BESIDE}/{i + len(written)}", Path(path)) for i, (_, path) in enumerate(job.copied)),
            ],
        )
        there = read_job(folder)
    if there is None:
        raise SutureError(f"{folder}: is gone: it was removed meanwhile; run this again", folder)
    parts = Parts(folder, there)
    parts.same(there, folder)
    for key in ("plan", "parts", *SAME, "beside"):
        if there[key] != said[key]:
            differs = _differing(there[key], said[key])
            if key == "plan" and (what := _unlike(folder, job.plan)) is not None:
                key, differs = what
            message = f"was begun with {key} {differs[0]}, and this is with {differs[1]}; all parts need the same"
            raise SutureError(f"{folder}: {message}: remove it to begin anew", folder)
    return parts


def run_part(
    folder: str | PathLike[str],
    i: int,
    settings: Settings | None = None,
    progress: Progress | None = None,
    *,
    round: int | None = None,
) -> Manifest:
    """Make part `i` (from 1) of the job in a folder, or with `round` scan it.

    The part may be made before, again or at the same time elsewhere: whoever has it made first is believed.

    Args:
        folder: the folder of the parts.
        i: the number of the part.
        settings: memory, threads, io and chunk; the rest is the job's.
        progress: called with the bytes done and the bytes in all, a few times a second.
        round: the number of the round, from 1.

    Raises:
        UsageError: if there is no such part, or no such round is to come.
        SutureError: if an input has changed, or the part cannot be written.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    parts = opened(folder)
    settings = replace(settings or Settings(), **{key: parts.job[key] for key in SAME})
    return make(parts, parts.plan, i, settings, progress, round)


def make(
    parts: Parts, plan: _core.Plan, i: int, settings: Settings, progress: Progress | None, round: int | None = None
) -> Manifest:
    """As :func:`run_part`, of a plan that is at hand."""
    if not 1 <= i <= parts.count:
        raise UsageError(f"part: expected 1 to {parts.count}, found {i}", at="part")
    seen = parts.inputs(plan)
    own = parts.divide()[i - 1]
    total = own["read_bytes"] + own["write_bytes"]
    memory = device.shares(settings).engine
    how = (settings.thread_count, settings.io, memory, settings.chunk_elements, settings.nan == "allow")
    ticks = None if progress is None else lambda done: progress(min(done, total), total)
    began, settled = time.monotonic(), parts.settled()
    about: dict[str, Any] = {"schema": 1, **{key: parts.job[key] for key in ("suture", "plan", "parts")}, "part": i}
    about |= {"host": at.host(), "inputs": seen}
    due = parts.rounds
    if round is not None:
        path = parts.folder / f"round-{round}-part-{i}.json"
        if round != due:
            if due is None or round < due:
                message = "was settled already" if round <= settled["rounds"] else "is not needed: parts can be made"
                raise UsageError(f"round: {round} {message}; run this without it", at="round")
            raise UsageError(f"round: {round} comes after round {due}; give --round {due} now", at="round")
        found = at.read(path)
        if found is None:
            text = _core.scan_part(plan, (i - 1, parts.count), settled["settled"], how, ticks)
            found = {**about, "round": round, "seconds": time.monotonic() - began, "found": text}
            at.put(path, json.dumps(found), first=True)
        parts.same(found, path)
        return cast("Manifest", found)
    if due is not None:
        scan = f"--part 1/{parts.count} --round {due} to --part {parts.count}/{parts.count} --round {due}"
        message = f"what its method counts lies in several parts; first run it with {scan}, then"
        raise UsageError(f"part: {message} `suture settle {parts.out}`", at="part")
    manifest = parts.manifest(i)
    if manifest is not None:
        if stands(parts, manifest):
            return manifest
        (parts.folder / f"part-{i}.json").unlink(missing_ok=True)
    made = parts.folder / f"made-{i}.{secrets.token_hex(8)}"
    attempt, told = 0, None
    while told is None:
        # Processes of this machine lock the folder they work in; those of other machines have another.
        place = parts.folder / f"part-{i}.{at.machine()}.{attempt}"
        try:
            told = _core.make_part(
                plan,
                str(parts.out),
                (i - 1, parts.count),
                (str(place), str(made)),
                settled["settled"],
                how,
                ticks,
                device.opened(settings, [plan]),
            )
        except SutureError:
            if not (parts.folder / at.JOB).exists():
                at.remove(parts.folder)
                raise _gone(parts) from None
            raise
        manifest = parts.manifest(i)
        if told is None and manifest is not None:
            return manifest
        attempt += 1
    if not (parts.folder / at.JOB).exists():
        # Whoever put the parts together has not waited for this one.
        at.remove(parts.folder)
        raise _gone(parts)
    parts.inputs(plan)
    found = {**about, "seconds": time.monotonic() - began, "folder": made.name, **json.loads(shown(told))}
    if not at.put(parts.folder / f"part-{i}.json", json.dumps(found), first=True):
        # Another has made it too, and was first.
        shutil.rmtree(made, ignore_errors=True)
        manifest = parts.manifest(i)
        return manifest if manifest is not None else cast("Manifest", found)
    return cast("Manifest", found)


def settle(folder: str | PathLike[str]) -> Settlement:
    """Join what all parts have found in a round; says whether another is to come.

    Raises:
        UsageError: if no round is to come.
        SutureError: if a part has not scanned, or an input has changed.
    """
    parts = opened(folder)
    return settle_with(parts)


def settle_with(parts: Parts, plan: _core.Plan | None = None) -> Settlement:
    """As :func:`settle`, with the plan if it is at hand."""
    due, before = parts.rounds, parts.settled()
    if due is None:
        if before["rounds"]:
            return {"schema": 1, "rounds": before["rounds"], "wanted": False}
        raise UsageError(f"{parts.out}: there is nothing to settle: its parts can be made as they are")
    found = [at.read(parts.folder / f"round-{due}-part-{i}.json") for i in range(1, parts.count + 1)]
    missing = [i for i, one in enumerate(found, 1) if one is None]
    if missing:
        message = f"{_listed(missing, parts.count, 'has', 'have')} not scanned for round {due}"
        raise SutureError(f"{parts.out}: {message}; run the same command with {_commands(missing, parts.count, due)}")
    for i, one in enumerate(found, 1):
        parts.same(one, parts.folder / f"round-{due}-part-{i}.json")
    check_inputs([(parts.job["host"], parts.job["inputs"]), *((one["host"], one["inputs"]) for one in found)])
    texts = [one["found"] for one in found]
    rounds, wanted, text = _core.settle_parts(plan or parts.plan, parts.count, before["settled"], texts)
    about = {"schema": 1, **{key: parts.job[key] for key in ("suture", "plan", "parts")}}
    at.put(parts.folder / at.SETTLED, json.dumps({**about, "rounds": rounds, "wanted": wanted, "settled": text}))
    return {"schema": 1, "rounds": rounds, "wanted": wanted}


def finish(
    folder: str | PathLike[str],
    *,
    verify: bool = False,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Report:
    """Put the parts of an output together and publish it; nothing but the folder is needed.

    Args:
        folder: the folder of the parts.
        verify: read all shards again first, and compare them with their digests.
        settings: `overwrite` replaces what is there; how to read, for `verify`.
        progress: called with the bytes read and the bytes in all, for `verify`.

    Raises:
        SutureError: if a part is missing or damaged, or the output cannot be put in its place; the same call goes on.
    """
    # Its output may have been moved away since, and the parts made again.
    if (said := at.said(Path(folder))) is not None and is_there(at.out_of(Path(folder)), said):
        at.remove(Path(folder))
        return Report(said, at.out_of(Path(folder)))
    parts = opened(folder)
    settings = settings or Settings()
    found = {i: parts.manifest(i) for i in range(1, parts.count + 1)}
    missing = [i for i, one in found.items() if one is None]
    if missing:
        message = f"{_listed(missing, parts.count)} not made"
        do = f"run the same command with {_commands(missing, parts.count)}"
        if parts.out.exists() and not (settings.overwrite or parts.job["overwrite"]):
            do = f"to keep what lies at OUT remove {parts.folder}; to replace it {do} and --overwrite"
        raise SutureError(f"{parts.out}: {message}; {do}", parts.out)
    made = [one for one in found.values() if one is not None]
    seen = [(parts.job["host"], parts.job["inputs"]), *((one["host"], one["inputs"]) for one in made)]
    told = check_inputs(seen)
    text = of_parts(_outline(parts), parts.job, made, told, at.read(parts.folder / at.CLUSTER))
    if not is_published(parts, made, text):
        if verify:
            check_digests(parts, made, settings, progress)
        publish(parts, made, text, settings.overwrite or bool(parts.job["overwrite"]))
    at.put(parts.folder / at.JOB / at.SAID, text)
    left = at.remove(parts.folder)
    report = Report(text, parts.out)
    if left:
        note = f"{left[0]}: is none of suture's, and was left there"
        return Report(json.dumps({**report.data, "warnings": [*report.warnings, note]}), parts.out)
    return report


def _outline(parts: Parts) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads((parts.folder / at.JOB / at.OUTLINE).read_bytes()))


def report_of(parts: Parts, manifest: Manifest) -> Report:
    """What is to be said of one part: as of the whole, with its tensors alone."""
    outline = _outline(parts)
    own = parts.divide()[manifest["part"] - 1]
    which = f"{manifest['part']} of {parts.count}: "
    if "round" in manifest:
        outline["notes"].append(
            ["part", f"{which}round {manifest['round']} is scanned; once all are, `suture settle {parts.out}`"]
        )
        return Report(json.dumps({**outline, "tensors": {}, "part": _bare(manifest)}), parts.out)
    names = [shard["file"] for shard in manifest["shards"]]
    shards = "nothing to do" if not names else names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    outline["notes"].append(["part", f"{which}{shards}"])
    text = of_parts(outline, parts.job, [manifest], [])
    data = {**json.loads(text), "part": {**_bare(manifest), "read_bytes": own["read_bytes"]}}
    return Report(json.dumps(data), parts.out)


def _bare(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in ("tensors", "inputs", "found", "scales", "run")}


def carry_out(job: Job, out: str | PathLike[str], dry_run: bool, progress: Progress | None) -> Report:
    """Make the part of a job that its settings ask for, or with `dry_run` tell what it would be."""
    settings = job.settings
    asked = settings.parts_asked
    if asked is None:
        raise UsageError("part: none is asked for", at="part")
    i, n = asked
    if dry_run:
        report = job.look(Path(out))
        own = _divided(job.plan, n)[i - 1]
        what = f"reads at most {size(own['read_bytes'])}, writes {size(own['write_bytes'])}"
        notes = [*report.data["notes"], ["part", f"{i} of {n}: {what} in {len(own['shards'])} of the shards"]]
        return Report(json.dumps({**report.data, "notes": notes}), Path(out), dry=True, config=job.config)
    parts = begin(job, out, n)
    name = f"part-{i}.json" if settings.round is None else f"round-{settings.round}-part-{i}.json"
    before = at.read(parts.folder / name)
    made = make(parts, job.plan, i, settings, progress, settings.round)
    report = report_of(parts, made)
    if made != before:
        return report
    note = ["before", f"nothing was done: {'made' if settings.round is None else 'scanned'} on {made['host']} already"]
    return replace(report, text=json.dumps({**report.data, "notes": [*report.data["notes"], note]}))


def stands(parts: Parts, manifest: Manifest) -> bool:
    """Whether the shards of a part are where it says, or were moved already by a call that puts parts together."""
    staged = _core.staging_folder(str(parts.out))
    for path, shard in zip(parts.shards_of(manifest), manifest["shards"], strict=True):
        places = [path, *([staged / shard["file"]] if staged is not None else [])]
        if not any(p.is_file() and p.stat().st_size == shard["bytes"] for p in places):
            return False
    return True


def drop(parts: Parts, manifest: Manifest) -> None:
    """Remove a part that is elsewhere now: what is said of it here would stand for nothing."""
    for path in parts.shards_of(manifest):
        path.unlink()
    (parts.folder / f"part-{manifest['part']}.json").unlink()


def _divided(plan: _core.Plan, n: int) -> list[Division]:
    """What each of `n` parts of a plan reads and writes."""
    return cast("list[Division]", json.loads(plan.parts_json(n)))


def _absolute(plan: dict[str, Any]) -> dict[str, Any]:
    """A plan whose models are found from any folder."""
    for model in plan["models"]:
        for place in (model, *model.get("adapters", ())):
            if isinstance(place.get("path"), str):
                place["path"] = str(Path(place["path"]).absolute())
    return plan


def _differing(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values, or of two mappings the first key and what they have there."""
    if isinstance(a, dict) and isinstance(b, dict):
        key = next((k for k in (*a, *b) if a.get(k) != b.get(k)), None)
        return f"{key} ({a.get(key)})", f"{key} ({b.get(key)})"
    return a, b


def _unlike(folder: Path, plan: _core.Plan) -> tuple[str, tuple[Any, Any]] | None:
    """What a plan has otherwise than the one in the folder, if it is something that options or a config say."""
    now = json.loads(shown(plan.to_json()))
    try:
        before = json.loads((folder / at.JOB / at.PLAN).read_bytes())
    except (OSError, ValueError):
        return None
    for key in ("title", "recipe"):
        if before.get(key) != now.get(key):
            return key, _differing(before[key], now[key])
    if len(before["shards"]) != len(now["shards"]):
        return "shards", (len(before["shards"]), len(now["shards"]))
    seeds = _seed(before["tensors"]), _seed(now["tensors"])
    return ("seed", seeds) if seeds[0] != seeds[1] else None


def _seed(value: Any) -> Any:
    """The first seed that a plan's tensors tell; None if none does."""
    if isinstance(value, dict) and "seed" in value:
        return value["seed"]
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((seed for one in within if (seed := _seed(one)) is not None), None)


def _gone(parts: Parts) -> SutureError:
    message = "its parts were put together or removed meanwhile; look what there is"
    return SutureError(f"{parts.out}: {message}", parts.out)


def _listed(parts: Sequence[int], n: int, one: str = "is", several: str = "are") -> str:
    many = ", ".join(map(str, parts[:20])) + (f" and {len(parts) - 20} more" if len(parts) > 20 else "")
    return f"part {many} of {n} {one}" if len(parts) == 1 else f"parts {many} of {n} {several}"


def _commands(parts: Sequence[int], n: int, round: int | None = None) -> str:
    more = "" if round is None else f" --round {round}"
    shown = [f"--part {i}/{n}{more}" for i in parts[:4]]
    return ", ".join(shown) + (" and so on" if len(parts) > 4 else "")
