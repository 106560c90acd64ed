"""Law 10 of models in a store: what works on the whole model, or makes several, makes the same bytes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import suture
from suture import Settings

from .conftest import Models, forget


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but those that tell of the run."""
    told = {"suture.json", "outputs.json"}
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name not in told}  # fmt: skip


METHODS: dict[str, dict[str, Any]] = {
    "larv": {"merge_method": "task_arithmetic", "parameters": {"larv": True}},
    "larv, tiered, of ties": {"merge_method": "ties", "parameters": {"larv": "tiered"}},
    "larv, of matrices": {"merge_method": "tsvm", "parameters": {"larv": True}},
    "svc": {"merge_method": "task_arithmetic", "parameters": {"svc": 0.5}},
    **{name: {"merge_method": name} for name in ("tsvm", "iso_c", "knots", "wudi", "pcb", "emr", "dc_merge")},
    "the whole model": {"merge_method": "ties", "parameters": {"scope": "model"}},
}
#: Methods that take no weights.
UNWEIGHTED = {"emr", "iso_c", "tsvm", "wudi", "dc_merge", "knots"}


def config(models: Models, where: str, name: str) -> dict[str, Any]:
    found = METHODS[name] | models.config(where, METHODS[name]["merge_method"])
    for model in found["models"]:
        if found["merge_method"] in UNWEIGHTED or name.startswith("larv, of"):
            del model["parameters"]
    return found


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("memory", [None, pytest.param("160MiB", marks=pytest.mark.heavy)])
def test_methods(name: str, memory: str | None, models: Models, tmp_path: Path) -> None:
    """Methods that see whole matrices, layers or models, with as little memory as it takes too."""
    for where in ("local", "s3"):
        suture.merge(config(models, where, name), tmp_path / where, settings=Settings(memory=memory, threads=2))
    assert tree(tmp_path / "local") == tree(tmp_path / "s3")
    told = [json.loads((tmp_path / where / "suture.json").read_bytes()) for where in ("local", "s3")]
    assert told[0]["tensors"] == told[1]["tensors"]
    assert told[0].get("scales") == told[1].get("scales")


@pytest.mark.parametrize("name", ["larv", "tsvm", "pcb"])
def test_in_parts(name: str, models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With rounds, of processes that know nothing of each other's stand-ins."""
    from ..parts.whole import in_parts

    def merge(out: Path, settings: Settings) -> None:
        forget(monkeypatch)
        suture.merge(config(models, "s3", name), out, settings=settings)

    suture.merge(config(models, "local", name), tmp_path / "local", settings=Settings(shard_size="300kB", threads=2))
    in_parts(merge, tmp_path / "parts", 2, shard_size="300kB", threads=2)
    assert tree(tmp_path / "local") == tree(tmp_path / "parts")


def test_groups(models: Models, tmp_path: Path) -> None:
    """A plan of groups: merges, copies, and where each language goes."""
    for where in ("local", "s3"):
        at = getattr(models, where)
        merge = {"merge_method": "ties", "parameters": {"density": 0.5, "weight": 1}}
        experts = {"de": at("a"), "nl": at("b")}
        plan = {
            "base_model": at("base"),
            "groups": {"g": ["de", "nl"]},
            "directions": {"xx-en": {"merge": merge}, "en-xx": "keep"},
            "experts": {"xx-en": experts, "en-xx": experts},
        }
        suture.merge(plan, tmp_path / where)
    made = {where: tree(tmp_path / where) for where in ("local", "s3")}
    routes = {where: json.loads(files.pop("routing.json"))["routes"] for where, files in made.items()}
    assert made["local"] == made["s3"]
    assert routes["s3"]["en-xx"]["de"]["model"] == {"path": models.s3("a")}
    assert routes["s3"]["xx-en"] == routes["local"]["xx-en"]


def test_sets(models: Models, tmp_path: Path) -> None:
    """One set of models by several methods."""
    for where in ("local", "s3"):
        at = getattr(models, where)
        asked = {"base_model": at("base"), "models": [at("a"), at("b")], "methods": ["linear", "ties", "tsvm"]}
        suture.merge(asked, tmp_path / where, all_of=True)
    assert tree(tmp_path / "local").keys() == tree(tmp_path / "s3").keys()
    for name, data in tree(tmp_path / "local").items():
        if name.endswith(".safetensors"):
            assert data == tree(tmp_path / "s3")[name], name
    assert not [n for n, data in tree(tmp_path / "s3").items() if b"suture-store" in data]


def test_packs(models: Models, tmp_path: Path) -> None:
    """Vocabularies of models in a store are put into a folder of packs, and come out as the originals."""
    from suture.surgery import vocab_pack

    from ..vocab.test_packs import model, same

    shelf = models.root / "bucket" / "packs"
    try:
        for rows in (7, 9):
            model(shelf / f"m{rows}", "llama", rows, rows)
            vocab_pack.add(tmp_path / "hydra", f"s3://bucket/packs/m{rows}", name=f"m{rows}")
        for name in ("m7", "m9"):
            vocab_pack.materialise(tmp_path / "hydra", name, tmp_path / name)
            assert same(tmp_path / name, shelf / name)
        assert not [n for n, data in tree(tmp_path / "hydra").items() if b"suture-store" in data]
    finally:
        shutil.rmtree(shelf)


def test_a_sample_is_a_request_a_span(models: Models, tmp_path: Path) -> None:
    """Method `pcb` looks at samples first: of tensors in a store they are one range each, not one for each place."""
    suture.merge(config(models, "s3", "pcb"), tmp_path / "out", settings=Settings(threads=2))
    fetched = json.loads((tmp_path / "out" / "suture.json").read_bytes())["run"]["fetched"]
    assert fetched["requests"] < 400, fetched
