"""Whether an output is what it should be. Every check raises an AssertionError that says what is wrong."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from . import models, oracle
from .case import Case
from .models import Loaded, State


def same_bits(found: State, wanted: State) -> None:
    """Every tensor there, in its dtype and with its bits."""
    torch = importlib.import_module("torch")
    odd = sorted(found.keys() ^ wanted.keys())
    assert not odd, f"{len(odd)} tensors are only on one side: {odd[:6]}"
    wrong = [n for n, t in wanted.items() if found[n].dtype != t.dtype or not torch.equal(found[n], t)]
    assert not wrong, f"{len(wrong)} of {len(wanted)} tensors differ: {wrong[:6]}"


def close(found: State, wanted: State) -> None:
    """Every tensor there: floats to the last bit but one, all else the same."""
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        if tensor.is_floating_point():
            off = (found[name].double() - tensor.double()).abs()
            assert bool((off <= tensor.double().abs() * 2.0**-23).all()), name
        else:
            assert bool((found[name] == tensor).all()), name


def same_function(case: Case, found: Any, wanted: Any) -> None:
    """The same weights in the same places: the same numbers, and not those of the recipient."""
    torch = importlib.import_module("torch")
    outputs, hand = case.forward(found), case.forward(wanted)
    assert len(outputs) == len(hand) > 0, f"{len(outputs)} outputs, {len(hand)} by hand"
    for a, b in zip(outputs, hand, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    before = case.forward(case.loaded("into").model)
    moved = any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(outputs, before, strict=False))
    assert moved, "computes what the recipient computes"


def loads_whole(case: Case, out: Path) -> Loaded:
    """The output as transformers loads it: it misses nothing and has nothing over that the recipient has not."""
    loaded, before = models.load(case.family, out), case.loaded("into")
    for found, known, what in (
        (loaded.missing, before.missing, "are missing"),
        (loaded.unexpected, before.unexpected, "are of no module"),
    ):
        odd = sorted(_places(found) - _places(known))
        assert not odd, f"{len(odd)} kinds of tensors {what}: {odd[:6]}"
    return loaded


def _places(names: frozenset[str]) -> set[str]:
    """Names whatever the layer."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names}


def swapped(case: Case, out: Path) -> None:
    """The swap of the first and the last layer of the main stack."""
    layers = [0, case.family.layers - 1]
    same_bits(models.read(out), oracle.swapped(case.states["into"], case.states["donor"], case.family.stacks, layers))


def with_heads(case: Case, out: Path) -> None:
    """The swap of the first group of heads."""
    attention, states = case.family.attention, case.states
    assert attention.parts, f"moved heads that cannot be told apart: {attention.why_not}"
    wanted = oracle.with_heads(case.family, states["into"], states["donor"], attention.layer, [0])
    same_bits(models.read(out), wanted)


def stacked(case: Case, out: Path) -> None:
    """The stack of slices: weights, config, function."""
    stacking = case.family.stacking
    assert stacking.keys, f"made a model that no config describes: {stacking.why_not}"
    same_bits(models.read(out), oracle.stacked(case.states["into"], case.family.stacks, case.family.order))
    same_function(case, loads_whole(case, out).model, case.stacked_by_hand())


def proposed(case: Case, found: dict[str, Any]) -> None:
    """The proposal: every layer of the main stack scored or listed, the layers that one model changed its own."""
    choices = {s["layer"]: s["choice"] for s in found["scores"]}
    assert len(choices) == len(found["scores"]), "a layer has two scores"
    layers = set(range(case.family.layers))
    known = choices.keys() | set(found.get("silent", ()))
    assert known == layers, f"expected scores of layers {sorted(layers)}, found {sorted(known)}"
    ends = choices.get(0, "donor"), choices.get(max(layers), "into")
    assert ends == ("donor", "into"), f"the donor changed the first layer, the recipient the last; choices {ends}"
