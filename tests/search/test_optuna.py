"""Samplers of optuna: each resumes to the same trajectory, stays in its bounds, and is refused where it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

import suture
from suture.errors import SutureError, UsageError

from .common import config, trajectory

optuna = pytest.importorskip("optuna")
pytest.importorskip("cmaes")

#: Names of samplers, and what each wants besides optuna.
SAMPLERS = {"tpe": None, "random": None, "RandomSampler": None, "nsgaii": None, "qmc": "scipy", "gp": "torch"}


def given(folder: Path) -> dict[str, object]:
    """Two numbers, with bounds."""
    return config(folder, lambda i: {"search": [0.2, 0.8 + i / 10], "start": 0.3})


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_goes_on_to_the_same_trajectory(tmp_path: Path, name: str) -> None:
    """Law: cut within a generation, with another number of workers, the candidates are those of one call."""
    if needed := SAMPLERS[name]:
        pytest.importorskip(needed)
    calls: list[Path] = []

    def judge(place: Path) -> float:
        calls.append(place)
        if len(calls) == 6 and place.parent.parent.name == "cut":
            raise KeyboardInterrupt
        return float(int.from_bytes(next(place.glob("*.safetensors")).read_bytes()[-40:], "little") % 997)

    wanted = given(tmp_path)
    suture.search(wanted, tmp_path / "whole", evaluate=judge, sampler=name, budget=11, seed=4)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        suture.search(wanted, tmp_path / "cut", evaluate=judge, sampler=name, budget=11, seed=4)
    suture.search(wanted, tmp_path / "cut", evaluate=judge, sampler=name, budget=11, seed=4, workers=3)
    one, two = (trajectory(tmp_path / which / "search.sqlite") for which in ("whole", "cut"))
    assert one == two
    assert len({genes for _, genes, _ in one}) > 8
    bounds = [(0.2, 0.8), (0.2, 0.9)]
    found = suture.search(wanted, tmp_path / "whole", evaluate=judge, sampler=name, budget=11, seed=4)
    genes = [c["genes"] for c in found.data["candidates"]]
    assert all(low <= g <= high for own in genes for g, (low, high) in zip(own, bounds, strict=True))


def test_failures_are_told_to_it(tmp_path: Path) -> None:
    """A candidate without a score is a failed trial, and the search goes on."""
    calls: list[Path] = []

    def judge(place: Path) -> float:
        calls.append(place)
        return float("nan") if len(calls) % 3 == 0 else len(calls)

    found = suture.search(given(tmp_path), tmp_path / "out", evaluate=judge, sampler="tpe", budget=13, failures=9)
    assert sum(c["score"] is None for c in found.data["candidates"]) == 4


@pytest.mark.parametrize("name", ["grid", "bruteforce", "partialfixed", "basega", "nothing"])
def test_samplers_that_cannot(tmp_path: Path, name: str) -> None:
    """Those that want something of their own, or take no seed, are refused by their names before anything is kept."""
    with pytest.raises(UsageError, match=f"(?i)sampler: .*{name}"):
        suture.search(given(tmp_path), tmp_path / "out", objective="balance", sampler=name)
    assert not (tmp_path / "out").exists()


def test_numbers_without_bounds(tmp_path: Path) -> None:
    """They want two bounds for every number."""
    wanted = config(tmp_path, lambda _: {"search": [0, None]})
    with pytest.raises(SutureError, match="searches between bounds"):
        suture.search(wanted, tmp_path / "out", objective="balance", sampler="tpe")
