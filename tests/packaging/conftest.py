"""What is released, built once for all tests of it, and fresh environments to put it into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from .audit import ROOT

#: What would tell a fresh environment of the one the tests run in.
_OURS = ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13", "python3.14", "python3.15")

Made = Callable[[str], Path]
Installed = Callable[..., Path]


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command that must succeed prints, run as a user would who has nothing else of suture's."""
    clean = {name: value for name, value in os.environ.items() if name not in _OURS}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=clean | dict(env or {}), check=False
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def pythons() -> list[str]:
    """The interpreter of the tests, and every other that abi3 promises to run on and that is here."""
    others = [found for name in PYTHONS if (found := shutil.which(name))]
    works = "import sys, venv, ensurepip; print(sys.version_info[:2])"
    known: dict[str, str] = {}
    for python in (sys.executable, *others):
        done = subprocess.run([python, "-c", works], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            known.setdefault(done.stdout, python)
    return list(known.values())


@pytest.fixture(scope="session")
def online() -> None:
    if os.environ.get("SUTURE_OFFLINE") == "1":
        pytest.skip("SUTURE_OFFLINE=1, and a release takes packages from PyPI to be built and installed")


@pytest.fixture(scope="session")
def made(online: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What `make TARGET` puts into dist/; the build fails with make's own words."""
    known: dict[str, Path] = {}

    def make(target: str) -> Path:
        if target not in known:
            dist = tmp_path_factory.mktemp(target)
            run("make", target, f"DIST={dist}", cwd=ROOT)
            (known[target],) = dist.iterdir()
        return known[target]

    return make


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """A fresh environment with nothing but what pip puts there for `package`; where its programs are."""

    def install(package: Path, python: str = sys.executable, env: Mapping[str, str] | None = None) -> Path:
        run(python, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
        programs = tmp_path / "venv" / "bin"
        run(programs / "pip", "install", "--quiet", package, cwd=tmp_path, env=env)
        return programs

    return install
