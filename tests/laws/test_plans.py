"""A plan goes to JSON and back: what comes back is the same plan and runs to the same bytes, for every form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import suture
from suture import _core

from ..support.catalogue import differing
from ..support.checkpoints import read_checkpoint
from ..support.forms import FORMS, World, write_world
from ..support.plans import run_plan

#: The dtype and the shards of an output are the plan's, too.
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "dtype and shards": {"dtype": "float32", "shard_size": 4000, "seed": 2**64 - 1, "nan": "allow"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


class Carried:
    """Stands for `_core.Plan`: plans that have been through JSON, as on another machine."""

    texts: ClassVar[list[str]] = []

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        plan = _core.Plan(*arguments, **options)
        text = plan.to_json()
        again = _core.Plan.from_json(text)
        assert again.to_json() == text
        assert again.config_json() == plan.config_json()
        assert again.warnings == plan.warnings
        assert again.work_bytes == plan.work_bytes
        assert _core.budget_json([again], 2) == _core.budget_json([plan], 2)
        cls.texts.append(text)
        return again


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A way to have plans carried."""
    Carried.texts.clear()
    return monkeypatch


class Core:
    """Stands for `suture._core` where verbs use it: all of it, but for how plans are made."""

    Plan = Carried

    def __getattr__(self, name: str) -> Any:
        return getattr(_core, name)


def told(out: Path) -> Any:
    """What `suture.json` says of what was done."""
    record = json.loads((out / "suture.json").read_text())
    return {key: record[key] for key in record if key != "run"}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("form", FORMS)
def test_a_plan_from_json_runs_to_the_same_bytes(
    form: str, settings: str, world: World, carried: pytest.MonkeyPatch, place: Path
) -> None:
    """Plans are pure data: `Plan.from_json(plan.to_json())` is the plan, in text, in bytes and in its report."""
    if "quantised" in form and settings != "default":
        pytest.skip("one is enough")
    if "adapters" in form and settings != "default":
        pytest.skip("adapters are looked for in one file")
    how = suture.Settings(**SETTINGS[settings])
    FORMS[form](world, place / "first", how)
    for module in modules_with_core():
        carried.setattr(module, "_core", Core())
    FORMS[form](world, place / "second", how)
    assert len(Carried.texts) == 1
    assert not differing(read_checkpoint(place / "second"), read_checkpoint(place / "first"))
    assert told(place / "second") == told(place / "first")


def modules_with_core() -> list[Any]:
    """The modules of the package that hold the core by its name, whatever they are called."""
    import sys

    return [m for n, m in list(sys.modules.items()) if n.startswith("suture.") and vars(m).get("_core") is _core]


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_is_the_same_each_time(form: str, world: World, place: Path) -> None:
    """Same recipe, same headers: the same text, so that a plan can be compared and named by its hash."""
    texts = []

    class Heard(Core):
        """Listens."""

        class Plan:
            """Plans, whose text is kept."""

            def __new__(cls, *arguments: Any, **options: Any) -> Any:
                plan = _core.Plan(*arguments, **options)
                texts.append(plan.to_json())
                return plan

    with pytest.MonkeyPatch.context() as patch:
        for name in ("first", "second"):
            FORMS[form](world, place / name, suture.Settings())
            for module in modules_with_core():
                patch.setattr(module, "_core", Heard())
        FORMS[form](world, place / "third", suture.Settings())
    assert len(texts) == 2
    assert texts[0] == texts[1]
    data = json.loads(texts[0])
    assert data["hash"] == json.loads((place / "first" / "suture.json").read_text())["plan"]


@pytest.mark.parametrize("io", ["mmap", "pread", "direct"])
def test_a_plan_from_json_is_resumed(io: str, world: World, carried: pytest.MonkeyPatch, place: Path) -> None:
    """Law 6: a run that was begun by one plan is ended by the same plan from JSON, and nothing is made twice."""
    out, how = place / "out", suture.Settings(io=io)
    config = {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 1.0}} for m in world.models],
    }

    def intrude(*_: int) -> None:
        if not out.exists():
            out.write_text("mine")

    with pytest.raises(suture.SutureError):
        suture.merge(config, out, settings=how, progress=intrude)
    out.unlink()
    for module in modules_with_core():
        carried.setattr(module, "_core", Core())
    report = suture.merge(config, out, settings=how)
    assert report.data["run"]["tensors_resumed"] == len(read_checkpoint(out))


BROKEN = ("", "{}", "[]", "null", "1", '{"title": 1}', '{"tensors": []}', "{", "\x00", '{"hash": "0"}')


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_plan_is_refused(text: str) -> None:
    """Law 7: text that is no plan is an error of ours."""
    with pytest.raises(suture.SutureError):
        _core.Plan.from_json(text)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value that holds no others."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*at, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*at, number))
    else:
        yield at


def with_leaf(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value at a place."""
    if not at:
        return new
    if isinstance(value, dict):
        return {k: with_leaf(v, at[1:], new) if k == at[0] else v for k, v in value.items()}
    return [with_leaf(v, at[1:], new) if i == at[0] else v for i, v in enumerate(value)]


@pytest.mark.parametrize("new", [-1, 2**40, "x", "../../evil", None, [], {}], ids=repr)
def test_a_plan_that_was_tampered_with_writes_nothing_else(new: Any, world: World, place: Path) -> None:
    """Law 7: any value changed in a plan is an error of ours, or no matter; no crash, and nothing outside OUT."""
    small = {"merge_method": "passthrough", "slices": [
        {"sources": [{"model": str(world.one), "layer_range": [0, 1]}]}]}  # fmt: skip
    data = json.loads(_core.Plan(json.dumps(small), None, 0).to_json())
    folder = place / "inner"
    folder.mkdir()
    places = list(leaves(data))
    # Of the tensors, which are many alike, the first and the last.
    places = [p for p in places if p[0] != "tensors" or p[1] in (0, len(data["tensors"]) - 1)]
    places = [p for p in places if p[0] not in ("unused", "notes", "warnings", "recipe")]
    for number, at in enumerate(places):
        out = folder / f"out-{number}"
        try:
            plan = _core.Plan.from_json(json.dumps(with_leaf(data, at, new)))
            run_plan(plan, out)
        except (suture.SutureError, OSError):
            assert not out.exists(), at
        else:
            assert suture.verify(out)["differing"] == [], at
    assert [p.name for p in place.iterdir()] == ["inner"]
    names = {p.name.removeprefix(".").removesuffix(".suture-partial") for p in folder.iterdir()}
    assert names <= {f"out-{number}" for number in range(len(places))}
