"""suture on every family of the corpus: what it does is what a person would do by hand, or it says why it does not.

The oracle works on state dicts from the facts (:mod:`tests.corpus.facts`); that outputs are models is judged by
transformers, which must load them without a word and compute with them what it computes with the model made by hand.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

import suture

from . import judge, models, oracle, surgery
from .case import SETTINGS, Case


def done(case: Case, told: str | None) -> None:
    """What was asked for was done. Only layers that are spread over lists of modules may be refused, as layers."""
    if case.family.spread and told is not None:
        assert "layer" in told
        pytest.skip(f"refused: {told}")
    assert told is None


def test_the_stacks_are_found(case: Case) -> None:
    """The main stack is the language model's, the decoder's, the tower's; what stands beside it is found too."""
    family = case.family
    found = {s["prefix"]: s for s in case.inspected["stacks"] if s["first"] == 0}
    main = [s for s in found.values() if s["main"]]
    if family.spread:
        assert all(s["layers"] == family.layers for s in main)
        return
    assert {prefix: found[prefix]["layers"] for prefix in family.others if prefix in found} == family.others
    assert family.stacks[0] in found
    assert found[family.stacks[0]]["layers"] == family.layers
    assert [s["prefix"] for s in main] == [family.stacks[0]] or family.equals
    # Blocks that predict are numbered on after the layers, and are none of them.
    after = [s["layers"] for s in case.inspected["stacks"] if s["first"] == family.layers]
    assert after == [family.predicting] * bool(family.predicting)


def test_the_number_of_heads_is_known(case: Case) -> None:
    """Heads of the config are those of the stack that has them; a number that it does not say is not made up."""
    family = case.family
    heads = next((s["heads"] for s in case.inspected["stacks"] if s["prefix"] == family.stacks[0]), None)
    if heads is not None:
        assert tuple(heads) == family.attention.heads
    else:
        assert not family.attention.plain


def test_a_diff_knows_which_layer_a_tensor_is_of(case: Case) -> None:
    """Laws of comparison: no tensor is passed over, and the figures of a layer are those of one stack's layer."""
    found = suture.diff(case.path("base"), case.path("into"), settings=SETTINGS)["models"][0]
    state = case.states["base"]
    assert not found["only_base"] + found["only_tuned"] + found["reshaped"]
    rows = {t["name"]: t["layer"] for t in found["tensors"]}
    assert {name for name, tensor in state.items() if tensor.is_floating_point()} <= rows.keys() <= state.keys()
    if case.family.spread:
        return
    elements: dict[str, int] = {}
    head = f"{case.stack}:" if case.stack else ""
    for name in rows:
        layer = oracle.layer_of(case.family, name)
        if layer is not None and layer < case.family.layers:
            assert rows[name] == f"{head}{layer}", name
            if state[name].is_floating_point():
                elements[rows[name]] = elements.get(rows[name], 0) + state[name].numel()
    counted = {r["layer"]: r["elements"] for r in found["layers"]}
    assert {layer: counted.get(layer) for layer in elements} == elements


def test_a_swap_is_the_state_dict_put_together(case: Case) -> None:
    """Law 2, swaps: the outer layers of the main stack are the donor's, all else the recipient's, bit for bit."""
    out = case.out()
    done(case, surgery.refusal(surgery.swap, case, out, bottom=1, top=1))
    judge.swapped(case, out)


def test_a_swap_in_another_stack(case: Case) -> None:
    """Law 2, swaps: of an encoder or a tower that is named the first layer moves, and nothing of the main stack."""
    if not case.family.others:
        pytest.skip("one stack")
    states = case.states
    for prefix in case.family.others:
        out, name = case.out(), case.name_of(prefix)
        assert name is not None, prefix
        surgery.swap(case, out, stack=name, bottom=1)
        judge.same_bits(models.read(out), oracle.swapped(states["into"], states["donor"], [prefix], [0]))


def test_a_swapped_model_loads_and_computes(case: Case) -> None:
    """Law 5: the output is a model: it loads whole and is the function that a swap of modules in memory makes."""
    out = case.out()
    done(case, surgery.refusal(surgery.swap, case, out, bottom=1, top=1))
    judge.same_function(case, judge.loads_whole(case, out).model, case.swapped_by_hand([0, case.family.layers - 1]))


def test_a_reverted_layer_is_the_bases(case: Case) -> None:
    """Law 2, revert: one layer of the main stack is the base's again, bit for bit, and nothing else."""
    out, states = case.out(), case.states
    done(case, surgery.refusal(surgery.revert, case, out))
    judge.same_bits(models.read(out), oracle.swapped(states["into"], states["base"], case.family.stacks, [1]))


def test_a_mean_is_the_mean(case: Case) -> None:
    """Law 2, merges: every float tensor of every stack is half of each, rounded once; what is no float is copied."""
    out = case.out()
    surgery.mean(case, out)
    found, wanted = models.read(out), oracle.mean(case.states["into"], case.states["donor"])
    judge.close(found, wanted)
    judge.loads_whole(case, out)


@pytest.mark.parametrize("label", ["into", "donor"])
def test_a_model_saved_by_torch_is_one_of_the_family(label: str, case: Case) -> None:
    """torch.save keeps every name of what is tied, safetensors one: the mean is the same model."""
    models.save(case.path(f"saved-{label}"), case.loaded(label).model, case.path(label))
    out = case.out()
    surgery.mean(case, out, [f"saved-{known}" if known == label else known for known in ("into", "donor")])
    mean = oracle.mean(case.states["into"], case.states["donor"])
    case.add("mean", mean)
    found, wanted = (models.load(case.family, folder).model.state_dict() for folder in (out, case.path("mean")))
    judge.close(found, wanted)


def test_a_stack_of_slices_is_a_model(case: Case) -> None:
    """Slices: weights and config agree, so that each layer is the kind of layer it was; or the merge says why not."""
    out, stacking = case.out(), case.family.stacking
    if case.stack is not None:
        pytest.skip("slices are of the main stack, and suture takes another one for it")
    told = surgery.refusal(surgery.stack, case, out)
    if told is not None:
        assert stacking.refusable or not stacking.keys, told
        assert re.search("layer|stage|block", told), told
        return
    judge.stacked(case, out)


def test_heads_move_whole_or_not_at_all(case: Case) -> None:
    """Heads: of each tensor exactly what belongs to the heads that move; where that is not known, it is refused."""
    attention, out = case.family.attention, case.out()
    told = surgery.refusal(surgery.swap_heads, case, out)
    if told is not None:
        assert not attention.plain, told
        assert re.search("head|attention", told), told
        return
    judge.with_heads(case, out)


def test_auto_scores_every_layer(case: Case) -> None:
    """Proposals: every layer of the main stack is scored or listed, and a layer that only one model changed is its."""
    found: dict[str, Any] = {}
    done(case, surgery.refusal(lambda: found.update(surgery.propose(case, case.out()))))
    judge.proposed(case, found)
