"""Tiny models in the layouts of every quantised family: random bytes of the right dtypes under the right names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoints import NUMPY_DTYPES, Raw, encode, llama_config, write_checkpoint

#: A number of layers; heads of 8 rows each, so that half of the rows are a head.
LAYERS, HIDDEN, HEADS, FF, VOCAB = 3, 16, 2, 32, 8
MODULES: dict[str, tuple[int, int]] = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (FF, HIDDEN),
    "mlp.up_proj": (FF, HIDDEN),
    "mlp.down_proj": (HIDDEN, FF),
}

Tensors = dict[str, Raw]
Rng = np.random.Generator


def noise(rng: Rng, dtype: str, *shape: int) -> Raw:
    """Any bytes that are no NaN in a float of 8 bits, and a positive number in a larger one."""
    if dtype in ("F64", "F32", "F16", "BF16"):
        return encode(rng.uniform(0.001, 0.1, shape), dtype)
    width = np.dtype(NUMPY_DTYPES.get(dtype, "u1")).itemsize
    return Raw(dtype, shape, rng.integers(0, 0x70, int(np.prod(shape)) * width, dtype=np.uint8).tobytes())


def whole(dtype: str, values: Any) -> Raw:
    """Given whole numbers."""
    return encode(np.asarray(values), dtype)


def block_fp8(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.weight": noise(rng, "F8_E4M3", rows, columns),
        f"{x}.weight_scale_inv": noise(rng, "F32", -(-rows // 128), -(-columns // 128)),
    }


def tensor_fp8(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.input_scale": noise(rng, "F32"),
        f"{x}.weight": noise(rng, "F8_E4M3", rows, columns),
        f"{x}.weight_scale": noise(rng, "F32"),
    }


def channel_fp8(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.weight": noise(rng, "F8_E4M3", rows, columns),
        f"{x}.weight_scale": noise(rng, "BF16", rows, 1),
    }


def gptq(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.g_idx": whole("I32", rng.permutation(columns) // 8),
        f"{x}.qweight": noise(rng, "I32", columns // 8, rows),
        f"{x}.qzeros": noise(rng, "I32", columns // 8, rows // 8),
        f"{x}.scales": noise(rng, "F16", columns // 8, rows),
    }


def awq(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.qweight": noise(rng, "I32", columns, rows // 8),
        f"{x}.qzeros": noise(rng, "I32", columns // 8, rows // 8),
        f"{x}.scales": noise(rng, "F16", columns // 8, rows),
    }


def state(rows: int, columns: int, rng: Rng, **more: Any) -> Raw:
    """How bitsandbytes says what a tensor is: JSON in a tensor of bytes, of one length for all."""
    told = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]} | more
    told["note"] = int(rng.integers(100, 1000))
    text = json.dumps(told).encode().ljust(160)
    return Raw("U8", (len(text),), text)


def bnb_4bit(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.weight": noise(rng, "U8", rows * columns // 2, 1),
        f"{x}.weight.absmax": noise(rng, "F32", rows * columns // 64),
        f"{x}.weight.quant_map": noise(rng, "F32", 16),
        f"{x}.weight.quant_state.bitsandbytes__nf4": state(rows, columns, rng),
    }


def bnb_nested(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    nested = {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.05}
    return {
        f"{x}.weight": noise(rng, "U8", rows * columns // 2, 1),
        f"{x}.weight.absmax": noise(rng, "U8", rows * columns // 64),
        f"{x}.weight.nested_absmax": noise(rng, "F32", 1),
        f"{x}.weight.nested_quant_map": noise(rng, "F32", 256),
        f"{x}.weight.quant_map": noise(rng, "F32", 16),
        f"{x}.weight.quant_state.bitsandbytes__nf4": state(rows, columns, rng, **nested),
    }


def bnb_8bit(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.SCB": noise(rng, "F32", rows),
        f"{x}.weight": noise(rng, "I8", rows, columns),
        f"{x}.weight_format": whole("U8", 0),
    }


def pack_quantized(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.weight_packed": noise(rng, "I32", rows, columns // 8),
        f"{x}.weight_scale": noise(rng, "BF16", rows, columns // 8),
        f"{x}.weight_shape": whole("I64", [rows, columns]),
        f"{x}.weight_zero_point": noise(rng, "I32", rows // 8, columns // 8),
    }


def int_quantized(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.weight": noise(rng, "I8", rows, columns),
        f"{x}.weight_scale": noise(rng, "F32", rows, 1),
        f"{x}.weight_zero_point": noise(rng, "I8", rows, 1),
    }


def nvfp4(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.input_scale": noise(rng, "F32"),
        f"{x}.weight": noise(rng, "U8", rows, columns // 2),
        f"{x}.weight_scale": noise(rng, "F8_E4M3", rows, columns // 16),
        f"{x}.weight_scale_2": noise(rng, "F32"),
    }


def mxfp4(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    """As gpt-oss stores experts: of three dimensions, and with a bias that is plain."""
    return {
        f"{x}_bias": noise(rng, "BF16", 2, rows),
        f"{x}_blocks": noise(rng, "U8", 2, rows, columns // 16, 8),
        f"{x}_scales": noise(rng, "U8", 2, rows, columns // 16),
    }


def torchao(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}._weight_qdata": noise(rng, "I8", rows, columns),
        f"{x}._weight_scale": noise(rng, "F32", rows, 1),
    }


def nvfp4_packed(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.input_global_scale": noise(rng, "F32", 1),
        f"{x}.weight_global_scale": noise(rng, "F32", 1),
        f"{x}.weight_packed": noise(rng, "U8", rows, columns // 2),
        f"{x}.weight_scale": noise(rng, "F8_E4M3", rows, columns // 16),
    }


def mxfp4_packed(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.weight_packed": noise(rng, "U8", rows, columns // 2),
        f"{x}.weight_scale": noise(rng, "U8", rows, columns // 16),
    }


def pack_with_order(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return pack_quantized(x, rows, columns, rng) | {f"{x}.weight_g_idx": whole("I32", rng.permutation(columns) // 8)}


def short_scale(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    """As some block-scaled checkpoints call it."""
    return {f"{x}.scale": noise(rng, "F32", 1, 1), f"{x}.weight": noise(rng, "F8_E4M3", rows, columns)}


def with_cache_scales(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    """With scales for what attention keeps of keys and values."""
    own = {f"{x}.{x[-6]}_scale": noise(rng, "F32")} if x.endswith(("k_proj", "v_proj")) else {}
    return tensor_fp8(x, rows, columns, rng) | own


def fused_fp8(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    """Stacked experts, whose scales are named beside them."""
    return {
        x: noise(rng, "F8_E4M3", 2, rows, columns),
        f"{x}_scale_inv": noise(rng, "F32", 2, 1, 1),
    }


def quanto(x: str, rows: int, columns: int, rng: Rng) -> Tensors:
    return {
        f"{x}.input_scale": noise(rng, "F32"),
        f"{x}.output_scale": noise(rng, "F32"),
        f"{x}.weight._data": noise(rng, "I8", rows, columns),
        f"{x}.weight._scale": noise(rng, "F32", rows, 1),
    }


@dataclass(frozen=True)
class Family:
    """A layout: what it makes of one weight, of which modules, and what config.json says."""

    make: Callable[[str, int, int, Rng], Tensors]
    quantization: Mapping[str, Any]
    modules: Mapping[str, tuple[int, int]]
    #: Endings of names that belong to a weight without being its companions.
    plain: tuple[str, ...] = ()


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
BNB = {"quant_method": "bitsandbytes"}
PACKED = {"quant_method": "compressed-tensors"}
EXPERTS = {"mlp.experts.gate_up_proj": (2 * FF, HIDDEN), "mlp.experts.down_proj": (HIDDEN, FF)}
FAMILIES: dict[str, Family] = {
    "block fp8": Family(block_fp8, FP8, MODULES),
    "tensor fp8": Family(tensor_fp8, PACKED | {"format": "float-quantized"}, MODULES),
    "channel fp8": Family(channel_fp8, PACKED | {"format": "float-quantized"}, MODULES),
    "gptq": Family(gptq, {"quant_method": "gptq", "bits": 4, "group_size": 8, "desc_act": True}, MODULES),
    "awq": Family(awq, {"quant_method": "awq", "bits": 4, "group_size": 8, "version": "gemm"}, MODULES),
    "bnb nf4": Family(bnb_4bit, BNB | {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, MODULES),
    "bnb nested": Family(bnb_nested, BNB | {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, MODULES),
    "bnb int8": Family(bnb_8bit, BNB | {"load_in_8bit": True}, MODULES),
    "pack-quantized": Family(pack_quantized, PACKED | {"format": "pack-quantized"}, MODULES),
    "int-quantized": Family(int_quantized, PACKED | {"format": "int-quantized"}, MODULES),
    "nvfp4": Family(nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, MODULES),
    "mxfp4": Family(mxfp4, {"quant_method": "mxfp4"}, EXPERTS, ("_bias",)),
    "nvfp4-pack": Family(nvfp4_packed, PACKED | {"format": "nvfp4-pack-quantized"}, MODULES),
    "mxfp4-pack": Family(mxfp4_packed, PACKED | {"format": "mxfp4-pack-quantized"}, MODULES),
    "packed, ordered": Family(pack_with_order, PACKED | {"format": "pack-quantized"}, MODULES),
    "short scale": Family(short_scale, FP8, MODULES),
    "cache scales": Family(with_cache_scales, PACKED | {"format": "float-quantized"}, MODULES),
    "fused fp8": Family(fused_fp8, FP8, EXPERTS),
    "quanto": Family(quanto, {"quant_method": "quanto"}, MODULES),
    "torchao": Family(torchao, {"quant_method": "torchao"}, MODULES),
}


def stems(family: Family) -> dict[str, tuple[int, int]]:
    """The quantised weights of a model: of every layer, and the head."""
    found = {f"model.layers.{i}.{m}": shape for i in range(LAYERS) for m, shape in family.modules.items()}
    return found | {"lm_head": (VOCAB, HIDDEN)}


def quantised(family: Family, seed: int) -> tuple[Tensors, list[list[str]]]:
    """The tensors of a model, and the names of those that belong together."""
    rng = np.random.default_rng(seed)
    tensors: Tensors = {"model.embed_tokens.weight": noise(rng, "BF16", VOCAB, HIDDEN)}
    groups = []
    for stem, (rows, columns) in stems(family).items():
        parts = family.make(stem, rows, columns, rng)
        tensors |= parts
        groups.append([name for name in parts if not name.endswith(family.plain or ("\0",))])
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for module, (rows, columns) in MODULES.items():
            if module.startswith("self_attn") and module not in family.modules:
                tensors[f"{prefix}{module}.weight"] = noise(rng, "BF16", rows, columns)
        tensors[f"{prefix}input_layernorm.weight"] = noise(rng, "BF16", HIDDEN)
    return tensors | {"model.norm.weight": noise(rng, "F32", HIDDEN)}, groups


def config_of(family: Family) -> dict[str, Any]:
    """A config.json that names the family."""
    plain = llama_config(LAYERS, HIDDEN, HEADS, HEADS, FF, VOCAB, False, "BF16")
    return plain | {"quantization_config": dict(family.quantization)}


def write_quantised(folder: Path, family: Family, tensors: Tensors, shards: int = 1) -> Path:
    """A model folder; with shards, weights and companions may lie apart."""
    return write_checkpoint(folder, tensors, shards=shards, config=config_of(family))
