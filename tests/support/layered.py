"""A base and fine-tunes of a few layers, whole and by layers: what laws of slices cut up and put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .catalogue import Case, Config, configure
from .checkpoints import Raw, encode, read_checkpoint, write_checkpoint

LAYERS = 4
STACK = "model.layers."
PARTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "input_layernorm.weight": ("F32", (13,)),
    "mlp.down_proj.weight": ("BF16", (11, 7)),
    "mlp.up_proj.weight": ("F32", (7, 11)),
    "self_attn.q_proj.weight": ("F16", (9, 13)),
}
BEFORE: dict[str, tuple[str, tuple[int, ...]]] = {"model.embed_tokens.weight": ("F32", (17, 13))}
AFTER: dict[str, tuple[str, tuple[int, ...]]] = {
    "model.norm.weight": ("F32", (13,)),
    "lm_head.weight": ("BF16", (17, 13)),
}


def write_layered(folder: Path, *, around: bool = True, count: int = 3, seed: int = 3) -> list[Path]:
    """A base and `count` fine-tunes, whose changes are of another size in every layer and model."""
    rng = np.random.default_rng(seed)
    shapes = dict(BEFORE) if around else {}
    shapes |= {f"{STACK}{layer}.{part}": how for layer in range(LAYERS) for part, how in PARTS.items()}
    shapes |= AFTER if around else {}
    base = {name: rng.standard_normal(shape).astype(np.float32) for name, (_, shape) in shapes.items()}
    folders = []
    for number in range(count + 1):
        tensors = {}
        for name, (dtype, shape) in shapes.items():
            size = 0.05 * number * (1 + layer_in(name))
            change = np.float32(size) * rng.standard_normal(shape).astype(np.float32)
            tensors[name] = encode(np.asarray(base[name] + change), dtype)
        folders.append(write_checkpoint(folder / ("base" if number == 0 else f"tuned-{number}"), tensors))
    return folders


def layer_in(name: str) -> int:
    """The layer a tensor is in; those outside count as the first."""
    return int(name.removeprefix(STACK).split(".")[0]) if name.startswith(STACK) else 0


def renamed(source: Path, target: Path, layers: Sequence[int]) -> Path:
    """The checkpoint with these layers, in this order, as its layers 0, 1, ...; what is around them stays there."""
    tensors = read_checkpoint(source)
    found = {name: tensors[name] for name in BEFORE if name in tensors}
    for place, layer in enumerate(layers):
        prefix = f"{STACK}{layer}."
        found |= {f"{STACK}{place}.{n.removeprefix(prefix)}": raw for n, raw in tensors.items() if n.startswith(prefix)}
    return write_checkpoint(target, found | {name: tensors[name] for name in AFTER if name in tensors})


def sliced(config: Config, ranges: Iterable[tuple[int, int]]) -> Config:
    """A config of whole models as one of slices, all of the same models."""
    rest = {key: value for key, value in config.items() if key != "models"}
    return rest | {"slices": [{"sources": sources(listed(config), a, b)} for a, b in ranges]}


def listed(config: Config) -> list[dict[str, Any]]:
    """The models of a config, and in front of them the base, which slices have to list too."""
    base = [{"model": config["base_model"]}] if "base_model" in config else []
    return [*base, *config["models"]]


def sources(models: Iterable[Mapping[str, Any]], first: int, last: int) -> list[dict[str, Any]]:
    """The models with a range of their layers."""
    return [{**entry, "layer_range": [first, last]} for entry in models]


def settled(case: Case, models: Sequence[Path], **how: Any) -> Config:
    """A merge by a method without chance: masks are functions of names, and slices give tensors other names."""
    config = configure(case, models, **how)
    if case.drawn:
        for own in [config["parameters"], *(entry["parameters"] for entry in config["models"])]:
            own |= {name: value for name, value in {"density": 1.0, "epsilon": 0.0}.items() if name in own}
    return config


def with_depth(config: Config, on: bool) -> Config:
    """The config with or without factors that grow with depth."""
    if not on and "beta" in config["parameters"]:
        config["parameters"]["beta"] = 0.0
    return config


def of_layers(tensors: Mapping[str, Raw], first: int, last: int) -> dict[str, Raw]:
    """The tensors of a run of layers, renumbered from 0."""
    found: dict[str, Raw] = {}
    for layer in range(first, last):
        prefix = f"{STACK}{layer}."
        found |= {
            f"{STACK}{layer - first}.{n.removeprefix(prefix)}": raw
            for n, raw in tensors.items()
            if n.startswith(prefix)
        }
    return found
