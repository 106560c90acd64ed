"""The speed set: suture, the I/O floor and mergekit side by side."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from common.agreement import compare
from common.facts import Results
from common.places import HERE, SEED, cold, remove, say, warm, weight_bytes
from common.processes import Command, Sample, Workplace, side_by_side
from common.tables import show
from family import EXPERT_SIZES, SIZES, Family, make

from sets.cases import CASES, SMALL, Case, Plan
from sets.rows import MANY_BUDGET_MIB, Row, speed_table, summarise

READ_IO = ("mmap", "pread", "direct")
WRITE_IO = ("buffered", "direct")
MEMORY_BUDGET = "256MiB"


@dataclass(frozen=True)
class Tools:
    suture: str | None
    mergekit: str | None
    floor: str | None
    mergekit_flags: Sequence[str] = ()


@dataclass
class Bench:
    place: Workplace
    tools: Tools
    families: dict[bool, dict[str, Path]]
    reps: int
    cold: bool
    peer_reps: int
    floors: Sequence[str]
    samples: list[Sample] = field(default_factory=list)

    def models(self, case: Case) -> dict[str, Path]:
        return self.families[case.small_tensors]

    def commands(self, case: Case) -> dict[str, Command]:
        """Tool (with its I/O mode, for the floor) -> its command and its output."""
        found: dict[str, Command] = {}
        if self.tools.suture:
            out = self.place.folder("out") / "suture"
            found["suture"] = Command(self.suture(self.tools.suture, case, out), out)
        if self.tools.mergekit and case.peer:
            out = self.place.folder("out") / "mergekit"
            config = render(self.place, case.name, self.models(case))
            flags = [*self.tools.mergekit_flags, "--random-seed", SEED]
            found["mergekit"] = Command([self.tools.mergekit, str(config), str(out), *flags], out)
        if self.tools.floor:
            out = self.place.folder("out") / "floor"
            for name, options in floor_modes(case, self.models(case), out, self.floors or READ_IO).items():
                found[name] = Command([self.tools.floor, *options], out)
        return found

    def suture(self, suture: str, case: Case, out: Path) -> list[str]:
        models = self.models(case)
        base, donor = str(models["base"]), str(models["ft1"])
        if case.name == "diff":
            return [suture, "diff", base, donor, "--json"]
        if case.name == "swap":
            layers = ["--bottom", "3", "--top", "2", "--transition", "1", "--quiet"]
            return [suture, "swap", "--into", base, "--from", donor, str(out), *layers]
        budget = ["--memory", f"{MANY_BUDGET_MIB}MiB"] if case.small_tensors else []
        return [
            suture,
            "merge",
            str(render(self.place, case.name, models)),
            str(out),
            "--seed",
            SEED,
            "--quiet",
            *budget,
        ]

    def plan(self, case: Case, commands: dict[str, Command]) -> Plan | None:
        if not case.merges or "suture" not in commands:
            return None
        remove(commands["suture"].out)
        line = [*commands["suture"].line, "--dry-run", "--json"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            say(f"{case.name}: no plan: {done.stderr[-2000:]}")
            return None
        found = json.loads(done.stdout)
        inputs = sum(model["bytes"] for model in found["models"])
        return Plan(inputs, found["read_bytes"], found["write_bytes"])

    def run(self, case: Case) -> Row:
        commands = self.commands(case)
        plan = self.plan(case, commands)
        folders = list(self.models(case).values())
        prepare = cold if self.cold else warm
        kept = ("suture", "mergekit") if case.compared else ()
        self.samples += side_by_side(
            self.place, case.name, commands, self.reps, lambda: prepare(folders), kept, self.peer_reps
        )
        outputs = [command.out for tool, command in commands.items() if tool in kept and command.out]
        both = len(outputs) == 2 and all(out.is_dir() for out in outputs)
        agreement = compare(outputs[0], outputs[1], case.uncompared) if both else None
        for out in outputs:
            remove(out)
        inputs = [self.models(case)[name] for name in case.reads]
        written = weight_bytes(inputs[:1]) if case.writes else 0
        return summarise(case, self.samples, plan, weight_bytes(inputs), written, agreement, self.cold)


def floor_modes(case: Case, models: dict[str, Path], out: Path, reads_io: Sequence[str]) -> dict[str, list[str]]:
    """The floor by every back end, and (for what a further pass costs) its reads alone."""
    reads = [word for name in case.reads for word in ("--read", str(models[name]))]
    if not case.writes:
        return {f"floor {io}": [*reads, "--io", io] for io in reads_io}
    write = ["--write", str(out), "--like", str(models[case.reads[0]])]
    modes = {
        f"floor {io}+{write_io}": [*reads, *write, "--io", io, "--write-io", write_io]
        for io in reads_io
        for write_io in WRITE_IO
    }
    if case.merges:
        modes |= {f"reads {io}": [*reads, "--io", io] for io in reads_io}
    return modes


def render(place: Workplace, name: str, models: dict[str, Path]) -> Path:
    """The config with the models' paths put in."""
    template = Template((HERE / "configs" / f"{name}.yaml").read_text())
    path = place.folder("configs") / f"{name}.yaml"
    path.write_text(template.substitute({model: str(folder) for model, folder in models.items()}))
    return path


def speed(place: Workplace, tools: Tools, args: argparse.Namespace, results: Results) -> list[Sample]:
    cases = [case for case in CASES if case.name in args.cases]
    families = {}
    if any(not case.small_tensors for case in cases):
        say(f"the family: {args.size} GB a model")
        families[False] = make(place.folder("family") / args.size, Family(SIZES[args.size]))
    if any(case.small_tensors for case in cases):
        size = "tiny" if args.size == "tiny" else "full"
        say(f"the family of many small tensors: {size}")
        families[True] = make(place.folder("family") / f"experts-{size}", Family(EXPERT_SIZES[size], SMALL[1:]))
    found = {kind: {folder.name: folder for folder in folders} for kind, folders in families.items()}
    bench = Bench(place, tools, found, args.reps, args.cold, args.peer_reps, args.floors)
    rows: list[Row] = []
    for case in cases:
        rows.append(bench.run(case))
        results.save(rows, bench.samples, complete=len(rows) == len(cases))
    show(speed_table(rows))
    return bench.samples
