"""Models of experts in transformers: they load without a missing key, and compute what they are to compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.errors import SutureError, UsageError

SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64, "head_dim": 8,
}  # fmt: skip
KINDS = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
DENSE = ("gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module", params=KINDS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, transformers: Any) -> list[Path]:
    """Three random dense models of one architecture."""
    import torch

    folder = tmp_path_factory.mktemp(request.param)
    sizes = {k: v for k, v in SIZES.items() if k != "head_dim" or request.param != "qwen2"}
    config = getattr(transformers, f"{KINDS[request.param]}Config")(**sizes)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{KINDS[request.param]}ForCausalLM")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder / name)
    return [folder / name for name in "abc"]


def loaded(path: Path) -> Any:
    """The model, every tensor of which was found, and none more."""
    import torch
    import transformers

    model: Any
    how = {"output_loading_info": True, "dtype": torch.float32, "attn_implementation": "eager"}
    model, info = transformers.AutoModelForCausalLM.from_pretrained(path, **how)
    assert not any(info.values()), info
    return model.eval()


def logits(path: Path) -> Any:
    import torch

    ids = torch.arange(18).reshape(2, 9) * 5 % 96
    with torch.no_grad():
        return loaded(path)(ids).logits


def tensors(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return {k: v for file in sorted(path.glob("*.safetensors")) for k, v in load_file(file).items()}


def partly(models: list[Path]) -> bool:
    return "qwen" in models[0].parent.name


@pytest.mark.parametrize(("experts", "top_k"), [(4, 2), (3, 1), (8, 8)])
def test_a_dense_model_of_experts_computes_what_it_did(
    models: list[Path], tmp_path: Path, experts: int, top_k: int
) -> None:
    """Law: experts that are copies, behind a router that renormalises, are the dense model to 1e-6."""
    want = logits(models[0])
    for last in (1, 3, None):
        out = tmp_path / f"{last}"
        if last is not None and not partly(models):
            with pytest.raises(SutureError, match="in all layers or in none"):
                suture.moe.from_dense(models[0], out, experts=experts, top_k=top_k, last=last)
            continue
        done = suture.moe.from_dense(models[0], out, experts=experts, top_k=top_k, last=last)
        assert not done.warnings, "layers that stay dense are not missing"
        assert float((logits(out) - want).abs().max()) < 1e-6
        routers = {k: v for k, v in tensors(out).items() if k.endswith(".gate.weight")}
        assert len(routers) == (last or 4)
        assert all(np.linalg.matrix_rank(r) == experts for r in routers.values())


def config(models: list[Path], **more: Any) -> dict[str, Any]:
    """A mixture of the second, half of the third, and the first."""
    experts = [
        {"source_model": str(models[1])}, {"source_model": str(models[2]), "residual_scale": 0.5},
        {"source_model": str(models[0])},
    ]  # fmt: skip
    shared = {"shared_experts": [{"source_model": str(models[2])}]} if "qwen2" in str(models[0]) else {}
    return {"base_model": str(models[0]), "gate_mode": "random", "experts": experts, **shared, **more}


def test_experts_are_what_the_config_says(models: list[Path], tmp_path: Path) -> None:
    """Law: an expert alone is its model's layers in the base; a scaled one its last matrix times the number."""
    suture.moe.make(config(models), tmp_path / "mix")
    logits(tmp_path / "mix")
    base = tensors(models[0])
    for expert, (source, scale) in enumerate([(1, 1.0), (2, 0.5), (0, 1.0)]):
        own = tensors(models[source])
        suture.moe.dense(tmp_path / "mix", tmp_path / f"{expert}", expert=expert)
        found = tensors(tmp_path / f"{expert}")
        assert found.keys() == base.keys()
        for name, values in found.items():
            want = own[name] * np.float32(scale if "down_proj" in name else 1) if ".mlp." in name else base[name]
            assert np.array_equal(values, want), name
        logits(tmp_path / f"{expert}")
    assert np.array_equal(logits(tmp_path / "2"), logits(models[0]))


def test_taken_apart_and_joined_is_the_same(models: list[Path], tmp_path: Path) -> None:
    """Law: a split model joined again has its bytes and its config; the mean of experts is their mean."""
    mix = tmp_path / "mix"
    suture.moe.make(config(models), mix)
    suture.moe.split(mix, tmp_path / "parts")
    suture.moe.keep(mix, tmp_path / "two", experts="0,1")
    suture.moe.drop(mix, tmp_path / "also", experts="2")
    suture.moe.join(tmp_path / "two", [tmp_path / "parts" / "expert-2.safetensors"], tmp_path / "again")
    one, two = tensors(mix), tensors(tmp_path / "again")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[k], two[k]) for k in one)
    assert (mix / "config.json").read_bytes() == (tmp_path / "again" / "config.json").read_bytes()
    kept, dropped = tensors(tmp_path / "two"), tensors(tmp_path / "also")
    assert all(np.array_equal(kept[k], dropped[k]) for k in kept | dropped)
    logits(tmp_path / "two")
    suture.moe.average(mix, tmp_path / "mean")
    own = [tensors(m) for m in (models[1], models[2], models[0])]
    for name, values in tensors(tmp_path / "mean").items():
        if ".mlp." in name:
            factors = [1, 0.5 if "down_proj" in name else 1, 1]
            parts = [np.float32(f) * t[name] for f, t in zip(factors, own, strict=True)]
            np.testing.assert_allclose(values, np.mean(np.stack(parts, dtype=np.float64), axis=0), 2e-7, 1e-12)
    logits(tmp_path / "mean")


def test_experts_of_another_model_take_places(models: list[Path], tmp_path: Path) -> None:
    """Law: a swapped expert is the donor's, with its row of the router if asked; all else stays."""
    suture.moe.make(config(models), tmp_path / "mix")
    suture.moe.make(config(models, experts=list(reversed(config(models)["experts"]))), tmp_path / "other")
    one, two = tensors(tmp_path / "mix"), tensors(tmp_path / "other")
    for router in (False, True):
        suture.moe.swap(tmp_path / "mix", tmp_path / "other", tmp_path / f"{router}", experts="0=2,1", router=router)
        logits(tmp_path / f"{router}")
        for name, values in tensors(tmp_path / f"{router}").items():
            want = one[name]
            if ".experts.0." in name:
                want = two[name.replace(".experts.0.", ".experts.2.")]
            elif ".experts.1." in name:
                want = two[name]
            elif name.endswith(".gate.weight") and router:
                want = np.stack([two[name][2], two[name][1], one[name][2]])
            assert np.array_equal(values, want), name


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("mode", ["cheap_embed", "hidden", "hidden_avg", "hidden_last"])
def test_routers_are_made_of_prompts(models: list[Path], tmp_path: Path, mode: str, begun: bool) -> None:
    """Law: routers are the mean state over prompts less that over negative ones, of length 1, as their formula says."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {f"w{i}": i for i in range(96)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(models[0] / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast"} | ({"bos_token": "w90"} if begun else {})
    (models[0] / "tokenizer_config.json").write_text(json.dumps(said))
    prompts = [(["w1 w2 w3", "w4"], ["w5 w6"]), (["w7 w8"], []), (["w9"], ["w1", "w2"])]
    asked = config(models, gate_mode=mode)
    for expert, (positive, negative) in zip(asked["experts"], prompts, strict=True):
        expert |= {"positive_prompts": positive, "negative_prompts": negative}
    for expert in asked.get("shared_experts", []):
        expert["positive_prompts"] = ["w11 w12"]
    suture.moe.make(asked, tmp_path / "mix")
    model, table = loaded(models[0]), tensors(models[0])["model.embed_tokens.weight"].astype(np.float64)

    def states(text: str) -> Any:
        ids = [90] * begun + [int(word[1:]) for word in text.split()]
        if mode == "cheap_embed":
            return np.repeat(table[ids].sum(0)[None], 4, 0)
        with torch.no_grad():
            found = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        rows = np.stack([f[0].double().numpy() for f in found[:4]])
        return rows.mean(1) if mode == "hidden_avg" else rows[:, -1]

    out = tensors(tmp_path / "mix")
    routers = [v for k, v in sorted(out.items()) if k.endswith(".gate.weight")]
    assert len(routers) == 4
    for layer, router in enumerate(routers):
        for row, (positive, negative) in zip(router, prompts, strict=True):
            want = np.mean([states(t)[layer] for t in positive], 0)
            less = np.mean([states(t)[layer] for t in negative], 0) if negative else 0 * want
            if mode == "cheap_embed":
                want, less = (x / max(np.linalg.norm(x), 1e-300) for x in (want, less))
            want = want - less
            assert np.abs(row - want / np.linalg.norm(want)).max() < 1e-5


def test_routers_are_of_the_model_with_its_adapter(models: list[Path], tmp_path: Path) -> None:
    """Law 10: states are those of base+adapter, as of the folded model, and not of what lies in the base's folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    Tokenizer(WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0")).save(str(models[0] / "tokenizer.json"))
    (models[0] / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    tuned = get_peft_model(loaded(models[0]), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    torch.manual_seed(0)
    for name, values in tuned.named_parameters():
        if "lora_B" in name:
            values.data.normal_()
    tuned.save_pretrained(str(tmp_path / "adapter"))
    suture.fold(models[0], [tmp_path / "adapter"], tmp_path / "folded")
    asked = config(models, gate_mode="hidden")
    for expert, word in zip([*asked["experts"], *asked.get("shared_experts", [])], "1234", strict=False):
        expert["positive_prompts"] = [f"w{word}"]
    routers: list[Any] = []
    for name in (f"{models[0]}+{tmp_path / 'adapter'}", str(tmp_path / "folded"), str(models[0])):
        out = tmp_path / f"mix-{len(routers)}"
        suture.moe.make(asked | {"base_model": name}, out)
        routers.append([v for k, v in sorted(tensors(out).items()) if k.endswith(".gate.weight")])
    assert np.allclose(routers[0], routers[1], atol=1e-5)
    assert not np.allclose(routers[0], routers[2], atol=1e-2)


@pytest.mark.parametrize("said", ['"four"', "-1", "1e999", "true", "null", "2", "99999999999999"])
@pytest.mark.parametrize("key", ["num_hidden_layers", "intermediate_size"])
def test_configs_of_models_that_lie(models: list[Path], tmp_path: Path, key: str, said: str) -> None:
    """Law 7: a number of config.json that is none, or not that of the tensors, is told and nothing is made of it."""
    model = tmp_path / "model"
    shutil.copytree(models[0], model)
    own = json.loads((model / "config.json").read_text()) | {key: "HERE"}
    (model / "config.json").write_text(json.dumps(own).replace('"HERE"', said))
    with pytest.raises(SutureError, match=f"{key}|is missing"):
        suture.moe.from_dense(model, tmp_path / "out", experts=2)
    with pytest.raises(SutureError, match=f"{key}|is missing"):
        suture.moe.make(config(models) | {"base_model": str(model)}, tmp_path / "out")


def test_experts_of_more_layers(models: list[Path], tmp_path: Path) -> None:
    """A model with more layers than the base is not cut down to them in silence."""
    suture.layers(models[1], tmp_path / "deep", repeat="3")
    asked = config(models)
    asked["experts"][0]["source_model"] = str(tmp_path / "deep")
    with pytest.raises(SutureError, match="has 5 layers, and 4"):
        suture.moe.make(asked, tmp_path / "out")


def test_a_width_of_heads_that_is_not_said(tmp_path: Path) -> None:
    """Law: a dense model of experts is one that loads where the two architectures take other widths by themselves."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts: dict[str, Any] = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
    made: Any = transformers.Qwen3MoeForCausalLM
    made(transformers.Qwen3MoeConfig(**sizes, **heads, **experts)).save_pretrained(tmp_path / "mix")
    said = json.loads((tmp_path / "mix" / "config.json").read_text())
    said.pop("head_dim", None)
    (tmp_path / "mix" / "config.json").write_text(json.dumps(said))
    suture.moe.dense(tmp_path / "mix", tmp_path / "dense", expert=1)
    loaded(tmp_path / "dense")


def test_mistakes_are_refused(models: list[Path], tmp_path: Path) -> None:
    """Law: a config that is wrong, or models that do not fit, are refused with the key or the tensor."""
    out = tmp_path / "out"
    mistakes: list[tuple[dict[str, Any], str]] = [
        ({"gate_mode": "hiden"}, "gate_mode: expected one of"),
        ({"experts_per_token": 9}, "experts_per_token: expected 1 to 3"),
        ({"experts": []}, "experts: 0 given"),
        ({"gate_mode": "cheap_embed"}, "positive_prompts: is empty"),
        ({"archtecture": "mixtral"}, "did you mean|unknown key"),
        ({"architecture": "phi"}, "is not made of"),
        ({"experts": [{"source_model": str(models[1]), "noise_scale": 1}] * 2}, "noise"),
    ]
    for change, words in mistakes:
        with pytest.raises((UsageError, SutureError), match=words):
            suture.moe.make(config(models) | change, out)
    half = [{"source_model": str(models[1]), "positive_prompts": ["\ud800"]}] * 2
    with pytest.raises(UsageError, match="half of one"):
        suture.moe.make(config(models) | {"experts": half, "gate_mode": "hidden"}, out)
    shutil.copytree(models[1], tmp_path / "gelu")
    said = json.loads((models[1] / "config.json").read_text()) | {"hidden_act": "gelu"}
    (tmp_path / "gelu" / "config.json").write_text(json.dumps(said))
    other = [*config(models)["experts"][:2], {"source_model": str(tmp_path / "gelu")}]
    with pytest.raises(SutureError, match=r"activation.*'gelu', not 'silu'"):
        suture.moe.make(config(models) | {"experts": other}, out)
    alike = [{"source_model": str(models[1]), "positive_prompts": ["w1"]}] * 2
    asked: dict[str, Any] = config(models) | {"experts": alike, "gate_mode": "hidden"}
    asked.pop("shared_experts", None)
    with pytest.raises(UsageError, match="cannot tell them apart"):
        suture.moe.make(asked, out)
    with pytest.raises(UsageError, match="experts"):
        suture.moe.from_dense(models[0], out, experts=1)
    with pytest.raises(SutureError, match="no experts"):
        suture.moe.split(models[0], out)
    suture.moe.from_dense(models[0], tmp_path / "mix", experts=2, top_k=1)
    with pytest.raises(UsageError, match="there is no expert 2"):
        suture.moe.keep(tmp_path / "mix", out, experts="2")
    with pytest.raises(UsageError, match="none would be left"):
        suture.moe.drop(tmp_path / "mix", out, experts="0,1")
    assert not out.exists()


def test_a_card_names_models_alone(models: list[Path], tmp_path: Path) -> None:
    """Law: the card lists what the mixture was made from, and no folder of what was computed on the way."""
    suture.moe.make(config(models), tmp_path / "mix", settings=suture.Settings(model_card=True))
    card = (tmp_path / "mix" / "README.md").read_text()
    assert "suture-given" not in card
    assert "of 3 models" in card
    assert sorted(line for line in card.splitlines() if line.startswith("* `")) == ["* `a`", "* `b`", "* `c`"]


def test_experts_are_kept_by_where_texts_go(models: list[Path], tmp_path: Path) -> None:
    """Law: counts of `suture text influence` add up over languages; the most used stay, in their order."""
    suture.moe.make(config(models), tmp_path / "mix")
    rows = [
        {"language": language, "layer": layer, "counts": counts}
        for layer in range(4)
        for language, counts in (("en", [5, 0, 9]), ("sw", [0, 8, 9] if layer % 2 else [4, 8, 0]))
    ]
    (tmp_path / "routed.json").write_text(json.dumps({"schema": 1, "routing": rows}))
    suture.moe.keep(tmp_path / "mix", tmp_path / "out", counts=tmp_path / "routed.json", top=2)
    whole, out = tensors(tmp_path / "mix"), tensors(tmp_path / "out")
    for layer in range(4):
        kept = [1, 2] if layer % 2 else [0, 2]
        for name in (n for n in out if f".layers.{layer}." in n and ".experts." in n):
            place = int(name.split(".experts.")[1].split(".")[0])
            assert np.array_equal(out[name], whole[name.replace(f".experts.{place}.", f".experts.{kept[place]}.")])
    (tmp_path / "routed.json").write_text(json.dumps({"routing": [{"layer": 0}]}))
    with pytest.raises(UsageError, match="is not what `suture text influence --json` prints"):
        suture.moe.keep(tmp_path / "mix", tmp_path / "no", counts=tmp_path / "routed.json", top=2)
