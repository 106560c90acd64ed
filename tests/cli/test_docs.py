"""Pages that are made from the program are those the program makes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import suture
from suture.cli.methods import methods
from suture.recipe.twelve import TWELVE

from ..support.checkpoints import write_checkpoint

ROOT = Path(__file__).parent.parent.parent


def test_the_page_of_methods_is_current() -> None:
    """docs/methods.md is what `suture methods --markdown` prints."""
    made = CliRunner().invoke(methods, ["--markdown"]).output
    assert (ROOT / "docs" / "methods.md").read_text() == made, "run: suture methods --markdown > docs/methods.md"


BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "config.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_of_the_config_page_run(number: int, tmp_path: Path) -> None:
    """What docs/config.md shows is a config that works once the models are there."""
    names = ("base", "math", "code", "language", "one", "two", "fr", "it", "es", "de", "nl")
    rng = np.random.default_rng(number)
    base = {n: rng.standard_normal((6, 4)).astype(np.float32) for n in ("vision_tower.w", "model.layers.0.mlp.w")}
    for name in names:
        noise = np.float32(0.01) * rng.standard_normal((6, 4)).astype(np.float32)
        write_checkpoint(tmp_path / name, {tensor: values + noise for tensor, values in base.items()})
    (tmp_path / "config.yml").write_text(BLOCKS[number])
    suture.merge(tmp_path / "config.yml", tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.safetensors"))


OF_SUTURE = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sets-and-groups.md").read_text(), re.DOTALL)
OF_SUTURE += [(ROOT / "examples" / f"{name}.yaml").read_text() for name in ("twelve_methods", "groups")]


@pytest.mark.parametrize("number", range(len(OF_SUTURE)))
def test_the_sets_and_plans_that_are_shown_run(number: int, tmp_path: Path) -> None:
    """What docs/sets-and-groups.md and the examples show works once the models are there, without a warning to heed."""
    text = OF_SUTURE[number]
    config = yaml.safe_load(text)
    plan = "groups" in config
    named = [m for its in config["experts"].values() for m in its.values()] if plan else []
    named += [entry["model"] for entry in config.get("models", ())]
    rng = np.random.default_rng(number)
    base = rng.standard_normal((6, 4)).astype(np.float32)
    for name in {config["base_model"], *named}:
        change = np.float32(0.01) * rng.standard_normal((6, 4)).astype(np.float32)
        write_checkpoint(tmp_path / name, {"model.layers.0.mlp.w": base + change * (name != config["base_model"])})
    (tmp_path / "config.yml").write_text(text)
    report = suture.merge(tmp_path / "config.yml", tmp_path / "out", all_of=not plan)
    assert list((tmp_path / "out").rglob("*.safetensors"))
    assert not [w for w in report.warnings if "has no base" not in w and "left out" not in w]


def test_the_twelve_are_in_the_page() -> None:
    """The table of docs/sets-and-groups.md is the list that runs."""
    page = (ROOT / "docs" / "sets-and-groups.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)`.* \| (.+) \|$", page, re.MULTILINE)
    assert rows == [(name, method, title) for name, (method, title) in TWELVE.items()]
