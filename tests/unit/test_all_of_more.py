"""A set of models over an earlier one, with models by their names alone, and what its table and its warnings say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

import suture
from suture.recipe.all_of import TABLE
from suture.render.beside import show_beside

from ..support.checkpoints import encode, llama_family, write_checkpoint
from ..support.refusals import listing

Config = dict[str, Any]
AGAIN = suture.Settings(overwrite=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes."""
    folder = tmp_path_factory.mktemp("models")
    return llama_family(folder, layers=2, n=2, hidden=16, heads=4, kv_heads=2, ff=24, vocab=12, dtype="bf16")


def a_set(models: list[Path], methods: list[str], **more: Any) -> Config:
    return {"base_model": str(models[0]), "models": [str(m) for m in models[1:]], "methods": methods} | more


def files(folder: Path) -> Iterator[str]:
    return (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_models_by_their_names_alone(models: list[Path], tmp_path: Path) -> None:
    """Law: a name stands for a mapping with nothing else in it, for the schema too."""
    config = a_set(models, ["ties", "linear"])
    long = {**config, "models": [{"model": m} for m in config["models"]]}
    for one, place in ((config, "short"), (long, "long")):
        assert not list(Draft202012Validator(suture.schema("set")).iter_errors(one))
        suture.merge(one, tmp_path / place, all_of=True)
    for name in (n for n in files(tmp_path / "long") if not n.endswith("suture.json")):
        assert (tmp_path / "short" / name).read_bytes() == (tmp_path / "long" / name).read_bytes(), name


def test_outputs_of_an_earlier_set_are_removed(models: list[Path], tmp_path: Path) -> None:
    """Law 6: --overwrite takes away what an earlier set of ours has made and this one does not, and nothing else."""
    out = tmp_path / "out"
    suture.merge(a_set(models, ["ties", "linear", "karcher"]), out, all_of=True)
    (out / "karcher" / "notes.txt").write_text("mine")
    (out / "mine").mkdir()
    (out / "mine" / "model.safetensors").write_text("mine")
    config = a_set(models, ["ties"])
    before = listing(tmp_path)
    plan = suture.merge(config, out, all_of=True, settings=AGAIN, dry_run=True)
    assert listing(tmp_path) == before
    told = [w for w in plan.warnings if "is of an earlier run of several merges" in w]
    assert [w.split(":")[0].rpartition("/")[2] for w in told] == ["linear", "karcher"]
    report = suture.merge(config, out, all_of=True, settings=AGAIN)
    assert sorted(p.name for p in out.iterdir()) == ["all_of.json", "karcher", "mine", "outputs.json", "ties"]
    assert sorted(files(out / "karcher")) == ["notes.txt"]
    assert any("karcher: is none of ours, and was left there" in w for w in report.warnings)
    suture.merge(config, tmp_path / "new", all_of=True)
    for name in (n for n in files(tmp_path / "new") if not n.endswith(".json")):
        assert (out / name).read_bytes() == (tmp_path / "new" / name).read_bytes()
    # Several merges that are no set leave no table of one behind.
    single = {
        "base_model": str(models[0]),
        "models": [{"model": str(m)} for m in models[1:]],
        "parameters": {"weight": 1},
    }
    suture.merge({"outputs": {"x": {"merge_method": "ties", **single}}}, out, settings=AGAIN)
    assert sorted(p.name for p in out.iterdir()) == ["karcher", "mine", "outputs.json", "x"]


def test_what_is_read_is_not_removed(models: list[Path], tmp_path: Path) -> None:
    """Law 6: an earlier output that is a model of the present set stays."""
    out = tmp_path / "out"
    suture.merge(a_set(models, ["ties", "linear"]), out, all_of=True)
    before = (out / "linear" / "model.safetensors").read_bytes()
    config = {"base_model": str(models[0]), "models": [str(out / "linear"), str(models[1])], "methods": ["ties"]}
    suture.merge(config, out, all_of=True, settings=AGAIN)
    assert (out / "linear" / "model.safetensors").read_bytes() == before


def test_names_that_lead_elsewhere(models: list[Path], tmp_path: Path) -> None:
    """Law 7: a list of outputs may be anybody's: nothing outside its folder is taken away, and no link followed."""
    other = tmp_path / "other"
    suture.merge(a_set(models, ["ties"]), other, all_of=True)
    out = tmp_path / "out"
    suture.merge(a_set(models, ["ties"]), out, all_of=True)
    (out / "link").symlink_to(other / "ties")
    listed = json.loads((out / "outputs.json").read_text())
    listed["outputs"] |= {"../other/ties": "x", str(other / "ties"): "x", "link": "x", "..": "x", "gone": "x"}
    (out / "outputs.json").write_text(json.dumps(listed))
    before = {k: v for k, v in listing(tmp_path).items() if "other" in str(k)}
    suture.merge(a_set(models, ["ties"]), out, all_of=True, settings=AGAIN)
    assert {k: v for k, v in listing(tmp_path).items() if "other" in str(k)} == before
    assert (out / "link").is_symlink()


def test_the_table_shows_the_relative_distance(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: what all_of.json has of an output and an expert, its table has."""
    monkeypatch.setenv("COLUMNS", "400")
    report = suture.merge(a_set(models, ["ties", "linear"]), tmp_path / "out", all_of=True)
    show_beside(report.beside)
    shown = capsys.readouterr().out
    for expert in report.beside[TABLE]["experts"]:
        assert f"relative to its change, {expert}" in shown
    for output in report.beside[TABLE]["outputs"]:
        for towards in output["towards"]:
            assert f"{towards['relative_distance']:.3g}" in shown


def test_a_density_that_drops_nothing_is_told(models: list[Path], tmp_path: Path) -> None:
    """Law: of a method with a cutting one inside, too, in a set and alone; not where it is given or nothing cuts."""
    told = "density: none is given, so it is 1 and nothing is dropped by "
    config = a_set(models, ["knots"], parameters={"inner": "ties"})
    assert any(w == f"{told}knots" for w in suture.merge(config, tmp_path / "a", all_of=True, dry_run=True).warnings)
    for parameters in ({"inner": "mean"}, {"inner": "ties", "density": 0.5}):
        config = a_set(models, ["knots"], parameters=parameters)
        found = suture.merge(config, tmp_path / "a", all_of=True, dry_run=True).warnings
        assert not any(w.startswith(told) for w in found)
    for parameters, said in (
        ({"inner": "ties"}, True),
        ({"inner": "mean"}, False),
        ({"inner": "ties", "density": 0.5}, False),
    ):
        alone = {
            "merge_method": "knots",
            "base_model": str(models[0]),
            "models": [{"model": str(m)} for m in models[1:]],
            "parameters": {**parameters, "weight": 1.0},
        }
        notes = dict(suture.merge(alone, tmp_path / "b", dry_run=True).data["notes"])
        assert ("density" in notes) == said
        if said:
            assert notes["density"] == "none is given, so it is 1, and `ties` drops nothing"


def test_a_merge_that_overflows_is_not_the_inputs_fault(tmp_path: Path) -> None:
    """Law 8: of finite changes that weights make too large, opcm says so."""
    rng = np.random.default_rng(0)
    name = "model.layers.0.a.weight"
    base = write_checkpoint(tmp_path / "base", {name: encode(np.zeros((24, 16)), "F32")})
    fine = [write_checkpoint(tmp_path / f"m{i}", {name: encode(rng.normal(size=(24, 16)), "F32")}) for i in range(3)]
    # Each change times its weight can be squared; the sum of three cannot.
    models: list[Config] = [{"model": str(m), "parameters": {"weight": 5.6e152}} for m in fine]
    config = {"merge_method": "opcm", "base_model": str(base), "models": models}
    with pytest.raises(suture.SutureError, match="every change is finite, and their merge is not"):
        suture.merge(config, tmp_path / "out")
    for model in models:
        model["parameters"]["weight"] = 1e200
    with pytest.raises(suture.SutureError, match="changes that their weights make too large to be squared"):
        suture.merge(config, tmp_path / "out")


def test_ill_conditioned_matrices_are_told(tmp_path: Path) -> None:
    """Law: the worst tensor of a wudi merge is named with its condition, if half of the digits are gone."""
    rng = np.random.default_rng(0)
    one, two = "model.layers.0.a.weight", "model.layers.1.a.weight"
    base = write_checkpoint(tmp_path / "base", {n: encode(np.zeros((32, 16)), "F32") for n in (one, two)})
    u, _, v = np.linalg.svd(rng.normal(size=(32, 16)), full_matrices=False)
    steep = (u * np.geomspace(1, 3e-5, 16)) @ v
    fine = []
    for i in range(2):
        tensors = {one: rng.normal(size=(32, 16)), two: steep * (1 + i)}
        fine.append(write_checkpoint(tmp_path / f"m{i}", {n: encode(t, "F32") for n, t in tensors.items()}))
    config = {"merge_method": "wudi", "base_model": str(base), "models": [{"model": str(m)} for m in fine]}
    report = suture.merge(config, tmp_path / "out")
    told = [w for w in report.warnings if "ill-conditioned" in w]
    assert len(told) == 1
    condition = report.data["tensors"][two]["found"]["condition"]
    assert np.isclose(condition, (1 / 3e-5) ** 2, rtol=1e-3)
    assert f"1 tensor is ill-conditioned (worst: `{two}`, condition {condition:.1e}".replace("e+0", "e") in told[0]
    for method in ("swudi", "iso_c"):
        quiet = suture.merge({**config, "merge_method": method}, tmp_path / method)
        assert not any("ill-conditioned" in w for w in quiet.warnings)
