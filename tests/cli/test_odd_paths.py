"""Law 7: a path is bytes. One that is not UTF-8 works with every verb; a refusal is one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import suture
from suture.recipe import as_json, with_names

from ..support.checkpoints import llama_family, read_checkpoint

#: Latin-1, which is no UTF-8.
ODD = os.fsdecode(b"mod\xe8le \xff")
SHOWN = "mod\\udce8le \\udcff"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base and two fine-tunes in folders that are not called by text, in one that is not."""
    root = tmp_path_factory.mktemp("odd") / ODD
    root.mkdir()
    found = []
    for path in llama_family(root, layers=2, n=2, hidden=16, heads=2, kv_heads=1, ff=24, vocab=12, dtype="f32"):
        found.append(path.rename(path.with_name(path.name + ODD)))
    return found


def config(folders: list[Path], method: str = "task_arithmetic") -> dict[str, Any]:
    models = [{"model": f, "parameters": {"weight": 0.5}} for f in folders[1:]]
    return {"merge_method": method, "base_model": folders[0], "models": models}


def test_the_recipe_says_the_bytes(folders: list[Path]) -> None:
    """Where a path is no text, the core gets ``{"bytes": HEX}``; everything else stays what it is."""
    recipe = {
        "base_model": str(folders[0]),
        "models": [{"model": "plain é", "parameters": {"fisher": [str(folders[1])]}}],
    }
    found = json.loads(as_json(recipe))
    assert bytes.fromhex(found["base_model"]["bytes"]) == os.fsencode(folders[0])
    (model,) = found["models"]
    assert model["model"] == "plain é"
    assert [bytes.fromhex(m["bytes"]) for m in model["parameters"]["fisher"]] == [os.fsencode(folders[1])]
    assert json.dumps(with_names(recipe)).count("\\udce8") == 2


def test_merges(folders: list[Path], tmp_path: Path) -> None:
    """The same bytes as from plain paths; side files come along, the card and the report are text."""
    plain = [Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)) for name in (b"base", b"one", b"two")]
    for source, target in zip(folders, plain, strict=True):
        target.symlink_to(source)
    out = tmp_path / f"out{ODD}"
    report = suture.merge(config(folders), out, settings=suture.Settings(model_card=True))
    suture.merge(config(plain), tmp_path / "plain")
    assert read_checkpoint(out) == read_checkpoint(tmp_path / "plain")
    assert sorted(p.name for p in out.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "suture.json",
        "tokenizer_config.json",
    ]
    assert SHOWN in (out / "README.md").read_text(encoding="utf-8")
    assert report.data["models"][0]["label"]
    assert suture.verify(out)["differing"] == []
    suture.merge(config(folders), out, settings=suture.Settings(overwrite=True))


CALLS: dict[str, list[str]] = {
    "inspect": ["inspect", "{base}"],
    "inspect stats": ["inspect", "{base}", "--tensors", "--stats"],
    "inspect file": ["inspect", "{base}/model.safetensors"],
    "diff": ["diff", "{base}", "{one}", "{two}"],
    "diff all": ["diff", "{base}", "{one}", "--heads", "--tokens", "3", "--by", "token", "--csv", "{place}/t{odd}.csv"],
    "diff frozen": ["diff", "{base}", "{one}", "--frozen", "0"],
    "swap": ["swap", "--into", "{one}", "--from", "{two}", "{place}/s{odd}", "--bottom", "1", "-v", "--model-card"],
    "swap heads": ["swap", "--into", "{one}", "--from", "{two}", "{place}/h{odd}", "--layers", "0", "--heads", "0,1"],
    "swap several": ["swap", "--into", "{base}", "--from", "{one}=0", "--from", "{two}=1", "{place}/d{odd}"],
    "swap auto": ["swap", "--into", "{one}", "--from", "{two}", "{place}/a{odd}", "--auto", "{base}"],
    "swap dry": ["swap", "--into", "{one}", "--from", "{two}", "{place}/y{odd}", "--bottom", "1", "--dry-run", "-v"],
    "swap delta": [
        "swap",
        "--into",
        "{one}",
        "--from",
        "{two}",
        "{place}/e",
        "--bottom",
        "1",
        "--base",
        "{base}",
        "--donor-base",
        "{base}",
    ],
    "revert": ["revert", "{base}", "{one}", "{place}/r{odd}", "--layers", "0"],
    "convert": ["convert", "{one}", "{place}/v{odd}", "--model-card"],
    "merge": ["merge", "{place}/c{odd}.yml", "{place}/m{odd}", "-v", "--model-card"],
    "merge dry": ["merge", "{place}/c{odd}.yml", "{place}/m2{odd}", "-v", "--dry-run"],
    "merge outputs": ["merge", "{place}/o{odd}.yml", "{place}/o{odd}"],
    "merge stages": ["merge", "{place}/g{odd}.yml", "{place}/g{odd}"],
    "verify": ["verify", "{place}/m{odd}"],
}
REFUSED: dict[str, list[str]] = {
    "nothing there": ["inspect", "{place}/none{odd}"],
    "no config": ["merge", "{place}/none{odd}.yml", "{place}/x"],
    "no model": ["merge", "{place}/b{odd}.yml", "{place}/x"],
    "there already": ["merge", "{place}/c{odd}.yml", "{place}/m{odd}"],
    "an input": ["swap", "--into", "{one}", "--from", "{two}", "{one}/x{odd}", "--bottom", "1"],
    "no layers": ["swap", "--into", "{one}", "--from", "{two}", "{place}/x", "--layers", "{odd}"],
    "no modules": ["swap", "--into", "{one}", "--from", "{two}", "{place}/x", "--layers", "0", "--modules", "{odd}"],
    "no metric": ["diff", "{base}", "{one}", "--metric", "{odd}"],
    "no method": ["methods", "{odd}"],
    "no memory": ["merge", "{place}/c{odd}.yml", "{place}/x", "--memory", "{odd}"],
    "no dtype": ["merge", "{place}/c{odd}.yml", "{place}/x", "--dtype", "{odd}"],
}


@pytest.fixture(scope="module")
def place(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs beside the models, which they name by plain links."""
    place = tmp_path_factory.mktemp("place")
    for source, name in zip(folders, ("base", "one", "two"), strict=True):
        (place / name).symlink_to(source)
    models = [{"model": n, "parameters": {"weight": 0.5}} for n in ("one", "two")]
    merge = {"merge_method": "task_arithmetic", "base_model": "base", "models": models}
    last = {"merge_method": "linear", "models": [{"model": "made", "parameters": {"weight": 1}}]}
    texts: dict[str, list[dict[str, Any]]] = {
        "c": [merge],
        "o": [merge | {"outputs": {"x": {}, "y": {}}}],
        "g": [merge | {"name": "made"}, last],
        "b": [merge | {"base_model": "nowhere"}],
    }
    for name, documents in texts.items():
        (place / f"{name}{ODD}.yml").write_text("\n---\n".join(map(json.dumps, documents)))
    return place


def run(call: list[str], folders: list[Path], place: Path, *more: str) -> subprocess.CompletedProcess[str]:
    names = {k: str(f) for k, f in zip(("base", "one", "two"), folders, strict=True)} | {
        "odd": ODD,
        "place": str(place),
    }
    command = [sys.executable, "-m", "suture", *(word.format(**names) for word in call), *more]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_every_verb_works(folders: list[Path], place: Path) -> None:
    """Inputs, outputs, configs and files to write; text and JSON are UTF-8."""
    for name, call in CALLS.items():
        done = run(call, folders, place)
        assert "Traceback" not in done.stderr, (name, done.stderr)
        assert done.returncode == (1 if name == "diff frozen" else 0), (name, done.stderr)
        if call[0] not in ("merge", "swap", "revert", "convert") or name.endswith("dry"):
            done = run(call, folders, place, "--json")
            json.loads(done.stdout)


def test_refusals_are_one_line(folders: list[Path], place: Path) -> None:
    """What cannot be is told as it is told of any path, and nothing is written."""
    run(CALLS["merge"], folders, place)
    before = sorted(place.iterdir())
    for name, call in REFUSED.items():
        done = run(call, folders, place)
        assert done.returncode in (1, 2), (name, done)
        assert len(done.stderr.splitlines()) == 1, (name, done.stderr)
        assert done.stderr.startswith("error: ")
        assert "internal error" not in done.stderr
    assert sorted(place.iterdir()) == before
