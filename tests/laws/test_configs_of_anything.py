"""Law 7 of configs: whatever stands at a key, what comes of it is a plan or an error in words, never a traceback."""

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.errors import SutureError, UsageError

from ..support.checkpoints import read_checkpoint
from ..support.layered import write_layered

ODD: list[Any] = [
    -1, float("nan"), float("inf"), "x", [], {}, [[]], {"a": 1}, None, True, 2**70, 1e300, "\ud800", "a\0b",
    datetime.date(2020, 1, 1), b"x", {"of": "a"}, {1: 2}, {"path": 3}, {"search": [0, 1]},
]  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values within a config."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from places(value, (*path, key))


def configs(folder: Path) -> dict[str, tuple[dict[str, Any], Callable[[Any], Any]]]:
    """A config of each kind, and what plans it."""
    write_layered(folder, count=2)
    base, one, two = (str(folder / name) for name in ("base", "tuned-1", "tuned-2"))
    linear = {"from": "a", "to": "b", "in": 13, "out": 13, "init": "normal", "std": 0.1, "seed": 1, "bias": True}
    part = {"model": base, "drop": [], "rename": {"model.": "m."}, "prefix": "q.", "dtype": "float32"}
    parts = {"a": part, "p": {"linear": linear}, "b": {"model": one}}
    whole = {"parts": parts, "config": {"x": [1], "set": 1}, "dtype": "float32", "freeze": {"train": ["p"]}}
    searched = {"search": [0, 1], "start": 0.5, "layer_granularity": 2, "smooth": True, "random_start": True}
    rules = [{"filter": "mlp", "value": searched}, {"value": 0.5}]
    models = [{"model": one, "parameters": {"weight": rules}}]
    merge = {"merge_method": "task_arithmetic", "base_model": base, "models": models, "dtype": "float32"}
    genome = {"models": [one, two], "merge_method": "ties", "base_model": base, "filters": ["mlp"], "smooth": True}
    expert = {"source_model": one, "positive_prompts": ["a"], "residual_scale": 0.5}
    mixture = {"base_model": base, "gate_mode": "random", "dtype": "float32", "experts": [expert, expert]}

    def search(given: Any) -> Any:
        return suture.search(given, folder / "found", objective="balance", dry_run=True)

    return {
        "assemble": (whole, lambda c: suture.assemble(c, folder / "out", dry_run=True)),
        "search": (merge, search),
        "genome": ({"genome": genome, "random_init": True}, search),
        "moe": (mixture, lambda c: suture.moe.make(c, folder / "out", dry_run=True)),
    }


@pytest.mark.parametrize("kind", ["assemble", "search", "genome", "moe"])
def test_anything_at_any_key(tmp_path: Path, kind: str) -> None:
    """Nothing but errors of suture's own is raised, and nothing is written."""
    if kind in ("search", "genome"):
        pytest.importorskip("cmaes")
    good, plan = configs(tmp_path)[kind]
    if kind != "moe":
        # A mixture wants more of a model than these have.
        plan(good)
    before = sorted(tmp_path.rglob("*"))
    for path in places(good):
        for odd in ODD:
            given = copy.deepcopy(good)
            node: Any = given
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = odd
            try:
                plan(given)
            except SutureError as e:
                assert "cannot be read: expected" not in str(e), (path, odd)  # noqa: PT017
            except Exception as e:
                raise AssertionError(f"{path} = {odd!r}") from e
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_are_none(tmp_path: Path) -> None:
    """A tensor is never called by what a header means otherwise, by nothing, or by what no screen shows."""
    write_layered(tmp_path, count=1)
    names = read_checkpoint(tmp_path / "base")
    for wrong in ("__metadata__", "", "a\0b"):
        part = {"model": str(tmp_path / "base"), "rename": {next(iter(names)): wrong}, "prefix": ""}
        with pytest.raises(UsageError, match="no name"):
            suture.assemble({"parts": {"a": part}}, tmp_path / "out")
    part = {"model": str(tmp_path / "base"), "rename": {"": "all."}, "prefix": "x."}
    suture.assemble({"parts": {"a": part}}, tmp_path / "out")
    assert set(read_checkpoint(tmp_path / "out")) == {f"x.all.{name}" for name in names}


def test_parts_within_lists_of_a_config(tmp_path: Path) -> None:
    """`of` stands for a part's config in a list too, and what JSON cannot say is refused before anything is made."""
    write_layered(tmp_path, count=1)
    own = {"model_type": "x", "hidden_size": 4}
    (tmp_path / "base" / "config.json").write_text(json.dumps(own))
    asked: dict[str, Any] = {"parts": {"a": {"model": str(tmp_path / "base")}}, "config": {"all": [{"of": "a"}, 3]}}
    suture.assemble(asked, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"all": [own, 3]}
    for wrong in (datetime.date(2024, 5, 1), float("nan"), np.float32(1)):
        with pytest.raises(UsageError, match="cannot be written as JSON"):
            suture.assemble(asked | {"config": {"released": wrong}}, tmp_path / "other")
