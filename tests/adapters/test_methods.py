"""Merges of `base+adapter` by every method, against merges of models that were folded in f32 beforehand.

The sum of an f32 weight and its adapters is rounded to f32 before a method sees it, as a folded model was: the outputs
are equal to the bit, whatever the class of the method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.catalogue import CASES, Case, configure, differing
from ..support.checkpoints import read_checkpoint
from .worlds import World, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


def merged(config: dict[str, Any], out: Path) -> dict[str, Any]:
    suture.merge(config, out)
    return read_checkpoint(out)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_method_takes_models_with_adapters(case: Case, world: World, tmp_path: Path) -> None:
    """Law 10: every method and variant, on `base+adapter` and on folded models."""
    # What lies beside a model (masks, Fisher information) is none, and has no adapters.
    beside = world.folded[1:]
    found = merged(configure(case, world.named, beside=beside), tmp_path / "named")
    assert differing(found, merged(configure(case, world.folded, beside=beside), tmp_path / "folded")) == []
    assert suture.verify(tmp_path / "named")["differing"] == []


@pytest.mark.parametrize("case", [c for c in CASES if c.name in ("ties", "linear", "slerp", "model_stock")], ids=str)
def test_a_base_with_an_adapter(case: Case, world: World, tmp_path: Path) -> None:
    """Law 10: what is named as the base may have an adapter too."""
    orders = [[models[i] for i in (1, 0, 2, 3)] for models in (world.named, world.folded)]
    found, wanted = (merged(configure(case, m), tmp_path / str(i)) for i, m in enumerate(orders))
    assert differing(found, wanted) == []
