"""Opening is by headers: models of many tensors and adapters of many modules are there at once."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.adapters import CONFIG, WEIGHTS
from ..support.checkpoints import write_json
from ..support.lora import PLAIN

#: What opening may take; a machine under load is slower than this one.
SECONDS = 1.0 * 3


def hollow(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A file with a header and no data: holes that are zeros."""
    at, header = 0, {}
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def seconds(text: str) -> tuple[float, int]:
    began = time.perf_counter()
    count = len(suture.open(text))
    return time.perf_counter() - began, count


@pytest.mark.parametrize("front", ["", "language_model."], ids=["plain", "prefixed"])
def test_fifty_thousand_tensors(front: str, tmp_path: Path) -> None:
    """300 layers with 166 modules each, all of them adapted: 50,000 weights and 100,000 factors."""
    modules = [f"model.layers.{layer}.mlp.experts.{e}.up_proj" for layer in range(300) for e in range(166)]
    hollow(tmp_path / "base" / "model.safetensors", {f"{front}{m}.weight": (4, 6) for m in modules})
    factors = {f"base_model.model.{m}.lora_{s}.weight": (2, 6) if s == "A" else (4, 2) for m in modules for s in "AB"}
    hollow(tmp_path / "lora" / WEIGHTS, factors)
    write_json(tmp_path / "lora" / CONFIG, PLAIN | {"r": 2})
    taken, count = seconds(f"{tmp_path / 'base'}+{tmp_path / 'lora'}")
    assert count == 300 * 166
    assert taken < SECONDS


def test_stacked_experts_of_many_layers(tmp_path: Path) -> None:
    """300 layers of stacked experts in a model of 50,000 tensors: each is found without going through all."""
    inside = [f"model.layers.{layer}.mlp.experts.{p}" for layer in range(300) for p in ("gate_up_proj", "down_proj")]
    shapes: dict[str, tuple[int, ...]] = {n: (2, 8, 6) if "gate" in n else (2, 6, 4) for n in inside}
    shapes |= {f"model.layers.{i % 300}.other.{i}.weight": (1,) for i in range(49_400)}
    hollow(tmp_path / "base" / "model.safetensors", shapes)
    factors: dict[str, tuple[int, ...]] = {}
    for layer in range(300):
        module = f"base_model.model.model.layers.{layer}.mlp.experts"
        factors |= {f"{module}.base_layer.lora_A.weight": (4, 6), f"{module}.base_layer.lora_B.weight": (8, 4)}
        factors |= {f"{module}.lora_A.weight": (4, 4), f"{module}.lora_B.weight": (6, 4)}
    hollow(tmp_path / "lora" / WEIGHTS, factors)
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    config: dict[str, Any] = PLAIN | {"r": 2, "target_parameters": parameters}
    write_json(tmp_path / "lora" / CONFIG, config)
    taken, count = seconds(f"{tmp_path / 'base'}+{tmp_path / 'lora'}")
    assert count == 50_000
    assert taken < SECONDS


def test_an_adapter_of_another_model_is_refused_as_soon(tmp_path: Path) -> None:
    """Where no name matches, thousands of modules are not looked for thousands of times."""
    hollow(tmp_path / "base" / "model.safetensors", {f"model.layers.{i}.a.weight": (4, 6) for i in range(50_000)})
    names = [f"base_model.model.x.{i}.b" for i in range(20_000)]
    hollow(
        tmp_path / "lora" / WEIGHTS,
        {f"{n}.lora_{s}.weight": (2, 6) if s == "A" else (4, 2) for n in names for s in "AB"},
    )
    write_json(tmp_path / "lora" / CONFIG, PLAIN | {"r": 2})
    began = time.perf_counter()
    with pytest.raises(suture.SutureError, match="20000 of its 20000 modules"):
        suture.open(f"{tmp_path / 'base'}+{tmp_path / 'lora'}")
    assert time.perf_counter() - began < SECONDS
