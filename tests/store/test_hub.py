"""Law: a model of a hub is read without being downloaded, at the commit that its revision was first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import suture
from suture.errors import SutureError

from ..support.hub_server import Hub, serving
from .conftest import MODELS, forget, write_model


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with three models; the same lie in folders of a hub's cache, for their names."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    forget(monkeypatch)
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        for seed, name in enumerate(MODELS):
            folder = tmp_path / f"models--org--{name}" / "snapshots" / "x"
            write_model(folder, seed)
            found.add(f"org/{name}", {p.name: p.read_bytes() for p in folder.iterdir()}, "v1")
        yield found


def test_a_merge(hub: Hub, tmp_path: Path) -> None:
    """The bytes of the downloaded models, masks too; the report has the commit."""
    for way in ("local", "hub"):
        at = {"local": str(tmp_path / "models--org--{}/snapshots/x"), "hub": "hf://org/{}"}[way]
        merged = [{"model": at.format(n), "parameters": {"weight": 0.5, "density": 0.5}} for n in ("a", "b")]
        config = {"merge_method": "dare_ties", "base_model": at.format("base"), "models": merged}
        report = suture.merge(config, tmp_path / way)
    assert all((tmp_path / "hub" / p.name).read_bytes() == p.read_bytes() for p in (tmp_path / "local").glob("model*"))
    file = report.data["models"][0]["files"][0]
    assert file["url"].startswith(f"hf://org/base@{hub.repositories['org/base'].commit}/model-0000")
    assert report.data["models"][0]["label"] == "org/base"


def test_a_revision_stays_a_commit(hub: Hub) -> None:
    """By name, and what is not there is named."""
    assert suture.inspect("hf://org/a@v1")["tensors"]
    with pytest.raises(SutureError, match="has no such model or revision"):
        suture.inspect("hf://org/a@v2")
    with pytest.raises(SutureError, match="has no such model or revision"):
        suture.inspect("hf://org/none")
