"""The example of a mixture: fine-tunes of a published model, routed to by their subjects, taken apart again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import suture

RUN = Path(__file__).parents[2] / "examples" / "mixture" / "run.py"


@pytest.mark.heavy
def test_the_example_runs(smollm: Path, tmp_path: Path) -> None:
    """Every expert is sent more of its own subject than either other; what is joined again is what was split."""
    pytest.importorskip("torch")
    path = os.pathsep.join([str(Path(suture.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, str(RUN), "--gguf", str(smollm)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^  (?:cooking|sums|sailing) +([\d.]+) +([\d.]+) +([\d.]+)$", done.stdout, re.MULTILINE)
    shares = [[float(share) for share in row] for row in rows]
    assert [row.index(max(row)) for row in shares] == [0, 1, 2]
    assert "split and joined again: the same tensors" in done.stdout
    assert list(tmp_path.iterdir()) == []
