"""Law: the Triton kernels give what the torch forms give, to the bit; here as Triton interprets them, on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Tensors of the families that have elements.
TENSORS = 4


@pytest.mark.heavy
def test_kernels_give_what_the_forms_give() -> None:
    """All families of kernels, over smooth and coarse changes, with bounds that hold the cut and bounds that miss it.

    A minute long: tests/torch/test_known.py has most kernels interpreted too, on few tensors.
    """
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.torch.kernels"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    merges = json.loads(done.stdout)
    assert len(merges) > 80
    assert not [m for m in merges if m["unequal"] or m["taken"] != TENSORS]
