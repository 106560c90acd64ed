"""suture agrees with the goldens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

import suture

from ..reference.config import rooted
from ..support.checkpoints import assert_agree, assert_mostly_equal, read_checkpoint

GOLDENS = Path(__file__).parent.parent / "goldens"
CASES = sorted(folder.name for folder in (GOLDENS / "cases").iterdir())
MODELS = {folder.name: str(folder) for folder in (GOLDENS / "models").iterdir()}


@pytest.mark.parametrize("case", CASES)
def test_merge_agrees_with_golden(case: str, tmp_path: Path) -> None:
    """The precision law: goldens within 2e-6 in f32; in bf16 999 of 1000 elements with the same bits."""
    folder = GOLDENS / "cases" / case
    recipe = rooted(yaml.safe_load((folder / "config.yml").read_text()), MODELS)
    suture.merge(recipe, tmp_path / "out")
    found, expected = read_checkpoint(tmp_path / "out"), read_checkpoint(folder / "expected.safetensors")
    (assert_mostly_equal if case == "arcee_fusion" else assert_agree)(found, expected)
    summary = json.loads((folder / "expected.json").read_text())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == summary["num_hidden_layers"]
