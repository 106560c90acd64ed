"""A process of suture, and the most anonymous memory it had."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
SUTURE = [sys.executable, "-m", "suture"]


@dataclass(frozen=True)
class Run:
    """What a process did, and the most anonymous memory it had."""

    code: int
    stderr: str
    peak: int


def anonymous(pid: int) -> int:
    """Anonymous memory of a process now, in bytes; huge pages included."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(kib) * 1024 for kib in re.findall(r"^(?:RssAnon|HugetlbPages):\s*(\d+) kB", status, re.MULTILINE))


def run(*arguments: str | Path, before: Callable[[], None] | None = None) -> Run:
    """The command line, watched from its start to its end."""
    child = subprocess.Popen(
        [*SUTURE, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    peak = 0
    while child.poll() is None:
        peak = max(peak, anonymous(child.pid))
        time.sleep(0.002)
    assert child.stderr is not None
    with child.stderr:
        return Run(child.returncode, child.stderr.read(), peak)
