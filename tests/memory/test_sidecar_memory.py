"""Law 1 holds for the files beside the tensors, too: a large one is copied, digested and verified in pieces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ..support.checkpoints import write_checkpoint

LARGE = 200 * 2**20
CODE = """
import resource, sys, suture
model, out = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = {"merge_method": "passthrough", "models": [{"model": model}]}
suture.merge(config, out, settings=suture.Settings(memory="64MiB"))
assert suture.verify(out)["files"] == []
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_large_file_beside_the_tensors_is_never_in_memory(tmp_path: Path) -> None:
    """200 MiB of a vocabulary take a few MiB of memory."""
    model = write_checkpoint(tmp_path / "model", {"w": np.zeros((4, 4), np.float32)})
    with (model / "vocabulary.dat").open("wb") as file:
        file.truncate(LARGE)
    command = [sys.executable, "-c", CODE, str(model), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) * 1024 < 64 * 2**20
    assert (tmp_path / "out" / "vocabulary.dat").stat().st_size == LARGE
