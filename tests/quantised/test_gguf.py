"""GGUF files are models like any other: types by their formulas, Hugging Face's names and rows, every verb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..reference.quantised.ggml import TYPES
from ..support.checkpoints import encode, read_checkpoint, write_checkpoint
from ..support.gguf import Model, config_of, llama, plain, quantised, write_gguf

#: Types of rows of any width, and blocks that have no scale to be kept finite.
KINDS = list(TYPES)


def assert_values(folder: Path, want: dict[str, Any], dtype: str | None = None) -> None:
    """The tensors are these, to the bit but for the sign of zeros; NaN is NaN."""
    found = read_checkpoint(folder)
    assert found.keys() == want.keys()
    for name, raw in found.items():
        assert dtype is None or raw.dtype == dtype, name
        np.testing.assert_array_equal(raw.values(), want[name], err_msg=name)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return llama(tmp_path / "in" / "model.gguf")


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_is_its_formula(kind: str, tmp_path: Path) -> None:
    """Law: convert gives what the formula of the type gives, in f32 to the bit, permuted rows and all."""
    made = llama(tmp_path / "m.gguf", kind, layers=1, seed=3)
    suture.convert(made.path, tmp_path / "out", settings=suture.Settings(to="f32"))
    assert_values(tmp_path / "out", made.plain, "F32")


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "NVFP4", "Q1_0"])
def test_chunks_and_threads_decide_nothing(kind: str, tmp_path: Path) -> None:
    """Law 3: chunks that end inside blocks and rows, five threads and another way to read give the same bytes."""
    made = llama(tmp_path / "m.gguf", kind, layers=1, seed=4)
    ways: list[dict[str, Any]] = [{}, {"chunk": "4096", "threads": 5}, {"chunk": "12288", "threads": 1, "io": "pread"}]
    for i, how in enumerate(ways):
        suture.convert(made.path, tmp_path / str(i), settings=suture.Settings(**how))
    first = (tmp_path / "0" / "model.safetensors").read_bytes()
    assert all((tmp_path / str(i) / "model.safetensors").read_bytes() == first for i in (1, 2))


def test_any_range_of_elements_reads_alike(model: Model) -> None:
    """A range from anywhere to anywhere gives what the whole has there."""
    core = suture.open(model.path)._core
    rng = np.random.default_rng(0)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        flat = model.plain[name].reshape(-1)
        whole = core.read(name)
        for start, stop in np.sort(rng.integers(0, len(flat) + 1, (20, 2))).tolist():
            assert core.read(name, start, stop) == whole[2 * start : 2 * stop]


def test_the_config_is_rebuilt(model: Model, tmp_path: Path) -> None:
    """What the metadata says stands in config.json, 1e-05 as it was written; a head that is not there is tied."""
    suture.convert(model.path, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["model_type"] == "llama"
    assert config["rms_norm_eps"] == 1e-05
    assert config["tie_word_embeddings"] is True
    assert (config["vocab_size"], config["num_key_value_heads"], config["rope_theta"]) == (264, 2, 100000.0)
    assert config["dtype"] == "bfloat16"
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= names
    assert not any(n.endswith(".gguf") for n in names)


def test_what_is_stored_plain_is_moved(model: Model, tmp_path: Path) -> None:
    """F32 tensors keep their dtype and their bytes, quantised ones become bf16."""
    suture.convert(model.path, tmp_path / "out")
    found = read_checkpoint(tmp_path / "out")
    assert found["model.norm.weight"].data == model.stored["output_norm.weight"].raw
    assert found["model.embed_tokens.weight"].dtype == "BF16"


def test_layers_go_into_a_plain_model_and_out_of_it(model: Model, tmp_path: Path) -> None:
    """A layer of a GGUF model in a plain one, and the other way round, is that layer's values, all else what it was."""
    rng = np.random.default_rng(5)
    other = {name: rng.normal(size=v.shape).astype(np.float32) for name, v in model.plain.items()}
    suture.convert(model.path, tmp_path / "own")
    config = config_of(tmp_path / "own")
    write_checkpoint(tmp_path / "plain", other, config=config)
    for into, donor, own, given in (
        (tmp_path / "plain", model.path, other, model.plain),
        (model.path, tmp_path / "plain", model.plain, other),
    ):
        out = tmp_path / f"out-{into.name}"
        how = suture.Settings(to="f32", allow_mixed=True)
        suture.swap(into, donor, out, layers="1", settings=how)
        want = {n: given[n] if n.startswith("model.layers.1.") else v for n, v in own.items()}
        assert_values(out, want, "F32")


def test_a_merge_computes_on_decoded_values(model: Model, tmp_path: Path) -> None:
    """A mean of two GGUF models of different types is that of their values in f32, rounded once."""
    other = llama(tmp_path / "other.gguf", "Q6_K", seed=9)
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(m.path), "parameters": {"weight": 0.5}} for m in (model, other)],
    }
    config = tmp_path / "merge.yml"
    config.write_text(str(recipe).replace("'", '"'))
    suture.merge(config, tmp_path / "out", settings=suture.Settings(to="f32"))
    want = {n: ((v.astype(np.float64) + other.plain[n]) / 2).astype(np.float32) for n, v in model.plain.items()}
    assert_values(tmp_path / "out", want, "F32")


def test_a_diff_of_a_model_and_its_conversion_is_nothing(model: Model, tmp_path: Path) -> None:
    """A GGUF model and what convert made of it in f32 are the same; its forms are told by inspect."""
    suture.convert(model.path, tmp_path / "out", settings=suture.Settings(to="f32"))
    found = suture.diff(model.path, tmp_path / "out")
    assert found["models"][0]["total"]["changed"] == 0
    assert suture.inspect(model.path)["forms"] == {"GGUF Q8_0": 22}


def test_a_folder_with_the_models_own_files(model: Model, tmp_path: Path) -> None:
    """Files that lie beside the weights in their folder come before what the metadata says; what they lack is made."""
    (model.path.parent / "config.json").write_text('{"model_type": "llama", "own": 1, "num_hidden_layers": 3}')
    suture.convert(model.path.parent, tmp_path / "out")
    assert config_of(tmp_path / "out")["own"] == 1
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_what_is_lacking_can_be_given(tmp_path: Path) -> None:
    """What cannot be rebuilt is an error that says how to give it, before anything is written; given, it is written."""
    made = llama(
        tmp_path / "m.gguf", layers=1, more={"llama.rope.scaling.type": "longrope", "tokenizer.ggml.pre": "odd"}
    )
    with pytest.raises(suture.SutureError, match=r"rope_scaling.*--config FILE(.|\n)*`odd`.*--tokenizer FILE"):
        suture.convert(made.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "own.json").write_text('{"model_type": "llama", "given": true}')
    (tmp_path / "tokens.json").write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    how = suture.Settings(config_json=str(tmp_path / "own.json"), tokenizer_json=str(tmp_path / "tokens.json"))
    suture.convert(made.path, tmp_path / "out", settings=how)
    assert config_of(tmp_path / "out")["given"] is True
    assert (tmp_path / "out" / "tokenizer.json").read_text() == (tmp_path / "tokens.json").read_text()
    # One file has nothing beside it, and needs nothing.
    suture.convert(made.path, tmp_path / "one.safetensors")


def test_split_files_are_one_model(model: Model, tmp_path: Path) -> None:
    """The tensors of all files of a split model, whichever of them is named, are those of the whole."""
    items = list(model.stored.items())
    halves = [dict(items[:10]), dict(items[10:])]
    for i, part in enumerate(halves):
        said = {"split.no": i, "split.count": 2, "split.tensors.count": len(items)}
        metadata = {**model.metadata, **said} if i == 0 else said
        write_gguf(tmp_path / "s" / f"m-0000{i + 1}-of-00002.gguf", metadata, part)
    for n, named in enumerate((tmp_path / "s", tmp_path / "s" / "m-00002-of-00002.gguf")):
        suture.convert(named, tmp_path / str(n), settings=suture.Settings(to="f32"))
        assert_values(tmp_path / str(n), model.plain)
    (tmp_path / "s" / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(suture.SutureError, match=r"missing `m-00002-of-00002\.gguf`"):
        suture.open(tmp_path / "s" / "m-00001-of-00002.gguf")


def test_experts_lie_apart(tmp_path: Path) -> None:
    """Each expert of a Mixtral and of a Qwen is a slab, under the names of its family."""
    rng = np.random.default_rng(1)
    for architecture, before, parts in (
        ("llama", "block_sparse_moe.experts", ("w1", "w3", "w2")),
        ("qwen3moe", "mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    ):
        names = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
        stored = {f"blk.0.{n}.weight": quantised("Q4_0", (3, 64, 64), i) for i, n in enumerate(names)}
        stored["blk.0.attn_norm.weight"] = plain("F32", rng.normal(size=64))
        path = write_gguf(
            tmp_path / f"{architecture}.gguf",
            {"general.architecture": architecture, f"{architecture}.expert_count": 3, f"{architecture}.block_count": 1},
            stored,
        )
        out = tmp_path / f"{architecture}.safetensors"
        suture.convert(path, out, settings=suture.Settings(to="f32"))
        found = read_checkpoint(out)
        for name, part in zip(names, parts, strict=True):
            for e in range(3):
                got = found[f"model.layers.0.{before}.{e}.{part}.weight"].values()
                np.testing.assert_array_equal(got, stored[f"blk.0.{name}.weight"].values[e])


def test_experts_of_gpt_oss_are_woven_and_turned(tmp_path: Path) -> None:
    """gate and up take turns as columns of the transpose, as transformers has them; so do their biases."""
    stored = {f"blk.0.ffn_{n}_exps.weight": quantised("MXFP4", (2, 64, 96), i) for i, n in enumerate(("gate", "up"))}
    stored["blk.0.ffn_down_exps.weight"] = quantised("MXFP4", (2, 96, 64), 7)
    for i, n in enumerate(("gate", "up")):
        stored[f"blk.0.ffn_{n}_exps.bias"] = plain("F32", np.arange(128).reshape(2, 64) + 1000 * i)
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "gpt-oss", "gpt-oss.expert_count": 2}, stored)
    for chunk in ("4096", "65536"):
        out = tmp_path / f"{chunk}.safetensors"
        suture.convert(path, out, settings=suture.Settings(to="f32", chunk=chunk))
        found = {name: raw.values() for name, raw in read_checkpoint(out).items()}
        module = "model.layers.0.mlp.experts"
        gate, up = (stored[f"blk.0.ffn_{n}_exps.weight"].values for n in ("gate", "up"))
        both = found[f"{module}.gate_up_proj"]
        np.testing.assert_array_equal(both[:, :, 0::2], gate.transpose(0, 2, 1))
        np.testing.assert_array_equal(both[:, :, 1::2], up.transpose(0, 2, 1))
        down = stored["blk.0.ffn_down_exps.weight"].values
        np.testing.assert_array_equal(found[f"{module}.down_proj"], down.transpose(0, 2, 1))
        bias = found[f"{module}.gate_up_proj_bias"]
        np.testing.assert_array_equal(bias[:, 1::2], bias[:, 0::2] + 1000)


def test_gemma_loses_the_one_that_was_added(tmp_path: Path) -> None:
    """Norms of Gemma are stored one larger; rounded once in f32."""
    stored = {"blk.0.ffn_norm.weight": plain("F32", [0.1, 1.5, -3]), "output_norm.weight": plain("F32", [1e-9, 2, 1])}
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "gemma3", "gemma3.block_count": 1}, stored)
    suture.convert(path, tmp_path / "o.safetensors", settings=suture.Settings(to="f32"))
    found = {name: raw.values() for name, raw in read_checkpoint(tmp_path / "o.safetensors").items()}
    for ours, theirs in (
        ("model.layers.0.pre_feedforward_layernorm.weight", "blk.0.ffn_norm.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        np.testing.assert_array_equal(found[ours], stored[theirs].values - np.float32(1))


def test_a_scale_beside_nvfp4_multiplies(tmp_path: Path) -> None:
    """``NAME.scale`` is what the tensor is multiplied by, and is no tensor of the model."""
    stored = {"blk.0.attn_v.weight": quantised("NVFP4", (8, 64), 1), "blk.0.attn_v.scale": plain("F32", [0.3])}
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": "qwen3", "qwen3.block_count": 1}, stored)
    suture.convert(path, tmp_path / "o.safetensors", settings=suture.Settings(to="f32"))
    found = read_checkpoint(tmp_path / "o.safetensors")
    assert list(found) == ["model.layers.0.self_attn.v_proj.weight"]
    want = stored["blk.0.attn_v.weight"].values * np.float32(0.3)
    np.testing.assert_array_equal(found["model.layers.0.self_attn.v_proj.weight"].values(), want)


def test_what_a_gguf_lacks_is_given_to_one_alone(tmp_path: Path) -> None:
    """`--tokenizer` and `--config` where no model is GGUF are refused, not passed over."""
    write_checkpoint(tmp_path / "a", {"x.weight": encode(np.zeros((2, 2), np.float32), "F32")})
    for how in (suture.Settings(tokenizer_json=str(tmp_path)), suture.Settings(config_json=str(tmp_path))):
        with pytest.raises(suture.UsageError, match="goes with a GGUF model"):
            suture.convert(tmp_path / "a", tmp_path / "o", settings=how)


def test_experts_are_made_of_one(tmp_path: Path) -> None:
    """A mixture is made of a GGUF file as of the plain model that it is converted to: the config is the rebuilt one."""
    llama(tmp_path / "m.gguf")
    suture.convert(tmp_path / "m.gguf", tmp_path / "plain")
    for name in ("m.gguf", "plain"):
        suture.moe.from_dense(tmp_path / name, tmp_path / f"moe-{name}", experts=2)
    assert read_checkpoint(tmp_path / "moe-m.gguf") == read_checkpoint(tmp_path / "moe-plain")
    configs = [json.loads((tmp_path / f"moe-{name}" / "config.json").read_text()) for name in ("m.gguf", "plain")]
    assert configs[0] == configs[1]
