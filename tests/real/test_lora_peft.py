"""Adapters against PEFT: what it makes of a model is what suture reads; what suture merges is what it loads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

pytestmark = pytest.mark.filterwarnings("ignore")


def library(name: str) -> Any:
    """A package, imported when it is needed: others' tests set up what these read when they are first imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def experts(*, turned: bool) -> Any:
    """Stacked experts, rows outputs; `turned` as gpt-oss keeps them."""
    torch = library("torch")
    made = torch.nn.Module()
    made.is_transposed = turned
    for name, (count, out, into) in {"gate_up_proj": (3, 16, 8), "down_proj": (3, 8, 8)}.items():
        shape = (count, into, out) if turned else (count, out, into)
        made.register_parameter(name, torch.nn.Parameter(torch.randn(shape)))
    return made


def block() -> Any:
    """A module of every kind."""
    torch, conv = library("torch"), library("transformers.pytorch_utils").Conv1D
    return torch.nn.ModuleDict(
        {
            "q_proj": torch.nn.Linear(12, 20),
            "k_proj": torch.nn.Linear(12, 20, bias=False),
            "c_attn": conv(36, 12),
            "c_proj": conv(12, 12),
            "embed_tokens": torch.nn.Embedding(30, 12),
            "patch": torch.nn.Conv2d(3, 10, (4, 5)),
            "experts": experts(turned=False),
            "turned": experts(turned=True),
        }
    )


def build() -> Any:
    """Two layers and a head."""
    torch = library("torch")
    made = torch.nn.Module()
    made.model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([block(), block()])})
    made.lm_head = torch.nn.Linear(12, 30, bias=False)
    return made


KINDS: dict[str, dict[str, Any]] = {
    "linear": {"target_modules": ["q_proj", "k_proj"]},
    "rslora": {"target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {"layers.0.q_proj": 2, "k_proj": 6},
        "alpha_pattern": {"0.k_proj": 7, "k_proj": 5},
    },
    "regex": {"target_modules": r".*\.0\.[qk]_proj"},
    "one layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "transposed": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
    "transposed, with a head": {"target_modules": ["c_attn", "c_proj", "lm_head"], "fan_in_fan_out": True},
    "convolution": {"target_modules": ["patch"]},
    "biases": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "bias of the product": {"target_modules": ["q_proj"], "lora_bias": True},
    "saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "k_proj"]},
    "dora": {"target_modules": ["q_proj", "k_proj"], "use_dora": True},
    "experts": {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "experts, inputs first": {"target_modules": [], "target_parameters": ["turned.gate_up_proj", "turned.down_proj"]},
    "experts, patterns": {
        "target_modules": [],
        "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"experts.gate_up_proj": 9},
    },
    "experts, one of two": {"target_modules": ["k_proj"], "target_parameters": ["turned.down_proj"]},
}


def trained(folder: Path, model: Any, seed: int, **config: Any) -> Any:
    """An adapter with random factors, written by PEFT."""
    torch, peft = library("torch"), library("peft")
    torch.manual_seed(seed)
    made = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6} | config))
    with torch.no_grad():
        for name, value in made.named_parameters():
            own = "bias" in config and name.endswith("q_proj.base_layer.bias")
            if "lora_" in name or "modules_to_save" in name or own:
                value.copy_(torch.randn_like(value) * 0.3)
    made.save_pretrained(folder)
    return made


def base(folder: Path) -> Any:
    """The model, written as one file."""
    library("torch").manual_seed(0)
    model = build()
    folder.mkdir()
    library("safetensors.torch").save_file(model.state_dict(), folder / "model.safetensors")
    return model


def agree(found: suture.Checkpoint, wanted: dict[str, Any]) -> None:
    """The same tensors, within what f32 loses in PEFT's own sums."""
    assert set(found.names) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found.numpy(name), value.numpy(), atol=2e-5, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_what_peft_makes_of_it(kind: str, tmp_path: Path) -> None:
    """`base+adapter` is what `merge_and_unload` leaves."""
    made = trained(tmp_path / "lora", base(tmp_path / "base"), 1, **KINDS[kind])
    found = suture.open(f"{tmp_path / 'base'}+{tmp_path / 'lora'}")
    agree(found, made.merge_and_unload().state_dict())


MERGED = [
    ("linear", "linear"),
    ("linear", "rslora"),
    ("patterns", "linear"),
    ("regex", "linear"),
    ("one layer", "linear"),
    ("embedding", "rslora"),
    ("transposed", "transposed"),
    ("convolution", "linear"),
    ("bias of the product", "rslora"),
    ("experts", "experts"),
    ("experts", "experts, patterns"),
    ("experts, one of two", "linear"),
]


@pytest.mark.parametrize("kinds", MERGED, ids=" and ".join)
@pytest.mark.parametrize("turn", [1, -1])
def test_a_merge_is_loaded_by_peft(kinds: tuple[str, str], turn: int, tmp_path: Path) -> None:
    """PEFT finds every tensor of a merged adapter, and makes the sum of it: what folding the parts gives."""
    base(tmp_path / "base")
    parts = []
    for i, kind in enumerate(kinds[::turn]):
        parts.append(tmp_path / f"lora-{i}")
        trained(parts[-1], build(), i, **KINDS[kind])
    suture.merge_adapters(parts, tmp_path / "sum", weights=[0.7, -0.4])
    suture.fold(tmp_path / "base", parts, tmp_path / "folded", weights=[0.7, -0.4])
    model = build()
    model.load_state_dict(library("safetensors.torch").load_file(tmp_path / "base" / "model.safetensors"))
    loaded = library("peft").PeftModel.from_pretrained(model, tmp_path / "sum")
    agree(suture.open(tmp_path / "folded"), loaded.merge_and_unload().state_dict())
    agree(suture.open(f"{tmp_path / 'base'}+{tmp_path / 'sum'}"), model.state_dict())
