"""Experts taken apart and put together: lists that say what they mean, calls that were cut short, models that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture.errors import SutureError, UsageError
from suture.surgery import moe_parts
from suture.surgery.layers import ranges
from suture.surgery.moe_layers import numbers
from suture.surgery.run import carry_out as whole

from ..support.checkpoints import read_checkpoint
from ..support.diffing import run
from .test_experts import EXPERTS, LAYERS, apart, write

CONFIG = {"model_type": "qwen3_moe", "num_hidden_layers": LAYERS, "num_experts": EXPERTS, "num_experts_per_tok": 2}


def mixture(folder: Path, seed: int = 0, dtype: str = "F32", **config: Any) -> Path:
    """A model of experts, apart, with a config."""
    write(folder, apart(seed), dtype)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    return folder


@pytest.mark.parametrize("text", ["²", "0,2-1", "1-", "-1", "", "0,,1", "9" * 5000, "0-99999999999", "0,0"])
def test_lists_that_say_nothing(text: str) -> None:
    """Law 8: a list of experts or layers that cannot be meant is refused, never cut down in silence."""
    with pytest.raises(UsageError, match=r"expected|no expert"):
        numbers(text, 3)
    if text != "0,0":
        with pytest.raises(UsageError, match=r"expected|no layer"):
            ranges(text, 3, "keep")


def test_places_of_experts_swapped(tmp_path: Path) -> None:
    """Ranges change places one for one; an expert that is named twice, or has no partner, is refused."""
    one, two = mixture(tmp_path / "one"), mixture(tmp_path / "two", 1)
    suture.moe.swap(one, two, tmp_path / "out", experts="0-1=1-2")
    made, theirs = read_checkpoint(tmp_path / "out"), read_checkpoint(two)
    at = "model.layers.1.mlp.experts.{}.up_proj.weight"
    assert [made[at.format(e)] for e in (0, 1)] == [theirs[at.format(e)] for e in (1, 2)]
    for experts in ("0-1=2", "0=1,0=2", "0="):
        with pytest.raises(UsageError, match="experts"):
            suture.moe.swap(one, two, tmp_path / "other", experts=experts)


def test_a_split_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: the same call goes on with what it had made, and with nobody else's file; one in the way stops all."""
    model, out = mixture(tmp_path / "model"), tmp_path / "out"
    suture.moe.split(model, tmp_path / "whole")
    want = read_files(tmp_path / "whole")
    out.mkdir()
    (out / "expert-2.safetensors").write_text("mine")
    with pytest.raises(SutureError, match="exists"):
        suture.moe.split(model, out)
    assert [p.name for p in out.iterdir()] == ["expert-2.safetensors"]
    (out / "expert-2.safetensors").unlink()

    def cut(job: Any, target: Path, *more: Any) -> Any:
        if target.name == "expert-1.safetensors":
            raise KeyboardInterrupt
        return whole(job, target, *more)

    monkeypatch.setattr(moe_parts, "carry_out", cut)
    with pytest.raises(KeyboardInterrupt):
        suture.moe.split(model, out)
    monkeypatch.undo()
    suture.moe.split(model, out)
    assert read_files(out) == want
    with pytest.raises(SutureError, match="exists"):
        suture.moe.split(model, out)


def read_files(folder: Path) -> dict[str, bytes]:
    """The bytes of the files of tensors; nothing else but reports is there."""
    assert {p.suffix for p in folder.iterdir()} == {".safetensors", ".json"}
    assert not list(folder.glob(".*"))
    return {p.name: p.read_bytes() for p in folder.glob("*.safetensors")}


def test_stores_take_no_single_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is refused before a folder of that name is made here."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="is a URL"):
        suture.moe.split(mixture(tmp_path / "model"), "s3://bucket/experts")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_experts_of_several_dtypes_are_told(tmp_path: Path) -> None:
    """A model whose experts have several dtypes is never made in silence."""
    one, two = mixture(tmp_path / "one"), mixture(tmp_path / "two", 1, "BF16")
    report = suture.moe.swap(one, two, tmp_path / "out", experts="0")
    assert any("several dtypes (BF16, F32)" in w for w in report.warnings)
    cast = suture.moe.swap(one, two, tmp_path / "cast", experts="0", settings=suture.Settings(dtype="float32"))
    assert {t.dtype for t in read_checkpoint(tmp_path / "cast").values()} == {"F32"}
    assert cast.data["title"] == "moe swap"


def test_groups_of_experts_stay_whole(tmp_path: Path) -> None:
    """A router that chooses by groups of experts is not given another number of them."""
    model = mixture(tmp_path / "model", n_group=3)
    with pytest.raises(SutureError, match="n_group"):
        suture.moe.drop(model, tmp_path / "out", experts="0")


def test_layers_that_only_one_has(tmp_path: Path) -> None:
    """Experts of layers that the model has none in are not left out in silence."""
    model, files = mixture(tmp_path / "model"), tmp_path / "files"
    suture.moe.split(model, files)
    fewer = {name: t for name, t in apart(0).items() if ".layers.1.mlp" not in name}
    (write(tmp_path / "fewer", fewer) / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(SutureError, match="no experts in layer 1"):
        suture.moe.join(tmp_path / "fewer", [files / "expert-0.safetensors"], tmp_path / "out")


@pytest.mark.parametrize("name", ["mlp.e_score_correction_bias", "mlp.moe_statics.e_score_correction_bias"])
def test_what_there_is_for_each_expert_goes_with_it(tmp_path: Path, name: str) -> None:
    """A bias for each expert beside the router is never left as long as it was: it is refused, and kept by a swap."""
    tensors = apart(0)
    for layer in range(LAYERS):
        values = np.arange(EXPERTS, dtype=np.float32)
        tensors[f"model.layers.{layer}.{name}"] = values[None] if "statics" in name else values
    model = write(tmp_path / "model", tensors)
    (model / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(SutureError, match="e_score_correction_bias"):
        suture.moe.keep(model, tmp_path / "out", experts="1")


def test_a_swap_without_routers_keeps_biases(tmp_path: Path) -> None:
    """A bias for each expert stays where experts change places without the rows of the routers."""
    models = []
    for seed in (0, 1):
        tensors = apart(seed)
        for layer in range(LAYERS):
            tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"] = np.full(EXPERTS, seed, np.float32)
        models.append(write(tmp_path / str(seed), tensors))
        (models[-1] / "config.json").write_text(json.dumps(CONFIG))
    suture.moe.swap(models[0], models[1], tmp_path / "out", experts="1")
    made, own = read_checkpoint(tmp_path / "out"), read_checkpoint(models[0])
    assert made.keys() == own.keys()
    assert {n for n in made if made[n] != own[n]} == {n for n in own if ".experts.1." in n}


def test_a_copy_of_an_adapter_is_in_the_config(tmp_path: Path) -> None:
    """A config of AdapterHub's names what a model has: a copy is made as its source, and what goes is gone."""
    tensors = {"bert.encoder.layer.0.output.dense.weight": np.ones((4, 4), np.float32)}
    tensors |= {f"bert.encoder.layer.0.output.adapters.{n}.adapter_up.weight": np.full((4, 2), i, np.float32)
                for i, n in enumerate(("sw", "de"))}  # fmt: skip
    model = write(tmp_path / "model", tensors)
    said = {"adapters": {"adapters": {"sw": "pfeiffer", "de": "houlsby"}, "config_map": {}}}
    (model / "config.json").write_text(json.dumps({"model_type": "bert"} | said))
    other = said["adapters"] | {"adapters": {"fi": "c1"}, "config_map": {"c1": {"bottleneck": 2}, "c2": {}}}
    tensors["bert.encoder.layer.0.output.adapters.fi.adapter_up.weight"] = np.zeros((4, 2), np.float32)
    gone = [n for n in tensors if ".sw." in n or ".de." in n]
    donor = write(tmp_path / "donor", {n: t for n, t in tensors.items() if n not in gone})
    (donor / "config.json").write_text(json.dumps({"model_type": "bert", "adapters": other}))
    suture.modules.graft(model, donor, tmp_path / "grafted", ["fi"])
    found = json.loads((tmp_path / "grafted" / "config.json").read_text())["adapters"]
    assert found["adapters"] == {"sw": "pfeiffer", "de": "houlsby", "fi": "c1"}
    assert found["config_map"] == {"c1": {"bottleneck": 2}}
    suture.modules.clone(model, tmp_path / "out", "de", "nl")
    suture.modules.keep(tmp_path / "out", tmp_path / "kept", ["nl", "sw"])
    for name, want in (("out", {"sw": "pfeiffer", "de": "houlsby", "nl": "houlsby"}),
                       ("kept", {"nl": "houlsby", "sw": "pfeiffer"})):  # fmt: skip
        found = json.loads((tmp_path / name / "config.json").read_text())
        assert found["adapters"] == {"adapters": want, "config_map": {}}


def test_fewer_experts_than_a_token_goes_to_are_told(tmp_path: Path) -> None:
    """Law 3: a config that says less of experts than it did says so."""
    model = mixture(tmp_path / "model")
    assert not any("a token went" in w for w in suture.moe.keep(model, tmp_path / "two", experts="0,1").warnings)
    assert suture.moe.drop(model, tmp_path / "gone", experts="0").data["title"] == "moe drop"
    done = suture.moe.keep(model, tmp_path / "one", experts="1")
    assert any("went to 2 experts, and goes to all 1" in w for w in done.warnings)
    assert json.loads((tmp_path / "one" / "config.json").read_text())["num_experts_per_tok"] == 1


@pytest.mark.parametrize("more", [["--json"], ["--json", "--dry-run"]], ids=str)
def test_experts_in_files_are_one_document(tmp_path: Path, more: list[str]) -> None:
    """A pipeline reads one JSON document, of what was made or would be: a report for each file, by its name."""
    done = run("moe", "split", mixture(tmp_path / "model"), tmp_path / "out", *more)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == [f"expert-{e}.safetensors" for e in range(EXPERTS)]
