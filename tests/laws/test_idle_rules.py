"""What a config says and what decides nothing is told: filters, values of layers, parameters beside others, modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.catalogue import SPECS
from ..support.checkpoints import llama_family, read_checkpoint

SPARSE = [name for name, spec in SPECS.items() if any(p["name"] == "sparsify" for p in spec["parameters"])]
#: Two values of each, between which a tensor differs where they do anything.
VALUES: dict[str, tuple[Any, Any]] = {
    "gamma": (0.05, 0.2),
    "epsilon": (0.05, 0.2),
    "block": (3, 7),
    "density": (0.4, 0.7),
    "scope": ("tensor", "row"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return llama_family(
        tmp_path_factory.mktemp("models"), layers=2, n=2, hidden=16, heads=2, kv_heads=1, ff=24, vocab=8
    )


def linear(models: list[Path], **more: Any) -> dict[str, Any]:
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 1}} for m in models],
        **more,
    }


def plan(config: dict[str, Any], out: Path) -> suture.Report:
    return suture.merge(config, out, dry_run=True)


@pytest.mark.parametrize("word", ["magnitude", "random", "breadcrumbs", "della", "cabs", "none"])
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("method", SPARSE)
def test_a_parameter_that_is_told_does_nothing(
    method: str, name: str, word: str, models: list[Path], tmp_path: Path
) -> None:
    """Where a warning says that a parameter does nothing, no value of it changes a byte; else two values differ."""
    known = {p["name"]: p for p in SPECS[method]["parameters"]}
    if name not in known:
        pytest.skip("no parameter of the method")
    made, told = [], []
    for i, value in enumerate(VALUES[name]):
        plain = {"density": 0.6, "epsilon": 0.1, "gamma": 0.1, "block": 5, "scope": "tensor"}
        chosen = {"sparsify": word, "weight": 0.5, **{k: v for k, v in plain.items() if k in known}, name: value}
        config = {
            "merge_method": method,
            "base_model": str(models[0]),
            "models": [{"model": str(m)} for m in models[1:]],
            "parameters": chosen,
        }
        report = suture.merge(config, tmp_path / f"out-{i}")
        told.append([w for w in report.warnings if w.startswith(f"`{name}` does nothing")])
        made.append(read_checkpoint(tmp_path / f"out-{i}"))
        if told[-1]:
            assert f"{name} " not in " ".join(text for title, text in report.data["notes"] if title == "parameters")
    assert len(told[0]) == len(told[1])
    assert (made[0] == made[1]) == bool(told[0])


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_filters_that_match_nothing_are_told(key: str, models: list[Path], tmp_path: Path) -> None:
    """One idle filter among others is a warning, with what a glob looks like; an `include` of idle ones an error."""
    filters = ["mlp", "vision_tower.*"]
    (told,) = plan(linear(models, **{key: filters}), tmp_path / "out").warnings
    assert told.startswith(f"{key}: filter `vision_tower.*` (a part of a name")
    assert not plan(linear(models, **{key: filters[:1]}), tmp_path / "out").warnings
    if key == "include":
        with pytest.raises(suture.UsageError, match=r"include: .*matches no tensor"):
            plan(linear(models, include=["visul"]), tmp_path / "out")


@pytest.mark.parametrize("where", ["model", "all"])
def test_a_layer_that_is_nowhere_is_refused(where: str, models: list[Path], tmp_path: Path) -> None:
    """A value for layer 9 of two is an error with its place, not a value that nothing has."""
    config = linear(models)
    for last, wrong in ((1, False), (9, True)):
        value = {"layers": {"0": 1, str(last): 0.5}, "default": 0.5}
        target = config["models"][0] if where == "model" else config
        target["parameters"] = {"weight": value}
        if wrong:
            with pytest.raises(suture.UsageError, match=r"weight.*layer 9 does not exist; the last is 1"):
                plan(config, tmp_path / "out")
        else:
            plan(config, tmp_path / "out")


def test_modules_say_what_they_hold(models: list[Path], tmp_path: Path) -> None:
    """A line for each module: how many tensors, and which has what the others leave, a misspelt one too."""
    whole = {"models": linear(models)["models"]}
    config = {"merge_method": "linear", "modules": {"layers": whole, "embed_tokns": whole}}
    report = plan(config, tmp_path / "out")
    notes = [text for title, text in report.data["notes"] if title == "module"]
    inside = sum(".layers." in t.name for t in report.tensors)
    outside = len(report.tensors) - inside
    assert notes == [
        f"`layers`: {inside} tensors",
        f"`embed_tokns`: {outside} tensors, all that the others do not hold",
    ]


def test_what_a_merge_is_made_of_is_told(models: list[Path], tmp_path: Path) -> None:
    """Notes of a merge: models with what is set for them, the base, layers by slice, whose config it is."""
    ties = {
        "merge_method": "ties",
        "base_model": str(models[0]),
        "models": [{"model": str(m), "parameters": {"weight": [0.2, 0.4], "density": 0.5}} for m in models[1:]],
        "parameters": {"lambda": 2},
    }
    notes = dict(plan(ties, tmp_path / "out").data["notes"])
    assert notes["models"] == ", ".join(f"{m.name} (density 0.5, weight 0.2 to 0.4)" for m in models[1:])
    assert (notes["base"], notes["parameters"], notes["config"]) == ("base", "lambda 2", "that of base")
    slices = [{"sources": [{"model": str(m), "layer_range": [0, 2]}]} for m in models[1:]]
    notes = dict(plan({"merge_method": "passthrough", "slices": slices}, tmp_path / "out").data["notes"])
    names = [m.name for m in models[1:]]
    assert notes["layers"] == f"4: 0-1 of {names[0]}; 0-1 of {names[1]}"
    assert notes["outside"] == f"the final norm and the head of {names[1]}, all else of {names[0]}"


def test_a_filter_that_is_empty_is_refused(models: list[Path], tmp_path: Path) -> None:
    """It is part of every name: nobody writes it and means that."""
    for more in ({"exclude": [""]}, {"exclude": ""}, {"include": ["mlp", ""]}):
        with pytest.raises(suture.UsageError, match=r"clude.*expected a filter"):
            plan(linear(models, **more), tmp_path / "out")
    with pytest.raises(suture.UsageError, match=r"ignore.*expected a filter"):
        suture.swap(models[0], models[1], tmp_path / "out", layers="all", ignore="")


def test_a_swap_of_which_all_is_ignored_says_so(models: list[Path], tmp_path: Path) -> None:
    """Nothing is left to move: the error names the filters, not modules that nobody asked for."""
    with pytest.raises(suture.UsageError, match=r"ignore: nothing is swapped: .*left out by layers") as error:
        suture.swap(models[0], models[1], tmp_path / "out", layers="all", ignore="layers")
    assert error.value.at == "ignore"
