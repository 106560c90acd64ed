"""What holds for every output holds where models have adapters: determinism, plans as data, resuming, what is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture
from suture import _core

from ..support.checkpoints import Raw, encode, read_checkpoint, write_checkpoint
from ..support.lora import factors, random, write_lora
from ..support.plans import run_plan

Q, LONG = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
EXPERTS = "model.layers.1.mlp.experts"
#: Rows beyond a block and chunks of every size; DoRA, whose rows are read whole; a table and stacked experts.
SHAPES = {Q: (300, 1001), LONG: (1500, 700), "model.embed_tokens": (2000, 130)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A base in bf16 and two adapters."""
    folder, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    tensors = {f"{m}.weight": random(rng, *shape, dtype="BF16") for m, shape in SHAPES.items()}
    tensors[f"{EXPERTS}.down_proj"] = random(rng, 5, 70, 90, dtype="BF16")
    base = write_checkpoint(folder / "base", tensors, config={"model_type": "llama", "num_hidden_layers": 2})
    first: dict[str, Raw] = {}
    for module in (Q, LONG):
        first |= factors(rng, module, SHAPES[module], 7)
        first[f"{module}.lora_magnitude_vector"] = random(rng, SHAPES[module][0])
    second = factors(rng, LONG, SHAPES[LONG], 7, "BF16") | {
        "model.embed_tokens.lora_embedding_A": random(rng, 7, 2000),
        "model.embed_tokens.lora_embedding_B": random(rng, 130, 7),
        f"{EXPERTS}.lora_A.weight": random(rng, 35, 90),
        f"{EXPERTS}.lora_B.weight": random(rng, 70, 35),
    }
    parameters = {"target_parameters": ["experts.down_proj"]}
    return base, [
        write_lora(folder / "one", first, r=7, use_dora=True),
        write_lora(folder / "two", second, r=7, **parameters),
    ]


#: How a plan runs when nobody says anything.
Form = Callable[[tuple[Path, list[Path]], Path, suture.Settings], suture.Report]


def fold(models: tuple[Path, list[Path]], out: Path, settings: suture.Settings) -> suture.Report:
    return suture.fold(models[0], models[1], out, settings=settings)


def recipe(models: tuple[Path, list[Path]], method: str = "ties") -> dict[str, Any]:
    """A merge of both onto the base."""
    named = [{"model": f"{models[0]}+{a}", "parameters": {"weight": 0.5}} for a in models[1]]
    return {"merge_method": method, "base_model": str(models[0]), "models": named, "parameters": {"density": 0.5}}


FORMS: dict[str, Form] = {
    "fold": fold,
    "ties": lambda m, out, settings: suture.merge(recipe(m), out, settings=settings),
    "random": lambda m, out, settings: suture.merge(recipe(m, "dare_ties"), out, settings=settings),
    "swap": lambda m, out, s: suture.swap(m[0], f"{m[0]}+{m[1][1]}", out, bottom=1, transition=1, settings=s),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_do_not_depend_on_how(form: str, models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """Law 3: threads, chunks, ways to read, shards and a budget change no bit."""
    first = FORMS[form](models, tmp_path / "first", suture.Settings(threads=1))
    wanted = read_checkpoint(tmp_path / "first")
    ways: list[dict[str, Any]] = [
        {"threads": 3, "chunk": "4KiB"},
        {"threads": 2, "chunk": "100KiB", "io": "pread"},
        {"io": "direct", "threads": 1},
        {"io": "mmap", "shard_size": "1MB"},
        {"memory": "80MiB", "threads": 2},
    ]
    for i, how in enumerate(ways):
        report = FORMS[form](models, tmp_path / str(i), suture.Settings(**how))
        assert read_checkpoint(tmp_path / str(i)) == wanted, how
        assert report.data["tensors"].keys() == first.data["tensors"].keys()


def test_a_plan_is_data(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """A plan goes to JSON and back with its adapters and their weights, and runs to the same bytes."""
    adapters = [{"path": str(a), "weight": w} for a, w in zip(models[1], (1, 0.5), strict=True)]
    made = _core.Plan(json.dumps({"copy": {"model": {"path": str(models[0]), "adapters": adapters}}}))
    again = _core.Plan.from_json(made.to_json())
    assert again.hash == made.hash
    assert json.loads(again.to_json()) == json.loads(made.to_json())
    run_plan(again, tmp_path / "again")
    suture.fold(models[0], models[1], tmp_path / "fold", weights=[1, 0.5])
    assert read_checkpoint(tmp_path / "again") == read_checkpoint(tmp_path / "fold")


def text_of(folder: Path) -> str:
    return "".join(p.read_text() for p in folder.iterdir() if p.suffix in (".json", ".md"))


@pytest.mark.parametrize("form", FORMS)
def test_where_things_lie_is_nobodys_business(form: str, models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """No path of this machine is in what goes out: suture.json, the model card, configs."""
    report = FORMS[form](models, tmp_path / "out", suture.Settings(model_card=True))
    text = text_of(tmp_path / "out")
    assert str(models[0].parent) not in text
    assert str(tmp_path) not in text
    card = (tmp_path / "out" / "README.md").read_text()
    assert "two" in card
    assert suture.verify(tmp_path / "out")["differing"] == []
    assert report.data["unused"] == [] or form == "swap"


def test_merged_adapters_tell_no_paths_either(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """Nor do those of `lora merge`, whose parts were in a temporary folder."""
    rng = np.random.default_rng(4)
    (tmp_path / "in").mkdir()
    given = [write_lora(tmp_path / "in" / n, factors(rng, Q, SHAPES[Q]), base_model_name_or_path=n) for n in "ab"]
    suture.merge_adapters(given, tmp_path / "out", weights=[1, 2], settings=suture.Settings(model_card=True))
    text = text_of(tmp_path / "out")
    assert str(tmp_path) not in text
    assert "suture-" not in text.replace("by suture", "")
    found = suture.verify(tmp_path / "out")
    assert found["differing"] == []


def test_a_dry_run_writes_nothing_and_knows_all(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """A plan lists every tensor; the count of what an adapter changes is told before anything is read."""
    look = suture.fold(models[0], models[1], tmp_path / "out", dry_run=True)
    done = suture.fold(models[0], models[1], tmp_path / "out")
    assert {t["name"] for t in look.data["tensors"]} == done.data["tensors"].keys()
    assert look.data["notes"] == done.data["notes"]
    with pytest.raises(suture.SutureError):
        suture.fold(models[0], models[1], tmp_path / "out")
    suture.fold(models[0], models[1][:1], tmp_path / "out", settings=suture.Settings(overwrite=True))


def test_an_adapter_that_changes_under_a_plan_is_an_error(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """The adapter's file is an input as the model's are: its identity is asked again before it is read."""
    rng = np.random.default_rng(1)
    given = write_lora(tmp_path / "lora", factors(rng, Q, SHAPES[Q]))
    plan = _core.Plan(json.dumps({"copy": {"model": {"path": str(models[0]), "adapters": [{"path": str(given)}]}}}))
    time.sleep(0.02)
    file = given / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes())
    with pytest.raises(suture.SutureError, match="was replaced or written to"):
        run_plan(plan, tmp_path / "out")


def test_weights_and_configs_are_part_of_the_plan(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """Same headers, another weight or alpha: another plan, so that no run is resumed with it."""
    rng = np.random.default_rng(1)
    tensors = factors(rng, Q, SHAPES[Q])
    given = [write_lora(tmp_path / f"a{alpha}", tensors, lora_alpha=alpha) for alpha in (8, 9)]
    hashes = set()
    for adapter, weight in ((given[0], 1), (given[0], 0.5), (given[1], 1)):
        entry = {"path": str(adapter), "weight": weight}
        hashes.add(_core.Plan(json.dumps({"copy": {"model": {"path": str(models[0]), "adapters": [entry]}}})).hash)
    assert len(hashes) == 3


def test_a_killed_fold_is_taken_up_again(tmp_path: Path) -> None:
    """Law 6: after SIGKILL nothing looks whole, and the same command ends in the same bytes."""
    rng = np.random.default_rng(0)
    count = 40
    weights = {f"model.layers.{i}.q.weight": encode(rng.normal(0, 1, (700, 600)), "BF16") for i in range(count)}
    base = write_checkpoint(tmp_path / "base", weights)
    tensors: dict[str, Raw] = {}
    for i in range(count):
        tensors |= factors(rng, f"model.layers.{i}.q", (700, 600), 64)
    lora = write_lora(tmp_path / "lora", tensors, r=64)
    suture.fold(base, [lora], tmp_path / "whole")
    out = tmp_path / "out"
    call = [sys.executable, "-m", "suture", "lora", "fold", str(base), str(lora), str(out), "--threads", "1", "-q"]
    killed = 0
    for wait in (0.3, 0.4, 0.5):
        child = subprocess.Popen(call, stderr=subprocess.DEVNULL)
        journal = out.with_name(f".{out.name}.suture-partial") / ".suture-journal"
        until = time.monotonic() + 10
        while child.poll() is None and time.monotonic() < until and not journal.exists():
            time.sleep(0.005)
        time.sleep(wait / 10)
        child.send_signal(signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
        if child.returncode == 0:
            break
        assert not out.exists()
    subprocess.run(call, check=False)
    assert killed
    assert read_checkpoint(out) == read_checkpoint(tmp_path / "whole")


def test_recipes_are_compared_with_their_adapters(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """`diff --recipes` tells which adapter and how much of it an output was made with."""
    suture.fold(models[0], models[1], tmp_path / "a", weights=[1, 0.5])
    suture.fold(models[0], models[1], tmp_path / "b", weights=[1, 0.25])
    found = json.dumps(suture.diff_recipes(tmp_path / "a", tmp_path / "b"))
    assert "0.5" in found
    assert "0.25" in found
