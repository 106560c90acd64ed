"""Small LoRA adapters as PEFT writes them, and what they make of a model, in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import Raw, encode, parse_file, write_file, write_json

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write_adapter(
    folder: Path,
    model: Mapping[str, Raw],
    modules: Iterable[str],
    layers: Iterable[int],
    *,
    r: int = 4,
    alpha: int = 8,
    dtype: str = "F32",
    seed: int = 0,
    **config: Any,
) -> Path:
    """An adapter for `modules` (such as `self_attn.q_proj`) in `layers` of a model."""
    rng = np.random.default_rng(seed)
    names = list(modules)
    tensors = {}
    for layer in layers:
        for module in names:
            stem = f"model.layers.{layer}.{module}"
            rows, columns = model[f"{stem}.weight"].shape
            tensors[f"{PREFIX}{stem}.lora_A.weight"] = encode(rng.normal(0, 0.1, (r, columns)), dtype)
            tensors[f"{PREFIX}{stem}.lora_B.weight"] = encode(rng.normal(0, 0.1, (rows, r)), dtype)
    folder.mkdir(parents=True)
    write_file(folder / WEIGHTS, dict(sorted(tensors.items())))
    stated = {
        "alpha_pattern": {},
        "base_model_name_or_path": "some/base",
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": r,
        "rank_pattern": {},
        "target_modules": sorted(name.rpartition(".")[2] for name in names),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    write_json(folder / CONFIG, stated | config)
    return folder


def read_adapter(folder: Path) -> dict[str, Raw]:
    """The tensors of an adapter."""
    return parse_file((folder / WEIGHTS).read_bytes())


def fold(model: Mapping[str, Raw], adapter: Mapping[str, Raw], scale: float) -> dict[str, Raw]:
    """The model with an adapter in its weights: W + scale * B @ A, in float32, rounded once."""
    found = dict(model)
    for name, raw in model.items():
        stem = PREFIX + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in adapter:
            low, high = (adapter[f"{stem}.lora_{side}.weight"].values().astype(np.float32) for side in "AB")
            found[name] = encode(raw.values().astype(np.float32) + np.float32(scale) * (high @ low), raw.dtype)
    return found
