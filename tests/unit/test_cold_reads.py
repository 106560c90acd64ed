"""What the report says of how cold files were read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import suture

from ..support.catalogue import model

SIZE = 6 << 20


def evict(folder: Path) -> None:
    """Has the system forget what it holds of a checkpoint, where it can."""
    for path in folder.glob("*.safetensors"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def test_the_rates_that_decided_are_told(tmp_path: Path) -> None:
    """Files that were cold were read by what was measured, which stands in the report; others have no rates."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(SIZE).astype(np.float32) for _ in range(2)]
    models = [model(tmp_path / f"{i}", a=v) for i, v in enumerate(values)]
    config = {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]}
    for io in ("auto", "mmap", "pread"):
        for folder in models:
            evict(folder)
        run = suture.merge(config, tmp_path / io, settings=suture.Settings(io=io)).data["run"]
        assert run["files_mapped"] + run["files_direct"] + run["files_pread"] == len(models)
        # The two lie on one device; where files live in memory they are never cold.
        assert len(run["cold_reads"]) <= (io == "auto")
        for rates in run["cold_reads"]:
            assert rates.keys() == {"direct", "cached"}
            assert min(rates["direct"], rates["cached"]) > 0
    written = {(tmp_path / io / "model.safetensors").read_bytes() for io in ("auto", "mmap", "pread")}
    assert len(written) == 1
