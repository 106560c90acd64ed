"""A small standard Llama (RMSNorm, RoPE, grouped queries, SwiGLU) and its Hugging Face folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-5
THETA = 10_000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a model."""

    layers: int = 6
    hidden: int = 80
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 208
    tied: bool = False


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = shape.heads, shape.kv_heads, shape.hidden // shape.heads
        self.q_proj = nn.Linear(shape.hidden, self.heads * self.size, bias=False)
        self.k_proj = nn.Linear(shape.hidden, self.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, self.kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.size, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attend to what came before."""
        n, t, _ = x.shape
        q = rotate(self.q_proj(x).view(n, t, self.heads, self.size).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(n, t, self.kv_heads, self.size).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(n, t, self.kv_heads, self.size).transpose(1, 2)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        found: Tensor = self.o_proj(out.transpose(1, 2).reshape(n, t, self.heads * self.size))
        return found


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gate, widen and narrow."""
        found: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return found


class Layer(nn.Module):
    """Attention and feed-forward, each on a normed copy, each added."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=EPS)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=EPS)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """One layer further."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        found: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return found


class Body(nn.Module):
    """Everything but the head."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=EPS)


class Llama(nn.Module):
    """The model; its state dict has the names of a Hugging Face Llama."""

    def __init__(self, shape: Shape, vocabulary: int) -> None:
        super().__init__()
        self.shape, self.vocabulary = shape, vocabulary
        self.model = Body(shape, vocabulary)
        self.lm_head = nn.Linear(shape.hidden, vocabulary, bias=False)
        if shape.tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    @classmethod
    def fresh(cls, shape: Shape, vocabulary: int, seed: int) -> Llama:
        """A model with random weights: N(0, 0.02), the projections back into the stream scaled by depth."""
        torch.manual_seed(seed)
        model = cls(shape, vocabulary)
        for name, p in model.named_parameters():
            if p.dim() == 2:
                back = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * ((2 * shape.layers) ** -0.5 if back else 1.0))
                if "embed" in name or "lm_head" in name:
                    nn.init.normal_(p, std=shape.hidden**-0.5)
        return model

    def forward(self, ids: Tensor, keep: list[Tensor] | None = None) -> Tensor:
        """Scores of the next token at every position; `keep`, if given, gets the stream after each layer."""
        x = self.model.embed_tokens(ids)
        cos, sin = rotary(ids.shape[1], self.shape.hidden // self.shape.heads)
        if keep is not None:
            keep.append(x)
        for layer in self.model.layers:
            x = layer(x, cos, sin)
            if keep is not None:
                keep.append(x)
        found: Tensor = self.lm_head(self.model.norm(x))
        return found


def rotary(length: int, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, both halves alike."""
    frequencies = THETA ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of each head by the position's angles."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def config(shape: Shape, vocabulary: int, dtype: str) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
        "head_dim": shape.hidden // shape.heads, "hidden_act": "silu", "hidden_size": shape.hidden,
        "initializer_range": 0.02, "intermediate_size": shape.feed_forward, "max_position_embeddings": 64,
        "mlp_bias": False, "num_attention_heads": shape.heads, "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads, "rms_norm_eps": EPS, "rope_theta": THETA,
        "tie_word_embeddings": shape.tied, "torch_dtype": dtype, "use_cache": True, "vocab_size": vocabulary,
    }  # fmt: skip


def save(model: Llama, folder: Path, tokenizer: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write a Hugging Face folder: config.json, model.safetensors, tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: t.detach().to(dtype).contiguous() for name, t in model.state_dict().items()}
    if model.shape.tied:
        del state["lm_head.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write = {
        "config.json": config(model.shape, model.vocabulary, str(dtype).removeprefix("torch.")),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"},
    }
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder: Path) -> Llama:
    """Read a folder written by `save`, or merged from such."""
    c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = Shape(
        layers=c["num_hidden_layers"],
        hidden=c["hidden_size"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        feed_forward=c["intermediate_size"],
        tied=c["tie_word_embeddings"],
    )
    model = Llama(shape, c["vocab_size"])
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state |= load_file(path)
    if shape.tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict({name: t.float() for name, t in state.items()})
    return model
