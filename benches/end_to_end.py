"""Run suture, the I/O floor and mergekit side by side on one family; keep the raw results."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

from common import (
    HERE,
    MERGEKIT_FLAGS,
    MIB,
    SEED,
    Agreement,
    Command,
    Results,
    Sample,
    Workplace,
    against,
    beside_python,
    cold,
    compare,
    facts,
    fastest,
    medians,
    number,
    peaks,
    peer_command,
    remove,
    say,
    show,
    side_by_side,
    warm,
    weight_bytes,
)
from family import EXPERT_SIZES, LLAMA_70B, SIZES, TUNES, Family, make

READ_IO = ("mmap", "pread", "direct")
WRITE_IO = ("buffered", "direct")
MEMORY_SHARE_TARGET = 0.1
MEMORY_BUDGET, MEMORY_TARGET_MIB = "256MiB", 320
GROUP_LIMIT_MIB = 512
PLAN_TARGET, HELP_TARGET = 1.0, 0.15
BOUND_TARGET = 2.0
OVERHEAD_TARGET = 3.0


# --- the cases ---


@dataclass(frozen=True)
class Case:
    name: str
    reads: tuple[str, ...]
    floor_target: float | None = None
    speedup_target: float | None = None
    writes: bool = True
    peer: bool = True
    compared: bool = True
    # what the two sides compute differently by design, and so is left out of the comparison
    uncompared: str = "^$"
    # has a plan of the bytes moved, and so a bound
    merges: bool = True
    # many small tensors instead of the Llama family; the target is then the time over the floor
    small_tensors: bool = False


ALL = ("base", *TUNES)
SMALL = ("base", "ft1", "ft2")
SWAP_DIFFERS = r"embed_tokens|lm_head|model\.norm|layers\.(3|9)\."
CASES = [
    Case("diff", ("base", "ft1"), 1.3, writes=False, peer=False, compared=False, merges=False),
    Case("swap", ("base",), 1.2, 5, uncompared=SWAP_DIFFERS, merges=False),
    Case("linear", TUNES, 1.5, 8),
    Case("task_arithmetic", ALL, 1.5),
    Case("slerp", ("base", "ft1"), 2.5, 8),
    Case("nuslerp", ("ft1", "ft2"), None, 8),
    Case("karcher", TUNES, None, 8),
    Case("model_stock", ALL, None, 8),
    Case("dare_linear", ALL, 3, 20, compared=False),
    Case("dare_ties", ALL, 3, 20, compared=False),
    Case("della", ALL, None, 40, compared=False),
    Case("ties", ALL, 5, 25),
    Case("breadcrumbs", ALL, None, 25),
    Case("sce", ALL, None, 25),
    Case("experts_linear", SMALL, peer=False, compared=False, small_tensors=True),
    Case("experts_ties", SMALL, peer=False, compared=False, small_tensors=True),
]


# --- speed: three tools side by side ---


@dataclass(frozen=True)
class Tools:
    suture: str | None
    mergekit: str | None
    floor: str | None
    mergekit_flags: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """What suture says beforehand that it will move, and how much there is in the models it reads."""

    input_bytes: int
    read_bytes: int
    write_bytes: int


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
        budget = ["--memory", MEMORY_BUDGET] if case.small_tensors else []
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
        return summarise(case, self.samples, plan, weight_bytes(inputs), written, agreement)


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


@dataclass(frozen=True)
class Row:
    case: str
    floor_mode: str | None
    floor: float | None
    suture: float | None
    ratio: float | None
    ratio_target: float | None
    overhead: float | None
    overhead_target: float | None
    passes: float | None
    bound: float | None
    bound_ratio: float | None
    bound_target: float | None
    strict_bound: float | None
    strict_ratio: float | None
    mergekit: float | None
    speedup: float | None
    speedup_target: float | None
    suture_anon_mib: float | None
    mergekit_anon_mib: float | None
    anon_mib_target: float | None
    agreement: Agreement | None


def divided(value: float | None, by: float | None) -> float | None:
    return value / by if value is not None and by else None


def summarise(
    case: Case, samples: Sequence[Sample], plan: Plan | None, read: int, written: int, agreement: Agreement | None
) -> Row:
    """Medians of whole-process wall time, highest of the memory peaks; the floor is its fastest mode.

    The floor reads `read` bytes once and writes `written` bytes. The bound is the bytes of the plan at the floor's
    bytes per second; the strict bound is the floor, and the bytes of further passes at the speed of the reads alone.
    """
    seconds, anonymous = medians(samples, case.name), peaks(samples, case.name)
    mode = fastest(seconds, "floor")
    floor, suture, peer = seconds.get(mode or ""), seconds.get("suture"), seconds.get("mergekit")
    reads = seconds.get(fastest(seconds, "reads") or "")
    bound = floor * (plan.read_bytes + plan.write_bytes) / (read + written) if floor and plan else None
    passes = plan.read_bytes / plan.input_bytes if plan else None
    strict = floor + reads * (passes - 1) if floor and reads and passes else None
    return Row(
        case=case.name,
        floor_mode=mode,
        floor=floor,
        suture=suture,
        ratio=divided(suture, floor),
        ratio_target=case.floor_target,
        overhead=suture - floor if suture and floor and case.small_tensors else None,
        overhead_target=OVERHEAD_TARGET if case.small_tensors else None,
        passes=passes,
        bound=bound,
        bound_ratio=divided(suture, bound),
        bound_target=BOUND_TARGET if case.merges and not case.small_tensors else None,
        strict_bound=strict,
        strict_ratio=divided(suture, strict),
        mergekit=peer,
        speedup=divided(peer, suture),
        speedup_target=case.speedup_target,
        suture_anon_mib=anonymous.get("suture"),
        mergekit_anon_mib=anonymous.get("mergekit"),
        anon_mib_target=MEMORY_TARGET_MIB if case.small_tensors else None,
        agreement=agreement,
    )


def memory_cell(row: Row) -> str:
    """Of both sides; at most the target, or else a tenth of the peer's."""
    cells = f"{number(row.suture_anon_mib, 0)} / {number(row.mergekit_anon_mib, 0)}"
    share = MEMORY_SHARE_TARGET * row.mergekit_anon_mib if row.mergekit_anon_mib else None
    target = row.anon_mib_target or share
    if not row.suture_anon_mib or not target:
        return cells
    return f"{cells} {'ok' if row.suture_anon_mib <= target else 'MISSED'}"


def agreement_cell(found: Agreement | None) -> str:
    if found is None:
        return "-"
    odd = f", {len(found.only_one_side)} on one side only" if found.only_one_side else ""
    shapes = f", {len(found.shapes_differ)} of other shapes" if found.shapes_differ else ""
    return f"{100 * found.equal_share:.3f} % equal, max {found.max_abs_difference:.1e}{odd}{shapes}"


def speed_table(rows: Sequence[Row]) -> list[list[str]]:
    titles = [
        "case",
        "floor s",
        "mode",
        "suture s",
        "x floor",
        "s over floor",
        "passes",
        "x bound",
        "x strict",
        "mergekit s",
        "x faster",
        "anon MiB",
        "agreement",
    ]
    return [titles] + [
        [
            row.case,
            number(row.floor),
            (row.floor_mode or "-").removeprefix("floor "),
            number(row.suture),
            against(row.ratio, row.ratio_target, at_most=True),
            against(row.overhead, row.overhead_target, at_most=True),
            number(row.passes, 1),
            against(row.bound_ratio, row.bound_target, at_most=True),
            number(row.strict_ratio),
            number(row.mergekit),
            against(row.speedup, row.speedup_target, at_most=False),
            memory_cell(row),
            agreement_cell(row.agreement),
        ]
        for row in rows
    ]


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


# --- memory, planning and start: suture alone ---


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
    parts: dict[str, Callable[[], None]] = {"help": bench.help, "plan": bench.plan}
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


# --- the command line ---


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    speed_cases = [case.name for case in CASES]
    memory_cases = ["help", "plan", *MEMORY_FAMILIES]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", nargs="?", choices=["speed", "memory"], default="speed")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "suture-bench")
    parser.add_argument("--suture", default=beside_python("suture"), help="the command to measure")
    parser.add_argument("--floor", help="the command that does the same I/O without arithmetic")
    parser.add_argument("--results", type=Path, default=HERE / "runs")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help=f"of {speed_cases} or {memory_cases}")
    parser.add_argument("--only", nargs="+", choices=["suture", "mergekit", "floor"], help="these tools")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--peer-reps", type=int, default=3, help="runs of mergekit, of the last --reps")
    parser.add_argument("--floors", nargs="+", choices=READ_IO, default=[], help="read back ends to try as floor")
    parser.add_argument("--size", choices=["tiny", "1.3"], default="1.3", help="the family of the speed set")
    parser.add_argument("--cold", action="store_true", help="inputs out of the page cache before every run")
    parser.add_argument("--mergekit", type=Path, help="the mergekit-yaml command; by default installed under --work")
    parser.add_argument("--mergekit-flags", default=MERGEKIT_FLAGS)
    parser.add_argument("--keep", action="store_true", help="keep the families the memory set makes")
    args = parser.parse_args(argv)
    known = speed_cases if args.set == "speed" else memory_cases
    args.cases = args.cases or known
    if unknown := sorted(set(args.cases) - set(known)):
        parser.error(f"no such case in the {args.set} set: {', '.join(unknown)} (there are {', '.join(known)})")
    args.only = args.only or ["suture", "mergekit", "floor"]
    suture_wanted = args.set == "memory" or "suture" in args.only
    if suture_wanted and not (args.suture and shutil.which(args.suture)):
        parser.error("no suture command found: give it with --suture")
    return args


def pick_tools(place: Workplace, args: argparse.Namespace) -> Tools:
    peer_wanted = args.set == "speed" and "mergekit" in args.only
    floor = str(Path(args.floor).resolve()) if args.floor and "floor" in args.only else None
    if args.set == "speed" and "floor" in args.only and not floor:
        say("no --floor: ratios to the floor are left out")
    return Tools(
        args.suture if "suture" in args.only else None,
        peer_command(place, args.mergekit) if peer_wanted else None,
        floor,
        shlex.split(args.mergekit_flags),
    )


def main() -> int:
    args = parse()
    place = Workplace(args.work.resolve())
    tools = pick_tools(place, args)
    options = {"size": args.size, "reps": args.reps, "cold": args.cold, "mergekit_flags": args.mergekit_flags}
    document = facts(place, tools.suture, tools.mergekit) | {"options": options}
    results = Results.start(args.results, args.set + ("-cold" if args.cold else ""), document)
    run_set: Callable[[], list[Sample]] = {
        "speed": lambda: speed(place, tools, args, results),
        "memory": lambda: memory(place, args.suture, args, results),
    }[args.set]
    samples = run_set()
    return 1 if any(sample.exit_code and not sample.tool.startswith(("floor", "reads")) for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
