"""Every verb that writes by a plan can be made in parts; what cannot is refused by name, before anything is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import suture
from suture import Settings, UsageError
from suture.cli.plan import plan as plan_command
from suture.surgery.parts import run_part
from suture.surgery.vocab_add import add
from suture.surgery.vocab_trim import trim

from ..delta.worlds import llama, tuned, write
from ..support.checkpoints import read_checkpoint
from ..support.vocab_models import model as vocab_model
from ..support.vocab_models import words_tokenizer
from .whole import check_same, in_parts, told

SHARD = 3000
LINEAR = {"merge_method": "linear", "parameters": {"weight": 0.5}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two fine-tunes with a tokenizer, a delta, a twin, and a model with a vocabulary."""
    folder = tmp_path_factory.mktemp("world")
    base = llama(0)
    for name, tensors in {"base": base, "one": tuned(base, 1), "two": tuned(base, 2)}.items():
        write(folder / name, tensors, shards=3, files={"tokenizer.json": "{}"})
    suture.delta.extract(folder / "base", folder / "one", folder / "delta", form="xor")
    suture.twin.make(folder / "base", [folder / "one", folder / "two"], folder / "twin", shared="task_arithmetic")
    words = words_tokenizer(["cat", "dog", "sun"])
    rows = np.random.default_rng(1).normal(size=(len(words["model"]["vocab"]), 16))
    vocab_model(folder / "vocab", words, rows, head=rows + 1, layers=3)
    (folder / "text").write_text("cat dog cat")
    return folder


def _merge(folder: Path, out: Path, how: Settings, **more: Any) -> Any:
    models = [{"model": str(folder / name)} for name in ("one", "two")]
    return suture.merge({**LINEAR, "models": models, **more}, out, settings=how)


VERBS: dict[str, Callable[[Path, Path, Settings], Any]] = {
    "merge": _merge,
    "swap": lambda f, out, how: suture.swap(f / "one", f / "two", out, layers="0", settings=how),
    "revert": lambda f, out, how: suture.revert(f / "base", f / "one", out, layers="1", settings=how),
    "convert": lambda f, out, how: suture.convert(f / "one", out, settings=how),
    "convert, cast": lambda f, out, how: suture.convert(
        f / "one", out, settings=Settings(part=how.part, round=how.round, shard_size=SHARD, dtype="float32")
    ),
    "delta apply": lambda f, out, how: suture.delta.apply(f / "base", [f / "delta"], out, settings=how),
    "delta revert": lambda f, out, how: suture.delta.revert(f / "one", f / "delta", out, settings=how),
    "twin materialise": lambda f, out, how: suture.twin.materialise(f / "twin", out, only="one", settings=how),
    "vocab add": lambda f, out, how: add(f / "vocab", out, tokens=["moon", "star"], settings=how),
    "vocab trim": lambda f, out, how: trim(f / "vocab", out, text=[f / "text"], settings=how),
}


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_in_parts_writes_what_it_writes_whole(verb: str, n: int, world: Path, tmp_path: Path) -> None:
    """Law 10: every file, side files and index included, and the report but for `run`."""
    size = 300 if verb.startswith("vocab") else SHARD
    VERBS[verb](world, tmp_path / "a" / "out", Settings(shard_size=size))
    order = list(range(1, n + 1))
    np.random.default_rng(n).shuffle(order)
    in_parts(partial(VERBS[verb], world), tmp_path / "b" / "out", n, order, shard_size=size)
    check_same(tmp_path / "a" / "out", tmp_path / "b" / "out")
    made = json.loads((tmp_path / "b" / "out" / "suture.json").read_text())["run"]["parts"]
    assert [part["part"] for part in made] == list(range(1, n + 1))
    assert suture.verify(tmp_path / "b" / "out")["differing"] == []


@pytest.mark.parametrize("verb", VERBS)
def test_the_plan_that_is_left_is_the_plan(verb: str, world: Path, tmp_path: Path) -> None:
    """A worker that has the folder alone makes of the plan in it what the verb makes, whatever the verb."""
    VERBS[verb](world, tmp_path / "whole", Settings(shard_size=SHARD))
    VERBS[verb](world, tmp_path / "parts", Settings(shard_size=SHARD, part="1/2"))
    run_part(tmp_path / ".parts.suture-parts", 2)
    suture.finish(tmp_path / "parts")
    check_same(tmp_path / "whole", tmp_path / "parts")


def test_an_output_of_one_file(world: Path, tmp_path: Path) -> None:
    """One part has its one shard, the others have nothing to do; its report goes beside it, and nothing else."""
    VERBS["swap"](world, tmp_path / "a.safetensors", Settings())
    in_parts(partial(VERBS["swap"], world), tmp_path / "b.safetensors", 3)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    one, other = (json.loads((tmp_path / f"{name}.suture.json").read_text()) for name in "ab")
    assert {**one, "run": 0, "files": 0} == {**other, "run": 0, "files": 0}
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "a.safetensors", "a.suture.json", "b.safetensors", "b.suture.json",
    ]  # fmt: skip


REFUSED: dict[str, Callable[[Path, Path, Settings], Any]] = {
    "several outputs": lambda f, out, how: _merge(f, out, how, outputs={"a": {"parameters": {"weight": 1}}}),
    "all of": lambda f, out, how: suture.merge(
        {"models": [{"model": str(f / "one")}], "base_model": str(f / "base")}, out, all_of=True, settings=how
    ),
    "delta extract": lambda f, out, how: suture.delta.extract(f / "base", f / "one", out, form="xor", settings=how),
    "delta compose": lambda f, out, how: suture.delta.compose([f / "delta"], out, settings=how),
    "twin make": lambda f, out, how: suture.twin.make(
        f / "base", [f / "one"], out, shared="task_arithmetic", settings=how
    ),
}


@pytest.mark.parametrize("verb", REFUSED)
def test_what_is_made_as_a_whole_says_so(verb: str, world: Path, tmp_path: Path) -> None:
    """The setting is named, and nothing is written."""
    with pytest.raises(UsageError, match=r"^part: .*as a whole; leave it out"):
        REFUSED[verb](world, tmp_path / "out", Settings(part="1/2"))
    assert list(tmp_path.iterdir()) == []


def test_dry_runs_write_nothing_and_tell_of_the_part(world: Path, tmp_path: Path) -> None:
    """The plan is the whole's, with a note of what the part reads and writes."""
    models = [{"model": str(world / name)} for name in ("one", "two")]
    report = suture.merge(
        {**LINEAR, "models": models}, tmp_path / "out", settings=Settings(part="2/2", shard_size=SHARD), dry_run=True
    )
    assert any(title == "part" and text.startswith("2 of 2: reads ") for title, text in report.data["notes"])
    assert list(tmp_path.iterdir()) == []


def test_plan_divides_as_parts_do(world: Path, tmp_path: Path) -> None:
    """`suture plan --parts` names the shards that the parts then write, and commands that work as they stand."""
    models = [{"model": str(world / name)} for name in ("one", "two")]
    (tmp_path / "c.yml").write_text(json.dumps({**LINEAR, "models": models}))
    arguments = [str(tmp_path / "c.yml"), str(tmp_path / "out"), "--parts", "3", "--shard-size", "3KB", "--json"]
    found = json.loads(CliRunner().invoke(plan_command, arguments, catch_exceptions=False).stdout)
    assert found["commands"][-1].startswith("suture finish ")
    assert len(found["commands"]) == 4
    assert sum(p["write_bytes"] for p in found["parts"]) == found["write_bytes"]
    assert sum(p["read_bytes"] for p in found["shards"]) == found["read_bytes"]
    for i, part in enumerate(found["parts"], 1):
        how = Settings(part=f"{i}/3", shard_size="3KB")
        made = suture.merge(tmp_path / "c.yml", tmp_path / "out", settings=how)
        assert [shard["file"] for shard in json.loads(made.text)["part"]["shards"]] == part["shards"]
    suture.finish(tmp_path / "out", verify=True)
    assert told(tmp_path / "out")["plan"] == found["plan"]
    assert read_checkpoint(tmp_path / "out")
