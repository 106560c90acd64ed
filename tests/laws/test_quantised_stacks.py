"""Quantised weights and adapters in models of several stacks: what belongs to a weight goes with it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.adapters import CONFIG, read_adapter
from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint, write_file, write_json
from ..support.quantised import FAMILIES, noise

TEXT, TOWER = "language_model.model.layers.", "vision_tower.encoder.layers."
LAYERS = {TEXT: 3, TOWER: 3}
MODULES = ("self_attn.q_proj", "mlp.up_proj")
KINDS = ["block fp8", "tensor fp8", "gptq", "awq", "bnb nf4", "pack-quantized", "nvfp4", "torchao"]


def tensors(kind: str, seed: int) -> dict[str, Raw]:
    """Both stacks quantised, what is around them plain."""
    rng = np.random.default_rng(seed)
    found: dict[str, Raw] = {}
    for prefix, count in LAYERS.items():
        for layer in range(count):
            for module in MODULES:
                found |= FAMILIES[kind].make(f"{prefix}{layer}.{module}", 16, 16, rng)
            found[f"{prefix}{layer}.norm.weight"] = noise(rng, "BF16", 16)
    around = ("language_model.model.embed_tokens.weight", "vision_tower.patch_embedding.weight")
    return found | {name: noise(rng, "BF16", 8, 16) for name in around}


def model(place: Path, kind: str, seed: int, **how: Any) -> Path:
    quantization = dict(FAMILIES[kind].quantization) | {
        "modules_to_not_convert": [f"{TEXT}2.mlp.up_proj", f"{TOWER}2.mlp.up_proj", "language_model.lm_head"]
    }
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", "num_hidden_layers": 3},
        "vision_config": {"num_hidden_layers": 3},
        "quantization_config": quantization,
    }
    return write_checkpoint(place / f"m{seed}", tensors(kind, seed), config=config, **how)


def of_layers(found: Iterable[str], prefix: str, layers: Iterable[int], module: str = "") -> set[str]:
    before = tuple(f"{prefix}{layer}.{module}" for layer in layers)
    return {n for n in found if n.startswith(before)}


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("stack", [TEXT, TOWER])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_layer_moves_whole_in_the_stack_that_is_named(
    kind: str, stack: str, shards: int, place: Path
) -> None:
    """Weights, scales, zero points and states of a layer move together; the other stack's stay; a reset undoes it."""
    a, b = model(place, kind, 1, shards=shards), model(place, kind, 2, shards=1)
    suture.swap(a, b, place / "out", layers=[1], stack=stack)
    found, own, other = (read_checkpoint(p) for p in (place / "out", a, b))
    moved = of_layers(own, stack, [1])
    assert found == {n: (other if n in moved else own)[n] for n in own}
    suture.revert(a, place / "out", place / "back", layers=[1], stack=stack)
    assert read_checkpoint(place / "back") == own
    suture.swap(a, b, place / "part", layers=[1], stack=stack, modules="q_proj")
    found = read_checkpoint(place / "part")
    moved = of_layers(own, stack, [1], "self_attn.q_proj")
    assert found == {n: (other if n in moved else own)[n] for n in own}


@pytest.mark.parametrize("stack", [TEXT, TOWER])
@pytest.mark.parametrize("kind", KINDS)
def test_quantised_layers_are_stacked_with_their_names_in_the_config(kind: str, stack: str, place: Path) -> None:
    """Stacked layers are renumbered with all that belongs to them, in tensors and in `quantization_config`."""
    a = model(place, kind, 1)
    slices = [{"sources": [{"model": str(a), "layer_range": r}]} for r in ([0, 3], [1, 3])]
    suture.merge({"merge_method": "passthrough", "slices": slices, "stack": stack}, place / "out")
    found, own = read_checkpoint(place / "out"), read_checkpoint(a)
    wanted = dict(own)
    for new, old in ((3, 1), (4, 2)):
        for name in of_layers(own, stack, [old]):
            wanted[name.replace(f"{stack}{old}.", f"{stack}{new}.")] = own[name]
    assert found == wanted
    config = json.loads((place / "out" / "config.json").read_text())
    listed = config["quantization_config"]["modules_to_not_convert"]
    other = TOWER if stack == TEXT else TEXT
    assert sorted(listed) == sorted(
        [f"{stack}2.mlp.up_proj", f"{stack}4.mlp.up_proj", f"{other}2.mlp.up_proj", "language_model.lm_head"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_quantised_heads_and_blends_are_refused(kind: str, place: Path) -> None:
    """What cannot be computed on is refused by name, in every stack."""
    a, b = model(place, kind, 1), model(place, kind, 2)
    for stack in (TEXT, TOWER):
        with pytest.raises(suture.SutureError):
            suture.swap(a, b, place / "out", layers=[1], stack=stack, base=a, auto="layer", alpha=0.5, tau=10)
        with pytest.raises(suture.SutureError):
            suture.swap(a, b, place / "out", bottom=1, transition=1, stack=stack)
        assert not (place / "out").exists()


def adapter(folder: Path, seed: int) -> Path:
    """An adapter of both stacks."""
    rng = np.random.default_rng(seed)
    found = {
        f"base_model.model.{prefix}{layer}.{module}.lora_{side}.weight": encode(rng.normal(0, 1, shape), "F32")
        for prefix, count in LAYERS.items()
        for layer in range(count)
        for module in MODULES
        for side, shape in (("A", (2, 16)), ("B", (16, 2)))
    }
    folder.mkdir()
    write_file(folder / "adapter_model.safetensors", found)
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 4,
            "target_modules": ["q_proj", "up_proj"],
            "base_model_name_or_path": "x",
            "bias": "none",
        },
    )
    return folder


@pytest.mark.parametrize("stack", [TEXT, TOWER])
def test_adapters_are_swapped_by_stack(stack: str, place: Path) -> None:
    """Layers of an adapter are those of the stack that is named; the other stack's are the recipient's."""
    a, b = adapter(place / "a", 1), adapter(place / "b", 2)
    label = next(s["name"] for s in suture.inspect(a)["stacks"] if s["prefix"].endswith(stack))
    suture.swap(a, b, place / "out", layers=[1], stack=label)
    found, own, other = (read_adapter(p) for p in (place / "out", a, b))
    assert found == {n: (other if f".{stack}1." in n else own)[n] for n in own}
