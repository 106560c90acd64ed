"""Law: of a comparison of some layers the figures are those of the whole comparison, and nothing else is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import suture
from suture.errors import UsageError


def _models(folder: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(1)
    base = {f"model.layers.{i}.mlp.up_proj.weight": rng.standard_normal((16, 16)).astype("f4") for i in range(6)}
    base["model.embed_tokens.weight"] = rng.standard_normal((8, 16)).astype("f4")
    for name in ("base", "tuned"):
        (folder / name).mkdir()
        change = 0.0 if name == "base" else 0.1
        tensors = {k: (v + change * rng.standard_normal(v.shape)).astype("f4") for k, v in base.items()}
        save_file(tensors, folder / name / "model.safetensors")
    return folder / "base", folder / "tuned"


@pytest.mark.parametrize(
    ("layers", "want"), [("1,3-4", {"1", "3", "4"}), ("outside", {"-"}), ("5,outside", {"5", "-"})]
)
def test_figures_are_those_of_the_whole(tmp_path: Path, layers: str, want: set[str]) -> None:
    """Row by row, by the grammar of --frozen."""
    base, tuned = _models(tmp_path)
    whole, part = suture.diff(base, tuned), suture.diff(base, tuned, layers=layers)
    rows = part["models"][0]["tensors"]
    assert {row["layer"] for row in rows} == want
    assert rows == [row for row in whole["models"][0]["tensors"] if row["layer"] in want]
    assert not part["models"][0]["only_base"]


def test_layers_that_are_not_there(tmp_path: Path) -> None:
    """They are refused before anything is read."""
    base, tuned = _models(tmp_path)
    with pytest.raises(UsageError, match="layer 9 does not exist"):
        suture.diff(base, tuned, layers="9")
