"""Timed processes and their memory."""

from __future__ import annotations

import os
import re
import resource
import shlex
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.places import HERE, remove, say

POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Sample:
    tool: str
    case: str
    rep: int
    command: str
    seconds: float
    cpu_seconds: float
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


def cpu_of_children() -> float:
    """Seconds that processes have taken which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
        before = cpu_of_children()
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
        cpu = cpu_of_children() - before
        sample = Sample(tool, case, rep, self.shown(command.line), seconds, cpu, peak.kib / 1024, code)
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
