"""What suture writes quantised against the libraries that write and load such models: the same codes and scales, bit
for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..quantised.encoded import is_coded, model, weights
from ..support.checkpoints import encode, llama_config, read_checkpoint, write_checkpoint
from .test_quantised_decoders import as_torch, library

pytestmark = pytest.mark.filterwarnings("ignore")


def small(folder: Path) -> dict[str, Any]:
    """A Llama of two layers with random weights, in bf16, which transformers loads."""
    rng = np.random.default_rng(5)
    hidden, ff, vocab = 128, 256, 96
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for i in range(2):
        at = f"model.layers.{i}."
        shapes |= {f"{at}{n}_layernorm.weight": (hidden,) for n in ("input", "post_attention")}
        shapes |= {f"{at}self_attn.{n}_proj.weight": (hidden, hidden) for n in "qkvo"}
        shapes |= {f"{at}mlp.{n}_proj.weight": (ff, hidden) for n in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (hidden, ff)
    values = {n: rng.normal(1 if len(s) == 1 else 0, 0.05, s).astype(np.float32) for n, s in shapes.items()}
    config = llama_config(2, hidden, 4, 4, ff, vocab, True, "BF16")
    stored = {n: encode(v, "BF16") for n, v in values.items()}
    write_checkpoint(folder, stored, config=config)
    return stored


def test_fp8_is_what_transformers_quantises(tmp_path: Path) -> None:
    """`Fp8Quantize` on a CPU, codes and scales, but for tiles of next to nothing, of which it makes NaN."""
    torch, integration = library("torch"), library("transformers.integrations.finegrained_fp8")

    class Config:
        weight_block_size = (128, 128)
        scale_fmt = None

    class Quantizer:
        quantization_config = Config()

    own = weights(1)
    own["model.layers.0.mlp.up_proj.weight"][:128, 128:256] = 1
    stored = model(tmp_path / "m", own)
    suture.convert(tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="fp8"))
    found = read_checkpoint(tmp_path / "out")
    for name in filter(is_coded, own):
        made = integration.Fp8Quantize(Quantizer())._quantize_one(name, as_torch(stored[name]))
        assert found[name].data == made[name].view(torch.uint8).numpy().tobytes()
        assert found[f"{name}_scale_inv"].data == made[f"{name}_scale_inv"].numpy().tobytes()


@pytest.mark.parametrize("form", ["fp8", "mxfp4"])
def test_transformers_loads_what_is_written(form: str, tmp_path: Path) -> None:
    """The model loads (on a CPU decoded to bf16), with the weights that suture decodes, and its logits are near the
    plain model's."""
    torch, transformers = library("torch"), library("transformers")
    if form == "mxfp4":
        library("compressed_tensors")
    small(tmp_path / "m")
    suture.convert(tmp_path / "m", tmp_path / "q", settings=suture.Settings(to=form))
    suture.convert(tmp_path / "q", tmp_path / "plain", settings=suture.Settings(to="bf16"))
    load = transformers.AutoModelForCausalLM.from_pretrained
    more = {}
    if form == "mxfp4":
        more["quantization_config"] = transformers.CompressedTensorsConfig(run_compressed=False)
    found = load(tmp_path / "q", dtype=torch.bfloat16, **more)
    plain = load(tmp_path / "plain", dtype=torch.bfloat16)
    own, other = found.state_dict(), plain.state_dict()
    for name in read_checkpoint(tmp_path / "plain"):
        np.testing.assert_array_equal(own[name].float().numpy(), other[name].float().numpy())
    ids = torch.arange(32)[None]
    with torch.no_grad():
        first, second = (load(tmp_path / p, dtype=torch.float32)(ids).logits for p in ("m", "plain"))
    apart = (first - second).norm() / first.norm()
    assert apart < {"fp8": 0.1, "mxfp4": 0.4}[form]
    assert not math.isnan(apart)


def test_mxfp4_is_what_compressed_tensors_quantises(tmp_path: Path) -> None:
    """Scales by the library's rule, codes by its compressor; of a group of zeros the library's scale is another, its
    values none."""
    torch = library("torch")
    compressors, quantization = library("compressed_tensors.compressors"), library("compressed_tensors.quantization")
    scales = library("compressed_tensors.quantization.utils.mxfp_utils")
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 1, (64, 256)).astype(np.float32) * np.exp2(rng.integers(-20, 20, (64, 1))).astype(np.float32)
    weight[0, :32] = np.tile([6, 7, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5], 4)
    own = {"model.layers.0.mlp.up_proj.weight": weight}
    stored = model(tmp_path / "m", own, "F32")
    suture.convert(tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="mxfp4"))
    found = read_checkpoint(tmp_path / "out")
    (name,) = own
    plain = as_torch(stored[name])
    exponents = scales.generate_mx_scales(plain.reshape(64, 8, 32).abs().amax(-1)).clamp(0, 254)
    assert found[f"{name}_scale"].data == exponents.to(torch.uint8).numpy().tobytes()
    arguments = quantization.QuantizationArgs(
        num_bits=4, type="float", strategy="group", group_size=32, scale_dtype=torch.uint8
    )
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)
    state = {"weight": plain, "weight_scale": torch.exp2(exponents - 127)}
    compressor = compressors.BaseCompressor.get_value_from_registry("mxfp4-pack-quantized")
    made = compressor.compress(state, scheme)
    assert found[f"{name}_packed"].data == made["weight_packed"].numpy().tobytes()


def test_gguf_is_what_its_package_reads_and_quantises(tmp_path: Path) -> None:
    """gguf-py opens the file; its `quantize` gives the same blocks, but for rows of queries and keys, which lie
    otherwise."""
    gguf = library("gguf")
    stored = small(tmp_path / "m")
    suture.convert(tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="gguf:q8_0"))
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    found = {t.name: t for t in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert len(found) == len(stored)
    for name, raw in stored.items():
        own = found[names.get_name(name, try_suffixes=(".weight",))]
        if raw.values().ndim < 2:
            np.testing.assert_array_equal(own.data, raw.values())
        elif not name.endswith(("q_proj.weight", "k_proj.weight")):
            made = gguf.quants.quantize(raw.values(), gguf.GGMLQuantizationType.Q8_0)
            assert np.asarray(own.data).tobytes() == made.tobytes()
    assert reader.fields["general.architecture"].contents() == "llama"


def test_transformers_loads_the_gguf(tmp_path: Path) -> None:
    """Loading undoes what was done to the rows of queries and keys: the weights are those of the model, as Q8_0 has
    them."""
    torch, transformers = library("torch"), library("transformers")
    library("gguf")
    stored = small(tmp_path / "m")
    suture.convert(tmp_path / "m", tmp_path / "out", settings=suture.Settings(to="gguf:q8_0"))
    load = transformers.AutoModelForCausalLM.from_pretrained
    found = load(tmp_path / "out", gguf_file="model.gguf", dtype=torch.float32).state_dict()
    for name, raw in stored.items():
        own, values = found[name].numpy(), raw.values()
        if values.ndim < 2:
            np.testing.assert_array_equal(own, values)
            continue
        groups = values.reshape(values.shape[0], -1, 32)
        step = np.abs(groups).max(-1, keepdims=True) / 127
        # Half a step, and what an f16 scale is off.
        assert np.all(np.abs(own.reshape(groups.shape) - groups) <= 0.5 * step + 127 * step * 2.0**-11)
