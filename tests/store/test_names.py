"""Law: what a model is called changes nothing but what masks are drawn by, wherever it lies and whoever works on it."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.errors import SutureError
from suture.settings import Settings
from suture.store.places import place

from .conftest import Models, forget, write_model
from .test_outputs import files_of, without_report

#: Names of folders that people have.
NAMES = ["my model", "mödel", "模型", "a+b", "a&b", "50%", "-x", "x" * 120]


def config(models: Models, where: str, name: str) -> dict[str, Any]:
    """A merge whose masks depend on what its models are called."""
    found = models.config(where, "dare_linear", density=0.5)
    at = found["models"][0]["model"].removesuffix("a")
    found["models"][0]["model"] = at + (urllib.parse.quote(name) if where == "web" else name)
    return found


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest, models: Models) -> str:
    folder = Path(models.local(request.param))
    if not folder.exists():
        write_model(folder, 1)
    return str(request.param)


def test_masks_are_those_of_a_local_run(named: str, models: Models, tmp_path: Path) -> None:
    """From S3, and from the web by an address as browsers write it, the bytes are those of a folder of this name."""
    for where in ("local", "s3", "web"):
        suture.merge(config(models, where, named), tmp_path / where)
    local = without_report(files_of(tmp_path / "local"))
    assert without_report(files_of(tmp_path / "s3")) == local
    assert without_report(files_of(tmp_path / "web")) == local


def test_a_process_that_has_the_job_alone(named: str, models: Models, tmp_path: Path) -> None:
    """A worker finds the models by the URLs that the job has."""
    suture.merge(config(models, "s3", named), tmp_path / "parts", settings=Settings(part="1/2", shard_size="1MB"))
    folder = tmp_path / ".parts.suture-parts"
    code = f"from suture.surgery.parts import run_part; run_part({str(folder)!r}, 2)"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})
    report = suture.finish(tmp_path / "parts")
    assert "suture-store-" not in report.text
    suture.merge(config(models, "local", named), tmp_path / "whole", settings=Settings(shard_size="1MB"))
    assert without_report(files_of(tmp_path / "parts")) == without_report(files_of(tmp_path / "whole"))


def test_a_plus_that_is_no_adapter_s(models: Models) -> None:
    """A word behind a + that names nothing by itself belongs to the URL; then what is not there is the URL's."""
    with pytest.raises(SutureError, match=r"s3://bucket/models/a\+none: there is nothing under this name"):
        suture.inspect("s3://bucket/models/a+none")


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("S3://bucket/models/a", "s3://bucket/models/a"),
        ("s3://bucket//models/a//", "s3://bucket/models/a"),
        ("https://host/my%20model/", "https://host/my model"),
        ("HTTPS://host/m%C3%B6del", "https://host/mödel"),
        ("s3://bucket/50%25", "s3://bucket/50%25"),
    ],
)
def test_one_place_has_one_url(url: str, same: str) -> None:
    """Addresses of the web are written with percents; keys of stores are what they are."""
    assert place(url).url == same


@pytest.mark.parametrize("url", ["https://host/%2e%2e/a", "https://host/a%22b", "https://host/a%00b"])
def test_what_is_hidden_by_percents(url: str) -> None:
    """What is refused as it is, is refused written out."""
    with pytest.raises(SutureError, match=r"leads upwards|quotes, backslashes or controls"):
        place(url)


def test_reports_show_no_stand_in(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings of the plan and the run, the card, plans of rows: whatever an output holds names URLs."""
    both = [models.s3("a"), models.s3("b")]
    found = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 0.5}} for m in both]}
    for i in (1, 2):
        forget(monkeypatch)
        suture.merge(found, tmp_path / "out", settings=Settings(part=f"{i}/2", shard_size="1MB", model_card=True))
    suture.finish(tmp_path / "out")
    texts = {p.name: p.read_text() for p in (tmp_path / "out").iterdir() if p.suffix in (".json", ".md")}
    assert {"README.md", "suture.json"} <= texts.keys()
    assert [name for name, text in texts.items() if "suture-store-" in text] == []
