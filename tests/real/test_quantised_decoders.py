"""Quantised weights against the libraries that write and read them: the same numbers, bit for bit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..quantised.worlds import FORMS, Model, model, raw, stem_of
from ..reference.quantised.floats import BY_DTYPE
from ..support.checkpoints import Raw, llama_config, read_checkpoint, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")


def library(name: str) -> Any:
    """A package, imported when it is needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def as_torch(t: Raw) -> Any:
    """A stored tensor as torch has it."""
    torch = library("torch")
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8, "I8": torch.int8,
              "I32": torch.int32, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
              "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
              "F8_E8M0": torch.float8_e8m0fnu}  # fmt: skip
    return torch.frombuffer(bytearray(t.data), dtype=dtypes[t.dtype]).reshape(t.shape)


def decoded(folder: Path, made: Model) -> dict[str, np.ndarray[Any, Any]]:
    """What suture makes of a model, in f32."""
    suture.convert(made.path, folder / "out", settings=suture.Settings(to="f32"))
    return {n: t.values() for n, t in read_checkpoint(folder / "out").items()}


def same(own: Any, other: Any) -> None:
    """Equal, zeros by value."""
    np.testing.assert_array_equal(own, other.float().numpy())


@pytest.mark.parametrize("dtype", [*BY_DTYPE, "F8_E8M0"])
def test_every_code_of_8_bits_is_what_torch_has(dtype: str, tmp_path: Path) -> None:
    """All 256 codes, NaN by class."""
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = {"a.weight": raw("F8_E4M3", np.full((16, 512), 0x38, np.uint8)), "a.weight_scale": raw(dtype, codes)}
    if dtype != "F8_E8M0":
        stored = {"a.weight": raw(dtype, codes), "a.weight_scale": raw("F32", np.ones(1, "<f4"))}
    path = write_checkpoint(tmp_path / "in", stored, config=llama_config(1, 16, 2, 2, 32, 8, False, "F32"))
    suture.convert(path, tmp_path / "out", settings=suture.Settings(to="f32", nan="allow"))
    found = read_checkpoint(tmp_path / "out")["a.weight"].values()
    wanted = as_torch(raw(dtype, codes)).float().numpy()
    wanted = np.repeat(wanted, 32, 1) if dtype == "F8_E8M0" else wanted
    np.testing.assert_array_equal(found, wanted)


def test_mxfp4_is_what_transformers_makes_of_it(tmp_path: Path) -> None:
    """gpt-oss: the experts that transformers computes with, transposed."""
    integration = library("transformers.integrations.mxfp4")
    made = model(tmp_path / "in", FORMS["gpt-oss"], seed=3)
    found = decoded(tmp_path, made)
    for layer in range(2):
        stem = stem_of(FORMS["gpt-oss"], layer)
        blocks, scales = (as_torch(made.stored[stem + e]) for e in ("_blocks", "_scales"))
        same(found[stem], integration.convert_moe_packed_tensors(blocks, scales, dtype=library("torch").float32))


@pytest.mark.parametrize("name", ["fp8 blocks", "fp8 other tiles"])
def test_block_fp8_is_what_transformers_makes_of_it(name: str, tmp_path: Path) -> None:
    """`Fp8Dequantize`, where tiles are whole."""
    integration = library("transformers.integrations.finegrained_fp8")
    form = FORMS[name]
    form = type(form)(form.make, form.said, 256, 384)
    made = model(tmp_path / "in", form, seed=3)
    found = decoded(tmp_path, made)
    for layer in range(2):
        stem = stem_of(form, layer)
        weight, scale = (as_torch(made.stored[stem + e]) for e in (".weight", ".weight_scale_inv"))
        own = integration.Fp8Dequantize(None)._dequantize_one(weight, scale, library("torch").float32)
        same(found[f"{stem}.weight"], own)


SCHEMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"int{b}": ("pack-quantized", {"num_bits": b, "strategy": "group", "group_size": 32})
        for b in (2, 3, 4, 5, 6, 8)
    },
    "int4 zeros": ("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 16, "symmetric": False}),
    "int3 zeros": ("pack-quantized", {"num_bits": 3, "strategy": "group", "group_size": 32, "symmetric": False}),
    "int8 channel": ("int-quantized", {"num_bits": 8, "strategy": "channel"}),
    "int8 zeros": ("int-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}),
    "fp8 channel": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    "nvfp4": ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    "mxfp4": ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32}),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_what_compressed_tensors_decompresses(name: str, tmp_path: Path) -> None:
    """The library's decoder, in bf16 where it knows nothing else, and what suture writes as bf16."""
    compressors = library("compressed_tensors.compressors")
    quantization = library("compressed_tensors.quantization")
    form, (kind, arguments) = FORMS[name], SCHEMES[name]
    made = model(tmp_path / "in", form, seed=4)
    suture.convert(made.path, tmp_path / "out", settings=suture.Settings(to="bf16"))
    found = read_checkpoint(tmp_path / "out")
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=quantization.QuantizationArgs(**arguments))
    compressor = compressors.BaseCompressor.get_value_from_registry(kind)
    for layer in range(2):
        stem = stem_of(form, layer)
        state = {n.removeprefix(f"{stem}."): as_torch(t) for n, t in made.stored.items() if n.startswith(f"{stem}.")}
        weight = compressor.decompress(state, scheme)["weight"].bfloat16().float().numpy()
        np.testing.assert_array_equal(found[f"{stem}.weight"].values(), weight)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True])
def test_what_bitsandbytes_quantises(kind: str, nested: bool, tmp_path: Path) -> None:
    """Weights quantised by the library: its own decoder in f32 gives what suture gives."""
    torch, functional = library("torch"), library("bitsandbytes.functional")
    torch.manual_seed(0)
    weight = torch.randn(64, 192)
    packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=nested)
    wanted = functional.dequantize_4bit(packed, state)
    names = {torch.uint8: "U8", torch.float32: "F32"}
    stored = {"model.layers.0.mlp.up_proj.weight": packed}
    stored |= {f"model.layers.0.mlp.up_proj.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    config = llama_config(1, 16, 2, 2, 32, 8, False, "F32") | {"quantization_config": {"quant_method": "bitsandbytes"}}
    made = write_checkpoint(
        tmp_path / "in", {n: raw(names[t.dtype], t.numpy()) for n, t in stored.items()}, config=config
    )
    suture.convert(made, tmp_path / "out", settings=suture.Settings(to="f32"))
    found = read_checkpoint(tmp_path / "out")
    assert found.keys() == {"model.layers.0.mlp.up_proj.weight"}
    same(found["model.layers.0.mlp.up_proj.weight"].values(), wanted)
