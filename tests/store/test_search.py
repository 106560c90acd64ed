"""A search of models in a store: it goes on in another process, and what it finds says where the models are."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import suture
from suture.errors import UsageError

from .conftest import Models, forget

pytest.importorskip("cmaes")


def test_a_search_of_models_in_a_store(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6: the same call goes on after the process has ended, best.yml is made again, other weights are refused."""
    given = models.config("s3", "task_arithmetic", weight={"search": [0, 1]})
    suture.search(given, tmp_path / "out", objective="balance", budget=2)
    forget(monkeypatch)
    found = suture.search(given, tmp_path / "out", objective="balance", budget=4)
    assert len(found.data["candidates"]) == 4
    local = models.config("local", "task_arithmetic", weight={"search": [0, 1]})
    here = suture.search(local, tmp_path / "here", objective="balance", budget=4)
    assert [c["genes"] for c in found.data["candidates"]] == [c["genes"] for c in here.data["candidates"]]
    assert [c["score"] for c in found.data["candidates"]] == [c["score"] for c in here.data["candidates"]]
    best = yaml.safe_load((tmp_path / "out" / "best.yml").read_text())
    assert [best["base_model"], *(m["model"] for m in best["models"])] == [models.s3(n) for n in ("base", "a", "b")]
    forget(monkeypatch)
    suture.merge(tmp_path / "out" / "best.yml", tmp_path / "merged")
    suture.merge(tmp_path / "here" / "best.yml", tmp_path / "same")
    for file in sorted((tmp_path / "same").glob("*.safetensors")):
        assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()
    shard = next((models.root / "bucket" / "models" / "a").glob("*.safetensors"))
    before = shard.read_bytes()
    try:
        shard.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        forget(monkeypatch)
        with pytest.raises(UsageError, match="whose inputs was"):
            suture.search(given, tmp_path / "out", objective="balance", budget=5)
    finally:
        shard.write_bytes(before)
