"""Law: what a killed process has left under TMPDIR goes with the next one; nothing else is touched."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from suture import temporary

MAKE = "import sys, time; from suture import temporary; print(temporary.made('work'), flush=True); sys.stdin.read()"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def process(place: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has a folder, until its input ends."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    made = subprocess.Popen([sys.executable, "-c", MAKE], env={**os.environ, "TMPDIR": str(place)}, **pipes)  # type: ignore[call-overload]
    return made, Path(made.stdout.readline().strip())


def test_of_killed_processes_alone(place: Path) -> None:
    """Those of processes that live, of other machines, and of nobody we know stay; one that ends takes its own."""
    (dead, left), (lives, used), (ends, taken) = (process(place) for _ in range(3))
    (left / "model.safetensors").write_bytes(b"x")
    dead.kill()
    dead.communicate()
    ends.communicate()
    assert not taken.exists()
    others = [place / f"suture-work-{'0' * 6}-abc", place / "suture-demo", place / "suture-spool-0-x"]
    for folder in others:
        folder.mkdir()
    for folder in place.iterdir():
        os.utime(folder, (0, time.time() - 2 * temporary.YOUNG))
    own = temporary.made("work")
    assert not left.exists()
    assert all(folder.exists() for folder in (used, own, *others))
    temporary.gone(own)
    lives.communicate()
    assert sorted(place.iterdir()) == sorted(others)


def test_a_young_one_stays(place: Path) -> None:
    """It may be of a process that has not locked it yet."""
    dead, left = process(place)
    dead.kill()
    dead.communicate()
    with temporary.passing("work") as own:
        assert left.exists()
        assert Path(own).exists()
    assert list(place.iterdir()) == [left]


def test_a_fork_removes_nothing(place: Path) -> None:
    """A child that ends leaves what is its parent's."""
    own = temporary.made("work")
    child = os.fork()
    if not child:
        temporary.all_gone()
        os._exit(0)
    os.waitpid(child, 0)
    assert own.exists()
    temporary.gone(own)
    assert not own.exists()
