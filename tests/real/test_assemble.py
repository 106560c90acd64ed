"""Assembled checkpoints against transformers: encoders taken out, composites put together, states regressed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import suture

IDS = [[5, 9, 3, 1], [7, 2, 8, 1]]


def loaded(kind: Any, path: Path, **more: Any) -> Any:
    """A model of a folder; every tensor was found, and none more."""
    model, info = kind.from_pretrained(path, output_loading_info=True, **more)
    assert not any(info.values()), info
    return model.eval()


def made(transformers: Any, name: str, folder: Path, **config: Any) -> Path:
    """A tiny random model of a class, saved as transformers does."""
    import torch

    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return folder


T5 = {
    "vocab_size": 40, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4,
    "decoder_start_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("family", ["T5", "MT5"])
def test_an_encoder_alone_computes_what_it_did(transformers: Any, tmp_path: Path, family: str) -> None:
    """Law: taken out of an encoder-decoder the encoder loads whole, and gives the same states bit for bit."""
    import torch

    whole = made(transformers, f"{family}ForConditionalGeneration", tmp_path / "whole", **T5)
    config = {
        "parts": {"encoder": {"model": str(whole), "take": ["encoder", "shared.weight"], "prefix": ""}},
        "config": {"of": "encoder", "set": {"architectures": [f"{family}EncoderModel"], "is_encoder_decoder": False}},
    }
    (tmp_path / "encoder.yml").write_text(yaml.safe_dump(config))
    report = suture.assemble(tmp_path / "encoder.yml", tmp_path / "encoder")
    assert all(t.action in ("copy", "move") for t in report.tensors)
    assert not report.warnings
    one = loaded(getattr(transformers, f"{family}ForConditionalGeneration"), whole)
    two = loaded(getattr(transformers, f"{family}EncoderModel"), tmp_path / "encoder")
    ids = torch.tensor(IDS)
    with torch.no_grad():
        want, found = one.get_encoder()(ids).last_hidden_state, two(ids).last_hidden_state
    assert torch.equal(want, found)


def test_the_encoder_of_nllb_loads_by_itself(transformers: Any, tmp_path: Path) -> None:
    """Law: the encoder of M2M100, which NLLB is, loads by its own class under the names that it has there."""
    import torch
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    sizes: dict[str, Any] = {f"{side}_{k}": v for side in ("encoder", "decoder")
                             for k, v in (("layers", 2), ("attention_heads", 2), ("ffn_dim", 24))}  # fmt: skip
    whole = made(
        transformers, "M2M100ForConditionalGeneration", tmp_path / "whole", vocab_size=40, d_model=16,
        max_position_embeddings=32, **sizes,
    )  # fmt: skip
    part = {
        "model": str(whole), "take": ["model.encoder", "model.shared"], "prefix": "",
        "rename": {"model.encoder.": "", "model.shared.": "embed_tokens."},
    }  # fmt: skip
    suture.assemble({"parts": {"encoder": part}, "config": "encoder"}, tmp_path / "encoder")
    one = loaded(transformers.M2M100ForConditionalGeneration, whole)
    two = loaded(M2M100Encoder, tmp_path / "encoder")
    ids = torch.tensor(IDS)
    with torch.no_grad():
        assert torch.equal(one.get_encoder()(ids).last_hidden_state, two(ids).last_hidden_state)
    # As published: a file of torch's, the table under all its names.
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_bytes((whole / "config.json").read_bytes())
    torch.save(one.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    part["model"] = str(tmp_path / "pickled")
    suture.assemble({"parts": {"encoder": part}, "config": "encoder"}, tmp_path / "again")
    first, second = (suture.open(tmp_path / name) for name in ("encoder", "again"))
    assert set(first) <= set(second)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    loaded(M2M100Encoder, tmp_path / "again")


def test_an_encoder_and_a_decoder_become_one_model(transformers: Any, tmp_path: Path) -> None:
    """Law: BERT and a decoder of another width, with a projection, load as transformers' encoder-decoder, none missing.

    Its logits are those of the parts run by hand, bit for bit.
    """
    import torch

    sizes = {"vocab_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    encoder = made(transformers, "BertModel", tmp_path / "bert", hidden_size=16, **sizes)
    decoder = made(
        transformers, "BertLMHeadModel", tmp_path / "decoder", hidden_size=20, is_decoder=True,
        add_cross_attention=True, **sizes,
    )  # fmt: skip
    config = {
        "parts": {
            "encoder": {"model": str(encoder)},
            "enc_to_dec_proj": {"linear": {"from": "encoder", "to": "decoder", "init": "uniform"}},
            "decoder": {"model": str(decoder)},
        },
        "config": {
            "model_type": "encoder-decoder", "is_encoder_decoder": True, "architectures": ["EncoderDecoderModel"],
            "encoder": {"of": "encoder"}, "decoder": {"of": "decoder"}, "tie_word_embeddings": False,
            "decoder_start_token_id": 0, "pad_token_id": 0,
        },
    }  # fmt: skip
    suture.assemble(config, tmp_path / "out")
    model = loaded(transformers.EncoderDecoderModel, tmp_path / "out")
    one, two = loaded(transformers.BertModel, encoder), loaded(transformers.BertLMHeadModel, decoder)
    linear = torch.nn.Linear(16, 20)
    weights = suture.open(tmp_path / "out")
    linear.load_state_dict({k: torch.tensor(weights[f"enc_to_dec_proj.{k}"]) for k in ("weight", "bias")})
    ids, labels = torch.tensor(IDS), torch.tensor([[4, 6], [2, 11]])
    with torch.no_grad():
        states = linear(one(ids).last_hidden_state)
        want = two(labels, encoder_hidden_states=states, encoder_attention_mask=torch.ones_like(ids)).logits
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=labels).logits
    assert torch.equal(want, found)


def test_a_regression_on_states_leads_from_one_model_into_another(transformers: Any, tmp_path: Path) -> None:
    """Law: of states that a linear map relates, ridge finds the map, and the output holds it."""
    import torch

    encoder = made(transformers, "T5ForConditionalGeneration", tmp_path / "t5", **T5)
    llm = made(
        transformers, "LlamaForCausalLM", tmp_path / "llama", vocab_size=40, hidden_size=24, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=4,
    )  # fmt: skip
    model = loaded(transformers.T5ForConditionalGeneration, encoder).get_encoder()
    torch.manual_seed(1)
    with torch.no_grad():
        x = model(torch.randint(0, 40, (60, 5))).last_hidden_state.reshape(-1, 16)
    y = x.double() @ torch.randn(16, 24, dtype=torch.float64) + torch.randn(24, dtype=torch.float64)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "y.npy", y.numpy())
    linear = {"from": "enc", "to": "lm", "ridge": 1e-6, "inputs": "x.npy", "outputs": "y.npy"}
    config = {
        "parts": {
            "enc": {"model": "t5", "take": ["encoder", "shared.weight"]},
            "proj": {"linear": linear},
            "lm": {"model": "llama", "drop": ["model.embed_tokens", "lm_head"]},
        }
    }
    (tmp_path / "stack.yml").write_text(yaml.safe_dump(config))
    report = suture.assemble(tmp_path / "stack.yml", tmp_path / "out")
    assert "explains 100.0%" in dict(report.data["notes"])["proj"]
    found = suture.open(tmp_path / "out")
    got = x.numpy() @ found["proj.weight"].T + found["proj.bias"]
    np.testing.assert_allclose(got, y.numpy(), atol=2e-4)
    assert len([n for n in found if n.startswith("lm.")]) == len(suture.open(llm)) - 2
