"""Two tiny models as they are published, a DeepSeek-V3 in FP8 and a gpt-oss in MXFP4, from transformers' config classes
through every verb: what comes out gives the logits that transformers computes of the quantised model itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, read_checkpoint, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")
BF16 = suture.Settings(to="bf16")
Tensors = dict[str, Raw]


def saved(transformers: Any, torch: Any, config: Any, seed: int, folder: Path) -> Tensors:
    """A model of a config with random weights, in bf16, as transformers writes it."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    model.save_pretrained(folder)
    return read_checkpoint(folder)


def deepseek(transformers: Any, torch: Any, seed: int, folder: Path) -> Path:
    """Two layers, the second of experts; every matrix of a layer in FP8 but for the router, tiles of 128 x 128."""
    config = transformers.DeepseekV3Config(
        vocab_size=128, hidden_size=128, intermediate_size=256, moe_intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=4, kv_lora_rank=96,
        q_lora_rank=128, qk_rope_head_dim=32, v_head_dim=32, qk_nope_head_dim=32, n_group=2, topk_group=1,
        num_experts_per_tok=2, first_k_dense_replace=1, max_position_embeddings=64,
    )  # fmt: skip
    saved(transformers, torch, config, seed, folder / "plain")
    suture.convert(folder / "plain", folder / "fp8", settings=suture.Settings(to="fp8"))
    return folder / "fp8"


def gpt_oss(transformers: Any, torch: Any, seed: int, folder: Path) -> Path:
    """Two layers of four experts, the codes of which are any bytes, the exponents such that logits stay small."""
    config = transformers.GptOssConfig(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=16,
        max_position_embeddings=64, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    stored = saved(transformers, torch, config, seed, folder / "plain")
    rng = np.random.default_rng(seed)
    out: Tensors = {}
    for name, t in stored.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            out[name] = t
            continue
        experts, columns, rows = t.shape
        shape = (experts, rows, columns // 32)
        out[f"{name}_blocks"] = Raw("U8", (*shape, 16), rng.bytes(int(np.prod(shape)) * 16))
        out[f"{name}_scales"] = Raw("U8", shape, rng.integers(119, 123, shape, dtype=np.uint8).tobytes())
    said = json.loads((folder / "plain" / "config.json").read_text())
    plain = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    said["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": plain}
    return write_checkpoint(folder / "mxfp4", out, config=said)


MODELS: dict[str, Callable[..., Path]] = {"deepseek": deepseek, "gpt-oss": gpt_oss}


def logits(transformers: Any, torch: Any, folder: Path) -> Any:
    """What transformers computes of a folder, in f32 of bf16 weights; quantised weights it makes bf16 itself."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float().eval()
    with torch.no_grad():
        out = model(torch.arange(24).reshape(2, 12) * 5 % 128).logits
    assert torch.isfinite(out).all()
    return out


@pytest.mark.parametrize("name", MODELS)
def test_a_model_as_published_goes_through_every_verb(name: str, tmp_path: Path, torch: Any, transformers: Any) -> None:
    """Laws 2 and 10: convert gives the logits of the quantised model, a swap moves bytes and gives those of the layers'
    own models, a diff finds the layer that was swapped, a merge is the mean of what transformers decodes."""
    a, b = (MODELS[name](transformers, torch, seed, tmp_path / str(seed)) for seed in (1, 2))
    own = [logits(transformers, torch, path) for path in (a, b)]
    assert (own[0] - own[1]).abs().max() > 0.05
    for i, path in enumerate((a, b)):
        suture.convert(path, tmp_path / f"bf16-{i}", settings=BF16)
        torch.testing.assert_close(logits(transformers, torch, tmp_path / f"bf16-{i}"), own[i], rtol=0, atol=0)
    plain = [read_checkpoint(tmp_path / f"bf16-{i}") for i in (0, 1)]

    suture.swap(a, b, tmp_path / "swap", layers=[1])
    stored = [read_checkpoint(path) for path in (a, b)]
    assert read_checkpoint(tmp_path / "swap") == {n: stored["layers.1." in n][n] for n in stored[0]}
    config = json.loads((a / "config.json").read_text())
    del config["quantization_config"]
    write_checkpoint(tmp_path / "wanted", {n: plain["layers.1." in n][n] for n in plain[0]}, config=config)
    swapped = logits(transformers, torch, tmp_path / "swap")
    torch.testing.assert_close(swapped, logits(transformers, torch, tmp_path / "wanted"), rtol=0, atol=0)
    assert (swapped - own[0]).abs().max() > 0.01

    found = suture.diff(a, tmp_path / "swap")["models"][0]
    changed = {t["name"] for t in found["tensors"] if t["changed"] > 0}
    assert changed == {n for n in plain[0] if "layers.1." in n and plain[0][n] != plain[1][n]}
    assert found["total"]["stepped"] > 0

    entries = [{"model": str(p), "parameters": {"weight": 1.0}} for p in (a, b)]
    suture.merge({"merge_method": "linear", "models": entries, "to": "bf16"}, tmp_path / "merged")
    decoded = [transformers.AutoModelForCausalLM.from_pretrained(p, dtype=torch.bfloat16) for p in (a, b)]
    states = [{n: p.detach().double() for n, p in d.named_parameters()} for d in decoded]
    with torch.no_grad():
        for n, p in decoded[0].named_parameters():
            p.copy_(((states[0][n] + states[1][n]) / 2).float().to(torch.bfloat16))
        mean = decoded[0].float().eval()(torch.arange(24).reshape(2, 12) * 5 % 128).logits
    # transformers rounds what it decodes to bf16 before the mean, suture computes with the decoded values.
    torch.testing.assert_close(logits(transformers, torch, tmp_path / "merged"), mean, rtol=0.02, atol=0.02)
