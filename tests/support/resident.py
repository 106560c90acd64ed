"""Models that torch holds in tests: families of them, as tensors and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from .catalogue import Case, configure
from .checkpoints import Raw, encode, read_checkpoint

Tensors = dict[str, Tensor]

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64, "I64": torch.int64}
#: Outside the layers a table, a norm and a head; in three layers matrices, a vector, a tensor of three dimensions.
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (41, 24),
    **{
        f"model.layers.{layer}.{part}": shape
        for layer in range(3)
        for part, shape in {
            "self_attn.q_proj.weight": (23, 17),
            "input_layernorm.weight": (24,),
            "mlp.experts.weight": (3, 5, 7),
            "mlp.down_proj.weight": (64, 33),
        }.items()
    },
    "model.norm.weight": (24,),
    "lm_head.weight": (41, 24),
    "z_scalar": (),
    "column": (5, 1),
    "none": (0, 3),
}


def as_torch(raw: Raw) -> Tensor:
    """A stored tensor as torch has it."""
    dtype = DTYPES[raw.dtype]
    flat = torch.frombuffer(bytearray(raw.data), dtype=dtype) if raw.data else torch.empty(0, dtype=dtype)
    return flat.reshape(raw.shape)


def family(
    dtype: str = "F32", count: int = 4, seed: int = 0, shapes: Mapping[str, tuple[int, ...]] = SHAPES
) -> list[Tensors]:
    """A base and fine-tunes; some changes are equal, some zero."""
    rng = np.random.default_rng(seed)
    base = {name: rng.normal(0, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}
    models = []
    for i in range(count):
        model = {}
        for name, values in base.items():
            noise = np.round(rng.normal(0, 4, values.shape)).astype(np.float32) * 2**-9 if i else np.zeros_like(values)
            model[name] = as_torch(encode(np.asarray(values + noise, dtype=np.float32), dtype))
        models.append(model)
    return models


def call(case: Case, models: Sequence[Tensors], **how: Any) -> dict[str, Any]:
    """A case as the arguments of `suture.torch.merge`, all its numbers set; the models are the base and the experts."""
    if "gram" in case.names:
        pytest.skip("Gram matrices are read from files: refused (test_mistakes.py)")
    named = {f"/m/{i}": model for i, model in enumerate(models)}
    config = configure(case, [Path(name) for name in named], **how)
    each = [
        {k: named.get(v, v) if isinstance(v, str) else v for k, v in m["parameters"].items()} for m in config["models"]
    ]
    return {
        "models": {Path(m["model"]).name: named[m["model"]] for m in config["models"]},
        "method": config["merge_method"],
        "base": named[config["base_model"]] if "base_model" in config else None,
        "parameters": config["parameters"],
        "each": each,
    }


class Config:
    """What `module.config` of transformers is, as far as it is asked."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.told = dict(told)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.told)


def module_of(tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> torch.nn.Module:
    """A module that has copies of these tensors as parameters under these names."""
    root = torch.nn.Module()
    for name, tensor in tensors.items():
        at = root
        *path, last = name.split(".")
        for part in path:
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at._modules[part]
        at.register_parameter(last, torch.nn.Parameter(tensor.clone(), requires_grad=tensor.is_floating_point()))
    if config is not None:
        root.config = Config(config)
    return root.eval()


def read(folder: Path) -> Tensors:
    """The tensors of a checkpoint."""
    return {name: as_torch(raw) for name, raw in read_checkpoint(folder).items()}


def empty_like(model: Mapping[str, Tensor]) -> Tensors:
    """Room for a model, filled with what no merge makes."""
    return {name: torch.full_like(tensor, 77) for name, tensor in model.items()}


def differing(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """The tensors that are not the same to the bit."""
    names = sorted({*found, *expected})
    return [n for n in names if n not in found or n not in expected or not same(found[n], expected[n])]


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same to the bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(bits(a), bits(b)))


def bits(tensor: Tensor) -> Tensor:
    """The bytes of a tensor."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
