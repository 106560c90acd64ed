"""Parts of an output on the nodes of a Ray cluster: one worker a node, one part in flight on each.

Ray carries the numbers of parts there and a few words back, never tensors: models and the output lie where all nodes
see them. What is left of a run that was stopped is what its parts have left: the same call, or by hand ``--part``,
``settle`` and ``finish``, go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import cast

from suture import _core
from suture.errors import UsageError
from suture.results.parts import Division, Turn
from suture.results.report import Report
from suture.settings import Progress, size
from suture.surgery import parts_folder as at
from suture.surgery import probe
from suture.surgery.cluster_drive import Driver
from suture.surgery.cluster_nodes import Node, able, check, connected
from suture.surgery.estimate import Rates, once_of, seconds_of
from suture.surgery.job import Job
from suture.surgery.parts import begin, finish, settle
from suture.surgery.parts_job import read_job
from suture.surgery.schedule import assigned, how_many

#: Seconds until a worker has begun: measured, of Ray 2.60.
WORKER_START = 3.0


def run(
    job: Job,
    out: str | PathLike[str],
    *,
    address: str = "",
    parts: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Make an output in parts on the nodes of a Ray cluster, and put it together.

    Args:
        job: the job, of :func:`suture.surgery.run.prepare`; `threads` and `memory` of its settings are of each node.
        out: the output, in a folder that all nodes share.
        address: as :attr:`suture.Settings.ray` has it.
        parts: how many parts; None for a few a node, or as many as an earlier run of the same has begun.
        progress: called with the bytes done and the bytes in all, a few times a second.

    Returns:
        the report, as of a run that made all by itself; ``cluster`` tells which node made which part.

    Raises:
        UsageError: if Ray is not installed.
        SutureError: if no node can make parts, one of them does not see the output or has another suture, an input is
            not sound, or a part has failed too often.
        KeyboardInterrupt: on Ctrl-C; the same call then resumes.
    """
    began = time.monotonic()
    with connected(address) as ray:
        nodes, told = able(ray, job.settings)
        begun = begin(job, out, parts or _begun(out, job.plan) or _count(job.plan, len(nodes)))
        nodes, silent = check(ray, nodes, begun.folder)
        driver = Driver(ray, begun, job.settings, nodes, begun.folder, progress)
        try:
            while (due := begun.rounds) is not None:
                driver.phase(due)
                settle(begun.folder)
            driver.phase(None)
        finally:
            driver.stop()
        report = finish(begun.folder, settings=job.settings)
    seconds = time.monotonic() - began
    text = json.dumps({**report.data, "warnings": [*report.warnings, *told, *silent, *driver.told]})
    return replace(report, text=text, config=job.config, seconds=seconds)


def scheduled(job: Job, out: str | PathLike[str], address: str = "") -> Report:
    """The plan of a job as a report, with who would make which part, and how long it would take.

    Nodes are taken to be like this machine but for their threads; it is measured (:mod:`suture.surgery.probe`), which
    reads a sample of a model, and writes a file beside the output and removes it again.

    Raises:
        UsageError: if Ray is not installed.
        SutureError: if no node can make parts, or one has another suture.
    """
    with connected(address) as ray:
        nodes, told = able(ray, job.settings)
        nodes, silent = check(ray, nodes, None)
    n = _begun(out, job.plan) or _count(job.plan, len(nodes))
    parts = cast("list[Division]", json.loads(job.plan.parts_json(n)))
    plan = json.loads(job.plan.to_json())
    once, rates = once_of(plan["models"], plan["read_bytes"]), None
    try:
        rates = probe.rates(job.plan, out, job.settings, {})[0]
    except UsageError as e:
        silent = [*silent, f"ray: how long it takes is not known: {e}"]
    turns = assigned([part["read_bytes"] + part["write_bytes"] for part in parts], len(nodes))
    rows = [
        _turn(node, [(i + 1, parts[i]) for i in sorted(turn)], rates, once, job)
        for node, turn in zip(nodes, turns, strict=True)
    ]
    notes = [["ray", f"nodes: {len(nodes)}, parts: {n}"], *(["node", _said(row)] for row in rows)]
    report = job.look(Path(out))
    data = {**report.data, "notes": [*report.data["notes"], *notes], "schedule": rows}
    return replace(report, text=json.dumps({**data, "warnings": [*report.warnings, *told, *silent]}), told=None)


def _turn(node: Node, turn: Sequence[tuple[int, Division]], rates: Rates | None, once: float, job: Job) -> Turn:
    own = [part for _, part in turn]
    row: Turn = {
        "node": node.name,
        "threads": node.threads,
        "parts": [i for i, _ in turn],
        "read_bytes": sum(part["read_bytes"] for part in own),
        "write_bytes": sum(part["write_bytes"] for part in own),
        "seconds": None,
    }
    if rates is not None:
        speed = node.threads / job.settings.thread_count
        row["seconds"] = WORKER_START + seconds_of(own, rates, once, speed)
    return row


def _said(row: Turn) -> str:
    which = f"parts {', '.join(map(str, row['parts']))}" if row["parts"] else "no part"
    time = "" if row["seconds"] is None else f", takes about {row['seconds']:,.3g} s"
    moved = f"reads at most {size(row['read_bytes'])}, writes {size(row['write_bytes'])}"
    return f"{row['node']} (threads: {row['threads']}): {which}: {moved}{time}"


def _count(plan: _core.Plan, nodes: int) -> int:
    return how_many(len(json.loads(plan.parts_json())), nodes)


def _begun(out: str | PathLike[str], plan: _core.Plan) -> int | None:
    """How many parts an earlier run of this plan has begun: there may be other nodes now; of a store one a shard."""
    if "://" in fspath(out):
        return len(json.loads(plan.parts_json()))
    there = read_job(at.folder_of(out))
    return int(there["parts"]) if there is not None and there.get("plan") == plan.hash else None


def carry_out(job: Job, out: str | PathLike[str], dry_run: bool, progress: Progress | None) -> Report:
    """Run a job on the cluster that its settings name, or with `dry_run` tell who would make which part."""
    address = job.settings.ray or ""
    return scheduled(job, out, address) if dry_run else run(job, out, address=address, progress=progress)
