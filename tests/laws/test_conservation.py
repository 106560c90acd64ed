"""Law 5 over every form of work: each input tensor is in the output, or listed with a reason that is true."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import suture

from ..reference.layers import LAYER, layer_of
from ..support.checkpoints import read_checkpoint
from ..support.forms import FORMS, World, write_world

Tensor = tuple[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return write_world(tmp_path_factory.mktemp("world"))


def used(record: dict[str, Any]) -> dict[str, list[Tensor]]:
    """What each tensor of an output is said to be made from: model and tensor."""
    return {name: [(part[0], part[1]) for part in told["from"]] for name, told in record["tensors"].items()}


def holds(reason: str, tensor: Tensor, made: dict[str, list[Tensor]], form: str) -> str | None:
    """Why a reason for leaving a tensor out is not true, as far as words tell; None if nothing speaks against it."""
    label, name = tensor
    layer, taken = layer_of(name), {tensor for parts in made.values() for tensor in parts}
    same_layer = [n for other, n in taken if other == label and layer is not None and stack(n) == stack(name)]
    same_layer = [n for n in same_layer if layer_of(n) == layer]
    if told := re.search(r"layers? (\d+)", reason):
        if int(told[1]) != layer:
            return f"is in layer {layer}"
        if "nothing" in reason and same_layer:
            return f"{same_layer[0]} of that layer is taken"
    elif layer is not None and "outside" in reason:
        return f"is in layer {layer}"
    if (into := re.search(r"decoded, .*into `(.+)`", reason)) and (into[1] not in made or name in made):
        return "that weight is not made of it"
    if "elsewhere" in reason and name not in made:
        return "no tensor of that name is in the output"
    from_others = re.search(r"name is taken from (.+)$", reason)
    if from_others and set(from_others[1].split(", ")) != {other for other, _ in made.get(name, [])}:
        return f"it is taken from {made.get(name)}"
    if "exclude" in reason and "buffer" not in form and form != "filters":
        return "nothing is excluded"
    if "include" in reason and form != "include":
        return "no filter says what is included"
    return None


def stack(name: str) -> str:
    """What stands before a layer's number."""
    found = LAYER.search(name)
    return name[: found.start(1)] if found else ""


@pytest.mark.parametrize("form", FORMS)
def test_each_tensor_is_used_or_listed_with_a_true_reason(form: str, world: World, place: Path) -> None:
    """Law 5: `suture.json` accounts for every tensor of every input, once."""
    FORMS[form](world, place / "out", suture.Settings())
    record = json.loads((place / "out" / "suture.json").read_text())
    # Paths may be written in any way; models are named by their folders here.
    by_name = {p.name: p for p in world.folder.iterdir() if p.is_dir()}
    inputs = {(m["label"], name) for m in record["models"] for name in read_checkpoint(by_name[Path(m["path"]).name])}
    made = used(record)
    assert sorted(made) == sorted(read_checkpoint(place / "out"))
    taken = {tensor for parts in made.values() for tensor in parts}
    listed = {(u["model"], u["tensor"]): u["reason"] for u in record["unused"]}
    assert len(listed) == len(record["unused"])
    assert taken <= inputs
    assert taken.isdisjoint(listed)
    assert sorted(taken | set(listed)) == sorted(inputs)
    untrue = {f"{t}: {r}": why for t, r in listed.items() if (why := holds(r, t, made, form))}
    assert untrue == {}


@pytest.mark.parametrize("form", FORMS)
def test_the_plan_accounts_for_the_same(form: str, world: World, place: Path) -> None:
    """Law 5: what a dry run lists as left out is what a run leaves out."""
    report = FORMS[form](world, place / "out", suture.Settings())
    kept = Counter((u["model"], u["tensor"], u["reason"]) for u in report.data["unused"])
    planned = dry(form, world, place / "plan")
    assert Counter((u["model"], u["tensor"], u["reason"]) for u in planned["unused"]) == kept
    assert not (place / "plan").exists()


def dry(form: str, world: World, out: Path) -> dict[str, Any]:
    """The plan of a form: the same call as a dry run."""
    with pytest.MonkeyPatch.context() as patch:
        for verb in ("merge", "swap", "revert", "convert"):
            call = getattr(suture, verb)
            patch.setattr(suture, verb, lambda *a, call=call, **o: call(*a, **o, dry_run=True), raising=False)
        return dict(FORMS[form](world, out, suture.Settings()).data)


EXPECTED = {
    # Reasons that have to tell more than that a layer is not used.
    "swap: modules": {("two", "model.layers.0.mlp.down_proj.weight"), ("one", "model.layers.0.mlp.up_proj.weight")},
    "swap: heads": {("two", "model.layers.0.mlp.up_proj.weight"), ("two", "model.layers.0.input_layernorm.weight")},
    "filters": {("two", "model.layers.0.input_layernorm.weight"), ("two", "lm_head.weight")},
    "include": {("two", "model.layers.3.self_attn.q_proj.weight"), ("two", "model.norm.weight")},
    "revert: modules": {
        ("base", "model.layers.1.input_layernorm.weight"),
        ("one", "model.layers.1.mlp.up_proj.weight"),
    },
    "slices": set(),
    "a slice": {("one", "model.layers.0.mlp.up_proj.weight"), ("two", "model.layers.3.mlp.up_proj.weight")},
}


@pytest.mark.parametrize("form", EXPECTED)
def test_what_is_left_out_by_hand(form: str, world: World, place: Path) -> None:
    """Law 5: tensors that a form is known to leave out are listed."""
    listed = {(u["model"], u["tensor"]) for u in dry(form, world, place / "out")["unused"]}
    assert EXPECTED[form] <= listed
    if form == "slices":
        assert listed == set()
