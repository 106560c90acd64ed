"""Every element of a quantised weight is what the format's formula says, to the bit, whatever the chunks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import read_checkpoint
from .worlds import FORMS, assert_same, model


@pytest.mark.parametrize("name", FORMS)
def test_convert_decodes_by_the_formula(name: str, tmp_path: Path) -> None:
    """Law 10: convert gives the plain model's names, shapes and values; config.json says nothing of quantising."""
    made = model(tmp_path / "in", FORMS[name], seed=1, shards=3)
    report = suture.convert(made.path, tmp_path / "out", settings=suture.Settings(to="f32"))
    assert_same(read_checkpoint(tmp_path / "out"), made.plain)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["torch_dtype"] == "float32"
    assert any("decoded" in title for title, _ in report.data["notes"])


@pytest.mark.parametrize("name", FORMS)
def test_chunks_and_threads_decide_nothing(name: str, tmp_path: Path) -> None:
    """Law 3: small chunks, whose ends are anywhere in blocks and rows, and five threads give the same bytes."""
    made = model(tmp_path / "in", FORMS[name], seed=2)
    ways: tuple[dict[str, Any], ...] = (
        {},
        {"chunk": "4096", "threads": 5},
        {"chunk": "12288", "threads": 1, "io": "pread"},
    )
    for i, how in enumerate(ways):
        suture.convert(made.path, tmp_path / str(i), settings=suture.Settings(to="bf16", **how))
    assert_same(read_checkpoint(tmp_path / "0"), made.plain, "BF16")
    first = (tmp_path / "0" / "model.safetensors").read_bytes()
    for i in (1, 2):
        assert (tmp_path / str(i) / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize("name", FORMS)
def test_any_range_of_elements_reads_alike(name: str, tmp_path: Path) -> None:
    """A range from anywhere to anywhere gives what the whole has there."""
    made = model(tmp_path / "in", FORMS[name], seed=3)
    core = suture.Checkpoint.plain(made.path)._core
    rng = np.random.default_rng(0)
    for weight, values in made.plain.items():
        flat = values.reshape(-1)
        ends = np.sort(rng.integers(0, len(flat) + 1, (20, 2)))
        for start, stop in [*ends.tolist(), (0, 1), (len(flat) - 1, len(flat))]:
            got = (
                np.frombuffer(core.read(weight, start, stop), "<f4")
                if weight != "model.embed_tokens.weight" and "layernorm" not in weight
                else None
            )
            if got is not None:
                np.testing.assert_array_equal(got, flat[start:stop], err_msg=f"{weight} {start}:{stop}")
