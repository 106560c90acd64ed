"""The wheel that is released: right in itself, and at work in a fresh environment."""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

import suture
import suture._core

from ..support.checkpoints import read_checkpoint, write_checkpoint
from .audit import GLIBC, ROOT, faults
from .conftest import Installed, Made, pythons, run

pytestmark = pytest.mark.heavy


def commit() -> str:
    """What git says this checkout is, changes to it included."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = (
        subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False) if shutil.which("git") else None
    )
    return done.stdout.strip() if done and done.returncode == 0 else "not known"


def test_the_wheel_is_fit_for_release(made: Made) -> None:
    """Tag, size, abi3, glibc, no cache and no path of this machine: `make wheel` has asked, this asks again."""
    wheel = made("wheel")
    assert wheel.name.startswith(f"suture-{suture.__version__}-cp310-abi3-")
    if platform.system() == "Linux":
        assert wheel.name.endswith(f"-manylinux_2_28_{platform.machine()}.whl")
    assert faults(wheel) == []
    with zipfile.ZipFile(wheel) as archive:
        (info,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert f"Tag: {wheel.stem.split('-', 2)[2]}" in archive.read(info).decode()


def test_a_library_linked_here_is_told_apart(made: Made, tmp_path: Path) -> None:
    """The audit is no rubber stamp: with a library linked against this machine's newer glibc the wheel fails it."""
    version = tuple(map(int, re.findall(r"\d+", platform.libc_ver()[1])[:2]))
    if version < (2, 34):
        pytest.skip("libpthread became a part of glibc with 2.34: what is linked to an older one passes")
    good = made("wheel")
    bad = tmp_path / good.name
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, Path(suture._core.__file__).read_bytes() if name.endswith(".so") else data)
    assert any(f"not {'.'.join(map(str, GLIBC))}" in fault for fault in faults(bad)), faults(bad)


@pytest.mark.parametrize("python", pythons())
def test_the_wheel_works_in_a_fresh_environment(python: str, made: Made, installed: Installed, tmp_path: Path) -> None:
    """Installed by plain pip without an extra: where it is from, the demo without torch, a merge of known result."""
    programs = installed(made("wheel"), python)
    program = programs / "suture"
    assert run(program, "--version", cwd=tmp_path) == f"suture {suture.__version__}\n"
    told = dict(line.split(maxsplit=1) for line in run(program, "--version", "--verbose", cwd=tmp_path).splitlines())
    assert told["commit"] == commit()
    assert "LTO fat" in told["profile"]
    assert told["torch"] == "not installed"
    assert "altair not installed" in told["report"]
    where = run(programs / "python", "-c", "import suture; print(suture.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "venv"))

    scores = json.loads(run(program, "demo", "out", "--json", cwd=tmp_path))["outcomes"]
    assert len(scores) >= 9
    assert max(score for outcome in scores for score in outcome["scores"].values()) > 0.95

    rng = np.random.default_rng(9)
    models = [{f"model.layers.{i}.w": rng.standard_normal((8, 4)).astype(np.float32) for i in range(2)} for _ in "ab"]
    for name, tensors in zip("ab", models, strict=True):
        write_checkpoint(tmp_path / name, tensors)
    recipe = {"merge_method": "linear", "models": [{"model": name, "parameters": {"weight": 1}} for name in "ab"]}
    (tmp_path / "merge.yml").write_text(json.dumps(recipe))
    run(program, "merge", "merge.yml", "merged", cwd=tmp_path)
    run(program, "verify", "merged", cwd=tmp_path)
    found = read_checkpoint(tmp_path / "merged")
    assert found.keys() == models[0].keys()
    for name, raw in found.items():
        half = (models[0][name].astype(np.float64) + models[1][name]) / 2
        np.testing.assert_allclose(raw.values(), half, rtol=1e-6)
