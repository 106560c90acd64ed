"""Run suture, the I/O floor and mergekit side by side on one family; keep the raw results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from family import LLAMA_70B, SIZES, Family, make

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
POLL_SECONDS = 0.01
COPY_BLOCK = 8 * MIB
COMPARE_ELEMENTS = 1 << 20
SEED = "42"
READ_IO = ("mmap", "pread", "direct")
WRITE_IO = ("buffered", "direct")
MERGEKIT_FLAGS = "--no-copy-tokenizer --no-write-model-card --quiet"
PEER_PACKAGES = {"mergekit", "torch", "transformers", "safetensors", "numpy"}
MEMORY_SHARE_TARGET = 0.1
MEMORY_BUDGET, MEMORY_TARGET_MIB = "256MiB", 320
GROUP_LIMIT_MIB = 512
PLAN_TARGET, HELP_TARGET = 1.0, 0.15


# --- the cases ---


@dataclass(frozen=True)
class Case:
    name: str
    reads: tuple[str, ...]
    floor_target: float
    speedup_target: float | None = None
    writes: bool = True
    peer: bool = True
    compared: bool = True
    # what the two sides compute differently by design, and so is left out of the comparison
    uncompared: str = "^$"


TUNES = ("ft1", "ft2", "ft3")
FAMILY = ("base", *TUNES)
SWAP_DIFFERS = r"embed_tokens|lm_head|model\.norm|layers\.(3|9)\."
CASES = [
    Case("diff", ("base", "ft1"), 1.3, writes=False, peer=False, compared=False),
    Case("swap", ("base",), 1.2, 5, uncompared=SWAP_DIFFERS),
    Case("linear", TUNES, 1.5, 6),
    Case("task_arithmetic", FAMILY, 1.5),
    Case("slerp", ("base", "ft1"), 2.5, 6),
    Case("dare_linear", FAMILY, 3, compared=False),
    Case("dare_ties", FAMILY, 3, 15, compared=False),
    Case("ties", FAMILY, 5, 20),
]


# --- running one process ---


@dataclass(frozen=True)
class Sample:
    tool: str
    case: str
    rep: int
    command: str
    seconds: float
    peak_anon_mib: float
    exit_code: int


def descendants(pid: int) -> Iterator[int]:
    """The process and everything below it; any of them may end while we look."""
    yield pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            found = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in found:
            yield from descendants(int(child))


def anonymous_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)
    return int(found[1]) if found else 0


@dataclass
class AnonymousPeak:
    """Polls the anonymous memory of a process and everything it started."""

    pid: int
    kib: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def poll(self) -> None:
        while True:
            self.kib = max(self.kib, sum(anonymous_kib(pid) for pid in descendants(self.pid)))
            if self.stop.wait(POLL_SECONDS):
                return


@dataclass(frozen=True)
class Workplace:
    root: Path

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def shown(self, command: Sequence[str]) -> str:
        tool = Path(command[0]).name
        return shlex.join([tool, *command[1:]]).replace(str(self.root), "WORK")

    def run(self, tool: str, case: str, rep: int, command: Sequence[str], group: Path | None = None) -> Sample:
        """One whole process, from start to exit; its output goes to a log."""
        entered = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group), *command] if group else list(command)
        log = self.folder("logs") / f"{case}-{tool}-{rep}.log".replace(" ", "-").replace("/", "-")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        with open(log, "wb") as out:
            start = time.perf_counter()
            process = subprocess.Popen(entered, stdout=out, stderr=subprocess.STDOUT, env=environment)
            peak = AnonymousPeak(process.pid)
            poller = threading.Thread(target=peak.poll)
            poller.start()
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
            finally:
                seconds = time.perf_counter() - start
                peak.stop.set()
                poller.join()
        sample = Sample(tool, case, rep, self.shown(command), seconds, peak.kib / 1024, code)
        say(f"{case:>16} {tool:<24} {seconds:8.2f} s {sample.peak_anon_mib:8.0f} MiB" + " FAILED" * (code != 0))
        if code:
            say(log.read_text(errors="replace")[-2000:])
        return sample


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- page cache and outputs ---


def warm(folders: Sequence[Path]) -> None:
    buffer = bytearray(COPY_BLOCK)
    for path in weight_files(folders):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cold(folders: Sequence[Path]) -> None:
    os.sync()
    for path in weight_files(folders):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def weight_files(folders: Sequence[Path]) -> list[Path]:
    return sorted(path for folder in folders for path in folder.glob("*.safetensors"))


def remove(path: Path) -> None:
    """Delete an output whole, and let the disk settle before the next run."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()


# --- agreement ---


@dataclass(frozen=True)
class Agreement:
    tensors: int
    equal_share: float
    max_abs_difference: float
    only_one_side: list[str]


def bf16_tensors(folder: Path, skip: str) -> dict[str, tuple[Path, int, int]]:
    """Name -> file, offset, elements."""
    found = {}
    for path in weight_files([folder]):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            table: dict[str, Any] = json.loads(file.read(size))
        table.pop("__metadata__", None)
        for name, entry in table.items():
            if entry["dtype"] != "BF16":
                raise ValueError(f"{path}: {name}: expected BF16, found {entry['dtype']}")
            begin, end = entry["data_offsets"]
            if not re.search(skip, name):
                found[name] = (path, 8 + size + begin, (end - begin) // 2)
    return found


def compare(left: Path, right: Path, skip: str) -> Agreement:
    a, b = bf16_tensors(left, skip), bf16_tensors(right, skip)
    shared = sorted(a.keys() & b.keys())
    elements, equal, worst = 0, 0, 0.0
    for name in shared:
        (path_a, at_a, count), (path_b, at_b, count_b) = a[name], b[name]
        if count != count_b:
            raise ValueError(f"{name}: {count} elements against {count_b}")
        for start in range(0, count, COMPARE_ELEMENTS):
            n = min(COMPARE_ELEMENTS, count - start)
            x = np.fromfile(path_a, np.uint16, n, offset=at_a + 2 * start)
            y = np.fromfile(path_b, np.uint16, n, offset=at_b + 2 * start)
            differs = np.flatnonzero(x != y)
            equal += n - differs.size
            if differs.size:
                values = [(v[differs].astype(np.uint32) << 16).view(np.float32) for v in (x, y)]
                worst = max(worst, float(np.max(np.abs(values[0] - values[1]))))
        elements += count
    return Agreement(len(shared), equal / max(elements, 1), worst, sorted(a.keys() ^ b.keys()))


# --- speed: three tools side by side ---


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
    models: dict[str, Path]
    reps: int
    cold: bool
    peer_reps: int
    floors: Sequence[str]
    samples: list[Sample] = field(default_factory=list)

    def commands(self, case: Case) -> dict[str, tuple[list[str], Path]]:
        """Tool (with its I/O mode, for the floor) -> its command and its output."""
        found: dict[str, tuple[list[str], Path]] = {}
        if self.tools.suture:
            out = self.place.folder("out") / "suture"
            found["suture"] = (self.suture(self.tools.suture, case, out), out)
        if self.tools.mergekit and case.peer:
            out = self.place.folder("out") / "mergekit"
            config = render(self.place, case.name, self.models)
            flags = [*self.tools.mergekit_flags, "--random-seed", SEED]
            found["mergekit"] = ([self.tools.mergekit, str(config), str(out), *flags], out)
        if self.tools.floor:
            out = self.place.folder("out") / "floor"
            for name, options in floor_modes(case, self.models, out).items():
                if self.floors and name.removeprefix("floor ").split("+")[0] not in self.floors:
                    continue
                found[name] = ([self.tools.floor, *options], out)
        return found

    def suture(self, suture: str, case: Case, out: Path) -> list[str]:
        base, donor = str(self.models["base"]), str(self.models["ft1"])
        if case.name == "diff":
            return [suture, "diff", base, donor, "--json"]
        if case.name == "swap":
            layers = ["--bottom", "3", "--top", "2", "--transition", "1", "--quiet"]
            return [suture, "swap", "--into", base, "--from", donor, str(out), *layers]
        config = render(self.place, case.name, self.models)
        return [suture, "merge", str(config), str(out), "--seed", SEED, "--quiet"]

    def run(self, case: Case) -> Agreement | None:
        commands = self.commands(case)
        prepare = cold if self.cold else warm
        for rep in range(self.reps):
            last = rep == self.reps - 1
            for tool in list(commands)[:: -1 if rep % 2 else 1]:
                if tool == "mergekit" and rep < self.reps - self.peer_reps:
                    continue
                command, out = commands[tool]
                remove(out)
                prepare(list(self.models.values()))
                self.samples.append(self.place.run(tool, case.name, rep, command))
                if not (last and case.compared and tool in ("suture", "mergekit")):
                    remove(out)
        outputs = [out for tool, (_, out) in commands.items() if tool in ("suture", "mergekit")]
        both = len(outputs) == 2 and all(out.is_dir() for out in outputs)
        agreement = compare(outputs[0], outputs[1], case.uncompared) if case.compared and both else None
        for out in outputs:
            remove(out)
        return agreement


def floor_modes(case: Case, models: dict[str, Path], out: Path) -> dict[str, list[str]]:
    reads = [word for name in case.reads for word in ("--read", str(models[name]))]
    if not case.writes:
        return {f"floor {io}": [*reads, "--io", io] for io in READ_IO}
    write = ["--write", str(out), "--like", str(models[case.reads[0]])]
    return {
        f"floor {io}+{write_io}": [*reads, *write, "--io", io, "--write-io", write_io]
        for io in READ_IO
        for write_io in WRITE_IO
    }


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
    ratio_target: float
    mergekit: float | None
    speedup: float | None
    speedup_target: float | None
    suture_anon_mib: float | None
    mergekit_anon_mib: float | None
    agreement: Agreement | None


def summarise(case: Case, samples: Sequence[Sample], agreement: Agreement | None) -> Row:
    """Medians of whole-process wall time, highest of the memory peaks; the floor is its fastest mode."""
    mine = [s for s in samples if s.case == case.name and s.exit_code == 0]
    seconds = {tool: statistics.median(s.seconds for s in mine if s.tool == tool) for tool in {s.tool for s in mine}}
    peaks = {tool: max(s.peak_anon_mib for s in mine if s.tool == tool) for tool in seconds}
    mode = min((tool for tool in seconds if tool.startswith("floor")), key=lambda tool: seconds[tool], default=None)
    floor, suture, peer = seconds.get(mode or ""), seconds.get("suture"), seconds.get("mergekit")
    return Row(
        case.name,
        mode,
        floor,
        suture,
        suture / floor if suture and floor else None,
        case.floor_target,
        peer,
        peer / suture if peer and suture else None,
        case.speedup_target,
        peaks.get("suture"),
        peaks.get("mergekit"),
        agreement,
    )


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def against(value: float | None, target: float | None, at_most: bool) -> str:
    if value is None or target is None:
        return number(value)
    met = value <= target if at_most else value >= target
    return f"{value:.2f} {'<=' if at_most else '>='} {target:g} {'ok' if met else 'MISSED'}"


def memory_cell(row: Row) -> str:
    cells = f"{number(row.suture_anon_mib, 0)} / {number(row.mergekit_anon_mib, 0)}"
    if not row.suture_anon_mib or not row.mergekit_anon_mib:
        return cells
    return f"{cells} {'ok' if row.suture_anon_mib <= MEMORY_SHARE_TARGET * row.mergekit_anon_mib else 'MISSED'}"


def agreement_cell(found: Agreement | None) -> str:
    if found is None:
        return "-"
    odd = f", {len(found.only_one_side)} on one side only" if found.only_one_side else ""
    return f"{100 * found.equal_share:.3f} % equal, max {found.max_abs_difference:.1e}{odd}"


def speed_table(rows: Sequence[Row]) -> list[list[str]]:
    titles = [
        "case",
        "floor s",
        "mode",
        "suture s",
        "x floor",
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
            number(row.mergekit),
            against(row.speedup, row.speedup_target, at_most=False),
            memory_cell(row),
            agreement_cell(row.agreement),
        ]
        for row in rows
    ]


def show(table: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def speed(place: Workplace, tools: Tools, args: argparse.Namespace) -> tuple[list[Sample], Any]:
    root = place.folder("family") / args.size
    say(f"the family: {args.size} GB a model")
    folders = make(root, Family(SIZES[args.size]))
    bench = Bench(
        place, tools, {folder.name: folder for folder in folders}, args.reps, args.cold, args.peer_reps, args.floors
    )
    rows = []
    for case in (case for case in CASES if case.name in args.cases):
        agreement = bench.run(case)
        rows.append(summarise(case, bench.samples, agreement))
    show(speed_table(rows))
    return bench.samples, [asdict(row) for row in rows]


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
    "70b-shapes": Family(replace(LLAMA_70B, layers=4), models=3),
}
PLANNED = Family(LLAMA_70B, models=3, shards=30, header_only=True)


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
        sample = self.place.run("suture", case, rep, [self.suture, *command], group)
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


def memory(place: Workplace, suture: str, args: argparse.Namespace) -> tuple[list[Sample], Any]:
    bench = MemoryBench(place, suture, args.keep)
    parts: dict[str, Callable[[], None]] = {"help": bench.help, "plan": bench.plan}
    for name in args.cases:
        if name in parts:
            parts[name]()
            continue
        with family(place, name, MEMORY_FAMILIES[name], args.keep) as models:
            bench.peak(name, models)
            if name == "5":
                bench.inside_group(name, models)
    show(finding_table(bench.findings))
    return bench.samples, [asdict(finding) for finding in bench.findings]


# --- the peer's environment, machine facts, results ---


def peer_environment(place: Workplace) -> Path:
    """mergekit in an environment of its own; made once, from peers.txt."""
    venv = place.folder("peers") / "venv"
    command = venv / "bin" / "mergekit-yaml"
    if not command.exists():
        say("installing the peers (large)")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", "-r", str(HERE / "peers.txt")], check=True)
    return command


def output_of(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def peer_versions(mergekit: str) -> dict[str, str]:
    listed = output_of(str(Path(mergekit).parent / "pip"), "list", "--format", "json") or "[]"
    return {entry["name"]: entry["version"] for entry in json.loads(listed) if entry["name"] in PEER_PACKAGES}


def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def file_system(path: Path) -> str:
    """Type of the file system that holds `path`."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    holding = [(point, kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(holding, key=lambda mount: len(mount[0]))[1]


def facts(place: Workplace, tools: Tools) -> dict[str, Any]:
    memory_kib = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(int(memory_kib[1]) / MIB, 1) if memory_kib else None,
            "kernel": platform.release(),
            "file_system": file_system(place.root),
            "load_at_start": os.getloadavg()[0],
        },
        "versions": {
            "commit": output_of("git", "describe", "--always", "--dirty"),
            "suture": output_of(tools.suture, "--version") if tools.suture else None,
            "python": platform.python_version(),
            "peers": peer_versions(tools.mergekit) if tools.mergekit else None,
        },
    }


def keep_results(folder: Path, name: str, document: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


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


def beside_python(name: str) -> str | None:
    candidate = Path(sys.executable).parent / name
    return str(candidate) if candidate.exists() else shutil.which(name)


def pick_tools(place: Workplace, args: argparse.Namespace) -> Tools:
    peer_wanted = args.set == "speed" and "mergekit" in args.only
    floor = str(Path(args.floor).resolve()) if args.floor and "floor" in args.only else None
    if args.set == "speed" and "floor" in args.only and not floor:
        say("no --floor: ratios to the floor are left out")
    return Tools(
        args.suture if "suture" in args.only else None,
        str(peer_environment(place)) if peer_wanted else None,
        floor,
        shlex.split(args.mergekit_flags),
    )


def main() -> int:
    args = parse()
    place = Workplace(args.work.resolve())
    tools = pick_tools(place, args)
    document = facts(place, tools)
    if args.set == "speed":
        samples, rows = speed(place, tools, args)
    else:
        samples, rows = memory(place, args.suture, args)
    options = {"size": args.size, "reps": args.reps, "cold": args.cold, "mergekit_flags": args.mergekit_flags}
    document |= {"options": options, "rows": rows, "samples": [asdict(sample) for sample in samples]}
    name = args.set + ("-cold" if args.cold else "")
    say(f"raw results: {keep_results(args.results, name, document)}")
    return 1 if any(sample.exit_code and not sample.tool.startswith("floor") for sample in samples) else 0


if __name__ == "__main__":
    sys.exit(main())
