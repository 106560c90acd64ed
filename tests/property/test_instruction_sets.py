"""Law 3 over instruction sets: the same bytes from every version of every kernel."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from suture._core import build_json

from ..support.adapters import write_adapter
from ..support.catalogue import CASES, configure
from ..support.checkpoints import llama_family, read_checkpoint

#: What each needs of the processor.
SETS = {
    "portable": set[str](),
    "avx2": {"avx2", "fma"},
    "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"},
}
HERE = [name for name, needs in SETS.items() if needs <= set(json.loads(build_json())["processor"])]


def suture(isa: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line, with an instruction set."""
    command = [sys.executable, "-m", "suture", *map(str, arguments)]
    environment = os.environ | {"SUTURE_ISA": isa}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def digests(folder: Path) -> dict[str, str]:
    """Of every file of tensors in a folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.skipif(len(HERE) < 2, reason="this processor has but one version of the kernels")
@pytest.mark.parametrize("dtype", ["bf16", pytest.param("f32", marks=pytest.mark.heavy)])
def test_every_instruction_set_gives_the_same_bytes(dtype: str, tmp_path: Path) -> None:
    """Every method in every variant, adapters folded in, all figures of a comparison; rows longer than any vector."""
    shape: dict[str, Any] = {"layers": 1, "hidden": 72, "heads": 4, "kv_heads": 2, "ff": 100, "vocab": 509}
    models = llama_family(tmp_path / "models", n=3, dtype=dtype, spread=0.01, **shape)
    adapter = write_adapter(tmp_path / "adapter", read_checkpoint(models[0]), ["mlp.up_proj"], range(1), seed=1)
    config = tmp_path / "c.yml"
    several = {f"{i}-{case.name}": configure(case, models) for i, case in enumerate(CASES)}
    config.write_text("\n---\n".join(json.dumps({**d, "name": name}) for name, d in several.items()))
    found = {}
    for isa in HERE:
        out = tmp_path / isa
        done = suture(isa, "merge", config, out)
        assert done.returncode == 0, done.stderr
        done = suture(isa, "convert", f"{models[0]}+{adapter}", out / "folded")
        assert done.returncode == 0, done.stderr
        done = suture(isa, "diff", *models, "--heads", "--neurons", "4", "--spread", "--json")
        assert done.returncode == 0, done.stderr
        found[isa] = (digests(out), done.stdout)
    assert len(found["portable"][0]) > len(CASES)
    for isa in HERE:
        tensors, figures = found[isa]
        assert [n for n, d in tensors.items() if found["portable"][0][n] != d] == [], isa
        assert figures == found["portable"][1], isa


def test_a_set_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """Law 8: the variable, what it holds, what it may hold; nothing is run by another set than the one asked for."""
    models = llama_family(tmp_path / "models", n=1, layers=1)
    lacking = {name: f"this processor has no {name}" for name in SETS.keys() - set(HERE)}
    for isa, said in ({"sse9": "expected portable, avx2 or avx512, found `sse9`"} | lacking).items():
        done = suture(isa, "diff", *models)
        assert done.returncode == 2, done.stderr
        assert "SUTURE_ISA" in done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
