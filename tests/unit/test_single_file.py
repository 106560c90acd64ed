"""An output that is one file: the tensors and their metadata, a report beside it, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.checkpoints import encode, llama_family, read_checkpoint, write_file


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """A recipient and a donor in several shards each, with a config and a tokenizer beside."""
    return llama_family(tmp_path / "in", layers=3, n=1, hidden=16, heads=2, kv_heads=1, ff=24, vocab=20, shards=[3, 2])


def mean(models: list[Path]) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models]}


def test_the_tensors_are_those_of_a_folder(models: list[Path], tmp_path: Path) -> None:
    """Law 3: in a file and in a folder are the same bytes; nothing but the file and its report is left."""
    place = tmp_path / "out"
    suture.swap(models[0], models[1], place / "swapped.safetensors", bottom=1)
    suture.merge(mean(models), place / "merged.safetensors")
    suture.revert(models[0], models[1], place / "reset.safetensors", layers="0")
    names = ("merged", "reset", "swapped")
    endings = (".safetensors", ".suture.json")
    assert sorted(p.name for p in place.iterdir()) == [name + end for name in names for end in endings]
    suture.swap(models[0], models[1], tmp_path / "swapped", bottom=1)
    suture.merge(mean(models), tmp_path / "merged")
    suture.revert(models[0], models[1], tmp_path / "reset", layers="0")
    for name in names:
        assert read_checkpoint(place / f"{name}.safetensors") == read_checkpoint(tmp_path / name)
        assert suture.verify(place / f"{name}.safetensors")["differing"] == []
        report = json.loads((place / f"{name}.suture.json").read_text())
        assert report["files"] == [f"{name}.safetensors", f"{name}.suture.json"]
        assert report["plan"] == json.loads((tmp_path / name / "suture.json").read_text())["plan"] or name != "merged"


def test_nothing_of_the_users_is_replaced(models: list[Path], tmp_path: Path) -> None:
    """Law 6: a file that is there is replaced only when asked for, and only if it holds tensors."""
    out = tmp_path / "out.safetensors"
    write_file(out, {"mine": np.ones(3, np.float32)})
    with pytest.raises(suture.SutureError, match="--overwrite"):
        suture.swap(models[0], models[1], out, bottom=1)
    assert list(read_checkpoint(out)) == ["mine"]
    again = suture.Settings(overwrite=True)
    suture.swap(models[0], models[1], out, bottom=1, settings=again)
    assert suture.verify(out)["differing"] == []
    out.write_text("my notes")
    with pytest.raises(suture.SutureError, match="no safetensors file"):
        suture.swap(models[0], models[1], out, bottom=1, settings=again)
    assert out.read_text() == "my notes"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.safetensors", "out.suture.json"]


def test_an_input_is_not_its_own_output(models: list[Path], tmp_path: Path) -> None:
    """Law 6: the file that is read is not the one that is written."""
    single = write_file(tmp_path / "one.safetensors", {"layers.0.w": encode(np.ones((2, 2)), "F32")})
    with pytest.raises(suture.SutureError, match="overlaps"):
        suture.swap(single, single, single, layers="0", settings=suture.Settings(overwrite=True))


@pytest.mark.parametrize("options", [{"shard_size": "1MB"}, {"model_card": True}])
def test_what_needs_a_folder_is_refused(options: dict[str, Any], models: list[Path], tmp_path: Path) -> None:
    """Law 10: shards, a card and several outputs do not go into one file."""
    with pytest.raises(suture.UsageError, match="folder"):
        suture.swap(models[0], models[1], tmp_path / "o.safetensors", bottom=1, settings=suture.Settings(**options))
    with pytest.raises(suture.UsageError, match="folder"):
        suture.merge(mean(models) | {"outputs": {"a": {}, "b": {}}}, tmp_path / "o.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_folder_that_is_called_so_stays_one(models: list[Path], tmp_path: Path) -> None:
    """An empty folder with that ending is filled as any other."""
    (tmp_path / "o.safetensors").mkdir()
    suture.swap(models[0], models[1], tmp_path / "o.safetensors", bottom=1)
    assert (tmp_path / "o.safetensors" / "config.json").is_file()


def test_a_file_says_of_itself_what_the_recipients_says(tmp_path: Path) -> None:
    """What image tools read from `__metadata__` is carried; hashes of other contents are not."""
    tensors = {"double_blocks.0.w": encode(np.ones((2, 2)), "F32")}
    about = {"format": "pt", "modelspec.title": "x", "ss_network_alpha": "16", "sshs_model_hash": "ab"}
    into = write_file(tmp_path / "a.safetensors", tensors, about)
    donor = write_file(tmp_path / "b.safetensors", tensors, {"format": "pt", "modelspec.title": "y"})
    suture.swap(into, donor, tmp_path / "o.safetensors", layers="0")
    kept = {k: v for k, v in about.items() if "hash" not in k}
    content = (tmp_path / "o.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"] == kept


@pytest.mark.parametrize("what", ["notes", "folder", "link"])
def test_the_place_of_the_report_is_the_users_too(what: str, models: list[Path], tmp_path: Path) -> None:
    """Law 6: what lies where the report would go is not replaced, whatever is asked, and nothing is made then."""
    beside = tmp_path / "out.suture.json"
    if what == "notes":
        beside.write_text('{"mine": 1}')
    elif what == "folder":
        beside.mkdir()
    else:
        beside.symlink_to(tmp_path / "elsewhere")
    for overwrite in (False, True):
        with pytest.raises(suture.SutureError, match="report"):
            suture.swap(
                models[0], models[1], tmp_path / "out.safetensors", bottom=1,
                settings=suture.Settings(overwrite=overwrite),
            )  # fmt: skip
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.suture.json"]
    if what == "notes":
        assert beside.read_text() == '{"mine": 1}'


def test_a_name_that_is_no_files_is_refused(models: list[Path], tmp_path: Path) -> None:
    """Law 8: a name without anything before its ending, or one that is no text, is told and makes no folder."""
    for name in (".safetensors", "a\udcff.safetensors"):
        with pytest.raises(suture.SutureError, match="name"):
            suture.swap(models[0], models[1], tmp_path / name, bottom=1)
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_a_link_to_a_file_is_verified_as_the_file(models: list[Path], tmp_path: Path) -> None:
    """The report of what a link leads to lies beside that."""
    suture.swap(models[0], models[1], tmp_path / "out.safetensors", bottom=1)
    (tmp_path / "ln.safetensors").symlink_to(tmp_path / "out.safetensors")
    assert suture.verify(tmp_path / "ln.safetensors")["differing"] == []
