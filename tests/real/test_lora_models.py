"""Adapters on whole models, against PEFT: the folded model computes what the adapted one does, tied or not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import suture

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 32}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A model: its classes in transformers, its options, and what is adapted."""

    model: str
    config: str
    options: Mapping[str, Any]
    adapted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def of(attention: str, table: str, head: str) -> dict[str, dict[str, Any]]:
    """An adapter of the attention, and of everything that may be tied."""
    return {
        "attention": {"target_modules": [attention]},
        "table": {"target_modules": [attention, table]},
        "head": {"target_modules": [attention, head]},
        "both": {"target_modules": [attention, table, head]},
        "table saved": {"target_modules": [attention], "modules_to_save": [table]},
        "head saved": {"target_modules": [attention], "modules_to_save": [head]},
        "tied on purpose": {"target_modules": [attention, table], "ensure_weight_tying": True},
        "biases": {"target_modules": [attention], "bias": "all"},
    }


LLAMA = of("q_proj", "embed_tokens", "lm_head")
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "decoder_sparse_step": 1}
KINDS = {
    "llama": Kind("LlamaForCausalLM", "LlamaConfig", {**TINY, "tie_word_embeddings": False}, LLAMA),
    "qwen2, tied": Kind(
        "Qwen2ForCausalLM", "Qwen2Config", {**TINY, "num_key_value_heads": 2, "tie_word_embeddings": True}, LLAMA
    ),
    "gpt2": Kind(
        "GPT2LMHeadModel", "GPT2Config", {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
        of("c_attn", "wte", "lm_head"),
    ),
    "bert": Kind("BertForMaskedLM", "BertConfig", TINY, of("query", "word_embeddings", "decoder")),
    "qwen3 experts": Kind(
        "Qwen3MoeForCausalLM", "Qwen3MoeConfig", {**TINY, **EXPERTS, "num_key_value_heads": 2},
        {
            "parameters": {
                "target_modules": ["q_proj"],
                "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
            },
            "saved": {"target_modules": ["q_proj"], "modules_to_save": ["mlp.experts"]},
        },
    ),
    "mixtral": Kind(
        "MixtralForCausalLM", "MixtralConfig", {**TINY, "num_local_experts": 3, "num_key_value_heads": 2},
        {
            "parameters": {
                "target_modules": ["q_proj"],
                "target_parameters": ["mlp.experts.gate_up_proj", "mlp.gate.weight"],
            }
        },
    ),
}  # fmt: skip
CASES = [(kind, adapted, form) for kind in KINDS for adapted in KINDS[kind].adapted for form in ("safetensors", "torch")
         if form == "safetensors" or "tied" in kind or kind in ("gpt2", "bert")]  # fmt: skip


def libraries() -> tuple[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch, transformers, peft = (pytest.importorskip(name) for name in ("torch", "transformers", "peft"))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers, peft


def build(kind: Kind, folder: Path, form: str) -> Any:
    """A random model, in the folder as `form` has it."""
    torch, transformers, _ = libraries()
    torch.manual_seed(0)
    model = getattr(transformers, kind.model)(getattr(transformers, kind.config)(**kind.options)).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(0, 0.2)
    model.save_pretrained(folder)
    if form == "torch":
        # Under all names, as torch.save writes it.
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def adapt(model: Any, folder: Path, seed: int, adapted: Mapping[str, Any]) -> Any:
    """The model with an adapter of random factors, which is written."""
    torch, _, peft = libraries()
    torch.manual_seed(seed)
    made = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **adapted)).eval()
    with torch.no_grad():
        for name, value in made.named_parameters():
            bias = adapted.get("bias") == "all" and name.endswith(".bias")
            if "lora_" in name or ".modules_to_save." in name or bias:
                value.copy_(torch.randn_like(value) * 0.2)
    made.save_pretrained(folder)
    return made


def outputs(model: Any) -> Any:
    """What a model computes of one sentence."""
    torch, _, _ = libraries()
    with torch.no_grad():
        return model(input_ids=torch.arange(20)[None] + 1).logits


@pytest.mark.parametrize(("name", "adapted", "form"), CASES)
def test_a_folded_model_computes_what_the_adapted_one_does(name: str, adapted: str, form: str, tmp_path: Path) -> None:
    """Whatever is tied, however it is stored: what was trained is what is written, and loads without a word."""
    torch, transformers, _ = libraries()
    kind = KINDS[name]
    made = adapt(build(kind, tmp_path / "base", form), tmp_path / "lora", 1, kind.adapted[adapted])
    wanted = outputs(made)
    suture.fold(tmp_path / "base", [tmp_path / "lora"], tmp_path / "out")
    loaded, told = getattr(transformers, kind.model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    torch.testing.assert_close(outputs(loaded.eval()), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.25)])
def test_two_adapters_on_one_table(weights: tuple[float, float], tmp_path: Path) -> None:
    """PEFT writes the table beside the factors: it is what they are on top of, and no change."""
    torch, _, _ = libraries()
    kind = KINDS["llama"]
    table = {"target_modules": ["embed_tokens", "lm_head"]}
    for seed in (1, 2):
        adapt(build(kind, tmp_path / "base", "safetensors"), tmp_path / f"lora-{seed}", seed, table)
    base = suture.open(tmp_path / "base")
    alone = [suture.open(f"{tmp_path / 'base'}+{tmp_path / f'lora-{seed}'}") for seed in (1, 2)]
    adapters = [tmp_path / "lora-1", tmp_path / "lora-2"]
    suture.fold(tmp_path / "base", adapters, tmp_path / "out", weights=weights)
    suture.merge_adapters(adapters, tmp_path / "merged", weights=weights)
    found = [suture.open(tmp_path / "out"), suture.open(f"{tmp_path / 'base'}+{tmp_path / 'merged'}")]
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        own = torch.from_numpy(base.numpy(name)).double()
        changes = [w * (torch.from_numpy(a.numpy(name)).double() - own) for w, a in zip(weights, alone, strict=True)]
        for out in found:
            made = torch.from_numpy(out.numpy(name)).double()
            torch.testing.assert_close(made, own + changes[0] + changes[1], rtol=1e-5, atol=1e-5)


def test_an_adapter_on_another_table_than_the_models(tmp_path: Path) -> None:
    """The table that the adapter was trained on is in its file: it is used, and told of; two are refused."""
    kind = KINDS["llama"]
    table = {"target_modules": ["embed_tokens"]}
    for seed in (1, 2):
        adapt(build(kind, tmp_path / "base", "safetensors"), tmp_path / f"lora-{seed}", seed, table)
    load, save = (getattr(pytest.importorskip("safetensors.torch"), f"{verb}_file") for verb in ("load", "save"))
    file = tmp_path / "lora-2" / "adapter_model.safetensors"
    tensors = load(file)
    (name,) = (n for n in tensors if n.endswith("base_layer.weight"))
    tensors[name] = tensors[name] + 1
    save(tensors, file)
    report = suture.fold(tmp_path / "base", [tmp_path / "lora-2"], tmp_path / "out")
    assert any("was trained on another `model.embed_tokens.weight`" in w for w in report.warnings)
    plain = suture.open(f"{tmp_path / 'base'}+{tmp_path / 'lora-1'}").numpy("model.embed_tokens.weight")
    assert abs(suture.open(tmp_path / "out").numpy("model.embed_tokens.weight") - plain).max() > 0.5
    with pytest.raises(suture.SutureError, match="before the adapters"):
        suture.fold(tmp_path / "base", [tmp_path / "lora-1", tmp_path / "lora-2"], tmp_path / "two")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
