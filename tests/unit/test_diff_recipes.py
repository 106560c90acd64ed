"""Law: `diff_recipes` says which tensors come from elsewhere and which keys differ: all of them, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.checkpoints import llama_family, write_json


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and three fine-tunes."""
    return llama_family(tmp_path_factory.mktemp("models"), layers=3, n=3, hidden=16, ff=24, vocab=12)


def merged(models: list[Path], out: Path, weight: float = 1.0, **more: Any) -> Path:
    listed = [{"model": str(m), "parameters": {"weight": weight if i else 1.0}} for i, m in enumerate(models)]
    suture.merge({"merge_method": "linear", "models": listed, **more}, out)
    return out


def test_the_same_run_twice(models: list[Path], tmp_path: Path) -> None:
    """Nothing differs."""
    outs = [merged(models, tmp_path / name) for name in ("one", "two")]
    found = suture.diff_recipes(*outs)
    assert found["shared"] == 30
    assert not any(value for key, value in found.items() if isinstance(value, list))


def test_layers_from_elsewhere(models: list[Path], tmp_path: Path) -> None:
    """Two swaps: the tensors of the layer that one has from another model, and the key that says so."""
    outs = [tmp_path / "one", tmp_path / "two"]
    for bottom, out in enumerate(outs, 1):
        suture.swap(models[1], models[2], out, bottom=bottom)
    found = suture.diff_recipes(*outs)
    names = [m["tensor"] for m in found["elsewhere"]]
    assert len(names) == 9
    assert all(".layers.1." in name for name in names)
    moved = found["elsewhere"][0]
    assert moved["one"] == {"action": "copy", "inputs": [["tuned-1", names[0]]]}
    assert moved["other"] == {"action": "copy", "inputs": [["tuned-2", names[0]]]}
    assert [(k["at"], k["one"], k["other"]) for k in found["keys"]] == [("swap.donors[0].bottom", 1, 2)]
    assert not any((found["parameters"], found["other_bytes"], found["changed_inputs"]))


def test_parameters(models: list[Path], tmp_path: Path) -> None:
    """Another weight: the key, both values, and that the bytes are others though they come from the same places."""
    one, two = merged(models, tmp_path / "one"), merged(models, tmp_path / "two", 0.25, dtype="float32")
    found = suture.diff_recipes(one, two)
    assert [k["at"] for k in found["parameters"]] == [f"models[{i}].parameters.weight" for i in (1, 2, 3)]
    assert found["parameters"][0] == {"at": "models[1].parameters.weight", "one": 1.0, "other": 0.25}
    assert found["keys"] == [{"at": "dtype", "one": None, "other": "float32"}]
    assert len(found["retyped"]) == 30
    assert len(found["other_bytes"]) == 30
    assert not found["elsewhere"]


def test_methods_and_names(models: list[Path], tmp_path: Path) -> None:
    """Another method is another origin; a tensor that one alone has is listed."""
    one = merged(models[:2], tmp_path / "one")
    config = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(models[1]), "layer_range": [0, 2]}]}],
    }
    suture.merge(config, tmp_path / "two")
    found = suture.diff_recipes(one, tmp_path / "two")
    assert found["only_one"] == [n for n in suture.open(one).names if ".layers.2." in n]
    assert not found["only_other"]
    assert {m["one"]["action"] for m in found["elsewhere"]} == {"linear"}
    assert {m["other"]["action"] for m in found["elsewhere"]} == {"copy"}
    assert suture.diff_recipes(tmp_path / "two", one)["only_other"] == found["only_one"]


def test_inputs_that_changed(models: list[Path], tmp_path: Path) -> None:
    """A model of the same name with other bytes: its tensors, by name."""
    copies = [tmp_path / "a" / "tuned-1", tmp_path / "b" / "tuned-1"]
    for source, copy in zip(models[1:], copies, strict=False):
        shutil.copytree(source, copy)
    outs = [merged([models[0], copy], tmp_path / f"out-{i}") for i, copy in enumerate(copies)]
    found = suture.diff_recipes(*outs)
    # What no training changed is the same in both.
    assert len(found["changed_inputs"]) == 29
    assert "tuned-1:model.embed_tokens.weight" in found["changed_inputs"]
    assert not found["elsewhere"]


def test_plans_files_and_folders(models: list[Path], tmp_path: Path) -> None:
    """An output, its suture.json and its plan tell the same of where tensors come from."""
    config = {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 1.0}} for m in models]}
    plan = tmp_path / "plan.json"
    plan.write_text(suture.merge(config, tmp_path / "one", dry_run=True).text)
    one = merged(models, tmp_path / "one")
    for pair in ((one, one / "suture.json"), (plan, one), (one, plan)):
        found = suture.diff_recipes(*pair)
        assert not any(value for key, value in found.items() if isinstance(value, list)), pair


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"recipe": 1, "tensors": {}}', '{"recipe": {}, "tensors": {"a": 1}}']
)
def test_what_is_no_report(text: str, models: list[Path], tmp_path: Path) -> None:
    """A failure in words, and no traceback."""
    (tmp_path / "suture.json").write_text(text)
    with pytest.raises(suture.SutureError, match="is no report of suture"):
        suture.diff_recipes(tmp_path, tmp_path)
    with pytest.raises(suture.SutureError, match="only outputs of suture"):
        suture.diff_recipes(models[0], tmp_path)


def test_several_outputs_are_told_apart(models: list[Path], tmp_path: Path) -> None:
    """A folder of outputs is none itself."""
    write_json(tmp_path / "outputs.json", {"outputs": {}})
    with pytest.raises(suture.UsageError, match="holds several outputs"):
        suture.diff_recipes(tmp_path, merged(models, tmp_path / "out"))
    assert json.loads((tmp_path / "outputs.json").read_text()) == {"outputs": {}}
