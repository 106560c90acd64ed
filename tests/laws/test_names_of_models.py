"""Two folders of one name are two models: what is drawn does not hang on which is named first, or it is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

from ..support.catalogue import CASES, Case, differing
from ..support.checkpoints import read_checkpoint, write_checkpoint
from ..support.layered import write_layered

RANDOM = [case for case in CASES if case.drawn]
OTHERS = [case for case in CASES if case.variant == "default" and case.experts > 1 and case not in RANDOM]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base, and two fine-tunes whose folders have one name."""
    folder = tmp_path_factory.mktemp("names")
    base, one, two = write_layered(folder, count=2)
    found = [base]
    for parent, path in (("a", one), ("b", two)):
        (folder / parent).mkdir()
        found.append(path.rename(folder / parent / "model"))
    return found


def config(case: Case, base: Path, models: list[Path], weights: list[float]) -> dict[str, Any]:
    """A merge of two models by a random method, each with its weight."""
    own = [{"model": str(m), "parameters": {"weight": w, "density": 0.6}} for m, w in zip(models, weights, strict=True)]
    parameters = {k: v for k, v in case.parameters.items() if k not in ("weight", "density")}
    return {"merge_method": case.name, "base_model": str(base), "models": own, "parameters": parameters}


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_masks_do_not_hang_on_the_order_of_models_of_one_name(case: Case, models: list[Path], place: Path) -> None:
    """Law 3: listed the other way round, weights and all, the same comes out, or a warning names the name."""
    base, a, b = models
    first = suture.merge(config(case, base, [a, b], [0.7, 0.4]), place / "first")
    second = suture.merge(config(case, base, [b, a], [0.4, 0.7]), place / "second")
    told = [w for report in (first, second) for w in report.warnings if "model" in w and "name" in w]
    if not told:
        # Sums of two terms do not depend on the order.
        assert not differing(read_checkpoint(place / "second"), read_checkpoint(place / "first"))


@pytest.mark.parametrize("case", RANDOM, ids=str)
def test_models_of_one_name_have_masks_of_their_own(case: Case, place: Path) -> None:
    """Law 3: two models, be their folders called alike, are thinned independently, or a warning says otherwise.

    All changes of the one are 1, all of the other 1000: by its value each element tells who was kept.
    """
    values = {"base": 0.0, "a/model": 1.0, "b/model": 1000.0}
    paths = {n: write_checkpoint(place / n, {"w": np.full(4096, v, np.float32)}) for n, v in values.items()}
    recipe = config(case, paths["base"], [paths["a/model"], paths["b/model"]], [1.0, 1.0])
    for entry in recipe["models"]:
        entry["parameters"]["epsilon"] = 0.0
    report = suture.merge(recipe, place / "out")
    if not [w for w in report.warnings if "model" in w and "name" in w]:
        # Neither, the one, the other, both.
        assert len(np.unique(read_checkpoint(place / "out")["w"].values())) == 4


@pytest.mark.parametrize("case", OTHERS, ids=str)
def test_reports_tell_models_of_one_name_apart(case: Case, models: list[Path], place: Path) -> None:
    """Law 5: each model has a label of its own, in the plan and in the report, and `from` says which."""
    if case.spec["base"] != "required":
        pytest.skip("another form is enough")
    base, a, b = models
    entries = [{"model": str(m), "parameters": {"weight": 0.5} if "weight" in case.names else {}} for m in (a, b)]
    recipe: dict[str, Any] = {"merge_method": case.name, "base_model": str(base), "models": entries, "parameters": {}}
    for p in case.spec["parameters"]:
        if p["kind"]["kind"] == "checkpoint":
            pytest.skip("another form is enough")
        if p["default"] is None and p["name"] not in ("weight", "task"):
            recipe["parameters"][p["name"]] = 0.5
        if p["name"] == "task":
            recipe["parameters"]["task"] = 1
    report = suture.merge(recipe, place / "out")
    labels = [m["label"] for m in report.data["models"]]
    assert len(set(labels)) == 3, labels
    made = {label for told in report.data["tensors"].values() for label, *_ in told["from"]}
    assert made == set(labels)


def test_models_of_a_hub_go_by_their_names_there(models: list[Path], place: Path) -> None:
    """The folders of a hub's cache are called by commits, which tell nobody anything."""
    cached = []
    for name, source in zip(("models--org--base", "models--other--tuned"), models[:2], strict=True):
        folder = place / "hub" / name / "snapshots" / ("0" * 40)
        folder.parent.mkdir(parents=True)
        shutil.copytree(source, folder)
        cached.append(folder)
    listed = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in cached]
    settings = suture.Settings(model_card=True)
    report = suture.merge({"merge_method": "linear", "models": listed}, place / "out", settings=settings)
    card = (place / "out" / "README.md").read_text(encoding="utf-8")
    assert "* `org/base`\n* `other/tuned`" in card
    assert "0" * 40 not in card
    assert dict(report.data["notes"])["models"] == "org/base (weight 0.5), other/tuned (weight 0.5)"
