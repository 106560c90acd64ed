"""Models that parameters name: in every form of a value, by paths as models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture
from suture.recipe import load

from ..support.checkpoints import read_checkpoint
from ..support.configs import family, soup, write


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two fine-tunes."""
    return family(tmp_path_factory.mktemp("models"), "math", "lang")


#: Parameters that are checkpoints, over the whole registry.
CHECKPOINTS = sorted(
    {(s["name"], p["name"]) for s in suture.methods() for p in s["parameters"] if p["kind"]["kind"] == "checkpoint"}
)
#: Every form that a value of a config may have.
FORMS: dict[str, Any] = {
    "plain": lambda v: v,
    "rule": lambda v: {"value": v},
    "rules": lambda v: [{"filter": "mlp", "value": v}, {"filter": "*", "value": v}],
    "rules and one": lambda v: [{"filter": "mlp", "value": v}, v],
    "gradient": lambda v: [v, v],
    "layers": lambda v: {"layers": {"0": v, "1": v}, "default": v},
    "rule of layers": lambda v: [{"filter": "*", "value": {"layers": {"0": v}, "default": v}}],
    "file": lambda v: {"file": "models.json", "default": v},
    "mapping": lambda v: {"model": {"path": v}},
}


def leaves(value: Any) -> list[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for item in inner for leaf in leaves(item)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("method", "parameter"), CHECKPOINTS)
@pytest.mark.parametrize("whose", ["model", "file"])
def test_paths_of_parameters_are_those_of_models(
    whose: str, method: str, parameter: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is looked for in the current folder, then beside the config, in every form of a value."""
    configs, here = tmp_path / "configs", tmp_path / "here"
    for folder in (configs / "m", configs / "f", here / "f2"):
        folder.mkdir(parents=True)
    (configs / "models.json").write_text('{"0": "f", "1": "f2"}')
    monkeypatch.chdir(here)
    for named, found in (("f", configs / "f"), ("f2", Path("f2")), (str(configs / "f"), configs / "f")):
        value = {parameter: FORMS[form](named)}
        recipe: dict[str, Any] = {"merge_method": method, "models": [{"model": "m"}]}
        (recipe if whose == "file" else recipe["models"][0])["parameters"] = value
        (read,) = load(write(configs / "c.yml", recipe))
        holder = read.recipe if whose == "file" else read.recipe["models"][0]
        told = [leaf for leaf in leaves(holder["parameters"][parameter]) if leaf not in ("mlp", "*")]
        assert str(found) in told
        assert set(told) <= {str(found), str(configs / "f"), "f2"}
    value[parameter] = FORMS[form]("nowhere")
    with pytest.raises(suture.UsageError, match=rf"{parameter}.*`nowhere`"):
        load(write(configs / "c.yml", recipe))


def test_what_another_document_makes_may_be_a_parameter(models: dict[str, Path], tmp_path: Path) -> None:
    """A name stands for its document in every form of a value, too."""
    entries = [
        {"model": str(models["math"]), "parameters": {"fisher": [{"filter": "mlp", "value": "pair"}, "pair"]}},
        {"model": str(models["lang"]), "parameters": {"fisher": "pair"}},
    ]
    pair = {"name": "pair", **soup(models, "math", "lang")}
    path = write(tmp_path / "c.yml", {"merge_method": "fisher", "models": entries}, pair)
    suture.merge(path, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out").keys() == read_checkpoint(models["math"]).keys()
