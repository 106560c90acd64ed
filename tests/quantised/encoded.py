"""Models to be written in a quantised form, with extremes in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..support.checkpoints import Raw, encode, llama_config, write_checkpoint

#: Neither its rows of tiles nor its rows end where spans of 2**22 elements do.
LONG = (11136, 384)


def weights(seed: int, wide: tuple[int, int] = (256, 384), plain: bool = False) -> dict[str, NDArray[np.float32]]:
    """A model of two layers, and unless it is `plain` extremes in its first matrix: a tile of zeros, tiny and large
    magnitudes, both zeros."""
    rng = np.random.default_rng(seed)
    out = {"model.embed_tokens.weight": rng.normal(0, 1, (256, 128)).astype(np.float32)}
    for i in range(2):
        at = f"model.layers.{i}."
        for name, shape in (
            ("self_attn.q_proj", (128, 128)),
            ("mlp.gate", (128, 128)),
            ("mlp.up_proj", wide),
            ("mlp.odd_proj", (128, 200)),
        ):
            out[f"{at}{name}.weight"] = rng.normal(0, 0.05, shape).astype(np.float32)
        out[f"{at}self_attn.q_proj.bias"] = rng.normal(0, 1, 128).astype(np.float32)
        out[f"{at}input_layernorm.weight"] = np.ones(128, np.float32)
    if plain:
        return out
    first = out["model.layers.0.mlp.up_proj.weight"]
    first[:128, :128] = 0
    first[:128, 128:256] *= np.float32(1e-38)
    first[128:256, :128] *= np.float32(1e37)
    first[128, 128], first[129, 128] = 0.0, -0.0
    return out


def model(folder: Path, tensors: dict[str, Any], dtype: str = "BF16", shards: int = 1) -> dict[str, Raw]:
    """Writes a model; returns what it holds."""
    stored = {n: t if isinstance(t, Raw) else encode(t, dtype) for n, t in tensors.items()}
    write_checkpoint(folder, stored, shards=shards, config=llama_config(2, 128, 4, 4, 384, 256, False, dtype))
    return stored


def is_coded(name: str) -> bool:
    """Whether a tensor of these models is written in a form that is for matrices of layers."""
    return name.endswith(("q_proj.weight", "up_proj.weight"))
