"""`base+adapter` for the verbs that read: figures are those of the folded model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import suture

from .worlds import World, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


def near(found: Any, wanted: Any, at: str = "") -> None:
    """Two results, number by number within what f32 and f64 differ in."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), at
        for key, value in wanted.items():
            near(found[key], value, f"{at}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), at
        for i, value in enumerate(wanted):
            near(found[i], value, f"{at}[{i}]")
    elif isinstance(wanted, float) and isinstance(found, (int, float)):
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-7), at
    else:
        assert found == wanted, at


def data(result: Any, models: Sequence[Path]) -> Any:
    """A result as data, the models by their numbers."""
    text = json.dumps(result.data if hasattr(result, "data") else result)
    for i in reversed(range(len(models))):
        text = text.replace(json.dumps(str(models[i])), f'"model {i}"')
    return json.loads(text)


@pytest.mark.parametrize("count", [1, 3])
def test_a_diff_has_the_figures_of_the_folded_model(count: int, world: World) -> None:
    """`diff base base+adapter`: every figure, by layer and by module, with spread and slices."""
    how: dict[str, Any] = {"spread": True, "neurons": 2, "tokens": 3}
    named, folded = (data(suture.diff(*models[: 1 + count], **how), models) for models in (world.named, world.folded))
    near(named, folded)


def test_the_base_of_a_diff_may_have_an_adapter(world: World) -> None:
    named, folded = (data(suture.diff(m[1], m[0]), m) for m in (world.named, world.folded))
    near(named, folded)


def cli(*arguments: Any) -> str:
    """What a command prints."""
    call = [sys.executable, "-m", "suture", *map(str, arguments)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [["--json"], ["--json", "--stats"]], ids=str)
def test_inspect_reads_what_is_made(options: list[str], world: World) -> None:
    """Names, shapes and statistics are those of the folded model."""
    found, wanted = (json.loads(cli("inspect", models[1], *options)) for models in (world.named, world.folded))
    by_name = [{t["name"]: t for t in one.pop("tensors")} for one in (found, wanted)]
    for tensors in by_name:
        for tensor in tensors.values():
            tensor.pop("shard", None)
    near(by_name[0], by_name[1])


def test_compat_says_what_a_dry_run_does(world: World) -> None:
    """Models with adapters go together where the folded ones do."""
    found, wanted = (data(suture.compat(*models[1:]), models) for models in (world.named, world.folded))
    assert (found["merge"]["answer"], found["swap"]["answer"]) != ("no", "no")
    near(found, wanted)


def test_init_writes_a_config_that_runs(world: World, tmp_path: Path) -> None:
    """What `init` drafts names the models as they were given, and merges."""
    config = tmp_path / "config.yml"
    cli("init", *world.named[1:3], "--base", world.base, "-o", config)
    assert str(world.adapters[0]) in config.read_text()
    suture.merge(config, tmp_path / "out")
