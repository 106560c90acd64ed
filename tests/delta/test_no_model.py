"""A delta or a twin where a model belongs is told as what it is, by every verb; `verify` checks them both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import suture

from ..support.checkpoints import parse_file
from .worlds import pair, same_tensors

VERBS: list[list[str]] = [
    ["inspect", "{it}"],
    ["diff", "base", "{it}"],
    ["diff", "{it}", "tuned"],
    ["compat", "base", "{it}"],
    ["init", "base", "{it}"],
    ["convert", "{it}", "out"],
    ["swap", "--into", "base", "--from", "{it}", "out", "--top", "1"],
    ["swap", "--into", "{it}", "--from", "tuned", "out", "--top", "1"],
    ["merge", "config.yaml", "out"],
    ["delta", "extract", "base", "{it}", "out", "--form", "xor"],
    ["delta", "extract", "{it}", "tuned", "out", "--form", "xor"],
    ["twin", "make", "base", "tuned", "{it}", "out", "--shared", "task_arithmetic"],
    ["lora", "fold", "base", "{it}", "out"],
]


def run(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """The command line in a folder."""
    environment = {**os.environ, "COLUMNS": "400"}
    return subprocess.run(
        [sys.executable, "-m", "suture", *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, its fine-tune, a delta of each kind that is no adapter, a twin."""
    folder = tmp_path_factory.mktemp("world")
    base, tuned = pair(folder)
    suture.delta.extract(base, tuned, folder / "small", form="sparse", density=0.1)
    suture.delta.extract(base, tuned, folder / "adapter", form="lora", rank=2, exact=True)
    suture.twin.make(base, [tuned], folder / "both", shared="task_arithmetic")
    return folder


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize(
    ("it", "told"),
    [
        ("small", "small: is a delta of `base`, not a model; name it BASE+DELTA (`base+small`)"),
        ("both", "both: is a twin, not a model; `suture twin materialise TWIN OUT` makes a model of it"),
    ],
)
def test_every_verb_says_what_it_is(world: Path, verb: list[str], it: str, told: str) -> None:
    """Law 8: what is no model is told by what it is and what to do, on exit code 1, and nothing is written."""
    if it == "small" and verb[0] == "lora":
        pytest.skip("`lora fold` puts deltas in, too")
    (world / "config.yaml").write_text(
        f"merge_method: linear\nmodels:\n  - model: tuned\n  - model: {it}\nparameters: {{weight: 1}}\n"
    )
    found = run(world, *(word.format(it=it) for word in verb))
    assert found.returncode == 1, found.stderr
    assert told in found.stderr
    assert "Traceback" not in found.stderr
    assert not (world / "out").exists()


def test_paths_the_wrong_way_round(world: Path) -> None:
    """Law 8: a delta in the place of its model is a mistake of order, and told as one."""
    for verb, order in (("apply", "BASE DELTA... OUT"), ("revert", "TUNED DELTA OUT")):
        found = run(world, "delta", verb, "small", "base", "out")
        assert found.returncode == 2, found.stderr
        assert f"`small` is a delta of `base`, and a model is expected first: {order}" in found.stderr


def test_an_adapter_stays_an_adapter(world: Path) -> None:
    """Law: a delta of the form `lora` is an adapter wherever one is read, though it holds more, and a change too."""
    assert all(".lora_" in t["name"] or "model." in t["name"] for t in suture.inspect(world / "adapter")["tensors"])
    assert not any(".forward" in t["name"] for t in suture.inspect(world / "adapter")["tensors"])
    suture.convert(f"{world / 'base'}+{world / 'adapter'}", world / "given")
    assert same_tensors(world / "given", world / "tuned")


def flip(file: Path) -> str:
    """Change a bit of the last tensor of a file; the tensor."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    return list(parse_file(bytes(data)))[-1]


@pytest.mark.parametrize(
    ("form", "options", "file"),
    [
        ("sparse", {"density": 0.1}, "values.safetensors"),
        ("lora", {"rank": 2, "exact": True}, "back.safetensors"),
        ("xor", {}, "xor.safetensors"),
    ],
)
def test_deltas_are_verified(tmp_path: Path, form: str, options: dict[str, Any], file: str) -> None:
    """Law 4: a delta is read against its digests, all of its files; a changed bit is found by its tensor."""
    base, tuned = pair(tmp_path)
    place = tmp_path / "delta"
    suture.delta.extract(base, tuned, place, form=form, **options)
    found = suture.verify(place, progress=lambda done, total: None)
    assert not found["differing"]
    assert not found["files"]
    assert found["tensors"] == sum(len(parse_file(f.read_bytes())) for f in place.glob("*.safetensors"))
    name = flip(place / file)
    assert len(suture.verify(place)["differing"]) == 1
    assert name.startswith(suture.verify(place)["differing"][0].rpartition(".")[0])


def test_twins_are_verified(tmp_path: Path) -> None:
    """Law 4: of a twin the shared expert and every difference are read, and named with their folders."""
    base, tuned = pair(tmp_path)
    place = tmp_path / "twin"
    suture.twin.make(base, [tuned], place, shared="task_arithmetic")
    whole = suture.verify(place)
    assert not whole["differing"]
    assert not whole["files"]
    shared, own = suture.verify(place / "shared"), suture.verify(place / "experts/tuned")
    assert whole["tensors"] == shared["tensors"] + own["tensors"]
    flip(next((place / "shared").glob("*.safetensors")))
    flip(next((place / "experts/tuned").glob("*.safetensors")))
    found = suture.verify(place)["differing"]
    assert [name.split("/")[0] for name in found] == ["shared", "experts"]
