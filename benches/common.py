"""What the benchmarks share: timed processes and their memory, page cache, agreement, machine facts, results."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from family import WORD_BYTES

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
POLL_SECONDS = 0.01
COPY_BLOCK = 8 * MIB
COMPARE_ELEMENTS = 1 << 20
SEED = "42"
MERGEKIT_FLAGS = "--no-copy-tokenizer --no-write-model-card --quiet"
#: A peer's command, the folder of its environment and what is installed there.
PEERS = {
    "mergekit-yaml": ("venv", ("-r", str(HERE / "peers.txt"))),
    "mergelens": ("lens", ("mergelens==2.0.3",)),
}
PEER_PACKAGES = {"mergekit", "torch", "transformers", "safetensors", "numpy"}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


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
class Command:
    """A command line, the output it makes and the folder it runs in."""

    line: Sequence[str]
    out: Path | None = None
    folder: Path | None = None
    group: Path | None = None

    def entered(self) -> list[str]:
        """The command line that joins the control group first, when there is one."""
        if self.group is None:
            return list(self.line)
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.group), *self.line]


@dataclass(frozen=True)
class Workplace:
    root: Path

    def folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def shown(self, line: Sequence[str]) -> str:
        text = shlex.join([Path(line[0]).name, *line[1:]])
        return text.replace(str(self.root), "WORK").replace(str(HERE.parent), "REPO")

    def run(self, tool: str, case: str, rep: int, command: Command) -> Sample:
        """One whole process, from start to exit; its output goes to a log."""
        log = self.folder("logs") / f"{case}-{tool}-{rep}.log".replace(" ", "-").replace("/", "-")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        with open(log, "wb") as out:
            start = time.perf_counter()
            process = subprocess.Popen(
                command.entered(), stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=command.folder
            )
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
        sample = Sample(tool, case, rep, self.shown(command.line), seconds, peak.kib / 1024, code)
        say(f"{case:>16} {tool:<24} {seconds:8.2f} s {sample.peak_anon_mib:8.0f} MiB" + " FAILED" * (code != 0))
        if code:
            say(log.read_text(errors="replace")[-2000:])
        return sample


def side_by_side(
    place: Workplace,
    case: str,
    commands: Mapping[str, Command],
    reps: int,
    prepare: Callable[[], None],
    keep: Collection[str],
    peer_reps: int,
) -> Iterator[Sample]:
    """All tools of a case in turn, in the other order every other time; only the last outputs of `keep` stay."""
    for rep in range(reps):
        for tool in list(commands)[:: -1 if rep % 2 else 1]:
            if tool == "mergekit" and rep < reps - peer_reps:
                continue
            command = commands[tool]
            remove(command.out)
            prepare()
            yield place.run(tool, case, rep, command)
            if rep < reps - 1 or tool not in keep:
                remove(command.out)


def medians(samples: Sequence[Sample], case: str) -> dict[str, float]:
    """Seconds of each tool that ran without error."""
    mine = [s for s in samples if s.case == case and s.exit_code == 0]
    return {tool: statistics.median(s.seconds for s in mine if s.tool == tool) for tool in {s.tool for s in mine}}


def fastest(seconds: dict[str, float], kind: str) -> str | None:
    """The tool of that kind that took least time; None if there is none."""
    return min((tool for tool in seconds if tool.startswith(kind)), key=lambda tool: seconds[tool], default=None)


def peaks(samples: Sequence[Sample], case: str) -> dict[str, float]:
    """Highest anonymous memory of each tool that ran without error."""
    mine = [s for s in samples if s.case == case and s.exit_code == 0]
    return {tool: max(s.peak_anon_mib for s in mine if s.tool == tool) for tool in {s.tool for s in mine}}


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


def weight_bytes(folders: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in weight_files(folders))


def remove(path: Path | None) -> None:
    """Delete an output whole, and let the disk settle before the next run."""
    if path is None:
        return
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    os.sync()


# --- agreement ---


@dataclass(frozen=True)
class Agreement:
    """Where dtypes differ, the wider side was rounded to the narrower one's."""

    tensors: int
    equal_share: float
    beyond_ulp_share: float
    max_abs_difference: float
    worst_tensor: str | None
    only_one_side: list[str]
    shapes_differ: list[str]
    dtypes_differ: list[str]


@dataclass(frozen=True)
class Stored:
    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    elements: int

    def bits(self, start: int, n: int, dtype: str) -> npt.NDArray[Any]:
        """The words of some elements, in this dtype or the narrower one asked for."""
        width = WORD_BYTES[self.dtype]
        words: npt.NDArray[Any] = np.fromfile(self.path, f"<u{width}", n, offset=self.offset + width * start)
        if dtype == self.dtype:
            return words
        rounded: npt.NDArray[Any] = (words + ((words >> 16) & 1) + 0x7FFF) >> 16  # bf16, nearest even
        return rounded.astype(np.uint16)


def stored_tensors(folder: Path, skip: str) -> dict[str, Stored]:
    found = {}
    for path in weight_files([folder]):
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            table: dict[str, Any] = json.loads(file.read(size))
        table.pop("__metadata__", None)
        for name, entry in table.items():
            if entry["dtype"] not in WORD_BYTES:
                raise ValueError(f"{path}: {name}: expected one of {list(WORD_BYTES)}, found {entry['dtype']}")
            begin, end = entry["data_offsets"]
            elements = (end - begin) // WORD_BYTES[entry["dtype"]]
            if not re.search(skip, name):
                found[name] = Stored(path, 8 + size + begin, entry["dtype"], tuple(entry["shape"]), elements)
    return found


def values(bits: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    wide = bits.astype(np.uint32) << 16 if bits.itemsize == 2 else bits
    return wide.view(np.float32)


def steps(bits: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Numbers that follow each other as the floats do, both zeros at 0."""
    signed = bits.view(f"<i{bits.itemsize}").astype(np.int64)
    return np.where(signed < 0, -(1 << (8 * bits.itemsize - 1)) - signed, signed)


def compare(left: Path, right: Path, skip: str = "^$") -> Agreement:
    """Element by element; a step is the distance to the next number of the dtype."""
    a, b = stored_tensors(left, skip), stored_tensors(right, skip)
    shared = sorted(a.keys() & b.keys())
    alike = [name for name in shared if a[name].shape == b[name].shape]
    elements, equal, beyond, worst, worst_tensor = 0, 0, 0, 0.0, None
    for name in alike:
        x, y = a[name], b[name]
        dtype = min(x.dtype, y.dtype, key=lambda dtype: WORD_BYTES[dtype])
        for start in range(0, x.elements, COMPARE_ELEMENTS):
            n = min(COMPARE_ELEMENTS, x.elements - start)
            p, q = x.bits(start, n, dtype), y.bits(start, n, dtype)
            differs = np.flatnonzero(p != q)
            equal += n - differs.size
            if differs.size:
                p, q = p[differs], q[differs]
                beyond += int(np.count_nonzero(np.abs(steps(p) - steps(q)) > 1))
                largest = float(np.max(np.abs(values(p) - values(q))))
                if not largest <= worst:  # so that a NaN is seen
                    worst, worst_tensor = largest, name
        elements += x.elements
    return Agreement(
        len(alike),
        equal / max(elements, 1),
        beyond / max(elements, 1),
        worst,
        worst_tensor,
        sorted(a.keys() ^ b.keys()),
        sorted(set(shared) - set(alike)),
        [name for name in shared if a[name].dtype != b[name].dtype],
    )


# --- numbers and tables for people ---


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def against(value: float | None, target: float | None, at_most: bool) -> str:
    if value is None or target is None:
        return number(value)
    met = value <= target if at_most else value >= target
    return f"{value:.2f} {'<=' if at_most else '>='} {target:g} {'ok' if met else 'MISSED'}"


def show(table: Sequence[Sequence[str]]) -> None:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_markdown(table: Sequence[Sequence[str]]) -> None:
    head, *lines = table
    for line in (head, ["---"] * len(head), *lines):
        print(f"| {' | '.join(line)} |")


# --- the peer's environment, machine facts, results ---


def beside_python(name: str) -> str | None:
    candidate = Path(sys.executable).parent / name
    return str(candidate) if candidate.exists() else shutil.which(name)


def peer_command(place: Workplace, given: Path | None, peer: str = "mergekit-yaml") -> str:
    """A peer's command from an environment of its own; made once, from its requirements, unless a command is given."""
    if given:
        return str(given.absolute())
    folder, wanted = PEERS[peer]
    venv = place.folder("peers") / folder
    command = venv / "bin" / peer
    if not command.exists():
        say(f"installing {peer} (large: it brings torch)")
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", *wanted], check=True)
    return str(command)


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


def facts(place: Workplace, suture: str | None, mergekit: str | None) -> dict[str, Any]:
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
            "suture": output_of(suture, "--version") if suture else None,
            "python": platform.python_version(),
            "peers": peer_versions(mergekit) if mergekit else None,
        },
    }


@dataclass(frozen=True)
class Results:
    """The raw results; the whole file is replaced at every save, so that a stopped run loses one case at most."""

    path: Path
    document: dict[str, Any]

    @classmethod
    def start(cls, folder: Path, name: str, document: dict[str, Any]) -> Results:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-{name}.json", document)

    def save(self, rows: Sequence[Any], samples: Sequence[Sample], complete: bool = False) -> None:
        self.document["complete"] = complete
        self.document["rows"] = [asdict(row) for row in rows]
        self.document["samples"] = [asdict(sample) for sample in samples]
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.document, indent=1) + "\n")
        part.replace(self.path)
        if complete:
            say(f"raw results: {self.path}")
