"""What is told of quantised checkpoints that decoders may read differently, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.quantised.floats import field
from ..support.checkpoints import encode, llama_config, read_checkpoint, write_checkpoint
from ..support.quantised import noise
from .worlds import FORMS, model


def warnings(path: Path) -> str:
    """What a dry run of a conversion warns of."""
    return "\n".join(suture.convert(path, path.parent / "no", dry_run=True).warnings)


@pytest.mark.parametrize("name", ["gptq 2", "gptq 3", "gptq 4", "gptq 8", "gptq v2"])
def test_zeros_of_ones_are_counted(name: str, tmp_path: Path) -> None:
    """Of the first form of GPTQ every stored zero point that is 2^b - 1 counts, those across words too; the second
    form has none to speak of."""
    form = FORMS[name]
    made = model(tmp_path / "m", form, seed=1)
    bits = form.said["bits"]
    zeros = [np.asarray(t.values(), np.int32) for n, t in made.stored.items() if n.endswith("qzeros")]
    n = sum(int((field(z, bits, form.rows) == 2**bits - 1).sum()) for z in zeros)
    assert n > 0
    assert (f"{n} zero points of GPTQ" in warnings(made.path)) == (name != "gptq v2")


def test_symmetric_files_are_not_looked_at(tmp_path: Path) -> None:
    """Where config.json says that zero points are in the middle, none is read for a warning."""
    made = model(tmp_path / "m", FORMS["gptq 4"], seed=4)
    config = json.loads((made.path / "config.json").read_text())
    config["quantization_config"]["sym"] = True
    (made.path / "config.json").write_text(json.dumps(config))
    assert "zero points" not in warnings(made.path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "I8"])
def test_weights_without_any_scale_are_told(dtype: str, tmp_path: Path) -> None:
    """Law 5: a model whose config.json says that it is quantised, and of which no weight has a scale, is copied as
    bytes, and a warning says so; without the config there is nothing to tell."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {f"model.layers.{i}.mlp.up_proj.weight": noise(rng, dtype, 8, 16) for i in range(2)} | {
        "model.norm.weight": encode(np.ones(16), "BF16")
    }
    config = llama_config(2, 16, 2, 2, 32, 8, False, "BF16")
    for name, more in (("q", {"quantization_config": {"quant_method": "fp8"}}), ("p", {})):
        write_checkpoint(tmp_path / name, tensors, config=config | more)
        done = suture.convert(tmp_path / name, tmp_path / f"o{name}")
        assert read_checkpoint(tmp_path / f"o{name}") == tensors
        said = f"2 weights have no scale and stay as stored, in {dtype}" in "\n".join(done.warnings)
        assert said == (name == "q")
