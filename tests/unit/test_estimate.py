"""The time that a merge takes is estimated by the formula of docs/scale.md, and parts are given out as it says."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner

import suture
from suture.cli.plan import plan as plan_command
from suture.results.parts import Division
from suture.surgery.estimate import Rates, estimate, once_of
from suture.surgery.schedule import assigned, how_many, longest_first

from ..support.configs import config, family, write

RATES = Rates(disk_read=100, disk_write=50, compute=400, start=1, headers=0.5, finish=2)


def part(read: int, write: int, shards: int = 1) -> Division:
    return {"shards": ["s"] * shards, "tensors": 1, "read_bytes": read, "write_bytes": write, "inputs": []}


def test_one_machine() -> None:
    """By hand: parts of 300 and 800 bytes read, a third of which is read once; 100 and 200 written."""
    found = estimate([part(300, 100), part(800, 300)], 1, RATES, once=1 / 3)
    # Reading takes 1 and 2.67 s, computing 0.75 and 2, writing 2 and 6.
    assert found["seconds"] == pytest.approx(1 + 0.5 + 2 + 6 + 2)
    assert found["bound"] == "write"
    assert (found["read_bytes"], found["write_bytes"]) == (367, 400)


@pytest.mark.parametrize(
    ("change", "phase", "bound"),
    [
        ({}, 0.5 + 6, "write"),
        ({"disk_write": 1e9}, 0.5 + 800 / 3 / 100, "read"),
        ({"disk_write": 1e9, "compute": 10.0}, 0.5 + 80, "compute"),
        ({"network": 10.0}, 0.5 + 30, "network"),
        ({"storage": 50.0}, (1100 / 3 + 400) / 50, "storage"),
    ],
)
def test_what_it_waits_for(change: dict[str, float], phase: float, bound: str) -> None:
    """Two machines, a part each: the longer part counts, and what is slowest in it, or the storage of both."""
    rates = Rates(**{**RATES.__dict__, **change})
    found = estimate([part(300, 100), part(800, 300)], 2, rates, once=1 / 3)
    assert found["seconds"] == pytest.approx(1 + phase + 2)
    assert found["bound"] == bound


def test_rounds_read_and_do_not_write() -> None:
    """A round is a phase without writing before it."""
    one, two = (estimate([part(300, 1000)], 1, RATES, once=1.0, rounds=r)["seconds"] for r in (0, 1))
    assert two - one == pytest.approx(0.5 + 3)


def test_more_machines_never_take_longer() -> None:
    """Of any parts: not longer, and never below the longest part or a fair share."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        parts = [part(int(r), int(w)) for r, w in rng.integers(1, 1000, (int(rng.integers(1, 40)), 2))]
        times = [estimate(parts, m, RATES, 1.0)["seconds"] - 3 for m in (1, 2, 4, 64)]
        assert all(a >= b - 1e-9 for a, b in itertools.pairwise(times))
        assert times[1] >= times[0] / 2 - 1e-9
        assert times[3] >= max(0.5 + max(p["read_bytes"] / 100, p["write_bytes"] / 50) for p in parts) - 1e-9


def test_the_schedule() -> None:
    """Each part once, the longest first, to whoever is free; a machine without a part is there too."""
    assert longest_first([1, 3, 3, 2]) == [1, 2, 3, 0]
    assert assigned([1, 3, 3, 2], 2) == [[1, 3], [2, 0]]
    assert assigned([1], 3) == [[0], [], []]
    assert [how_many(*n) for n in ((100, 2), (3, 2), (0, 5))] == [8, 3, 1]
    assert once_of([{"bytes": 10}, {"bytes": 20}], 90) == 1 / 3
    assert once_of([{"bytes": 10}], 0) == 1


def test_the_verb(tmp_path: Path) -> None:
    """Rates that are given are taken, the rest is measured, and said which; JSON has its schema; nothing is left."""
    models = family(tmp_path / "m", "math", "lang")
    write(tmp_path / "c.yml", config(models, 0.5))
    args = [str(tmp_path / "c.yml"), str(tmp_path / "out"), "--shard-size", "1kB", "--estimate", "--machines", "1,4"]
    told = CliRunner().invoke(plan_command, [*args, "--disk-read", "5", "--json"], catch_exceptions=False)
    found: Any = json.loads(told.stdout)
    jsonschema.validate(found, suture.schema("parts"))
    estimated = found["estimate"]
    assert estimated["rates"]["disk_read"] == 5e9
    assert set(estimated["measured"]) == {"disk_write", "compute", "start", "headers", "finish"}
    assert [row["machines"] for row in estimated["machines"]] == [1, 4]
    assert all(row["seconds"] > 0 for row in estimated["machines"])
    text = CliRunner().invoke(plan_command, args, catch_exceptions=False).stdout
    assert "disk_read: " in text
    assert "measured here" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.yml", "m"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--disk-read", "5"], "--disk-read"),
        (["--machines", "1"], "--machines"),
        (["--estimate", "--machines", "0"], "--machines"),
        (["--estimate", "--machines", "two"], "--machines"),
        (["--estimate", "--compute", "0"], "--compute"),
        (["--estimate", "--network", "-1"], "--network"),
    ],
)
def test_wrong_options(options: list[str], named: str, tmp_path: Path) -> None:
    """Law 8: what is wrong is named."""
    write(tmp_path / "c.yml", config(family(tmp_path / "m", "math"), 0.5))
    with pytest.raises(suture.UsageError, match=f"^{named}: "):
        CliRunner().invoke(plan_command, [str(tmp_path / "c.yml"), *options], catch_exceptions=False)


def test_methods_of_whole_matrices_want_a_rate(tmp_path: Path) -> None:
    """What they take does not grow with the bytes, so that no small trial tells."""
    models = family(tmp_path / "m", "math", "lang")
    listed = [{"model": str(models[name])} for name in ("math", "lang")]
    write(tmp_path / "c.yml", {"merge_method": "iso_c", "base_model": str(models["base"]), "models": listed})
    with pytest.raises(suture.UsageError, match=r"^compute: .*iso_c.*--compute"):
        suture.plan(tmp_path / "c.yml", tmp_path / "out", machines=[1])
    rates = {"compute": 1e9, "disk_read": 1e9, "disk_write": 1e9}
    assert suture.plan(tmp_path / "c.yml", tmp_path / "out", machines=[1], rates=rates)["estimate"]["measured"]
