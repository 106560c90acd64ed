"""Law 1 for parts: `--memory` is kept by a part, by a round and by what joins them, measured from outside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ..memory.test_memory import BUDGET, LIMIT, write_model
from ..support.measuring import MIB, Run, run


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """A base and two fine-tunes of 0.3 GB each."""
    folder = tmp_path_factory.mktemp("models")
    if shutil.disk_usage(folder).free < 5 * 10**9:
        pytest.skip("takes 2 GB of disk, and 5 GB are not free")
    rng = np.random.default_rng(6)
    base = rng.integers(0x3C00, 0x3F00, 4_000_037, dtype=np.uint16)
    try:
        yield [
            write_model(folder / name, 2, base ^ rng.integers(0, 2**6, base.size, dtype=np.uint16) if i else base)
            for i, name in enumerate(("base", "one", "two"))
        ]
    finally:
        shutil.rmtree(folder)


def test_a_part_keeps_the_budget(models: list[Path]) -> None:
    """Of a merge whose thresholds are the whole model's: rounds, parts, what settles them, what puts them together."""
    config = models[0].parent / "c.yml"
    listed = [{"model": str(m), "parameters": {"weight": 0.5, "density": 0.3}} for m in models[1:]]
    merge = {"merge_method": "ties", "base_model": str(models[0]), "models": listed, "parameters": {"scope": "model"}}
    config.write_text(json.dumps(merge))
    out = models[0].parent / "out"

    def part(i: int, *more: str) -> Run:
        how = ("--part", f"{i}/2", "--memory", BUDGET, "--threads", "2", "--shard-size", "100MB", *more)
        return run("merge", config, out, *how)

    done: list[Run] = []
    for turn in range(1, 9):
        done += [part(i, "--round", str(turn)) for i in (1, 2)]
        done.append(run("settle", out))
        found = part(1)
        if found.code == 0:
            done += [found, part(2), run("finish", out, "--verify")]
            break
        assert "--round" in found.stderr
    assert [d.stderr for d in done if d.code != 0] == []
    assert out.is_dir()
    peaks = [d.peak for d in done]
    assert max(peaks) < LIMIT, [f"{peak / MIB:.0f} MiB" for peak in peaks]
