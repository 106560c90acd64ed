"""Write the benchmark family: a base checkpoint and its fine-tunes, Llama- or Mixtral-shaped, with numpy alone."""

from __future__ import annotations

import argparse
import json
import math
import shutil
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

FORMAT_VERSION = 1
BLOCK = 1 << 18
POOL = 1 << 22
BASE_STD = 0.02
DELTA_STD = (3e-4, 1e-3)
UNTOUCHED_STD = 1e-6
UNTOUCHED_SHARE = 0.1
TUNES = ("ft1", "ft2", "ft3")

WORD_BYTES = {"BF16": 2, "F32": 4}
TORCH_NAMES = {"BF16": "bfloat16", "F32": "float32"}

F32 = npt.NDArray[np.float32]
Tensor = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Shape:
    hidden: int
    feed_forward: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    experts: int = 0


LLAMA_2048 = Shape(2048, 5632, 32000, 32, 4, 64, 12)
LLAMA_70B = Shape(8192, 28672, 128256, 64, 8, 128, 80)
SIZES = {
    "tiny": Shape(256, 704, 1000, 4, 1, 64, 12),
    "0.3": Shape(1024, 2816, 16000, 16, 4, 64, 12),
    "0.4": replace(LLAMA_2048, layers=2),
    "1.3": LLAMA_2048,
    "5": replace(LLAMA_2048, layers=54),
}
# mixtures of experts made of many small tensors: 333, and 50,378 of 64 x 16
EXPERT_SIZES = {"tiny": Shape(16, 64, 1000, 1, 1, 16, 6, 16), "full": Shape(16, 64, 1000, 1, 1, 16, 65, 256)}


@dataclass(frozen=True)
class Family:
    shape: Shape
    tunes: tuple[str, ...] = TUNES
    shards: int = 3
    seed: int = 2
    header_only: bool = False
    dtype: str = "BF16"

    @property
    def names(self) -> list[str]:
        return ["base", *self.tunes]

    @property
    def model_bytes(self) -> int:
        return sum(WORD_BYTES[self.dtype] * math.prod(dims) for _, dims in tensors(self.shape))

    @property
    def disk_bytes(self) -> int:
        return 0 if self.header_only else len(self.names) * self.model_bytes


def tensors(shape: Shape) -> Iterator[Tensor]:
    h, ff = shape.hidden, shape.feed_forward
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", (shape.vocab, h)
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (h,)
        yield f"{layer}.self_attn.q_proj.weight", (q, h)
        yield f"{layer}.self_attn.k_proj.weight", (kv, h)
        yield f"{layer}.self_attn.v_proj.weight", (kv, h)
        yield f"{layer}.self_attn.o_proj.weight", (h, q)
        yield f"{layer}.post_attention_layernorm.weight", (h,)
        if shape.experts:
            yield f"{layer}.block_sparse_moe.gate.weight", (shape.experts, h)
            for expert in (f"{layer}.block_sparse_moe.experts.{e}" for e in range(shape.experts)):
                yield f"{expert}.w1.weight", (ff, h)
                yield f"{expert}.w2.weight", (h, ff)
                yield f"{expert}.w3.weight", (ff, h)
        else:
            yield f"{layer}.mlp.gate_proj.weight", (ff, h)
            yield f"{layer}.mlp.up_proj.weight", (ff, h)
            yield f"{layer}.mlp.down_proj.weight", (h, ff)
    yield "model.norm.weight", (h,)
    yield "lm_head.weight", (shape.vocab, h)


def config(shape: Shape, dtype: str) -> dict[str, Any]:
    kind: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    if shape.experts:
        kind = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
        kind |= {"num_local_experts": shape.experts, "num_experts_per_tok": 2}
    return {
        **kind,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "initializer_range": BASE_STD,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        "torch_dtype": TORCH_NAMES[dtype],
    }


def split(items: Sequence[Tensor], shards: int) -> list[list[Tensor]]:
    """Consecutive tensors, about the same number of bytes in every shard."""
    total = sum(math.prod(dims) for _, dims in items)
    out: list[list[Tensor]] = [[] for _ in range(shards)]
    done = 0
    for name, dims in items:
        out[min(shards - 1, done * shards // total)].append((name, dims))
        done += math.prod(dims)
    return [shard for shard in out if shard]


def header(items: Sequence[Tensor], dtype: str) -> tuple[bytes, int]:
    """The length-prefixed safetensors header and the size of the data that follows."""
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dims in items:
        size = WORD_BYTES[dtype] * math.prod(dims)
        table[name] = {"dtype": dtype, "shape": list(dims), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, at


class Weights:
    """The values of one model: windows of a shared noise pool, scaled; in bf16 rounded, nearest even."""

    def __init__(self, pool: F32, seed: int, model: int, dtype: str = "BF16") -> None:
        self.pool, self.seed, self.model, self.dtype = pool, seed, model, dtype
        self.values = np.empty(BLOCK, np.float32)
        self.delta = np.empty(BLOCK, np.float32)
        self.scratch = np.empty(BLOCK, np.uint32)
        self.rounded = np.empty(BLOCK, np.uint16)

    def write(self, file: BinaryIO, name: str, dims: tuple[int, ...]) -> None:
        count = math.prod(dims)
        centre = 1.0 if "norm" in name else 0.0
        blocks = -(-count // BLOCK)
        base_starts = self._random(0, name).integers(0, POOL, blocks)
        tune = self._random(self.model, name)
        std = self.delta_std(name, tune)
        tune_starts = tune.integers(0, POOL, blocks)
        for block in range(blocks):
            n = min(BLOCK, count - block * BLOCK)
            values = self.values[:n]
            np.multiply(self._window(base_starts[block], n), np.float32(BASE_STD), out=values)
            values += np.float32(centre)
            stored = self._stored(values)
            if self.model:
                if self.dtype == "BF16":
                    np.left_shift(stored, 16, out=values.view(np.uint32), dtype=np.uint32)
                np.multiply(self._window(tune_starts[block], n), np.float32(std), out=self.delta[:n])
                values += self.delta[:n]
                stored = self._stored(values)
            file.write(stored.data)

    def delta_std(self, name: str, random: np.random.Generator) -> float:
        """How far the fine-tune moved this tensor."""
        return UNTOUCHED_STD if random.random() < UNTOUCHED_SHARE else random.uniform(*DELTA_STD)

    def _random(self, model: int, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, model, zlib.crc32(name.encode())])

    def _window(self, start: np.int64, n: int) -> F32:
        return self.pool[start : start + n]

    def _stored(self, values: F32) -> npt.NDArray[Any]:
        return self._round(values) if self.dtype == "BF16" else values

    def _round(self, values: F32) -> npt.NDArray[np.uint16]:
        bits, scratch, out = values.view(np.uint32), self.scratch[: values.size], self.rounded[: values.size]
        np.right_shift(bits, 16, out=scratch)
        scratch &= np.uint32(1)
        scratch += np.uint32(0x7FFF)
        scratch += bits
        np.right_shift(scratch, 16, out=scratch)
        out[:] = scratch
        return out


def write_model(folder: Path, family: Family, weights: Weights) -> None:
    folder.mkdir(parents=True)
    shards = split(list(tensors(family.shape)), family.shards)
    weight_map: dict[str, str] = {}
    for i, items in enumerate(shards, 1):
        filename = f"model-{i:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys((name for name, _ in items), filename)
        head, size = header(items, family.dtype)
        with open(folder / filename, "wb") as file:
            file.write(head)
            if family.header_only:
                file.truncate(len(head) + size)
            else:
                for name, dims in items:
                    weights.write(file, name, dims)
    index = {"metadata": {"total_size": family.model_bytes}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text(json.dumps(config(family.shape, family.dtype), indent=2) + "\n")


def make(root: Path, family: Family) -> list[Path]:
    """Write the family under `root`, or leave it as it is when it is there with the same parameters."""
    folders = [root / name for name in family.names]
    stamp = root / "family.json"
    wanted = json.dumps({"format": FORMAT_VERSION, **asdict(family)}, indent=2) + "\n"
    if stamp.exists() and stamp.read_text() == wanted:
        return folders
    stamp.unlink(missing_ok=True)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if family.disk_bytes > free:
        raise OSError(f"{root}: the family needs {family.disk_bytes / 1e9:.1f} GB, {free / 1e9:.1f} GB free")
    pool = np.random.default_rng(family.seed).standard_normal(POOL + BLOCK, np.float32)
    workers = [Weights(pool, family.seed, i, family.dtype) for i in range(len(folders))]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda folder, weights: write_model(folder, family, weights), folders, workers))
    stamp.write_text(wanted)
    return folders


def parse(argv: Sequence[str] | None = None) -> tuple[Path, Family]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the family; one sub-folder a model")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--size", choices=SIZES, default="1.3", help="GB a model")
    shape.add_argument("--shape", choices=["llama70b"], help="the true shapes of a large model")
    parser.add_argument("--layers", type=int, help="another number of layers")
    parser.add_argument("--models", type=int, default=4, help="the base included")
    parser.add_argument("--shards", type=int, default=3)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--header-only", action="store_true", help="sparse files: the data is a hole")
    args = parser.parse_args(argv)
    chosen = LLAMA_70B if args.shape else SIZES[args.size]
    if args.layers:
        chosen = replace(chosen, layers=args.layers)
    tunes = tuple(f"ft{i}" for i in range(1, args.models))
    return args.out, Family(chosen, tunes, args.shards, args.seed, args.header_only)


def main() -> None:
    out, family = parse()
    for folder in make(out, family):
        print(f"{folder}  {family.model_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
