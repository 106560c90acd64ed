"""Quantised weights of every form: random bytes, extremes among them, and what the formulas make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..reference.quantised import flat, four, integers, scaled
from ..reference.quantised.floats import BY_DTYPE, E8M0
from ..support.checkpoints import Raw, encode, llama_config, write_checkpoint

Rng = np.random.Generator
Tensors = dict[str, Raw]
F32 = NDArray[np.float32]


@dataclass(frozen=True)
class Weight:
    """The stored tensors of a weight, what follows its module's name first, and its values."""

    stored: Tensors
    values: F32
    #: What of the name the plain model has.
    plain: str = ".weight"


@dataclass(frozen=True)
class Form:
    """A way to store a weight of rows and columns, and what config.json says of it."""

    make: Callable[[Rng, int, int], Weight]
    said: Mapping[str, Any]
    rows: int = 24
    columns: int = 64
    #: Stacks of experts, named as such.
    experts: bool = False
    beside: Mapping[str, Any] = field(default_factory=dict)


def raw(dtype: str, values: Any) -> Raw:
    a = np.asarray(values)
    return Raw(dtype, tuple(a.shape), np.ascontiguousarray(a).tobytes())


def codes(rng: Rng, *shape: int, finite: NDArray[np.float32] | None = None) -> NDArray[np.uint8]:
    """Every byte there is, but for those that a table has no finite value for."""
    good = np.arange(256) if finite is None else np.flatnonzero(np.isfinite(finite))
    out = rng.choice(good, shape)
    flat = out.reshape(-1)
    flat[: min(len(flat), len(good))] = good[: len(flat)]
    return out.astype(np.uint8)


def words(rng: Rng, *shape: int) -> NDArray[np.int32]:
    return rng.integers(-(2**31), 2**31, shape, dtype=np.int64).astype(np.int32)


def scales(rng: Rng, dtype: str, *shape: int) -> tuple[Raw, F32]:
    """Scales, a zero and a tiny one among them, as they are stored and as numbers."""
    values = rng.uniform(-0.5, 0.5, shape)
    if values.size > 3:
        values.reshape(-1)[:2] = 0.0, 1e-7
    made = encode(values, dtype)
    return made, np.asarray(made.values(), np.float32).reshape(shape)


def float8(dtype: str, scale: str, tile: tuple[int, int] | None, name: str, shape: str = "grid") -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        table = BY_DTYPE[dtype]
        c = codes(rng, rows, columns, finite=table)
        down, along = tile or (rows, columns)
        own, numbers = scales(rng, scale, -(-rows // down), -(-columns // along))
        stored = (
            own
            if shape == "grid"
            else Raw(own.dtype, {"flat": (own.shape[0],), "one": (1,), "scalar": ()}[shape], own.data)
        )
        return Weight({".weight": raw(dtype, c), name: stored}, scaled.tiles(table[c], numbers, (down, along)))

    return make


def exponents(dtype: str, tile: tuple[int, int], name: str) -> Any:
    """8-bit floats with scales that are powers of two: a byte of exponent each."""

    def make(rng: Rng, rows: int, columns: int) -> Weight:
        table = BY_DTYPE["F8_E4M3"]
        c = codes(rng, rows, columns, finite=table)
        down, along = tile
        s = rng.integers(90, 160, (-(-rows // down), -(-columns // along)), dtype=np.uint8)
        s.reshape(-1)[:2] = (0, 1)[: s.size]
        return Weight(
            {".weight": raw("F8_E4M3", c), name: raw(dtype, s)}, scaled.tiles(table[c], E8M0[s], (down, along))
        )

    return make


def int8(zeros: bool) -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        c = codes(rng, rows, columns).view(np.int8)
        own, numbers = scales(rng, "BF16", rows, 1)
        z = rng.integers(-128, 128, (rows, 1), dtype=np.int8) if zeros else None
        stored = {".weight": raw("I8", c), ".weight_scale": own} | (
            {".weight_zero_point": raw("I8", z)} if zeros else {}
        )
        return Weight(stored, scaled.tiles(c.astype(np.float32), numbers, (1, columns), z))

    return make


def llm_int8(rng: Rng, rows: int, columns: int) -> Weight:
    c = codes(rng, rows, columns).view(np.int8)
    own, numbers = scales(rng, "F32", rows)
    return Weight(
        {".weight": raw("I8", c), ".SCB": own, ".weight_format": raw("U8", np.uint8(0))}, scaled.llm_int8(c, numbers)
    )


def mxfp4(rng: Rng, rows: int, columns: int) -> Weight:
    p = codes(rng, rows, columns // 2)
    s = rng.integers(0, 250, (rows, columns // 32), dtype=np.uint8)
    return Weight({".weight_packed": raw("U8", p), ".weight_scale": raw("U8", s)}, four.mxfp4(p, s))


def nvfp4(modelopt: bool) -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        p = codes(rng, rows, columns // 2)
        s = codes(rng, rows, columns // 16, finite=BY_DTYPE["F8_E4M3"])
        g = np.array([0.37 if modelopt else 2688.0], np.float32)
        values = four.nvfp4(p, s, g, divides=not modelopt)
        first, last = (".weight", ".weight_scale_2") if modelopt else (".weight_packed", ".weight_global_scale")
        more = {".input_scale" if modelopt else ".input_global_scale": raw("F32", np.float32(3))}
        return Weight({first: raw("U8", p), ".weight_scale": raw("F8_E4M3", s), last: raw("F32", g)} | more, values)

    return make


def gpt_oss(rng: Rng, rows: int, columns: int) -> Weight:
    """Two experts of [columns, rows] each, stored the other way round."""
    b = codes(rng, 2, rows, columns // 32, 16)
    s = rng.integers(0, 250, (2, rows, columns // 32), dtype=np.uint8)
    return Weight({"_blocks": raw("U8", b), "_scales": raw("U8", s)}, four.gpt_oss(b, s), "")


def gptq(bits: int, group: int, ordered: bool = False, second: bool = False, dtype: str = "F16") -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        groups = -(-columns // group)
        own = np.arange(columns) // group
        own = rng.permutation(own) if ordered else own
        q, z = words(rng, -(-columns * bits // 32), rows), words(rng, groups, -(-rows * bits // 32))
        s, numbers = scales(rng, dtype, groups, rows)
        stored = {
            ".qweight": raw("I32", q),
            ".qzeros": raw("I32", z),
            ".scales": s,
            ".g_idx": raw("I32", own.astype("<i4")),
        }
        return Weight(stored, integers.gptq(q, z, numbers, own, bits, second))

    return make


def awq(group: int) -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        q, z = words(rng, columns, rows // 8), words(rng, columns // group, rows // 8)
        s, numbers = scales(rng, "F16", columns // group, rows)
        return Weight(
            {".qweight": raw("I32", q), ".qzeros": raw("I32", z), ".scales": s}, integers.awq(q, z, numbers, group)
        )

    return make


def awq_gemv(group: int, per: int) -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        wide = -(-(columns // group) // (8 * per)) * per
        q, z = words(rng, rows, columns // 8), words(rng, rows, wide)
        s, numbers = scales(rng, "F16", rows, 8 * wide)
        return Weight(
            {".qweight": raw("I32", q), ".qzeros": raw("I32", z), ".scales": s}, integers.awq_gemv(q, z, numbers, group)
        )

    return make


def packed(bits: int, group: int | None, zeros: str = "", ordered: bool = False, crossing: bool = True) -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        groups = 1 if group is None else -(-columns // group)
        own = np.zeros(columns, int) if group is None else np.arange(columns) // group
        own = rng.permutation(own) if ordered else own
        q = words(rng, rows, -(-columns * bits // 32) if crossing else -(-columns // (32 // bits)))
        s, numbers = scales(rng, "BF16", rows, groups)
        stored = {
            ".weight_packed": raw("I32", q),
            ".weight_scale": s,
            ".weight_shape": raw("I64", np.array([rows, columns])),
        }
        z = None
        if zeros == "packed":
            words_of = words(rng, -(-rows * bits // 32), groups)
            stored[".weight_zero_point"], z = raw("I32", words_of), integers.packed_zeros(words_of, rows, bits)
        elif zeros == "bytes":
            z = rng.integers(-8, 8, (rows, groups), dtype=np.int8).astype(np.int64)
            stored[".weight_zero_point"] = raw("I8", z.astype(np.int8))
        if ordered:
            stored[".weight_g_idx"] = raw("I32", own.astype("<i4"))
        return Weight(stored, integers.packed(q, numbers, z, own, bits, crossing))

    return make


def bnb(kind: str, block: int = 64, nest: int = 0) -> Any:
    def make(rng: Rng, rows: int, columns: int) -> Weight:
        n = rows * columns
        c = codes(rng, -(-n // 2), 1)
        table = rng.uniform(-1, 1, 16).astype(np.float32)
        blocks = -(-n // block)
        told: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "bfloat16", "shape": [rows, columns]}
        stored = {".weight": raw("U8", c), ".weight.quant_map": raw("F32", table)}
        if nest:
            a, map_ = codes(rng, blocks), rng.uniform(-1, 1, 256).astype(np.float32)
            outer = rng.uniform(0, 2, -(-blocks // nest)).astype(np.float32)
            told |= {"nested_blocksize": nest, "nested_dtype": "float32", "nested_offset": 0.0371}
            more = {"absmax": raw("U8", a), "nested_absmax": raw("F32", outer), "nested_quant_map": raw("F32", map_)}
            numbers = flat.nested(a, map_, outer, nest, 0.0371)
        else:
            numbers = rng.uniform(0, 2, blocks).astype(np.float32)
            more = {"absmax": raw("F32", numbers)}
        text = np.frombuffer(json.dumps(told).encode(), np.uint8)
        stored |= {f".weight.{k}": v for k, v in more.items()}
        stored[f".weight.quant_state.bitsandbytes__{kind}"] = raw("U8", text)
        return Weight(stored, flat.four_bits(c.reshape(-1), table, numbers, block, (rows, columns)))

    return make


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"}
CT = {"quant_method": "compressed-tensors"}
BNB = {"quant_method": "bitsandbytes"}
MX = {"quant_method": "mxfp4"}
INT = CT | {"format": "pack-quantized"}


def _gptq(bits: int, group: int, **more: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group} | more


def _int(bits: int, group: int | None) -> dict[str, Any]:
    weights = {"num_bits": bits, "group_size": group, "strategy": "group" if group else "channel"}
    return INT | {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}}


FORMS: dict[str, Form] = {
    "fp8 blocks": Form(float8("F8_E4M3", "F32", (128, 128), ".weight_scale_inv"), FP8, 256, 384),
    "fp8 ragged blocks": Form(float8("F8_E4M3", "BF16", (128, 128), ".weight_scale_inv"), FP8, 200, 136),
    "fp8 other tiles": Form(
        float8("F8_E4M3", "F32", (16, 32), ".weight_scale_inv"), FP8 | {"weight_block_size": [16, 32]}, 40, 70
    ),
    "fp8 tensor": Form(float8("F8_E4M3", "F32", None, ".weight_scale", "one"), CT),
    "fp8 scalar": Form(float8("F8_E4M3", "BF16", None, ".weight_scale", "scalar"), CT),
    "fp8 channel": Form(float8("F8_E4M3", "BF16", (1, 10**6), ".weight_scale"), CT),
    "fp8 channel, flat": Form(
        float8("F8_E4M3", "F32", (1, 10**6), ".weight_scale", "flat"), {"quant_method": "modelopt"}
    ),
    "fp8 short name": Form(float8("F8_E4M3", "F32", (128, 128), ".scale"), FP8, 130, 129),
    "fp8 e8m0": Form(exponents("F8_E8M0", (128, 128), ".weight_scale_inv"), FP8, 256, 130),
    "fp8 u8": Form(exponents("U8", (128, 128), ".weight_scale_inv"), FP8, 256, 130),
    "mxfp8": Form(exponents("U8", (1, 32), ".weight_scale"), CT | {"format": "mxfp8-quantized"}),
    "e5m2": Form(float8("F8_E5M2", "F32", (1, 10**6), ".weight_scale"), CT),
    "e4m3fnuz": Form(float8("F8_E4M3FNUZ", "F32", (1, 10**6), ".weight_scale"), CT),
    "e5m2fnuz": Form(float8("F8_E5M2FNUZ", "F32", (1, 10**6), ".weight_scale"), CT),
    "int8 channel": Form(int8(False), CT),
    "int8 zeros": Form(int8(True), CT),
    "llm.int8": Form(llm_int8, BNB),
    "mxfp4": Form(mxfp4, CT | {"format": "mxfp4-pack-quantized"}),
    "nvfp4": Form(nvfp4(False), CT | {"format": "nvfp4-pack-quantized"}),
    "nvfp4 modelopt": Form(nvfp4(True), {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    "gpt-oss": Form(gpt_oss, MX, 48, 96, experts=True),
    **{f"gptq {b}": Form(gptq(b, 32), _gptq(b, 32), 32, 96) for b in (2, 3, 4, 8)},
    "gptq v2": Form(gptq(4, 32, second=True), _gptq(4, 32, checkpoint_format="gptq_v2"), 32, 96),
    "gptq act-order": Form(gptq(4, 16, ordered=True), _gptq(4, 16, desc_act=True), 40, 96),
    "gptq one group": Form(gptq(4, 96), _gptq(4, -1), 32, 96),
    "gptq 3 act-order": Form(gptq(3, 32, ordered=True, dtype="BF16"), _gptq(3, 32, desc_act=True), 32, 96),
    "awq": Form(awq(32), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, 40, 96),
    "awq square": Form(awq(32), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, 64, 64),
    "awq gemv": Form(awq_gemv(64, 2), {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemv"}, 40, 128),
    "awq gemv square": Form(
        awq_gemv(32, 4), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemv"}, 64, 64
    ),
    **{f"int{b}": Form(packed(b, 32), _int(b, 32), 24, 96) for b in (2, 3, 4, 5, 6, 8)},
    "int4 channel": Form(packed(4, None), _int(4, None), 24, 70),
    "int4 zeros": Form(packed(4, 16, "packed"), _int(4, 16), 23, 80),
    "int3 zeros": Form(packed(3, 32, "packed"), _int(3, 32), 23, 64),
    "int4 zeros in bytes": Form(packed(4, 16, "bytes"), _int(4, 16), 23, 80),
    "int4 ordered": Form(packed(4, 16, "packed", ordered=True), _int(4, 16), 24, 80),
    "int3 not crossing": Form(packed(3, 64, crossing=False), _int(3, 64), 24, 320),
    "nf4": Form(bnb("nf4"), BNB, 23, 61),
    "fp4": Form(bnb("fp4", 128), BNB, 24, 64),
    "nf4 nested": Form(bnb("nf4", 64, 4), BNB, 23, 61),
}
LAYERS = 2


@dataclass(frozen=True)
class Model:
    """A model folder: what is stored, and the plain model it stands for, weights in f32."""

    path: Path
    stored: Tensors
    plain: dict[str, F32]


def stem_of(form: Form, layer: int) -> str:
    """The module of a layer that is quantised."""
    return f"model.layers.{layer}.mlp." + ("experts.gate_up_proj" if form.experts else "up_proj")


def tensors_of(form: Form, seed: int) -> tuple[Tensors, dict[str, F32]]:
    """What a model stores, and its weights."""
    rng = np.random.default_rng(seed)
    stored: Tensors = {"model.embed_tokens.weight": encode(rng.normal(size=(8, 16)), "BF16")}
    plain = {}
    for layer in range(LAYERS):
        weight = form.make(rng, form.rows, form.columns)
        stem = stem_of(form, layer)
        stored |= {f"{stem}{ending}": t for ending, t in weight.stored.items()}
        plain[stem + weight.plain] = weight.values
        stored[f"model.layers.{layer}.input_layernorm.weight"] = encode(rng.normal(size=16), "BF16")
    stored["model.norm.weight"] = encode(rng.normal(size=16), "F32")
    return stored, plain | {
        n: np.asarray(t.values(), np.float32) for n, t in stored.items() if "norm" in n or "embed" in n
    }


def model(folder: Path, form: Form, seed: int, shards: int = 1, dtype: str = "F32") -> Model:
    """A model on disk; with shards, codes and scales may lie apart."""
    stored, plain = tensors_of(form, seed)
    config = llama_config(LAYERS, 16, 2, 2, 32, 8, False, dtype) | {"quantization_config": dict(form.said)}
    write_checkpoint(folder, stored, shards=shards, config=config)
    return Model(folder, stored, plain)


def plain_model(folder: Path, tensors: Mapping[str, F32], dtype: str = "F32") -> Path:
    """A plain model of these values."""
    config = llama_config(LAYERS, 16, 2, 2, 32, 8, False, dtype)
    return write_checkpoint(folder, {n: encode(v, dtype) for n, v in tensors.items()}, config=config)


def assert_same(found: Mapping[str, Raw], wanted: Mapping[str, NDArray[Any]], dtype: str | None = None) -> None:
    """The same numbers, bit for bit, zeros by value; rounded once to `dtype` if given."""
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        expected = values if dtype is None else np.asarray(encode(values, dtype).values(), np.float32)
        own = np.asarray(found[name].values(), np.float32)
        assert own.shape == expected.shape, (name, own.shape, expected.shape)
        np.testing.assert_array_equal(own, expected, err_msg=name)
