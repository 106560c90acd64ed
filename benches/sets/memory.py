"""The memory set: peak memory, planning and start, of suture alone."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.facts import Results
from common.places import MIB, cold, remove, say
from common.processes import Command, Sample, Workplace
from common.tables import number, show
from family import EXPERT_SIZES, LLAMA_70B, SIZES, TUNES, Family, make

from sets.cases import SMALL
from sets.rows import MEMORY_TARGET_MIB
from sets.speed import MEMORY_BUDGET, render

GROUP_LIMIT_MIB = 512
PLAN_TARGET, HELP_TARGET = 1.0, 0.15
MANY_TARGET, SHARDS_TARGET = 1.5, 1.0


@dataclass(frozen=True)
class Finding:
    what: str
    value: float
    target: float
    unit: str
    failed: int = 0
    seconds: float | None = None


MEMORY_FAMILIES = {
    "0.4": Family(SIZES["0.4"]),
    "1.3": Family(SIZES["1.3"]),
    "5": Family(SIZES["5"]),
    "70b-shapes": Family(replace(LLAMA_70B, layers=4), tunes=TUNES[:2]),
}
PLANNED = Family(LLAMA_70B, tunes=TUNES[:2], shards=30, header_only=True)
MANY = Family(EXPERT_SIZES["full"], SMALL[1:], header_only=True)
SHARDS = replace(MANY, tunes=(), shards=1000)


@contextmanager
def family(place: Workplace, name: str, wanted: Family, keep: bool) -> Iterator[dict[str, Path]]:
    """The models of a family, removed afterwards unless they were there before or are to be kept."""
    root = place.folder("family") / name
    existed = (root / "family.json").exists()
    say(f"the family: {name}")
    try:
        yield {folder.name: folder for folder in make(root, wanted)}
    finally:
        if not (existed or keep):
            remove(root)


@contextmanager
def memory_group(limit_mib: int) -> Iterator[Path]:
    """A new memory control group, version 2 or 1; OSError where the system does not let us make one."""
    top = Path("/sys/fs/cgroup")
    unified = (top / "cgroup.controllers").exists()
    if unified:
        (top / "cgroup.subtree_control").write_text("+memory")
    group = (top if unified else top / "memory") / f"suture-bench-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(limit_mib * MIB))
        yield group
    finally:
        group.rmdir()


def group_peak_mib(group: Path) -> float | None:
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        if (group / name).exists():
            return int((group / name).read_text()) / MIB
    return None


@dataclass
class MemoryBench:
    place: Workplace
    suture: str
    keep: bool
    samples: list[Sample] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def run(self, case: str, command: Sequence[str], rep: int = 0, group: Path | None = None) -> Sample:
        sample = self.place.run("suture", case, rep, Command([self.suture, *command], group=group))
        self.samples.append(sample)
        return sample

    def merge(self, models: dict[str, Path]) -> tuple[list[str], Path]:
        out = self.place.folder("out") / "suture"
        remove(out)
        config = render(self.place, "ties" if "ft3" in models else "ties_two", models)
        return ["merge", str(config), str(out), "--memory", MEMORY_BUDGET, "--quiet"], out

    def peak(self, name: str, models: dict[str, Path]) -> None:
        command, out = self.merge(models)
        sample = self.run(f"memory {name}", command)
        remove(out)
        what = f"ties {name}, --memory {MEMORY_BUDGET}: peak anonymous memory"
        self.findings.append(
            Finding(what, sample.peak_anon_mib, MEMORY_TARGET_MIB, "MiB", sample.exit_code, sample.seconds)
        )

    def inside_group(self, name: str, models: dict[str, Path]) -> None:
        command, out = self.merge(models)
        cold(list(models.values()))  # a cached page stays charged to whoever read it first
        try:
            with memory_group(GROUP_LIMIT_MIB) as group:
                sample = self.run(f"group {name}", command, group=group / "cgroup.procs")
                peak = group_peak_mib(group) or sample.peak_anon_mib
        except OSError as error:
            say(f"no memory control group here, that run is left out: {error}")
            return
        finally:
            remove(out)
        what = f"ties {name} inside a group of {GROUP_LIMIT_MIB} MiB: the group's peak, page cache included"
        self.findings.append(Finding(what, peak, GROUP_LIMIT_MIB, "MiB", sample.exit_code, sample.seconds))

    def timed(self, what: str, command: Sequence[str], times: int, target: float) -> None:
        samples = [self.run(what, command, rep) for rep in range(times)]
        failed = next((s.exit_code for s in samples if s.exit_code), 0)
        self.findings.append(Finding(what, statistics.median(s.seconds for s in samples), target, "s", failed))

    def plan(self) -> None:
        with family(self.place, "70b-headers", PLANNED, self.keep) as models:
            command, _ = self.merge(models)
            self.timed("plan of 80 layers, header-only", [*command, "--dry-run", "--json"], 5, PLAN_TARGET)

    def many(self) -> None:
        """The plans of 50,378 small tensors, as JSON."""
        with family(self.place, "experts-headers", MANY, self.keep) as models:
            for name in ("experts_linear", "experts_ties"):
                out = self.place.folder("out") / "suture"
                command = ["merge", str(render(self.place, name, models)), str(out), "--dry-run", "--json"]
                self.timed(f"plan of 50,378 tensors, {name}", command, 5, MANY_TARGET)

    def shards(self) -> None:
        """The same tensors in 1,000 files, header-only."""
        with family(self.place, "shards-headers", SHARDS, self.keep) as models:
            self.timed("inspect of 1,000 shards", ["inspect", str(models["base"])], 5, SHARDS_TARGET)

    def help(self) -> None:
        self.timed("suture --help", ["--help"], 20, HELP_TARGET)


def finding_table(findings: Sequence[Finding]) -> list[list[str]]:
    def verdict(f: Finding) -> str:
        return f"FAILED (exit {f.failed})" if f.failed else "ok" if f.value <= f.target else "MISSED"

    return [["what", "measured", "target", "verdict", "seconds"]] + [
        [f.what, f"{f.value:.3g} {f.unit}", f"{f.target:g} {f.unit}", verdict(f), number(f.seconds, 1)]
        for f in findings
    ]


def memory(place: Workplace, suture: str, args: argparse.Namespace, results: Results) -> list[Sample]:
    bench = MemoryBench(place, suture, args.keep)
    parts: dict[str, Callable[[], None]] = {
        "help": bench.help,
        "plan": bench.plan,
        "many": bench.many,
        "shards": bench.shards,
    }
    for i, name in enumerate(args.cases, 1):
        if name in parts:
            parts[name]()
        else:
            with family(place, name, MEMORY_FAMILIES[name], args.keep) as models:
                bench.peak(name, models)
                if name == "5":
                    bench.inside_group(name, models)
        results.save(bench.findings, bench.samples, complete=i == len(args.cases))
    show(finding_table(bench.findings))
    return bench.samples
