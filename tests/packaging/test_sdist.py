"""The sdist that is released: whole, clean, and enough to build from."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

import suture

from .audit import ROOT
from .conftest import Installed, Made, run

pytestmark = pytest.mark.heavy


def test_the_sdist_holds_the_sources_only(made: Made) -> None:
    """What is built from is there, what was built or cached is not, and no file names this checkout."""
    with tarfile.open(made("sdist")) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
        for needed in (
            "PKG-INFO",
            "Cargo.lock",
            "LICENSE",
            "pyproject.toml",
            "rust/py/build.rs",
            "rust/core/Cargo.toml",
        ):
            assert needed in files
        for name, file in files.items():
            assert not name.endswith((".so", ".pyc"))
            assert file
            assert os.fsencode(ROOT) not in file.read(), name


def test_the_sdist_builds_and_installs(made: Made, installed: Installed, tmp_path: Path) -> None:
    """By plain pip, from nothing: no folder of earlier builds, no environment of ours."""
    programs = installed(made("sdist"), env={"CARGO_TARGET_DIR": str(tmp_path / "target")})
    assert run(programs / "suture", "--version", cwd=tmp_path) == f"suture {suture.__version__}\n"
