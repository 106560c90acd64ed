"""Small checkpoints for tests, written and read without suture or the safetensors package."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.rounding import bf16_bits, bf16_values, f16_bits

DTYPE_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
NUMPY_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "C64": "<c8",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
}
INDEX_NAME = "model.safetensors.index.json"
TOLERANCE = 2e-6
BF16_EQUAL = 0.999


@dataclass(frozen=True)
class Raw:
    """A tensor as a file holds it."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def values(self) -> NDArray[Any]:
        """The tensor as NumPy has it; bfloat16 and half widened to float32."""
        if self.dtype == "BF16":
            return bf16_values(np.frombuffer(self.data, "<u2")).reshape(self.shape)
        found = np.frombuffer(self.data, NUMPY_DTYPES[self.dtype]).reshape(self.shape)
        return found.astype(np.float32) if self.dtype == "F16" else found


Tensor = Raw | NDArray[Any]


def encode(values: NDArray[Any], dtype: str) -> Raw:
    """Values stored as a safetensors dtype; floats are rounded to nearest even."""
    if dtype == "BF16":
        stored: NDArray[Any] = bf16_bits(values)
    elif dtype == "F16":
        stored = f16_bits(values)
    else:
        stored = values.astype(NUMPY_DTYPES[dtype])
    return Raw(dtype, tuple(values.shape), stored.tobytes())


def as_raw(tensor: Tensor) -> Raw:
    """An array in its own dtype, or what is raw already."""
    if isinstance(tensor, Raw):
        return tensor
    wanted = tensor.dtype.newbyteorder("<")
    name = next(name for name, dtype in NUMPY_DTYPES.items() if np.dtype(dtype) == wanted)
    return Raw(name, tuple(tensor.shape), tensor.astype(wanted).tobytes())


def pack(header: bytes, data: bytes = b"") -> bytes:
    """The bytes of a safetensors file with this header, taken as it is."""
    return struct.pack("<Q", len(header)) + header + data


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A whole safetensors file, tensors in the order given."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    data = bytearray()
    for name, tensor in tensors.items():
        raw = as_raw(tensor)
        header[name] = {
            "dtype": raw.dtype,
            "shape": list(raw.shape),
            "data_offsets": [len(data), len(data) + len(raw.data)],
        }
        data += raw.data
    text = json.dumps(header).encode()
    return pack(text + b" " * (-len(text) % 8), bytes(data))


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write one safetensors file."""
    path.write_bytes(file_bytes(tensors, {"format": "pt"} if metadata is None else metadata))
    return path


def shard_name(number: int, count: int) -> str:
    """The Hugging Face name of shard `number` (from 1) of `count`."""
    return "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    shards: int = 1,
    index: bool | None = None,
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a Hugging Face folder of `shards` files; the index by default only where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for number in range(shards):
        first, last = len(names) * number // shards, len(names) * (number + 1) // shards
        file_name = shard_name(number + 1, shards)
        write_file(folder / file_name, {name: tensors[name] for name in names[first:last]})
        weight_map.update(dict.fromkeys(names[first:last], file_name))
    if shards > 1 if index is None else index:
        total = sum(len(as_raw(tensor).data) for tensor in tensors.values())
        write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})
    if config is not None:
        write_json(folder / "config.json", config)
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    return folder


def write_json(path: Path, content: Any) -> Path:
    """Write indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def parse_json(content: bytes) -> Any:
    """JSON, more tolerant of odd strings than any reader under test."""
    return json.loads(content.decode("utf-8", errors="surrogateescape"), strict=False)


def parse_file(content: bytes) -> dict[str, Raw]:
    """The tensors in the bytes of a well-formed safetensors file; ValueError where it is not."""
    if len(content) < 8:
        raise ValueError("no header length")
    length = struct.unpack("<Q", content[:8])[0]
    if len(content) < 8 + length:
        raise ValueError("header longer than file")
    header = parse_json(content[8 : 8 + length])
    data = content[8 + length :]
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        start, end = info["data_offsets"]
        if not 0 <= start <= end <= len(data):
            raise ValueError(f"offsets of {name} outside the file")
        if math.prod(info["shape"]) * DTYPE_BITS[info["dtype"]] != (end - start) * 8:
            raise ValueError(f"size of {name} does not fit its shape")
        tensors[name] = Raw(info["dtype"], tuple(info["shape"]), data[start:end])
    return tensors


def read_checkpoint(path: Path) -> dict[str, Raw]:
    """All tensors of a file or a folder; with an index, exactly those it lists."""
    if path.is_file():
        return parse_file(path.read_bytes())
    index = path / INDEX_NAME
    if not index.exists():
        return read_shards(path)
    weight_map = parse_json(index.read_bytes())["weight_map"]
    shards = {shard: parse_file((path / shard).read_bytes()) for shard in set(weight_map.values())}
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def read_shards(folder: Path) -> dict[str, Raw]:
    """All tensors of all safetensors files in a folder, whatever an index says."""
    files = sorted(folder.glob("*.safetensors"))
    return {name: raw for file in files for name, raw in parse_file(file.read_bytes()).items()}


def tree_digest(path: Path) -> str:
    """A digest over name, dtype, shape and bytes of every tensor by name, whatever the sharding."""
    digest = hashlib.sha256()
    for name, raw in sorted(read_checkpoint(path).items()):
        head = json.dumps([name, raw.dtype, list(raw.shape), len(raw.data)]).encode()
        digest.update(struct.pack("<Q", len(head)) + head + raw.data)
    return digest.hexdigest()


def assert_agree(found: Mapping[str, Raw], expected: Mapping[str, Raw]) -> None:
    """Same names, dtypes and shapes, values within 2e-6.

    Of all bfloat16 elements together 999 in 1000 have the same bits and none is more than one step away.
    """
    assert sorted(found) == sorted(expected)
    equal = total = 0
    for name, wanted in expected.items():
        got = found[name]
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape), name
        if wanted.dtype == "BF16":
            steps = bf16_order(got) - bf16_order(wanted)
            assert np.abs(steps).max(initial=0) <= 1, name
            equal, total = equal + int((steps == 0).sum()), total + steps.size
        else:
            np.testing.assert_allclose(got.values(), wanted.values(), rtol=0, atol=TOLERANCE, err_msg=name)
    assert equal >= BF16_EQUAL * total


def assert_mostly_equal(found: Mapping[str, Raw], expected: Mapping[str, Raw]) -> None:
    """999 of 1000 elements within the tolerance: for goldens in which mergekit's own rounding decides.

    Which elements `arcee_fusion` takes hangs on a divergence that mergekit sums in f32, where it cancels to a few
    digits. suture sums in f64, and is held to tests/reference/arcee.py element by element.
    """
    assert found.keys() == expected.keys()
    same = [np.abs(found[name].values() - raw.values()) <= TOLERANCE for name, raw in expected.items()]
    assert sum(int(s.sum()) for s in same) >= 0.999 * sum(s.size for s in same)


def bf16_order(raw: Raw) -> NDArray[np.int64]:
    """bfloat16 elements numbered by value, so that neighbours differ by one."""
    bits = np.frombuffer(raw.data, "<u2").astype(np.int64)
    return np.where(bits < 0x8000, bits, 0x8000 - bits)


def llama_shapes(
    layers: int, hidden: int, heads: int, kv_heads: int, ff: int, vocab: int, tied: bool
) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama by their Hugging Face names."""
    kv = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "mlp.down_proj.weight": (hidden, ff),
            prefix + "mlp.gate_proj.weight": (ff, hidden),
            prefix + "mlp.up_proj.weight": (ff, hidden),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "self_attn.k_proj.weight": (kv, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, hidden),
            prefix + "self_attn.q_proj.weight": (hidden, hidden),
            prefix + "self_attn.v_proj.weight": (kv, hidden),
        }
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def llama_config(
    layers: int, hidden: int, heads: int, kv_heads: int, ff: int, vocab: int, tied: bool, dtype: str
) -> dict[str, Any]:
    """A config.json that transformers loads."""
    torch_names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocab,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "torch_dtype": torch_names[dtype],
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def llama_family(
    tmp_path: Path,
    layers: int = 4,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    ff: int = 128,
    vocab: int = 96,
    dtype: str = "bf16",
    tied: bool = False,
    n: int = 3,
    seed: int = 0,
    *,
    shards: int | Sequence[int] = 1,
    spread: float = 2e-3,
) -> list[Path]:
    """Write `base` and `tuned-1` .. `tuned-n` and return their folders, the base first.

    A fine-tune differs from the base by noise of deviation `spread` everywhere but in `model.norm.weight`,
    which stays equal byte for byte. `shards` is one number for all, or one for each checkpoint.
    """
    rng = np.random.default_rng(seed)
    stored = dtype.upper()
    shapes = llama_shapes(layers, hidden, heads, kv_heads, ff, vocab, tied)
    config = llama_config(layers, hidden, heads, kv_heads, ff, vocab, tied, stored)
    files = {
        "generation_config.json": '{"bos_token_id": 1, "eos_token_id": 2}\n',
        "tokenizer_config.json": '{"model_max_length": 128}\n',
    }
    base = {
        name: rng.normal(1.0 if len(shape) == 1 else 0.0, 0.02, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    counts = [shards] * (n + 1) if isinstance(shards, int) else list(shards)
    folders = []
    for number, count in zip(range(n + 1), counts, strict=True):
        tensors = {}
        for name, values in base.items():
            moved = number > 0 and name != "model.norm.weight"
            noise = rng.normal(0.0, spread, values.shape).astype(np.float32) if moved else np.float32(0)
            tensors[name] = encode(values + noise, stored)
        folder = tmp_path / ("base" if number == 0 else f"tuned-{number}")
        folders.append(write_checkpoint(folder, tensors, shards=count, config=config, files=files))
    return folders
