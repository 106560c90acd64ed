"""A merge of quantised models that is killed ends, when run again, in the bytes and counts of an undisturbed one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import suture

from ..faults.test_kill import file_digests, finish, journalled, killed_after, resumed
from .encoded import LONG, model, weights


@pytest.mark.parametrize("to", ["bf16", "fp8", "mxfp4"])
@pytest.mark.parametrize("stored", ["fp8", "mxfp4"])
def test_killed_runs_end_in_the_same_bytes(stored: str, to: str, tmp_path: Path) -> None:
    """Laws 3 and 6: what was done is taken over, and what was rounded back is counted once."""
    paths = [tmp_path / f"q{i}" for i in range(3)]
    for i, path in enumerate(paths):
        model(tmp_path / f"m{i}", weights(50 + i, LONG, plain=True))
        suture.convert(tmp_path / f"m{i}", path, settings=suture.Settings(to=stored))
    entries = [{"model": str(p), "parameters": {"weight": 0.4, "density": 0.6}} for p in paths[1:]]
    recipe = {"merge_method": "ties", "base_model": str(paths[0]), "models": entries}
    (tmp_path / "config.yml").write_text(json.dumps(recipe))

    def command(out: Path) -> list[str]:
        options = ["--to", to, "--threads", "2", "--chunk", "64KiB"]
        return [sys.executable, "-m", "suture", "merge", str(tmp_path / "config.yml"), str(out), *options]

    finish(command(tmp_path / "whole"))
    killed_after(lambda: len(journalled(tmp_path / "out")) > 3, command(tmp_path / "out"))
    finish(command(tmp_path / "out"))
    assert file_digests(tmp_path / "out") == file_digests(tmp_path / "whole")
    assert resumed(tmp_path / "out") > 3
    record = json.loads((tmp_path / "out" / "suture.json").read_text())
    assert any("rounded_back" in t.get("found", {}) for t in record["tensors"].values()) == (to != "bf16")
