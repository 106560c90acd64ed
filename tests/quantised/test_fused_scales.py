"""Experts in one tensor, in FP8: scales for each expert, along the rows, along the columns, and tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture

from ..reference.quantised.floats import E4M3
from ..support.checkpoints import Raw, encode, llama_config, read_checkpoint, write_checkpoint
from .worlds import codes, raw

EXPERTS, ROWS, COLUMNS = 3, 24, 40
#: The shape of the scales, the ending of their name, and how they lie over [experts, rows, columns].
LAYOUTS: dict[str, tuple[tuple[int, ...], str, tuple[int, int, int]]] = {
    "an expert": ((EXPERTS,), "_scale", (EXPERTS, 1, 1)),
    "an expert, kept": ((EXPERTS, 1, 1), "_scale", (EXPERTS, 1, 1)),
    "rows": ((EXPERTS, ROWS, 1), "_scale", (EXPERTS, ROWS, 1)),
    "columns": ((EXPERTS, 1, COLUMNS), "_scale", (EXPERTS, 1, COLUMNS)),
    "tiles": ((EXPERTS, 3, 3), "_scale_inv", (EXPERTS, 3, 3)),
}


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_the_product(name: str, dtype: str, tmp_path: Path) -> None:
    """Law: a weight is its codes times the scales, each where it belongs, in f32 to the bit; any range reads alike,
    threads and chunks decide nothing, and a swap moves both."""
    shape, ending, over = LAYOUTS[name]
    models = []
    for seed in range(2):
        rng = np.random.default_rng(seed)
        stored: dict[str, Raw] = {"model.norm.weight": encode(np.ones(16), "BF16")}
        plain = {}
        for layer in range(2):
            stem = f"model.layers.{layer}.mlp.experts.gate_up_proj"
            c = codes(rng, EXPERTS, ROWS, COLUMNS, finite=E4M3)
            own = encode(rng.uniform(0.01, 0.5, shape), dtype)
            scales = np.asarray(own.values(), np.float32).reshape(over)
            if name == "tiles":
                scales = np.repeat(np.repeat(scales, 8, 1), 16, 2)[:, :ROWS, :COLUMNS]
            stored |= {stem: raw("F8_E4M3", c), stem + ending: own}
            plain[stem] = (E4M3[c] * scales).astype(np.float32)
        said = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [8, 16]}}
        write_checkpoint(tmp_path / str(seed), stored, config=llama_config(2, 16, 2, 2, 32, 8, False, "F32") | said)
        models.append((stored, plain))
    for i, how in enumerate(({"threads": 1}, {"threads": 5, "chunk": "4KiB"})):
        suture.convert(tmp_path / "0", tmp_path / f"o{i}", settings=suture.Settings(to="f32", **how))  # type: ignore[arg-type]
        found = read_checkpoint(tmp_path / f"o{i}")
        for stem, values in models[0][1].items():
            np.testing.assert_array_equal(found[stem].values(), values)
    core = suture.Checkpoint.plain(tmp_path / "0")._core
    stem, values = next(iter(models[0][1].items()))
    for start, stop in (
        (0, 7),
        (ROWS * COLUMNS - 3, ROWS * COLUMNS + 5),
        (1000, 2501),
        (EXPERTS * ROWS * COLUMNS - 1, EXPERTS * ROWS * COLUMNS),
    ):
        part = np.frombuffer(core.read(stem, start, stop), np.float32)
        np.testing.assert_array_equal(part, values.reshape(-1)[start:stop])
    suture.swap(tmp_path / "0", tmp_path / "1", tmp_path / "swap", layers=[1])
    assert read_checkpoint(tmp_path / "swap") == {n: models["layers.1." in n][0][n] for n in models[0][0]}
