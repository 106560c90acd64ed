"""Law: what is made of models in a store is, byte for byte, what is made of the same models in folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import suture

from ..support.lora import factors, write_lora
from ..support.stores import Trouble
from .conftest import LAYERS, Models, forget


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of an output but its report."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "suture.json"}


@pytest.mark.parametrize("where", ["s3", "web"])
@pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp", "sce", "breadcrumbs"])
def test_merges(models: Models, tmp_path: Path, where: str, method: str) -> None:
    """One of each class, by S3 and by a plain web server; masks are those of the folders' names."""
    made = {}
    for way in ("local", where):
        config = models.config(way, method)
        if method in ("linear", "slerp"):
            config.pop("base_model")
        if method == "slerp":
            config |= {"base_model": config["models"][0]["model"], "parameters": {"t": 0.3}}
        suture.merge(config, tmp_path / way)
        made[way] = bytes_of(tmp_path / way)
    assert made["local"] == made[where]


def test_what_is_fetched_is_what_is_planned(models: Models, tmp_path: Path) -> None:
    """Every byte once, by the report's count and by the server's; two passes of ties take no second request."""
    report = suture.merge(models.config("s3", "ties"), tmp_path / "out")
    fetched = report.data["run"]["fetched"]
    data = sum(t["nbytes"] for name in ("base", "a", "b") for t in suture.inspect(models.local(name))["tensors"])
    assert fetched["bytes"] == pytest.approx(data, rel=0.01)
    assert fetched["again"] == 0
    headers = 6 * (1 << 20)
    assert data <= models.store.sent(".safetensors") <= data * 1.01 + headers


def test_a_swap_fetches_the_layers_it_takes(models: Models, tmp_path: Path) -> None:
    """Of the donor the swapped layers alone are read, of the recipient the others."""
    local = suture.swap(models.local("a"), models.local("b"), layers="2,5", out=tmp_path / "local")
    report = suture.swap(models.s3("a"), models.s3("b"), layers="2,5", out=tmp_path / "s3")
    assert local.data["plan"] == report.data["plan"]
    assert bytes_of(tmp_path / "local") == bytes_of(tmp_path / "s3")
    inspected = suture.inspect(models.local("b"))["tensors"]
    moved = sum(t["nbytes"] for t in inspected if any(f"layers.{n}." in t["name"] for n in (2, 5)))
    whole = sum(t["nbytes"] for t in inspected)
    assert moved < whole / LAYERS * 2.1
    assert report.data["run"]["fetched"]["bytes"] == pytest.approx(whole, rel=0.01)
    data = [(start, stop) for name, start, stop in models.store.ranges if "models/b/" in name and start > 0]
    samples = LAYERS * 2 * 8192
    assert moved <= sum(stop - start for start, stop in data) <= moved + samples


def test_inspect_fetches_headers(models: Models) -> None:
    """A look at a model reads no data: of each file one range, from its beginning."""
    found = suture.inspect(models.s3("a"))
    assert len(found["tensors"]) == 2 * LAYERS + 2
    weights = [(start, stop) for name, start, stop in models.store.ranges if name.endswith(".safetensors")]
    assert len(weights) == 2
    assert all(start == 0 and stop <= 1 << 20 for start, stop in weights)


def test_every_verb_that_reads(models: Models, tmp_path: Path) -> None:
    """Convert, revert, diff, compat, delta and verify of models at URLs."""
    for way in ("local", "s3"):
        at = getattr(models, way)
        suture.convert(at("a"), tmp_path / f"convert-{way}")
        suture.revert(at("a"), at("base"), layers="1-3", out=tmp_path / f"revert-{way}")
    for verb in ("convert", "revert"):
        assert bytes_of(tmp_path / f"{verb}-local") == bytes_of(tmp_path / f"{verb}-s3")
    here, there = (suture.diff(getattr(models, way)("base"), getattr(models, way)("a")) for way in ("local", "s3"))
    assert here["models"][0]["layers"] == there["models"][0]["layers"]
    answers = [suture.compat(getattr(models, way)("base"), getattr(models, way)("a")) for way in ("local", "s3")]
    assert answers[0].keys() == answers[1].keys()
    assert not suture.verify(tmp_path / "convert-s3")["differing"]


def test_adapters(models: Models, tmp_path: Path) -> None:
    """Base and adapter each at a URL, folded."""
    rng = np.random.default_rng(3)
    name = "model.layers.3.mlp.up_proj"
    write_lora(models.root / "bucket" / "models" / "lora", factors(rng, name, (256, 256), 4), r=4)
    for way in ("local", "s3"):
        at = getattr(models, way)
        suture.convert(f"{at('base')}+{at('lora')}", tmp_path / way)
    assert bytes_of(tmp_path / "local") == bytes_of(tmp_path / "s3")
    assert bytes_of(tmp_path / "s3") != bytes_of(Path(models.local("base")))


def test_a_bucket_of_another_name_makes_the_same_plan(models: Models, tmp_path: Path) -> None:
    """Where the stand-ins lie is of no consequence: not in the plan's hash, in no file, and a run resumes."""
    first = suture.merge(models.config("s3", "ties"), tmp_path / "one").data
    text = (tmp_path / "one" / "suture.json").read_text()
    assert "suture-store-" not in text
    assert first["models"][0]["files"][0]["url"].startswith("s3://bucket/models/base/")
    code = "import sys, suture, json; print(suture.merge(json.loads(sys.argv[1]), sys.argv[2]).data['plan'])"
    again = subprocess.run(
        [sys.executable, "-c", code, json.dumps(models.config("s3", "ties")), str(tmp_path / "two")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert again.stdout.strip() == first["plan"]
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


@pytest.mark.parametrize("seed", range(12))
def test_a_store_that_fails(models: Models, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """503s, resets in a body, short bodies, late answers: the same bytes."""
    _faulty(models, tmp_path, seed, monkeypatch)


@pytest.mark.heavy
@pytest.mark.parametrize("seed", range(100, 200))
def test_a_store_that_fails_often(models: Models, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same a hundred times."""
    _faulty(models, tmp_path, seed, monkeypatch)


def _faulty(models: Models, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = ("linear", "ties", "slerp")[seed % 3]
    config = models.config("local", method)
    if method != "ties":
        config["base_model"] = config["models"][0]["model"]
    if method == "linear":
        config.pop("base_model")
    if method == "slerp":
        config["parameters"] = {"t": 0.3}
    suture.merge(config, tmp_path / "local")
    share = {"503": 0.15, "reset": 0.15, "short": 0.1, "slow": 0.2, "stall": 0.02}
    models.store.begin(Trouble(share=share, seed=seed, stall=0.5))
    forget(monkeypatch)
    text = json.dumps(config).replace(str(models.root / "bucket"), "s3://bucket")
    suture.merge(json.loads(text), tmp_path / "s3")
    assert sum(models.store.failed.values()) > 0
    assert bytes_of(tmp_path / "local") == bytes_of(tmp_path / "s3")
