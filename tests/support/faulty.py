"""A run in a process of its own that is hurt at the moment its last tensor is made.

As a program it takes JSON on its command line: a config, an output, the settings, and what is to happen then. It ends
with code 0 where the run succeeds, 1 where it raises an error of ours, 3 where the moment never comes.

System calls are refused by a seccomp filter on all threads: no privilege is needed, and no call is foreseen that the
run may make: from then on every one of a kind fails, or ends the process as `kill -9` would.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Numbers of system calls; of some there are several.
CALLS: dict[str, dict[str, list[int]]] = {
    "x86_64": {
        "fsync": [74],
        "fdatasync": [75],
        "rename": [82, 264, 316],
        "unlink": [87, 263, 84],
        "create": [257, 2],
        "truncate": [76, 77],
        "write": [18],
        "copy": [326, 40],
        "mkdir": [83, 258],
    },
    "aarch64": {
        "fsync": [82],
        "fdatasync": [83],
        "rename": [38, 276],
        "unlink": [35],
        "create": [56],
        "truncate": [45, 46],
        "write": [68],
        "copy": [285, 71],
        "mkdir": [34],
    },
}
SECCOMP = {"x86_64": 317, "aarch64": 277}
LOAD, EQUAL, SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
#: Where the flags of `openat` and of `open` lie among what a filter sees.
FLAGS = {"x86_64": {257: 32, 2: 24}, "aarch64": {56: 32}}


class Step(ctypes.Structure):
    """An instruction of a filter."""

    _fields_ = [("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32)]


class Program(ctypes.Structure):
    """A filter."""

    _fields_ = [("length", ctypes.c_uint16), ("steps", ctypes.POINTER(Step))]


def known() -> bool:
    """Whether this machine's system calls are known here."""
    return sys.platform == "linux" and platform.machine() in CALLS


def refuse(kind: str, kill: bool) -> None:
    """From now on every system call of a kind fails in every thread of this process, or ends it."""
    machine = platform.machine()
    verdict = KILL if kill else ERRNO | errno.EIO
    steps: list[tuple[int, int, int, int]] = []
    for number in CALLS[machine][kind]:
        steps.append((LOAD, 0, 0, 0))
        if kind == "create":
            steps += [(EQUAL, 0, 3, number), (LOAD, 0, 0, FLAGS[machine][number])]
            steps += [(SET, 0, 1, os.O_CREAT), (RETURN, 0, 0, verdict)]
        else:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, verdict)]
    steps.append((RETURN, 0, 0, ALLOW))
    listed = (Step * len(steps))(*(Step(*s) for s in steps))
    program = Program(len(steps), listed)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.syscall(SECCOMP[machine], 1, 1, ctypes.byref(program)):
        os._exit(4)


def main(text: str) -> None:
    """Run what the JSON says, and hurt it at its end."""
    import suture

    told: dict[str, Any] = json.loads(text)
    moment: list[int] = []

    def progress(done: int, total: int) -> None:
        if done >= total and not moment:
            moment.append(done)
            if told.get("shut"):
                Path(told["shut"]).chmod(0o555)
            if told.get("kind"):
                refuse(told["kind"], told["kill"])

    # Another user may not be able to import.
    settings, merge, swap = suture.Settings(**told["settings"]), suture.merge, suture.swap
    if told.get("user"):
        os.setgid(told["user"])
        os.setuid(told["user"])
    try:
        if "swap" in told:
            swap(**told["swap"], out=told["out"], settings=settings, progress=progress)
        else:
            merge(told["config"], told["out"], settings=settings, progress=progress)
    except suture.SutureError as e:
        print(e, file=sys.stderr, flush=True)
        os._exit(1 if moment else 3)
    except BaseException as e:
        print(f"{type(e).__name__}: {e}", file=sys.stderr, flush=True)
        os._exit(5)
    os._exit(0 if moment else 3)


def run(told: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """A run that is hurt at its end."""
    command = [sys.executable, __file__, json.dumps(told)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


if __name__ == "__main__":
    main(sys.argv[1])
