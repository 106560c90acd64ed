"""Law 8: what the user should know stands on stderr, once, and in the report; `--quiet` says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from suture.cli.diff import diff
from suture.cli.inspect import inspect
from suture.cli.merge import merge
from suture.cli.revert import revert
from suture.cli.swap import swap

from ..support.checkpoints import file_bytes, llama_family, write_checkpoint, write_json

WAYS = [[], ["--json"]]
WRITING = [[], ["--dry-run"], ["--json"], ["--dry-run", "--json"], ["--verbose"]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes; the last file's entries have a key that is none of the format."""
    root = tmp_path_factory.mktemp("models")
    found = llama_family(root, layers=2, n=2, hidden=8, heads=2, kv_heads=1, ff=12, vocab=10)
    listed = [{"model": str(m), "parameters": {"weight": [{"filter": "nowhere", "value": 2}, 1.0]}} for m in found]
    write_json(root / "c.yml", {"merge_method": "linear", "models": listed})
    tensors = {f"model.layers.{i}.w": np.ones((2, 2), np.float32) for i in range(2)}
    odd = write_checkpoint(root / "odd", tensors)
    content = file_bytes(tensors)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for entry in header.values():
        entry["colour"] = "red"
    text = json.dumps(header).encode()
    (odd / "model.safetensors").write_bytes(
        len(text).to_bytes(8, "little") + text + content[8 + int.from_bytes(content[:8], "little") :]
    )
    return [*found, odd, root / "c.yml"]


def calls(m: list[Path]) -> dict[str, tuple[click.Command, list[Any], bool]]:
    """Calls that have something to warn of (`diff` of the same file twice: twice the same), and whether they write."""
    return {
        "inspect": (inspect, [m[3]], False),
        "diff": (diff, [m[3], m[3]], False),
        "merge": (merge, [m[4]], True),
        "swap": (swap, ["--into", m[1], "--from", m[1], "--layers", "0"], True),
        "revert": (revert, [m[0], m[0], "--layers", "0"], True),
    }


CASES = [(n, w) for n in ("inspect", "diff") for w in WAYS] + [
    (n, w) for n in ("merge", "swap", "revert") for w in WRITING
]


@pytest.mark.parametrize(("name", "way"), CASES, ids=str)
def test_each_warning_is_printed_once(name: str, way: list[str], models: list[Path], tmp_path: Path) -> None:
    """Whatever else is asked for, and with `--json` it is in the data too."""
    command, arguments, writes = calls(models)[name]
    call = [*map(str, arguments), *([str(tmp_path / "out")] if writes else []), *way]
    done = CliRunner().invoke(command, call, catch_exceptions=False)
    lines = [line.removeprefix("warning: ") for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert lines
    assert len(lines) == len(set(lines))
    assert "warning" not in done.stdout or "--json" in way
    if "--json" in way:
        told = json.loads(done.stdout)["warnings"]
        assert list(dict.fromkeys(told)) == lines
    quiet = CliRunner().invoke(command, [*(a.replace("out", "quiet") for a in call), "--quiet"], catch_exceptions=False)
    assert quiet.stderr == ""
