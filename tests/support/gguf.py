"""GGUF files, written from the format's description."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..reference.quantised.ggml import TYPES, blocks, decode, permuted

#: Values of the metadata by their Python type; ints are u32.
_PLAIN = {"F32": (0, "<f4"), "F16": (1, "<f2"), "I32": (26, "<i4")}


@dataclass(frozen=True)
class Stored:
    """A tensor: its type by name, its shape, outermost first, its bytes, and its values."""

    kind: str
    shape: tuple[int, ...]
    raw: bytes
    values: Any

    @property
    def number(self) -> int:
        return _PLAIN[self.kind][0] if self.kind in _PLAIN else TYPES[self.kind].number


def plain(kind: str, values: Any) -> Stored:
    a = np.ascontiguousarray(values, _PLAIN[kind][1])
    return Stored(kind, a.shape, a.tobytes(), a.astype(np.float32))


def quantised(kind: str, shape: tuple[int, ...], seed: int) -> Stored:
    """Random blocks of finite values."""
    raw = blocks(kind, int(np.prod(shape)) // TYPES[kind].elements, seed)
    return Stored(kind, shape, raw, decode(kind, raw).reshape(shape))


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(found: Any) -> bytes:
    """A value with its type before it."""
    match found:
        case bool():
            return struct.pack("<IB", 7, found)
        case int():
            return struct.pack("<II", 4, found)
        case float():
            return struct.pack("<If", 6, found)
        case str() | bytes():
            return struct.pack("<I", 8) + text(found)
        case list():
            inner = [value(v) for v in found] or [struct.pack("<I", 4)]
            kind = inner[0][:4]
            return struct.pack("<I", 9) + kind + struct.pack("<Q", len(found)) + b"".join(v[4:] for v in inner if found)
    raise TypeError(found)


def write_gguf(
    path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, Stored], *, version: int = 3, align: int = 32
) -> Path:
    """Write a file; the last tensor lacks its padding."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(found) for key, found in metadata.items())
    at, data = 0, b""
    for name, t in tensors.items():
        data += b"\0" * (-len(data) % align)
        at = len(data)
        dims = struct.pack(f"<I{len(t.shape)}Q", len(t.shape), *reversed(t.shape))
        head += text(name) + dims + struct.pack("<IQ", t.number, at)
        data += t.raw
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + b"\0" * (-len(head) % align) + data)
    return path


#: A small byte-level vocabulary: bytes, two merged tokens, two that are added.
def tokenizer(rows: int) -> dict[str, Any]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = sorted(chr(b) for b in printable) + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = [*alphabet, "th", "the", "<|end|>", "<|pad|>"]
    types = [1] * 258 + [3, 3]
    unused = rows - len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": [*tokens, *(f"[PAD{i}]" for i in range(unused))],
        "tokenizer.ggml.token_type": [*types, *[5] * unused],
        "tokenizer.ggml.merges": ["t h", "th e"],
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.padding_token_id": 259,
        "tokenizer.chat_template": "{{ messages }}",
    }


@dataclass(frozen=True)
class Model:
    """A model as GGUF and as a plain one: path, its metadata, what is stored, and the plain tensors by their names."""

    path: Path
    metadata: dict[str, Any]
    stored: dict[str, Stored]
    plain: dict[str, Any] = field(default_factory=dict)


def llama(
    path: Path, kind: str = "Q8_0", *, layers: int = 3, seed: int = 0, more: Mapping[str, Any] | None = None
) -> Model:
    """A Llama of `layers` layers, 4 heads of 64, 2 of keys, tied, of weights of one type."""
    width, inner, heads, groups, rows = 256, 512, 4, 2, 264
    metadata = {
        "general.architecture": "llama",
        "general.type": "model",
        "llama.block_count": layers,
        "llama.context_length": 512,
        "llama.embedding_length": width,
        "llama.feed_forward_length": inner,
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": groups,
        "llama.rope.freq_base": 100000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-05,
        **tokenizer(rows),
        **(more or {}),
    }
    shapes = {
        "attn_q": (width, width), "attn_k": (width // 2, width), "attn_v": (width // 2, width),
        "attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner),
    }  # fmt: skip
    ours = {
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    stored = {"token_embd.weight": quantised(kind, (rows, width), seed)}
    plain_ones: dict[str, Any] = {"model.embed_tokens.weight": stored["token_embd.weight"].values}
    for i in range(layers):
        for n, (name, shape) in enumerate(shapes.items()):
            own = quantised(kind, shape, 1000 * seed + 100 * i + n)
            stored[f"blk.{i}.{name}.weight"] = own
            found = own.values
            if name in ("attn_q", "attn_k"):
                # Row r of the file is a row of the plain model: where each went is undone.
                order = permuted(np.arange(len(found)), heads if name == "attn_q" else groups)
                found = found[np.argsort(order)]
            plain_ones[f"model.layers.{i}.{ours[name]}.weight"] = found
        for name in ("attn_norm", "ffn_norm"):
            own = plain("F32", rng.normal(1, 0.1, width))
            stored[f"blk.{i}.{name}.weight"] = own
            plain_ones[f"model.layers.{i}.{ours[name]}.weight"] = own.values
    stored["output_norm.weight"] = plain("F32", rng.normal(1, 0.1, width))
    plain_ones["model.norm.weight"] = stored["output_norm.weight"].values
    return Model(write_gguf(path, metadata, stored), metadata, stored, plain_ones)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
