"""Inputs that change under a run: a program that forks a process for each case, since a case may kill it.

As a program it takes JSON: cases, each with a job, the file to change, how, and when. It prints how each ended: `error`
(one of ours), `done`, `moment` (the change was never made), `signal N`, or the exception.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HOWS = ("relinked", "other bytes", "dated back", "longer", "replaced", "truncated", "emptied", "removed")


def meddle(path: Path, how: str) -> None:
    """Change a file as another program might."""
    if how == "relinked":
        # As in a cache where names are links to what was downloaded.
        new = path.with_suffix(".new")
        new.symlink_to(path.with_suffix(".other"))
        new.rename(path)
        return
    data, times = path.read_bytes(), path.stat()
    other = data[:-64] + bytes(b ^ 1 for b in data[-64:])
    if how in ("other bytes", "dated back"):
        with path.open("r+b") as file:
            file.write(other)
    elif how == "longer":
        with path.open("ab") as file:
            file.write(b"\0" * 64)
    elif how == "replaced":
        new = path.with_suffix(".new")
        new.write_bytes(other)
        new.rename(path)
    elif how == "removed":
        path.unlink()
        return
    else:
        os.truncate(path, len(data) // 3 if how == "truncated" else 0)
    if how == "dated back":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        # Clocks of file systems are coarse: this change is one that they see.
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))


def as_link(path: Path) -> None:
    """Make a file a link to one that has another name, with a second one of other bytes beside it."""
    data = path.read_bytes()
    path.rename(path.with_suffix(".blob"))
    path.with_suffix(".other").write_bytes(data[:-64] + bytes(b ^ 1 for b in data[-64:]))
    path.symlink_to(path.with_suffix(".blob"))


def attempt(case: dict[str, Any]) -> str:
    """How a run ends under which a file is changed."""
    import suture
    from suture import _core

    changed: list[str] = []

    def change(*_: object) -> None:
        if not changed:
            changed.append(case["how"])
            meddle(Path(case["path"]), case["how"])

    settings = suture.Settings(**case["settings"])
    progress: Callable[..., None] | None = change
    if case["when"] == "between":
        progress = None
        make: Any = _core.Plan

        class Made:
            """Plans, after each of which the file is changed."""

            from_json = getattr(make, "from_json", None)

            def __new__(cls, *arguments: Any, **options: Any) -> Any:
                plan = make(*arguments, **options)
                change()
                return plan

        _core.Plan = Made  # type: ignore[misc]
    try:
        if "swap" in case:
            suture.swap(**case["swap"], out=case["out"], settings=settings, progress=progress)
        else:
            suture.merge(case["config"], case["out"], settings=settings, progress=progress)
    except suture.SutureError as e:
        return f"error {e}" if changed else "moment"
    except BaseException as e:
        return f"{type(e).__name__}: {e}"
    return "done" if changed else "moment"


def main(text: str) -> None:
    """Try every case in a process of its own."""
    # What every child needs; it starts no thread, which a fork would lose.
    import suture.surgery  # noqa: F401

    ends = []
    for case in json.loads(text):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(write, attempt(case).encode()[:2000])
            os._exit(0)
        os.close(write)
        with open(read, "rb") as file:
            told = file.read().decode()
        _, status = os.waitpid(child, 0)
        ends.append(told if os.WIFEXITED(status) and told else f"signal {os.WTERMSIG(status)}")
    print(json.dumps(ends))


def run(cases: list[dict[str, Any]]) -> list[str]:
    """How each case ends."""
    command = [sys.executable, __file__, json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main(sys.argv[1])
