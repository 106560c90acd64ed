"""What a merge would read and write, and how it divides."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from os import PathLike, fspath
from typing import cast

from suture import _core
from suture.errors import UsageError
from suture.recipe import documents, is_plan, merges
from suture.results.parts import Division, Estimate, Outlook
from suture.settings import Settings
from suture.store import is_url
from suture.surgery import probe
from suture.surgery.documents import recipe_of
from suture.surgery.estimate import estimate, once_of
from suture.surgery.run import for_output, prepare
from suture.surgery.schedule import how_many


def plan(
    config: str | PathLike[str],
    out: str | PathLike[str] = "OUT",
    *,
    parts: int | None = None,
    settings: Settings | None = None,
    options: str = "",
    machines: Sequence[int] | None = None,
    rates: Mapping[str, float | None] | None = None,
) -> Outlook:
    """Tell what a merge would read and write, shard by shard, and how it divides; only headers are read.

    Args:
        config: a YAML file in mergekit's grammar, of one output.
        out: the output, for the commands.
        parts: how many parts to divide it into.
        settings: what decides the output: dtype, shard size, seed.
        options: further options of the commands.
        machines: tell what it takes on so many machines, by the model of :mod:`suture.surgery.estimate`; a sample of
            the models is read then, and a file written beside the output and removed again.
        rates: what is known of a machine, by the names of ``Rates`` there, in bytes a second; the rest is measured.

    Raises:
        UsageError: if the config is wrong, or has several outputs.
        SutureError: if an input is not sound.
    """
    settings = settings or Settings()
    if is_url(fspath(out)) and (parts is not None or machines is not None):
        which = "parts" if parts is not None else "estimate"
        raise UsageError(f"{which}: `{fspath(out)}` is in a store, and parts are made in a folder; give one", at=which)
    if parts is not None and not 1 <= parts <= 100_000:
        raise UsageError(f"parts: expected 1 to 100000, found {parts}", at="parts")
    written = documents(config)
    configs = [] if is_plan(written) else merges(written)
    if len(configs) != 1 or configs[0].listed:
        raise UsageError(f"{fspath(config)}: has several outputs; `suture merge --dry-run` shows the plan of each")
    job = prepare(recipe_of(configs[0], settings), for_output(out, settings), config=configs[0])
    found = outlook(job.plan, config, out, parts, options)
    if machines is not None:
        found["estimate"] = estimated(job.plan, out, job.settings, machines, rates or {}, parts)
    return found


def estimated(
    plan: _core.Plan,
    out: str | PathLike[str],
    settings: Settings,
    machines: Sequence[int],
    given: Mapping[str, float | None],
    divided: int | None = None,
) -> Estimate:
    """What a plan takes on so many machines, like this one or as `given` says; in a few parts each, or `divided`."""
    if not machines or not all(1 <= m <= 100_000 for m in machines):
        raise UsageError(f"machines: expected numbers from 1, found {', '.join(map(str, machines))}", at="machines")
    found, measured = probe.rates(plan, out, settings, given)
    told = json.loads(plan.to_json())
    once = once_of(told["models"], told["read_bytes"])
    shards = len(told["shards"])
    rows = []
    for m in machines:
        n = divided or how_many(shards, m)
        parts = cast("list[Division]", json.loads(plan.parts_json(n)))
        rounds = int(n > 1 and _core.settle_parts(plan, n)[1])
        rows.append(estimate(parts, m, found, once, rounds))
    return {"rates": asdict(found), "measured": measured, "once": once, "machines": rows}


def outlook(
    plan: _core.Plan, config: str | PathLike[str], out: str | PathLike[str], parts: int | None, options: str
) -> Outlook:
    """What a plan reads and writes, and how it divides into `parts`."""
    told = json.loads(plan.to_json())
    found: Outlook = {
        "schema": 1,
        "title": told["title"],
        "plan": plan.hash,
        "tensors": len(told["tensors"]),
        "read_bytes": told["read_bytes"],
        "write_bytes": told["write_bytes"],
        "shards": cast("list[Division]", json.loads(plan.parts_json())),
        "warnings": plan.warnings,
    }
    if parts is None:
        return found
    rounds = _core.settle_parts(plan, parts)[1]
    merge = f"suture merge {shlex.quote(fspath(config))} {shlex.quote(fspath(out))}{options and f' {options}'}"
    each = [f"{merge} --part {i}/{parts}" for i in range(1, parts + 1)]
    scans = [f"{command} --round 1" for command in each] if rounds else []
    between = [f"suture settle {shlex.quote(fspath(out))}"] if rounds else []
    commands = [*scans, *between, *each, f"suture finish {shlex.quote(fspath(out))}"]
    divided = cast("list[Division]", json.loads(plan.parts_json(parts)))
    return {**found, "parts": divided, "rounds": rounds, "commands": commands}
