"""Pages that are made from the program are those the program makes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import suture
from suture.cli.methods import methods

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
