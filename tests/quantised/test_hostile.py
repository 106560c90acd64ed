"""Stored tensors that do not fit each other, forms that are not decoded: told by name, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, encode, llama_config, read_checkpoint, write_checkpoint
from ..support.refusals import refusal
from .worlds import FORMS, Form, Tensors, raw, stem_of, tensors_of

Change = Callable[[dict[str, Raw], str], None]


def shaped(ending: str, *shape: int) -> Change:
    """A part with another shape, of as many bytes as it then takes."""

    def change(stored: dict[str, Raw], stem: str) -> None:
        t = stored[stem + ending]
        width = len(t.data) // max(int(np.prod(t.shape)), 1)
        stored[stem + ending] = Raw(
            t.dtype, shape, (t.data * 4)[: int(np.prod(shape)) * width].ljust(int(np.prod(shape)) * width, b"\0")
        )

    return change


def typed(ending: str, dtype: str) -> Change:
    """A part of another dtype, of the same width."""

    def change(stored: dict[str, Raw], stem: str) -> None:
        t = stored[stem + ending]
        stored[stem + ending] = Raw(dtype, t.shape, t.data)

    return change


def without(ending: str) -> Change:
    def change(stored: dict[str, Raw], stem: str) -> None:
        del stored[stem + ending]

    return change


def told(**more: Any) -> Change:
    """A quant_state that says something else."""

    def change(stored: dict[str, Raw], stem: str) -> None:
        name = stem + ".weight.quant_state.bitsandbytes__nf4"
        said = {**json.loads(stored[name].data), **more}
        stored[name] = raw("U8", np.frombuffer(json.dumps(said).encode(), np.uint8))

    return change


def put(ending: str, t: Raw) -> Change:
    return lambda stored, stem: stored.update({stem + ending: t})


MISTAKES: dict[str, tuple[str, Change, str]] = {
    "fp8 grid": ("fp8 ragged blocks", shaped(".weight_scale_inv", 3, 2), "weight_scale_inv"),
    "fp8 grid of one side": ("fp8 ragged blocks", shaped(".weight_scale_inv", 7), "weight_scale_inv"),
    "fp8 rows": ("fp8 channel", shaped(".weight_scale", 23, 1), "weight_scale"),
    "fp8 scale in integers": ("fp8 blocks", typed(".weight_scale_inv", "I32"), "weight_scale_inv"),
    "zeros of int8": ("int8 zeros", shaped(".weight_zero_point", 23, 1), "weight_zero_point"),
    "SCB": ("llm.int8", shaped(".SCB", 25), "SCB"),
    "order of int8": ("llm.int8", put(".weight_format", raw("U8", np.uint8(2))), "weight_format"),
    "mxfp4 scales": ("mxfp4", shaped(".weight_scale", 24, 3), "weight_scale"),
    "nvfp4 scales": ("nvfp4", shaped(".weight_scale", 24, 5), "weight_scale"),
    "nvfp4 without its scale of all": ("nvfp4", without(".weight_global_scale"), "weight_packed"),
    "blocks": ("gpt-oss", shaped("_blocks", 2, 48, 3, 8), "_blocks"),
    "scales of blocks": ("gpt-oss", shaped("_scales", 2, 48, 4), "_scales"),
    "gptq zeros": ("gptq 4", shaped(".qzeros", 3, 5), "qzeros"),
    "gptq scales": ("gptq 4", shaped(".scales", 3, 31), "scales"),
    "gptq groups that are not there": ("gptq 4", put(".g_idx", raw("I32", np.full(96, 3, np.int32))), "g_idx"),
    "gptq groups below 0": ("gptq 4", put(".g_idx", raw("I32", np.full(96, -1, np.int32))), "g_idx"),
    "gptq inputs": ("gptq 4", shaped(".g_idx", 200), "qweight"),
    "awq zeros": ("awq", shaped(".qzeros", 2, 5), "qzeros"),
    "packed sides": ("int4 zeros", put(".weight_shape", raw("I64", np.array([23, 81]))), "weight_packed"),
    "packed sides of nothing": ("int4 zeros", put(".weight_shape", raw("I64", np.array([0, 80]))), "weight_shape"),
    "packed sides below 0": ("int4 zeros", put(".weight_shape", raw("I64", np.array([-23, -80]))), "weight_shape"),
    "packed sides beyond": ("int4 zeros", put(".weight_shape", raw("I64", np.array([2**62, 2**62]))), "weight_shape"),
    "packed without sides": ("int4 zeros", without(".weight_shape"), "weight_packed"),
    "packed zeros": ("int4 zeros", shaped(".weight_zero_point", 2, 5), "weight_zero_point"),
    "packed order": ("int4 ordered", put(".weight_g_idx", raw("I32", np.full(80, 9, np.int32))), "weight_g_idx"),
    "absmax": ("nf4", shaped(".weight.absmax", 5), "absmax"),
    "quant_map": ("nf4", shaped(".weight.quant_map", 15), "quant_map"),
    "no JSON": ("nf4", put(".weight.quant_state.bitsandbytes__nf4", raw("U8", np.zeros(9, np.uint8))), "quant_state"),
    "JSON of nothing": ("nf4", told(shape=[]), "quant_state"),
    "JSON beyond": ("nf4", told(shape=[2**40, 2**40]), "quant_state"),
    "JSON of blocks of 0": ("nf4", told(blocksize=0), "quant_state"),
    "JSON of another shape": ("nf4", told(shape=[23, 60]), "weight"),
    "nested scales": ("nf4 nested", shaped(".weight.nested_absmax", 3), "nested_absmax"),
    "nested without a size": ("nf4 nested", told(nested_blocksize=None), "quant_state"),
}


def write(folder: Path, form: Form, stored: Tensors) -> Path:
    config = llama_config(2, 16, 2, 2, 32, 8, False, "F32") | {"quantization_config": dict(form.said)}
    return write_checkpoint(folder, stored, config=config)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_tensors_that_do_not_fit_are_named(mistake: str, tmp_path: Path) -> None:
    """Law 8: the tensor, what was found and what was expected; inspect still shows what is there."""
    name, change, named = MISTAKES[mistake]
    form = FORMS[name]
    stored, _ = tensors_of(form, 1)
    change(stored, stem_of(form, 0))
    path = write(tmp_path / "in", form, stored)
    error = refusal(suture.convert, path, tmp_path / "out")
    assert named in (error or ""), error
    assert not (tmp_path / "out").exists()
    assert refusal(suture.diff, path, path) is not None
    found = suture.inspect(path)
    assert named in (found["refused"] or "")


REFUSED: dict[str, tuple[dict[str, tuple[str, tuple[int, ...]]], dict[str, Any], str]] = {
    "EXL2": ({".q_weight": ("I32", (8, 8)), ".q_scale": ("I32", (1, 1)), ".q_invperm": ("I32", (8,))}, {}, "EXL2"),
    "EXL3": ({".trellis": ("I16", (2, 2, 64)), ".suh": ("F16", (8,)), ".svh": ("F16", (8,))}, {}, "EXL3"),
    "HQQ": ({".W_q": ("U8", (8, 8)), ".meta": ("U8", (8,))}, {}, "HQQ"),
    "AQLM": ({".codes": ("I8", (8, 8, 1)), ".codebooks": ("F16", (1, 256, 1, 8))}, {}, "AQLM"),
    "quanto": ({".weight._data": ("I8", (8, 8)), ".weight._scale": ("F32", (8, 1))}, {}, "quanto"),
    "torchao": ({"._weight_qdata": ("I8", (8, 8)), "._weight_scale": ("F32", (8, 1))}, {}, "torchao"),
    "EETQ": ({".weight": ("I8", (8, 8)), ".weight_scales": ("F16", (8,))}, {}, "EETQ"),
    "QuIP#": ({".Qidxs": ("I64", (8, 1)), ".SU": ("F16", (8,)), ".SV": ("F16", (8,))}, {}, "QuIP#"),
    "marlin": ({".B": ("I32", (8, 8)), ".s": ("F16", (1, 8))}, {"quant_method": "gptq"}, "Marlin"),
    "quark": ({".weight": ("U8", (8, 8)), ".weight_scale": ("F32", (8, 1))}, {"quant_method": "quark"}, "Quark"),
    "gptq in another order": (
        {".qweight": ("I32", (4, 32)), ".qzeros": ("I32", (1, 4)), ".scales": ("F16", (1, 32))},
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"},
        "marlin",
    ),
    "AWQ with scaled inputs": (
        {".weight": ("U8", (8, 16)), ".weight_scale": ("F8_E4M3", (8, 2)), ".weight_scale_2": ("F32", ()),
         ".pre_quant_scale": ("F16", (32,))},
        {"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"},
        "pre_quant_scale",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_forms_that_are_not_decoded_are_named(name: str, tmp_path: Path) -> None:
    """What cannot be decoded is moved as it is, and told; --to and merges that would compute say why not."""
    parts, said, why = REFUSED[name]
    rng = np.random.default_rng(0)
    models = []
    for i in range(2):
        stored: Tensors = {"model.embed_tokens.weight": encode(rng.normal(size=(8, 16)), "BF16")}
        for ending, (dtype, shape) in parts.items():
            width = {"I8": 1, "U8": 1, "F8_E4M3": 1, "F16": 2, "I16": 2, "I32": 4, "F32": 4, "I64": 8}[dtype]
            data = bytes((np.arange(int(np.prod(shape)) * width) % 50 + 10 + i).astype(np.uint8))
            stored[f"model.layers.0.mlp.up_proj{ending}"] = Raw(dtype, shape, data)
        models.append(write(tmp_path / f"m{i}", Form(lambda *_: None, said), stored))  # type: ignore[arg-type]
        kept = stored
    found = suture.inspect(models[0])
    assert why in (found["refused"] or "")
    assert any(why in s for s in found["verdict"])
    report = suture.convert(models[1], tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == kept
    assert any(why in w for w in report.warnings)
    assert "quantization_config" in json.loads((tmp_path / "out" / "config.json").read_text())
    error = refusal(suture.convert, models[0], tmp_path / "to", settings=suture.Settings(to="bf16"))
    assert error is not None
    assert why in error
    entries = [{"model": str(m), "parameters": {"weight": 1}} for m in models]
    error = refusal(suture.merge, {"merge_method": "linear", "models": entries}, tmp_path / "merged")
    assert any(words in (error or "") for words in ("dequantise", why)), error
    assert not (tmp_path / "to").exists()
    assert not (tmp_path / "merged").exists()


def test_a_weight_without_its_scale_is_bytes(tmp_path: Path) -> None:
    """Codes without a scale are copied and compared as bytes, told, and refused where they must be decoded."""
    stored = {"model.layers.0.mlp.up_proj.weight": Raw("F8_E4M3", (4, 4), bytes(range(16)))}
    other = {"model.layers.0.mlp.up_proj.weight": Raw("F8_E4M3", (4, 4), bytes(range(1, 17)))}
    a, b = write_checkpoint(tmp_path / "a", stored), write_checkpoint(tmp_path / "b", other)
    suture.convert(a, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == stored
    entries = [{"model": str(m), "parameters": {"weight": 1}} for m in (a, b)]
    assert "F8_E4M3" in (refusal(suture.merge, {"merge_method": "linear", "models": entries}, tmp_path / "no") or "")
    assert suture.diff(a, b)["models"][0]["uncomputed"]["tensors"] == 1


@pytest.mark.parametrize("name", FORMS)
def test_not_a_number_in_codes_or_scales_is_found(name: str, tmp_path: Path) -> None:
    """Law 7: NaN among scales reaches no disk: the element is named; --nan allow lets it through."""
    form = FORMS[name]
    stored, _plain = tensors_of(form, 1)
    nan = {"F32": np.array([np.nan], "<f4"), "F16": np.array([np.nan], "<f2"), "BF16": np.array([0x7FC0], "<u2"),
           "F8_E4M3": np.array([0x7F], "u1"), "U8": np.array([255], "u1"),
           "F8_E8M0": np.array([255], "u1")}  # fmt: skip
    scale = next(n for e in ("scale_inv", "weight_scale", ".scale", "scales", "SCB", "nested_absmax", ".absmax")
                 for n in stored if n.endswith(e))  # fmt: skip
    t = stored[scale]
    bad = nan[t.dtype].tobytes()
    stored[scale] = Raw(t.dtype, t.shape, t.data[: -len(bad)] + bad if "gemv" not in name else bad + t.data[len(bad) :])
    path = write(tmp_path / "in", form, stored)
    error = refusal(suture.convert, path, tmp_path / "out")
    assert "NaN" in (error or ""), error
    assert stem_of(form, 0) in (error or ""), error
    assert not (tmp_path / "out").exists()
    suture.convert(path, tmp_path / "out", settings=suture.Settings(nan="allow"))


def test_rotated_models_are_refused(tmp_path: Path) -> None:
    """Inputs that are rotated as the model runs, and weights with them: plain weights alone would be another model."""
    form = FORMS["int4 channel"]
    stored, _plain = tensors_of(form, 1)
    turns = {"R3": {"type": "hadamard", "apply": [{"targets": ["self_attn"], "location": "q_attn"}]}}
    said = {**form.said, "transform_config": {"config_groups": turns}}
    path = write(tmp_path / "in", Form(form.make, said), stored)
    error = refusal(suture.convert, path, tmp_path / "out", settings=suture.Settings(to="bf16"))
    assert "transform_config" in (error or ""), error
    suture.convert(path, tmp_path / "copy")
    assert read_checkpoint(tmp_path / "copy") == stored
    none = Form(form.make, {**form.said, "transform_config": {"config_groups": {}}})
    suture.convert(write(tmp_path / "none", none, stored), tmp_path / "plain", settings=suture.Settings(to="bf16"))


def test_an_order_that_is_lost_is_an_error(tmp_path: Path) -> None:
    """GPTQ by act-order without its groups: they would be read in the order of the inputs."""
    form = FORMS["gptq act-order"]
    stored, _plain = tensors_of(form, 1)
    stored = {n: t for n, t in stored.items() if not n.endswith(".g_idx")}
    error = refusal(suture.convert, write(tmp_path / "in", form, stored), tmp_path / "out")
    assert "g_idx" in (error or ""), error


@pytest.mark.parametrize("form", ["fp8 channel", "e5m2"])
def test_zero_points_of_floats(form: str, tmp_path: Path) -> None:
    """Floats have none: some files hold zeros of the codes' dtype, anything else is an error."""
    stored, plain = tensors_of(FORMS[form], 1)
    codes = [n for n in stored if n.endswith("up_proj.weight")]
    for value in (0, 0x80, 3):
        zeros = {n.replace(".weight", ".weight_zero_point"): Raw(stored[n].dtype, (1,), bytes([value])) for n in codes}
        path = write(tmp_path / f"in{value}", FORMS[form], stored | zeros)
        error = refusal(suture.convert, path, tmp_path / f"out{value}.safetensors", settings=suture.Settings(to="f32"))
        assert ("zero points" in (error or "")) is (value == 3), error
    assert set(read_checkpoint(tmp_path / "out0.safetensors")) == set(plain)
