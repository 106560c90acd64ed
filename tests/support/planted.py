"""A base and two fine-tunes of it that differ from it where, and by how much, a test says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import encode, llama_config, llama_shapes, write_checkpoint

#: Parts of tensor names, and how large the noise on those tensors is.
Noise = Mapping[str, float]
SHAPE: dict[str, Any] = {"hidden": 16, "heads": 2, "kv_heads": 1, "ff": 24, "vocab": 12}


def planted(
    folder: Path,
    into: Noise,
    donor: Noise,
    *,
    layers: int = 8,
    dtype: str = "BF16",
    tied: bool = False,
    extras: bool = False,
    seed: int = 0,
) -> dict[str, Path]:
    """Write `base`, `into` and `donor`. Tensors whose names hold none of the parts equal the base's byte for byte.

    With `extras` queries, keys and values have biases, as in Qwen2, and queries and keys norms, as in Qwen3.
    """
    rng = np.random.default_rng(seed)
    shapes = llama_shapes(layers, **SHAPE, tied=tied)
    if extras:
        for layer in range(layers):
            for module in ("q_proj", "k_proj", "v_proj"):
                stem = f"model.layers.{layer}.self_attn.{module}"
                shapes[f"{stem}.bias"] = shapes[f"{stem}.weight"][:1]
            for norm in ("q_norm", "k_norm"):
                shapes[f"model.layers.{layer}.self_attn.{norm}.weight"] = (SHAPE["hidden"] // SHAPE["heads"],)
    config = llama_config(layers, **SHAPE, tied=tied, dtype=dtype)
    base = {name: rng.normal(0.0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    noise = {"base": {}, "into": into, "donor": donor}
    folders = {}
    for number, (label, parts) in enumerate(noise.items()):
        tensors = {}
        for name, values in base.items():
            size = max((size for part, size in parts.items() if part in name), default=0.0)
            change = rng.normal(0.0, size, values.shape) if size else 0.0
            tensors[name] = encode((values + change).astype(np.float32), dtype)
        folders[label] = write_checkpoint(folder / label, tensors, shards=number + 1, config=config)
    return folders


def in_layers(layers: Mapping[int, float], part: str = "") -> dict[str, float]:
    """Noise on all tensors of these layers, or on those that have `part` in their names behind it."""
    return {f"layers.{layer}.{part}": size for layer, size in layers.items()}
