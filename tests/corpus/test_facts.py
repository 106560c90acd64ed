"""The facts are true: of what transformers stores, and of what the models compute. suture has no part in this."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from . import models, oracle
from .case import Case


def numbers(state: models.State, stack: str) -> set[int]:
    """The layers that are stored under a prefix."""
    return {found[1] for found in (oracle.split(name, [stack]) for name in state) if found}


def test_the_stacks_are_stored_as_stated(case: Case) -> None:
    """Every stack has its layers, numbered from 0; experts, codebooks and stages are not taken for layers."""
    family, state = case.family, case.states["base"]
    for stack in family.stacks:
        assert numbers(state, stack) == set(range(family.layers + family.predicting)), stack
    for stack, layers in family.others.items():
        assert numbers(state, stack) == set(range(layers)), stack


def test_layers_of_a_kind_are_alike(case: Case) -> None:
    """Layers stated to be of one kind store the same tensors; layers that store others are of another kind."""
    family = case.family
    inner: dict[int, set[tuple[str, tuple[int, ...]]]] = {}
    for name, tensor in case.states["base"].items():
        found = oracle.split(name, family.stacks)
        if found:
            inner.setdefault(found[1], set()).add((f"{found[0]} {found[2]}", tuple(tensor.shape)))
    by_kind: dict[str, set[tuple[str, tuple[int, ...]]]] = {}
    for layer, kind in enumerate(family.kinds):
        assert by_kind.setdefault(kind, inner[layer]) == inner[layer], f"layer {layer}: {kind}"


def test_the_head_is_tied_as_stated(case: Case) -> None:
    """A tied head is the very table of an embedding: of a decoder's, where the encoder has one of its own."""
    if case.family.tied is None:
        pytest.skip("no head that could be tied")
    model, table = case.loaded("base").model, importlib.import_module("torch").nn.Embedding
    tables = [m.weight for m in model.modules() if isinstance(m, table)]
    assert any(model.get_output_embeddings().weight is t for t in tables) == case.family.tied


def test_what_is_written_is_what_is_loaded(case: Case) -> None:
    """The checkpoints of the corpus load whole: what a test finds wrong with an output was not wrong before."""
    for label in ("base", "into", "donor"):
        loaded = case.loaded(label)
        assert all(name.startswith(tuple(case.family.copies.values())) for name in loaded.unexpected)
        assert not loaded.missing


def test_heads_lie_where_they_are_stated_to_lie(case: Case) -> None:
    """Attention does not care in which order its heads are: all of them in another order make the same model.

    And it is another model if any of the stated tensors keeps its order: each of them holds heads.
    """
    attention = case.family.attention
    if not attention.parts or not attention.alike or attention.heads is None or attention.heads[1] == 1:
        pytest.skip(attention.why_not or "one head for keys and values, or heads told apart by their number")
    wanted = case.forward(case.loaded("into").model)
    turned = oracle.permuted(case.family, case.states["into"], attention.layer)
    for kept in (None, *attention.parts):
        names = {n for n in turned if kept and oracle.parts_of(case.family, n, attention.layer) is kept}
        assert names or kept is None
        state = {n: case.states["into"][n] if n in names else t for n, t in turned.items()}
        found = case.forward(models.load(case.family, case.add("turned", state)).model)
        alike = all(near(a, b) for a, b in zip(found, wanted, strict=True))
        assert alike == (kept is None), f"kept in order: {kept}"


def near(found: Any, wanted: Any) -> bool:
    """The same up to the rounding of sums in another order."""
    return bool(importlib.import_module("torch").allclose(found, wanted, rtol=1e-4, atol=1e-5))


def test_a_config_for_the_stack_of_slices_can_be_made(case: Case) -> None:
    """By hand: the config says the new layers, the model is built from it and runs."""
    stacking = case.family.stacking
    if not stacking.keys:
        pytest.skip(stacking.why_not)
    model = case.stacked_by_hand()
    made = {found[1] for found in (oracle.split(n, case.inside) for n in model.state_dict()) if found}
    assert made == set(range(len(case.family.order)))
    assert case.forward(model)


def test_kinds_are_in_the_config(case: Case) -> None:
    """Where the config lists the kinds of layers, they are those of the facts."""
    config: dict[str, Any] = models.config_of(case.path("base"))
    for section in (config, config.get("text_config"), config.get("decoder")):
        types = (section or {}).get("layer_types")
        if types and len(types) == case.family.layers:
            words = [re.sub(r"_attention$", "", t) for t in types]
            alike = {"linear": ("linear", "mamba")}
            for word, kind in zip(words, case.family.kinds, strict=True):
                assert kind.startswith(alike.get(word, (word,))), (word, kind)
