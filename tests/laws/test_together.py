"""Several outputs of a config are made side by side, from one reading: each as if it were made alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import suture
from suture import _core
from suture.recipe import load
from suture.settings import Settings
from suture.surgery.documents import recipe_of
from suture.surgery.job import MOST_TOGETHER
from suture.surgery.run import prepare

from ..support.catalogue import DEFAULTS, configure
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint
from ..support.forms import World, by_slices, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Small models of every form."""
    return write_world(tmp_path_factory.mktemp("world"))


def documents(world: World) -> dict[str, dict[str, Any]]:
    """Every method, slices, statistics of the whole model, a vocabulary of another size: all read the same models."""
    every = {str(case).replace("=", "-"): configure(case, world.models) for case in DEFAULTS}
    every["slices"] = by_slices(world, (0, 2), (2, 4))
    whole = {"scope": "model", "density": 0.4}
    every["whole"] = {**by_slices(world, (0, 1), (1, 4), method="ties"), "parameters": whole}
    return every


def write(path: Path, several: dict[str, dict[str, Any]]) -> Path:
    """A config with these documents, by name."""
    path.write_text("\n---\n".join(json.dumps({**d, "name": name}) for name, d in several.items()))
    return path


def same(folder: Path, alone: Path) -> None:
    """Files and reports of an output are those of the same merge alone, but for how it went and what it is called."""
    for file in (p for p in alone.iterdir() if p.name != "suture.json"):
        assert (folder / file.name).read_bytes() == file.read_bytes(), folder
    found, want = (json.loads((place / "suture.json").read_text()) for place in (folder, alone))
    for report in (found, want):
        del report["run"], report["recipe"]
    assert found == want


def enough_for_each(several: dict[str, dict[str, Any]], folder: Path) -> str:
    """A memory in which each of these has room, but not all together."""
    jobs = [prepare(recipe_of(c, Settings()), Settings()) for c in load(write(folder / "all.yml", several))]

    def least(plans: list[_core.Plan]) -> int:
        def fits(mib: int) -> bool:
            try:
                _core.budget_json(plans, 2, mib << 20)
            except suture.UsageError:
                return False
            return True

        return next(mib for mib in range(40, 1000) if fits(mib))

    each = max(least([job.plan]) for job in jobs)
    assert each < least([job.plan for job in jobs])
    return f"{each}MiB"


@pytest.mark.parametrize("scarce", [False, True])
def test_each_is_as_if_it_were_made_alone(scarce: bool, world: World, tmp_path: Path) -> None:
    """Law 10: every method beside every other; where the memory is not enough for all, one after another."""
    several = documents(world)
    assert len(several) < MOST_TOGETHER
    settings = Settings(threads=2, memory=enough_for_each(several, tmp_path) if scarce else None)
    reports = suture.merge(write(tmp_path / "c.yml", several), tmp_path / "out", settings=settings)
    assert sorted(reports.parts) == sorted(several)
    for name, document in several.items():
        one = tmp_path / f"{name}.json"
        one.write_text(json.dumps(document))
        suture.merge(one, tmp_path / "alone" / name)
        same(tmp_path / "out" / name, tmp_path / "alone" / name)


def test_what_was_made_before_a_failure_is_kept(world: World, tmp_path: Path) -> None:
    """Law 6: if one of them fails none is published, and the same command goes on with all of them."""
    tensors = read_checkpoint(world.two)
    last = sorted(tensors)[-1]
    values = tensors[last].values().copy()
    values.flat[-1] = float("nan")
    bad = tmp_path / "bad"
    write_checkpoint(bad, tensors | {last: encode(values, "BF16")})
    models = {"good": [world.one, world.three], "ill": [world.one, bad]}
    several = {
        name: {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in paths]}
        for name, paths in models.items()
    }
    config = write(tmp_path / "c.yml", several)
    with pytest.raises(suture.SutureError, match=last):
        suture.merge(config, tmp_path / "out")
    assert not (tmp_path / "out" / "good").exists()
    assert not (tmp_path / "out" / "ill").exists()
    reports = suture.merge(config, tmp_path / "out", settings=Settings(nan="allow"))
    assert sorted(reports.parts) == ["good", "ill"]
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_more_than_can_be_made_side_by_side(world: World, tmp_path: Path) -> None:
    """A sweep may have any number of steps."""
    config = {"merge_method": "linear", "models": [{"model": str(world.one)}, {"model": str(world.two)}]}
    steps = {f"w{i}": {"parameters": {"weight": 1 + i}} for i in range(MOST_TOGETHER + 3)}
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**config, "outputs": steps}))
    suture.merge(path, tmp_path / "out")
    assert sorted(json.loads((tmp_path / "out" / "outputs.json").read_text())["outputs"]) == sorted(steps)
    assert all((tmp_path / "out" / name / "model.safetensors").exists() for name in steps)


def test_a_folder_of_several_outputs_is_verified_whole(world: World, tmp_path: Path) -> None:
    two = {name: config for name, config in documents(world).items() if name in ("slices", "whole")}
    out = tmp_path / "out"
    suture.merge(write(tmp_path / "c.yml", two), out)
    alone = [suture.verify(out / name) for name in two]
    found = suture.verify(out)
    assert (found["tensors"], found["differing"], found["files"]) == (sum(f["tensors"] for f in alone), [], [])
    file = next((out / "whole").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (out / "slices" / "config.json").unlink()
    found = suture.verify(out)
    assert [name.split("/")[0] for name in found["differing"]] == ["whole"]
    assert found["files"] == ["slices/config.json"]
    for text in ("[]", "{}", '{"outputs": {"../c": ""}}', "no"):
        (out / "outputs.json").write_text(text)
        with pytest.raises(suture.SutureError, match="is not a list of outputs"):
            suture.verify(out)
