"""Which files of torch in a folder are its model, and what is written where shards are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import Raw, as_raw, read_checkpoint, write_checkpoint, write_file, write_json
from ..support.pickles import write_torch

PARTS = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
#: Files that are the model, and what lies beside them; the last say whether that is told.
READ: list[tuple[list[str], list[str], bool]] = [
    (["pytorch_model.bin"], ["x.pt", "adapter_model.bin"], True),
    (["pytorch_model.bin"], ["optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state_0.pth"], False),
    (PARTS, ["optimizer.bin"], False),
    (["pytorch_model.bin"], PARTS, True),
    (["pytorch_model.bin"], ["pytorch_model.fp16.bin"], True),
    (["model.pt"], ["other.pt"], True),
    (["weights.ckpt"], ["random_states_0.pkl"], False),
    (["encoder.pth", "decoder.pth"], [], False),
    (["adapter_model.bin"], ["training_args.bin"], False),
    (["consolidated.00.pth"], [], False),
]


def one(name: str) -> dict[str, Raw]:
    """A tensor that is called after its file."""
    return {name: as_raw(np.arange(3, dtype=np.float32))}


@pytest.mark.parametrize(("model", "beside", "told"), READ)
def test_the_model_is_found(model: list[str], beside: list[str], told: bool, tmp_path: Path) -> None:
    """Law 5: the rules are those of safetensors; states of training are never the model and go without saying."""
    for name in model + beside:
        write_torch(tmp_path / name, one(name))
    opened = suture.open(tmp_path)
    assert sorted(opened.names) == sorted(model)
    warnings = opened.describe()["warnings"]
    assert len(warnings) == told
    if told:
        assert all(name in warnings[0] or name in PARTS for name in beside)


def test_safetensors_come_first(tmp_path: Path) -> None:
    """A folder with both forms is read as safetensors, without a word; a file that is named is read by its bytes."""
    write_torch(tmp_path / "pytorch_model.bin", one("torch"))
    write_file(tmp_path / "model.safetensors", one("safe"))
    assert suture.open(tmp_path).names == ["safe"]
    assert suture.open(tmp_path).describe()["warnings"] == []
    assert suture.open(tmp_path / "pytorch_model.bin").names == ["torch"]
    write_file(tmp_path / "odd.bin", one("safe in disguise"))
    assert suture.open(tmp_path / "odd.bin").names == ["safe in disguise"]


@pytest.mark.parametrize("only", [["optimizer.pt"], ["training_args.bin", "scheduler.pt"], []])
def test_a_folder_without_weights(only: list[str], tmp_path: Path) -> None:
    """Law 8: what was expected is said."""
    for name in only:
        write_torch(tmp_path / name, one(name))
    with pytest.raises(suture.SutureError, match=r"model\.safetensors, pytorch_model\.bin"):
        suture.open(tmp_path)


def test_an_index_decides(tmp_path: Path) -> None:
    """The files that `pytorch_model.bin.index.json` lists are the model; a missing one and a wrong one are errors."""
    names = ["a-1.bin", "a-2.bin"]
    for name in [*names, "a-3.bin"]:
        write_torch(tmp_path / name, one(name))
    index = tmp_path / "pytorch_model.bin.index.json"
    write_json(index, {"weight_map": {name: name for name in names}})
    assert suture.open(tmp_path).names == names
    write_json(index, {"weight_map": {"a-1.bin": "a-2.bin"}})
    with pytest.raises(suture.SutureError, match="lacks it"):
        suture.open(tmp_path)
    write_json(index, {"weight_map": {"gone": "a-4.bin"}})
    with pytest.raises(suture.SutureError, match="missing"):
        suture.open(tmp_path)
    write_torch(tmp_path / "pytorch_model.bin", one("single"))
    assert suture.open(tmp_path).names == ["single"]


def test_a_set_is_whole(tmp_path: Path) -> None:
    """A missing part is named as it would be called."""
    write_torch(tmp_path / PARTS[0], one("a"))
    with pytest.raises(suture.SutureError, match=PARTS[1]):
        suture.open(tmp_path)


def test_shards_that_are_kept_are_safetensors(tmp_path: Path) -> None:
    """Law 6: an output that keeps the shards of its input is called as suture's outputs are, with a matching index."""
    for model in ("a", "b"):
        for layer, part in enumerate(PARTS):
            tensors = {f"model.layers.{layer}.w": as_raw(np.full((2, 2), ord(model) + layer, np.float32))}
            write_torch(tmp_path / model / part, tensors)
    suture.swap(tmp_path / "a", tmp_path / "b", tmp_path / "out", layers="1")
    weights = sorted(p.name for p in (tmp_path / "out").iterdir() if "model-" in p.name)
    assert weights == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    found = read_checkpoint(tmp_path / "out")
    assert [found[f"model.layers.{i}.w"].values()[0, 0] for i in (0, 1)] == [ord("a"), ord("b") + 1]


def test_other_files_are_called_what_they_are(tmp_path: Path) -> None:
    """Law 8: pointers, pages, GGUF and archives under a wrong name are refused by name."""
    write_torch(tmp_path / "x.bin", one("a"))
    contents = {
        "a.bin": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        "b.bin": (b"<!DOCTYPE html><html></html>", "HTML page"),
        "c.bin": (b"GGUF" + bytes(60), "GGUF"),
        "d.bin": (b"tjgg" + bytes([9] * 60), "neither"),
        "e.safetensors": ((tmp_path / "x.bin").read_bytes(), "rename it"),
        "f.bin": (b"PK", "too few"),
    }
    for name, (content, says) in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(suture.SutureError, match=says) as caught:
            suture.open(tmp_path / name)
        assert name in str(caught.value)


def test_init_finds_models_in_folders(tmp_path: Path) -> None:
    """`suture init FOLDER` takes models of either form."""
    tensors = {f"model.layers.{i}.w": as_raw(np.ones((2, 2), np.float32)) for i in range(2)}
    write_torch(tmp_path / "all" / "a" / "pytorch_model.bin", tensors)
    write_checkpoint(tmp_path / "all" / "b", tensors)
    text = suture.init(tmp_path / "all")
    assert all(f"all/{name}" in text for name in "ab")
