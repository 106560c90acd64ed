"""`suture convert`: a model in safetensors, every tensor and every file beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import INDEX_NAME, Raw, encode, read_checkpoint, write_checkpoint, write_file, write_json
from ..support.pickles import ordered, saved, storage, tensor, write_torch

RANDOM = np.random.default_rng(3)
CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "torch_dtype": "float32", "tie_word_embeddings": True}


def weights() -> dict[str, Raw]:
    """A small model of several dtypes."""
    values = RANDOM.standard_normal((2, 6, 4)).astype(np.float32)
    layers = {f"model.layers.{i}.mlp.up_proj.weight": encode(values[i], "F32") for i in range(2)}
    return {"model.embed_tokens.weight": encode(values[0], "BF16"), **layers, "ids": Raw("I64", (2,), bytes(16))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a hub has it."""
    model = tmp_path / "model"
    write_torch(model / "pytorch_model.bin", weights())
    write_json(model / "config.json", CONFIG)
    (model / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    (model / "training_args.bin").write_bytes(b"\x80\x02cos\nsystem\n.")
    return model


def test_every_tensor_and_every_file_is_there(folder: Path, tmp_path: Path) -> None:
    """Law 5: bits, names and side files are those of the model; pickles stay behind; the output verifies."""
    report = suture.convert(folder, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == {n: read_raw(folder, n) for n in suture.open(folder).names}
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert files == {"model.safetensors", "config.json", "tokenizer.json", "suture.json"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG
    assert suture.verify(tmp_path / "out")["differing"] == []
    assert (report.data["title"], set(report.actions.values()), report.warnings) == ("convert", {"copy"}, [])
    again = suture.convert(tmp_path / "out", tmp_path / "again")
    assert again.data["tensors"].keys() == report.data["tensors"].keys()
    assert read_checkpoint(tmp_path / "again") == read_checkpoint(tmp_path / "out")


def read_raw(path: Path, name: str) -> Raw:
    """A tensor as suture reads it."""
    opened = suture.open(path)
    info = opened.info(name)
    return Raw(info.dtype, info.shape, opened._core.read(name))


def test_dtype_shards_and_one_file(folder: Path, tmp_path: Path) -> None:
    """The settings of every verb that writes: floats are cast and nothing else, shards have an index."""
    suture.convert(folder, tmp_path / "half", settings=suture.Settings(dtype="bfloat16", shard_size=100))
    found, had = read_checkpoint(tmp_path / "half"), weights()
    assert {n: r.dtype for n, r in found.items()} == {n: "BF16" if n != "ids" else "I64" for n in had}
    assert len(set(json.loads((tmp_path / "half" / INDEX_NAME).read_text())["weight_map"].values())) > 1
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    suture.convert(folder / "pytorch_model.bin", tmp_path / "one.safetensors")
    assert sorted(read_checkpoint(tmp_path / "one.safetensors")) == sorted(had)
    report = suture.convert(folder, tmp_path / "none", dry_run=True)
    assert (report.dry, (tmp_path / "none").exists()) == (True, False)


def test_names_of_one_storage_are_both_there(tmp_path: Path) -> None:
    """Law 5: a head that is the embedding in memory is written out: a file that holds one of them lacks the other."""
    raw = encode(RANDOM.standard_normal((4, 3)), "F32")
    shared = tensor(storage("0", "F32", raw.data), "F32", (4, 3))
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(saved(ordered({"model.embed_tokens.weight": shared, "lm_head.weight": shared})))
    suture.convert(path, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == {"model.embed_tokens.weight": raw, "lm_head.weight": raw}


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_an_adapter_stays_one(form: str, tmp_path: Path) -> None:
    """An adapter is written under the name that loaders look for, beside its own config."""
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format(i, ab): encode(RANDOM.standard_normal((2, 2)), "F32") for i in range(2) for ab in "AB"}
    model = tmp_path / "adapter"
    model.mkdir()
    if form == "torch":
        write_torch(model / "adapter_model.bin", tensors)
    else:
        write_file(model / "adapter_model.safetensors", tensors)
    text = '{"peft_type": "LORA",  "r": 2}'
    (model / "adapter_config.json").write_text(text)
    suture.convert(model, tmp_path / "out")
    assert (tmp_path / "out" / "adapter_config.json").read_text() == text
    assert suture.open(tmp_path / "out" / "adapter_model.safetensors").names == list(tensors)
    assert read_checkpoint(tmp_path / "out" / "adapter_model.safetensors") == tensors


def test_what_was_passed_over_is_told(tmp_path: Path) -> None:
    """Law 5: the warning of the input is in the plan, in the report and on the screen."""
    path = tmp_path / "run.ckpt"
    path.write_bytes(saved({"epoch": 1, "state_dict": ordered({"a": tensor(storage("0", "U8", b"ab"), "U8", (2,))})}))
    command = [sys.executable, "-m", "suture", "convert", str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "`epoch`" in done.stderr
    report = json.loads((tmp_path / "out" / "suture.json").read_text())
    assert any("`epoch`" in w for w in report["warnings"])
    assert list(read_checkpoint(tmp_path / "out")) == ["a"]


def test_wrong_calls(folder: Path, tmp_path: Path) -> None:
    """Law 8: a wrong dtype, and an output that is the input, are refused; nothing is written."""
    with pytest.raises(suture.UsageError, match="dtype"):
        suture.convert(folder, tmp_path / "out", settings=suture.Settings(dtype="int3"))
    with pytest.raises(suture.SutureError, match="overlaps"):
        suture.convert(folder, folder)
    with pytest.raises(suture.SutureError):
        suture.convert(tmp_path / "nowhere", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_nan_is_found(tmp_path: Path) -> None:
    """`--nan error` holds for what is only copied, as everywhere; a strided tensor tells the element."""
    values = np.zeros((4, 3), np.float32)
    values[2, 1] = np.nan
    made = tensor(storage("0", "F32", values.tobytes()), "F32", (3, 4), (1, 3))
    (tmp_path / "w.bin").write_bytes(saved({"t": made}))
    with pytest.raises(suture.SutureError, match="element 6 is NaN"):
        suture.convert(tmp_path / "w.bin", tmp_path / "out")
    suture.convert(tmp_path / "w.bin", tmp_path / "out", settings=suture.Settings(nan="allow"))


def test_a_safetensors_model_can_be_converted(tmp_path: Path) -> None:
    """Whatever is read is converted: shards are joined or split as asked."""
    model = write_checkpoint(tmp_path / "model", weights(), shards=3, config=CONFIG)
    suture.convert(model, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out") == read_checkpoint(model)
    assert (tmp_path / "out" / "model.safetensors").is_file()
