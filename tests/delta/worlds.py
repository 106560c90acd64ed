"""A base and a fine-tune of every dtype, and what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..support.checkpoints import DTYPE_BITS, Raw, encode, file_bytes, parse_file, write_checkpoint

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 24, "tie_word_embeddings": False}
HIDDEN, INNER, VOCAB = 24, 40, 50


def llama(seed: int, dtype: str = "BF16") -> dict[str, Raw]:
    """The tensors of a small Llama, norms and biases included."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for i in range(2):
        stem = f"model.layers.{i}."
        shapes |= {
            f"{stem}self_attn.q_proj.weight": (HIDDEN, HIDDEN),
            f"{stem}self_attn.q_proj.bias": (HIDDEN,),
            f"{stem}mlp.up_proj.weight": (INNER, HIDDEN),
            f"{stem}mlp.down_proj.weight": (HIDDEN, INNER),
            f"{stem}input_layernorm.weight": (HIDDEN,),
        }
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    return {name: encode(rng.normal(0, 0.5, shape), dtype) for name, shape in shapes.items()}


def tuned(base: dict[str, Raw], seed: int, *, same: str = "mlp.up_proj", size: float = 0.05) -> dict[str, Raw]:
    """A fine-tune: every tensor changed, but for those whose names hold `same`."""
    rng = np.random.default_rng(seed)
    return {
        name: raw if same in name else encode(raw.values() + rng.normal(0, size, raw.shape), raw.dtype)
        for name, raw in base.items()
    }


def write(folder: Path, tensors: dict[str, Raw], **more: Any) -> Path:
    """A checkpoint with a config."""
    return write_checkpoint(folder, tensors, config=CONFIG, **more)


def pair(folder: Path, dtype: str = "BF16") -> tuple[Path, Path]:
    """A base and its fine-tune, written."""
    base = llama(0, dtype)
    return write(folder / "base", base), write(folder / "tuned", tuned(base, 1))


def every_dtype(seed: int, elements: int = 1536) -> dict[str, Raw]:
    """A tensor of random bytes of each dtype: NaN, infinities and -0.0 are among them."""
    rng = np.random.default_rng(seed)
    return {
        f"of.{dtype}": Raw(dtype, (elements,), rng.integers(0, 256, elements * bits // 8, np.uint8).tobytes())
        for dtype, bits in DTYPE_BITS.items()
    }


def tensors_of(folder: Path) -> dict[str, Raw]:
    """All tensors of a folder's files, whatever they are called."""
    found: dict[str, Raw] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= parse_file(file.read_bytes())
    return found


def same_tensors(one: Path, other: Path) -> bool:
    """Whether two folders hold the same tensors, byte for byte."""
    return tensors_of(one) == tensors_of(other)


def said(folder: Path) -> dict[str, Any]:
    """What a delta says of itself, its tensors by name."""
    found = json.loads((folder / "delta.json").read_text())
    return {**found, "tensors": {entry["name"]: entry for entry in found["tensors"]}}


def change(base: Raw, other: Raw) -> np.ndarray[Any, Any]:
    """The change of a tensor in f32, as it is ordered by."""
    return other.values().astype(np.float32) - base.values().astype(np.float32)


__all__ = ["file_bytes"]
