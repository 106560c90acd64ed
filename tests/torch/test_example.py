"""examples/merge_in_memory.py does what its page says: two tasks in one model, found and merged where it lies."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "merge_in_memory.py"


@pytest.mark.heavy
def test_the_merge_does_what_neither_expert_does() -> None:
    done = subprocess.run([sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = {n: float(x) for n, x in re.findall(r"^(base|up|down|merged) +loss ([\d.]+)", done.stdout, re.MULTILINE)}
    assert losses["merged"] < 0.8 * min(losses["base"], losses["up"], losses["down"])
    assert "up: 3 4 5 6" in done.stdout.splitlines()[-1]
    assert "down: 3 2 1 0" in done.stdout.splitlines()[-1]
