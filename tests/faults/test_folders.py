"""Which files of a folder are its model: what lies beside it is left out and named, what cannot be told is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.checkpoints import INDEX_NAME, write_file, write_json

PARTS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
OTHER = ["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"]
#: Files of a folder, in any order: those that are the model.
READ: list[tuple[list[str], list[str]]] = [
    (["model.safetensors"], ["consolidated.safetensors", "adapter_model.safetensors", "x.safetensors"]),
    (PARTS, ["consolidated.safetensors", "optimizer.safetensors", *OTHER]),
    (["pytorch_model.safetensors"], ["adapter_model.safetensors", "original_weights.safetensors"]),
    (OTHER, ["scheduler.safetensors", "training_state.safetensors", "consolidated.00.safetensors"]),
    (["model-00000-of-00002.safetensors", "model-00001-of-00002.safetensors"], []),
    (["encoder.safetensors", "decoder.safetensors"], ["._encoder.safetensors"]),
    (["model.safetensors"], PARTS),
    (["unet.safetensors"], ["unet.fp16.safetensors"]),
    (["adapter_model.safetensors"], []),
    (["consolidated.safetensors"], []),
]
#: Files of a folder that nobody can tell a model from, and what the error says.
REFUSED: list[tuple[list[str], list[str]]] = [
    (PARTS[1:], [PARTS[0], "expected 2 files, found 1"]),
    (["model-00004-of-00009.safetensors"], ["model-00001-of-00009.safetensors", "and 4 more"]),
    ([*PARTS, "model-00001-of-00001.safetensors"], ["`model-00001-of-00001.safetensors`", "of-00002"]),
    ([*OTHER, "v-00001-of-00001.safetensors"], ["`v-00001-of-00001.safetensors`", "w-*-of-00002.safetensors"]),
    ([*OTHER, "single.safetensors"], ["`single.safetensors`", "name one of the files"]),
    (["consolidated.safetensors", "adapter_model.safetensors"], ["`consolidated.safetensors`", "`adapter_model"]),
    (["model-00003-of-00002.safetensors", *PARTS], ["not one of 2 parts"]),
    (["model-1-of-2.safetensors", *PARTS], ["the same part"]),
]


def write(folder: Path, names: list[str]) -> None:
    """One tensor a file, called after it."""
    for name in names:
        write_file(folder / name, {name: np.arange(3, dtype=np.float32)})


@pytest.mark.parametrize(("model", "beside"), READ)
def test_strays_are_left_out_and_named(model: list[str], beside: list[str], tmp_path: Path) -> None:
    """Law 5: exactly the model's files are read; every other one is named in a warning."""
    write(tmp_path, model + beside)
    opened = suture.open(tmp_path)
    assert sorted(opened.names) == sorted(model)
    warnings = opened.describe()["warnings"]
    assert len(warnings) == bool(beside)
    for name in beside:
        assert name in warnings[0] or name in OTHER or name in PARTS


@pytest.mark.parametrize(("names", "says"), REFUSED)
def test_what_cannot_be_told_is_refused(names: list[str], says: list[str], tmp_path: Path) -> None:
    """Law 8: the error names the folder, what was found and what is missing."""
    write(tmp_path, names)
    with pytest.raises(suture.SutureError) as caught:
        suture.open(tmp_path)
    for text in [str(tmp_path), *says]:
        assert text in str(caught.value)


@pytest.mark.parametrize(("names", "_says"), REFUSED)
def test_an_index_or_a_file_decides(names: list[str], _says: list[str], tmp_path: Path) -> None:
    """What the error says to do helps: a file that is named is read, an index is followed."""
    write(tmp_path, names)
    for name in names:
        assert suture.open(tmp_path / name).names == [name]
    write_json(tmp_path / INDEX_NAME, {"weight_map": {name: name for name in names[:2]}})
    opened = suture.open(tmp_path)
    assert (sorted(opened.names), opened.describe()["warnings"]) == (sorted(names[:2]), [])


def test_a_single_file_beside_an_index_of_others(tmp_path: Path) -> None:
    """Loaders read `model.safetensors` whatever an index beside it lists, files that are gone too; it is told."""
    write(tmp_path, [*PARTS, "model.safetensors"])
    write_json(tmp_path / INDEX_NAME, {"weight_map": {name: name for name in PARTS}})
    for gone in (None, PARTS[0]):
        if gone:
            (tmp_path / gone).unlink()
        opened = suture.open(tmp_path)
        assert opened.names == ["model.safetensors"]
        assert [INDEX_NAME in w for w in opened.describe()["warnings"]] == [True]


def test_an_index_of_strays_is_no_index(tmp_path: Path) -> None:
    """Weights in another layout stay out although they have an index; alone they are the checkpoint."""
    write(tmp_path, ["consolidated-1-of-1.safetensors"])
    index = {"weight_map": {"consolidated-1-of-1.safetensors": "consolidated-1-of-1.safetensors"}}
    write_json(tmp_path / "consolidated.safetensors.index.json", index)
    assert suture.open(tmp_path).names == ["consolidated-1-of-1.safetensors"]
    write(tmp_path, ["model.safetensors"])
    assert suture.open(tmp_path).names == ["model.safetensors"]


def test_names_need_not_be_text(tmp_path: Path) -> None:
    """A folder and files whose names are no UTF-8 are read as any others."""
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    for number in (1, 2):
        file = folder / os.fsdecode(b"w\xfe-%d-of-2.safetensors" % number)
        write_file(file, {f"t{number}": np.arange(number, dtype=np.float32)})
    opened = suture.open(folder)
    assert opened.names == ["t1", "t2"]
    np.testing.assert_array_equal(opened.numpy("t2"), [0, 1])
    (folder / os.fsdecode(b"w\xfe-2-of-2.safetensors")).unlink()
    with pytest.raises(suture.SutureError, match="missing"):
        suture.open(folder)
