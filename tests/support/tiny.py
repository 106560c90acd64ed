"""Random models of transformers, a few KB each."""

from __future__ import annotations

from typing import Any

FAMILIES = ("llama", "qwen2", "gemma", "t5", "bert")


def config_of(family: str, vocab: int, tied: bool) -> Any:
    """A config of a model of 32 columns and two layers."""
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": vocab, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    if family == "t5":
        sizes = {
            "vocab_size": vocab, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
            "decoder_start_token_id": 0,
        }  # fmt: skip
    if family == "gemma":
        sizes["head_dim"] = 8
    if family == "bert":
        del sizes["num_key_value_heads"]
    kinds = {
        "llama": "LlamaConfig", "qwen2": "Qwen2Config", "gemma": "GemmaConfig", "t5": "T5Config", "bert": "BertConfig",
    }  # fmt: skip
    return getattr(transformers, kinds[family])(**sizes, tie_word_embeddings=tied)


def model_of(config: Any, seed: int = 0) -> Any:
    """A random model of a config, with biases and norms that are no identities."""
    import torch
    import transformers

    kinds = {"t5": "AutoModelForSeq2SeqLM", "bert": "AutoModelForMaskedLM"}
    torch.manual_seed(seed)
    model = getattr(transformers, kinds.get(config.model_type, "AutoModelForCausalLM")).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def logits_of(model: Any, ids: Any) -> Any:
    """What a model says of texts of numbers [texts, length]."""
    import torch

    with torch.no_grad():
        more = {"decoder_input_ids": ids} if model.config.model_type == "t5" else {}
        return model(input_ids=ids, **more).logits
