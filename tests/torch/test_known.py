"""Laws of calls like one before: they do what a first call does, only where all is as it was, and hold no model."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from suture.torch import known
from suture.torch.models import resident
from suture.torch.swapping import swap_
from tests.support.processes import interpreted
from tests.support.resident import Tensors, differing

SHAPES = {f"model.layers.{i}.mlp.up_proj.weight": (6, 4) for i in range(4)} | {"model.norm.weight": (4,)}


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    known.forget()


def model(seed: int) -> Tensors:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()}


def closely(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are looked at closely from now on."""
    seen: list[str] = []

    def counted(given: Any, label: str) -> Any:
        seen.append(label)
        return resident(given, label)

    monkeypatch.setattr("suture.torch.swapping.resident", counted)
    return seen


def test_merges_and_sessions_are_what_the_forms_give_every_time() -> None:
    calls = interpreted("tests.torch.again")
    assert not [call for call in calls if call["unequal"]]
    assert not [call for call in calls if call["known"] == call["call"].endswith(" 0")]


def test_a_swap_again_copies_what_is_there_now(monkeypatch: pytest.MonkeyPatch) -> None:
    into, donor = model(1), model(2)
    swap_(into, donor, bottom=1)
    seen = closely(monkeypatch)
    for tensor in donor.values():
        tensor.mul_(2)
    first = "model.layers.0.mlp.up_proj.weight"
    kept = {name: tensor.clone() for name, tensor in into.items() if name != first}
    report = swap_(into, donor, bottom=1, digests=True)
    assert not seen
    assert report.moved == (first,)
    assert set(report.digests) == set(SHAPES)
    assert not differing(into, kept | {first: donor[first]})


@pytest.mark.parametrize("how", ["options", "memory", "shape", "dtype", "name", "strides", "other donor", "gradients"])
def test_what_is_not_as_it_was_is_looked_at(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    into, donor = model(1), model(2)
    name = "model.layers.0.mlp.up_proj.weight"
    swap_(into, donor, bottom=1)
    seen = closely(monkeypatch)
    options: dict[str, Any] = {"bottom": 1}
    if how == "options":
        options = {"bottom": 2}
    elif how == "memory":
        donor[name].data = donor[name].clone() + 1
    elif how == "shape":
        into[name].data, donor[name].data = torch.zeros(3, 4), torch.ones(3, 4)
    elif how == "dtype":
        into[name].data, donor[name].data = into[name].half(), donor[name].half()
    elif how == "name":
        for own in (into, donor):
            own["model.other"] = own.pop("model.norm.weight")
    elif how == "strides":
        donor[name].data = donor[name].data.as_strided((6, 4), (1, 6))
    elif how == "other donor":
        donor = model(3)
    else:
        into[name] = torch.nn.Parameter(into[name])
    swap_(into, donor, **options)
    assert seen
    assert torch.equal(into[name], donor[name])


def test_no_model_is_held_on_to() -> None:
    into, donor = model(1), model(2)
    swap_(into, donor, bottom=2)
    assert known._calls
    held = [weakref.ref(tensor.untyped_storage()) for own in (into, donor) for tensor in own.values()]
    held += [weakref.ref(tensor) for own in (into, donor) for tensor in own.values()]
    del into, donor
    gc.collect()
    assert not [own for own in held if own() is not None]


def test_only_a_few_calls_are_kept() -> None:
    models = [model(seed) for seed in range(known.KEPT + 3)]
    for donor in models[1:]:
        swap_(models[0], donor, bottom=1)
    assert len(known._calls) == known.KEPT


def test_a_graph_that_was_recorded_before_says_so() -> None:
    into, donor = model(1), model(2)
    swap_(into, donor, bottom=1)
    name = "model.layers.0.mlp.up_proj.weight"
    weight = into[name].requires_grad_()
    loss = (weight**2).sum()
    swap_(into, donor, bottom=1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
