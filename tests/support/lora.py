"""Adapters of any kind as PEFT writes them: tensors as they are given, and a config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .adapters import CONFIG, PREFIX, WEIGHTS
from .checkpoints import Raw, Tensor, as_raw, encode, parse_file, write_file, write_json

#: What PEFT writes into every config of the kind.
PLAIN: dict[str, Any] = {
    "alpha_pattern": {},
    "base_model_name_or_path": "some/base",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "rank_pattern": {},
    "target_modules": [],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_rslora": False,
}


def write_lora(folder: Path, tensors: Mapping[str, Tensor], **config: Any) -> Path:
    """An adapter whose tensors have these names behind the prefix that PEFT gives them."""
    folder.mkdir(parents=True)
    write_file(folder / WEIGHTS, {PREFIX + name: tensor for name, tensor in tensors.items()})
    modules = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors if ".lora_" in name}
    write_json(folder / CONFIG, PLAIN | {"target_modules": sorted(modules)} | config)
    return folder


def read_lora(folder: Path) -> dict[str, Raw]:
    """The tensors of an adapter, without the prefix."""
    found = parse_file((folder / WEIGHTS).read_bytes())
    return {name.removeprefix(PREFIX): raw for name, raw in found.items()}


def random(rng: np.random.Generator, *shape: int, dtype: str = "F32", spread: float = 0.3) -> Raw:
    """Random elements of a dtype."""
    return encode(rng.normal(0, spread, shape), dtype)


def factors(
    rng: np.random.Generator, module: str, shape: tuple[int, int], r: int = 4, dtype: str = "F32"
) -> dict[str, Raw]:
    """The two factors of a linear module whose weight is [out, in]."""
    return {
        f"{module}.lora_A.weight": random(rng, r, shape[1], dtype=dtype),
        f"{module}.lora_B.weight": random(rng, shape[0], r, dtype=dtype),
    }


def exact(tensor: Tensor) -> Any:
    """The values of a tensor in float64."""
    return as_raw(tensor).values().astype(np.float64)
