"""Every stack of every architecture is known by name and length, and is cut alone by every verb."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import suture
from suture import _core
from suture.analysis.layers import frozen, listed_layers, moved

from ..support.checkpoints import Raw, read_checkpoint, write_checkpoint
from ..support.plans import run_plan
from ..support.stacks import DECIDED, EVERY, MODELS, SEVERAL, UNDECIDED, Model, Stack, tensors, write

#: What `--non-layer` may be, beside the recipient's.
GIVEN = ("from", "mean", "base")


def called(path: Path, stack: Stack) -> str:
    """What suture calls a stack."""
    found = [s for s in suture.inspect(path)["stacks"] if s["prefix"] == stack.prefix and s["first"] == stack.first]
    assert len(found) == 1
    return str(found[0]["name"])


def pair(place: Path, model: Model) -> tuple[Path, Path]:
    """Two models of one architecture."""
    return write(place / "into", model, 1), write(place / "donor", model, 2)


def of_layers(stack: Stack, layers: Iterable[int]) -> set[str]:
    """The tensors of layers."""
    return {name for layer in layers for name in stack.names(layer)}


def whose(out: Path, into: Path, donor: Path) -> set[str]:
    """The tensors that are the donor's; all others must be the recipient's."""
    found, own, other = (read_checkpoint(p) for p in (out, into, donor))
    assert sorted(found) == sorted(own)
    taken = {name for name, raw in found.items() if raw == other[name]}
    assert {name for name, raw in found.items() if raw == own[name]} == set(found) - taken
    return taken


@pytest.mark.parametrize("name", MODELS)
def test_inspect_knows_all_stacks_and_the_main_one(name: str, place: Path) -> None:
    """All stacks are known by name and length, no two by one name; the main one is marked, where something decides."""
    model = MODELS[name]
    found = suture.inspect(write(place / "m", model, 1))
    stacks = found["stacks"]
    assert {(s["prefix"], s["first"], s["layers"]) for s in stacks} == {
        (s.prefix, s.first, s.layers) for s in model.stacks
    }
    assert len({s["name"] for s in stacks}) == len(stacks)
    assert [s["prefix"] for s in stacks if s["main"]] == ([] if model.main is None else [model.main])


@pytest.mark.parametrize("name", DECIDED)
def test_bare_numbers_are_layers_of_the_main_stack(name: str, place: Path) -> None:
    """A swap without `--stack` moves layers of the main stack and nothing else."""
    model = MODELS[name]
    assert model.main is not None
    into, donor = pair(place, model)
    suture.swap(into, donor, place / "out", layers=[1])
    assert whose(place / "out", into, donor) == of_layers(model.stack(model.main), [1])


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_stack_that_is_named_is_swapped(name: str, number: int, place: Path) -> None:
    """`--stack NAME`, the stack's prefix and `NAME:0` are the same swap: of that stack's layers alone."""
    model = MODELS[name]
    stack = model.stacks[number]
    into, donor = pair(place, model)
    label = called(into, stack)
    last = stack.layers - 1
    ways: list[dict[str, Any]] = [
        {"stack": label, "layers": [last]},
        {"layers": f"{label}:{last}"},
        {"stack": label, "top": 1},
    ]
    if not stack.first and not stack.lists:
        # Blocks behind the last layer share the prefix.
        ways.append({"stack": stack.prefix, "layers": [last]})
    for i, how in enumerate(ways):
        report = suture.swap(into, donor, place / f"out-{i}", **how)
        assert whose(place / f"out-{i}", into, donor) == of_layers(stack, [last]), how
        told = json.dumps(report.data["notes"])
        assert len(model.stacks) == 1 or label in told
    beyond = stack.layers
    with pytest.raises(suture.UsageError, match=r"layer"):
        suture.swap(into, donor, place / "none", stack=label, layers=[beyond])


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_whole_stack_is_named_by_its_name_or_its_role(name: str, number: int, place: Path) -> None:
    """`--layers all` moves every layer of a stack, `--frozen NAME` lists them; a role of its own names it too."""
    model = MODELS[name]
    stack = model.stacks[number]
    into, donor = pair(place, model)
    label = called(into, stack)
    found = suture.inspect(into)["stacks"]
    role = next(s["role"] for s in found if s["name"] == label)
    taken = {word for s in found for word in (s["name"], *s["prefix"].split("."))}
    alone = sum(s["role"] == role for s in found) == 1 and role not in taken
    for i, how in enumerate([label, role] if alone else [label]):
        suture.swap(into, donor, place / f"out-{i}", stack=how, layers="all")
        assert whose(place / f"out-{i}", into, donor) == of_layers(stack, range(stack.layers))
        assert listed_layers(into, how) == listed_layers(into, f"{label}:0-{stack.layers - 1}")
    suture.revert(into, donor, place / "back", layers=f"{label}:all")
    assert whose(place / "back", donor, into) == of_layers(stack, range(stack.layers))


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_dry_run_and_the_report_name_the_stack(name: str, number: int, place: Path) -> None:
    """Notes of a dry run are those of the report, and name the stack where there are several."""
    model = MODELS[name]
    into, donor = pair(place, model)
    label = called(into, model.stacks[number])
    how: dict[str, Any] = {"stack": label, "layers": [0]}
    dry = suture.swap(into, donor, place / "out", dry_run=True, **how)
    done = suture.swap(into, donor, place / "out", **how)
    assert dry.data["notes"] == done.data["notes"]
    assert json.loads((place / "out" / "suture.json").read_text())["notes"] == done.data["notes"]
    stacks = [note for note in done.data["notes"] if note[0] == "stack"]
    assert len(stacks) == (len(model.stacks) > 1)
    assert all(f"`{label}`" in text for _, text in stacks)


@pytest.mark.parametrize("name", UNDECIDED)
def test_where_nothing_decides_all_verbs_refuse_and_list_the_stacks(name: str, place: Path) -> None:
    """No verb guesses: the stacks are listed with their lengths, and nothing is written."""
    model = MODELS[name]
    into, donor = pair(place, model)
    base = write(place / "base", model, 3)
    labels = [(called(into, s), s.layers) for s in model.stacks]
    ranged = [{"sources": [{"model": str(into), "layer_range": [0, 1]}]}]
    calls: list[Any] = [
        lambda: suture.swap(into, donor, place / "out", layers=[0]),
        lambda: suture.swap(into, donor, place / "out", bottom=1, non_layer="mean"),
        lambda: suture.swap(into, donor, place / "out", base=base, auto="layer"),
        lambda: suture.propose(base, into, donor),
        lambda: suture.revert(donor, into, place / "out", layers=[0]),
        lambda: suture.merge({"merge_method": "passthrough", "slices": ranged}, place / "out"),
        lambda: listed_layers(into, "0"),
    ]
    for i, call in enumerate(calls):
        with pytest.raises(suture.SutureError) as e:
            call()
        for label, layers in labels:
            assert f"`{label}` ({layers} layers)" in str(e.value), i
        assert not (place / "out").exists()


@pytest.mark.parametrize("name", UNDECIDED)
def test_what_needs_no_layers_goes_on_where_nothing_decides(name: str, place: Path) -> None:
    """Merges of whole models and comparisons do not ask which stack is meant."""
    model = MODELS[name]
    into, donor = pair(place, model)
    suture.merge(mean(into, donor), place / "out")
    found = suture.diff(into, donor)
    rows = {row["layer"] for row in found["models"][0]["layers"]}
    assert rows == {"-"} | {f"{called(into, s)}:{i}" for s in model.stacks for i in range(s.layers)}


def mean(*models: Path, **more: Any) -> dict[str, Any]:
    """A merge of whole models."""
    return {
        "merge_method": "linear",
        "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in models],
        **more,
    }


@pytest.mark.parametrize("name", SEVERAL)
def test_a_stack_that_is_not_there_is_refused_with_those_there_are(name: str, place: Path) -> None:
    """A name that no stack has is a mistake, and the message lists the names."""
    model = MODELS[name]
    into, donor = pair(place, model)
    for how in ({"stack": "nosuch", "layers": [0]}, {"layers": "nosuch:0"}):
        with pytest.raises(suture.SutureError) as e:
            suture.swap(into, donor, place / "out", **how)
        assert all(f"`{called(into, s)}`" in str(e.value) for s in model.stacks)


@pytest.mark.parametrize("non_layer", GIVEN)
@pytest.mark.parametrize("name", DECIDED)
def test_other_stacks_stay_the_recipients_whatever_non_layer_says(name: str, non_layer: str, place: Path) -> None:
    """Outside means outside all stacks: other stacks, and what belongs to them, are the recipient's bit for bit."""
    model = MODELS[name]
    assert model.main is not None
    into, donor = pair(place, model)
    base = write(place / "base", model, 3)
    suture.swap(into, donor, place / "out", layers=[0], non_layer=non_layer, base=base)
    found, own, other, third = (read_checkpoint(p) for p in (place / "out", into, donor, base))
    layer = of_layers(model.stack(model.main), [0])
    assert [n for n in layer if found[n] != other[n]] == []
    outside = set(model.outside)
    assert [n for n in sorted(set(own) - layer - outside) if found[n] != own[n]] == []
    if non_layer == "mean":
        assert [n for n in outside if found[n] in (own[n], other[n], third[n])] == []
    else:
        lender = other if non_layer == "from" else third
        assert [n for n in outside if found[n] != lender[n]] == []


@pytest.mark.parametrize(("name", "number"), [(n, i) for n, i in EVERY if n in SEVERAL])
def test_non_layer_from_leaves_all_other_stacks_alone(name: str, number: int, place: Path) -> None:
    """Whichever stack is meant, no layer of another one is given away."""
    model = MODELS[name]
    stack = model.stacks[number]
    into, donor = pair(place, model)
    how: dict[str, Any] = {"stack": called(into, stack), "layers": [0]}
    suture.swap(into, donor, place / "out", non_layer="from", **how)
    inside = {n for s in model.stacks for n in of_layers(s, range(s.layers))}
    assert whose(place / "out", into, donor) & inside == of_layers(stack, [0])


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_reset_is_of_the_stack_that_is_named(name: str, number: int, place: Path) -> None:
    """`revert` resets the layers of one stack, and with `outside` no other stack either."""
    model = MODELS[name]
    stack = model.stacks[number]
    tuned, base = pair(place, model)
    label = called(tuned, stack)
    suture.revert(base, tuned, place / "out", layers=[0], stack=label)
    assert whose(place / "out", tuned, base) == of_layers(stack, [0])
    suture.revert(base, tuned, place / "colon", layers=f"{label}:0")
    assert whose(place / "colon", tuned, base) == of_layers(stack, [0])
    inside = {n for s in model.stacks for n in of_layers(s, range(s.layers))}
    suture.revert(base, tuned, place / "outside", layers=[0], stack=label, outside=True)
    assert whose(place / "outside", tuned, base) & inside == of_layers(stack, [0])


def in_slices(models: Iterable[Path], runs: Iterable[tuple[int, int]], **more: Any) -> dict[str, Any]:
    """A merge of the models by slices."""
    listed = list(models)
    slices = [
        {"sources": [{"model": str(m), "layer_range": [a, b], "parameters": {"weight": 0.5}} for m in listed]}
        for a, b in runs
    ]
    return {"merge_method": "linear", "slices": slices, **more}


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_slices_of_a_stack_are_the_whole_merge(name: str, number: int, place: Path) -> None:
    """A model cut in two slices of any stack, and merged, is the model merged: `stack:` in a config chooses."""
    model = MODELS[name]
    stack = model.stacks[number]
    if stack.layers < 2:
        pytest.skip("one layer cannot be cut")
    into, donor = pair(place, model)
    suture.merge(mean(into, donor), place / "whole")
    config = in_slices([into, donor], [(0, 1), (1, stack.layers)], stack=called(into, stack))
    suture.merge(config, place / "sliced")
    assert read_checkpoint(place / "sliced") == read_checkpoint(place / "whole")


@pytest.mark.parametrize("name", DECIDED)
def test_slices_without_a_stack_are_of_the_main_one(name: str, place: Path) -> None:
    """`layer_range` counts layers of the main stack, and the length of no other one limits it."""
    model = MODELS[name]
    assert model.main is not None
    stack = model.stack(model.main)
    into, donor = pair(place, model)
    config = in_slices([into, donor], [(0, 1), (1, stack.layers)])
    named = in_slices([into, donor], [(0, 1), (1, stack.layers)], stack=called(into, stack))
    suture.merge(config, place / "a")
    suture.merge(named, place / "b")
    assert read_checkpoint(place / "a") == read_checkpoint(place / "b")
    with pytest.raises(suture.UsageError, match=rf"{stack.layers} layers"):
        suture.merge(in_slices([into], [(0, stack.layers + 1)]), place / "c")


def stacked(model: Model, runs: Iterable[tuple[Path, int, int]], out: Path, **more: Any) -> dict[str, Raw]:
    """Layers on top of each other."""
    slices = [{"sources": [{"model": str(m), "layer_range": [a, b]}]} for m, a, b in runs]
    suture.merge({"merge_method": "passthrough", "slices": slices, **more}, out)
    return read_checkpoint(out)


@pytest.mark.parametrize(("name", "number"), [(n, i) for n, i in EVERY if MODELS[n].stacks[i].first == 0])
def test_layers_are_stacked_in_one_stack_and_other_stacks_come_whole(name: str, number: int, place: Path) -> None:
    """Stacked layers are renumbered; every other stack, with what belongs to it, comes from one model, whole.

    A block behind the last layer (next-token prediction) is no layer, and is renumbered behind the new last one.
    """
    model = MODELS[name]
    stack = model.stacks[number]
    into, donor = pair(place, model)
    n = stack.layers
    # The first layer of a T5 is of a kind of its own, and stays the first.
    late = max(1, n - 1)
    runs = [(into, 0, n), (donor, n - late, n)]
    found = stacked(model, runs, place / "out", stack=called(into, stack))
    own, other = read_checkpoint(into), read_checkpoint(donor)
    longer = Stack(stack.prefix, n + late, stack.inside, stack.lists)
    wanted: dict[str, Raw] = {}
    for layer in range(n + late):
        source, at = (own, layer) if layer < n else (other, layer - late)
        wanted |= dict(zip(longer.names(layer), (source[name] for name in stack.names(at)), strict=True))
    assert {name: found.get(name) for name in wanted} == wanted
    rest = {name: raw for name, raw in found.items() if name not in wanted}
    for behind in (s for s in model.stacks if s.prefix == stack.prefix and s.first > 0):
        later = Stack(stack.prefix, behind.layers, behind.inside, first=n + late)
        for layer in range(behind.layers):
            for new, old in zip(later.names(layer), behind.names(layer), strict=True):
                assert rest.pop(new) in (own[old], other[old])
        rest |= {old: own[old] for layer in range(behind.layers) for old in behind.names(layer)}
    assert sorted(rest) == sorted(set(own) - of_layers(stack, range(n)))
    others = [{n for layer in range(s.layers) for n in s.names(layer)} for s in model.stacks if s is not stack]
    main = model.main is not None and stack.prefix == model.main
    groups = [*others, *([{*names, *model.owned} for names in others[:1]] if main and len(others) == 1 else [])]
    for names in groups:
        assert any(all(rest[name] == source[name] for name in names) for source in (own, other))


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_comparison_is_by_stack(name: str, number: int, place: Path) -> None:
    """Rows are named by stack: `3` in the main one, `NAME:3` in another, `-` outside; so `--frozen` and `--trained`."""
    model = MODELS[name]
    stack = model.stacks[number]
    base = write(place / "base", model, 1)
    tuned, other = tensors(model, 1), tensors(model, 2)
    touched = of_layers(stack, [stack.layers - 1])
    changed = write_checkpoint(place / "tuned", tuned | {n: other[n] for n in touched}, config=model.config)
    main = stack.prefix == model.main and not stack.first
    label = str(stack.layers - 1) if main else f"{called(base, stack)}:{stack.layers - 1}"
    found = suture.diff(base, changed)
    assert {t["name"] for t in found["models"][0]["tensors"] if t["layer"] == label} == touched
    assert {row["layer"] for row in found["models"][0]["layers"] if row["changed"]} == {label}
    asked = f"{called(base, stack)}:{stack.layers - 1}"
    moved(found, listed_layers(base, asked))
    with pytest.raises(suture.SutureError, match="found changes in"):
        frozen(found, listed_layers(base, asked))
    for elsewhere in model.stacks:
        if elsewhere is not stack:
            frozen(found, listed_layers(base, f"{called(base, elsewhere)}:0-{elsewhere.layers - 1}"))
    frozen(found, listed_layers(base, "outside"))
    if model.main is not None:
        last = model.stack(model.main).layers - 1
        check = listed_layers(base, f"0-{last}")
        if main:
            moved(found, check)
        else:
            frozen(found, check)


@pytest.mark.parametrize("by", ["layer", "module", "edges"])
@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_choice_is_made_in_the_stack_that_is_named(name: str, number: int, by: str, place: Path) -> None:
    """`--auto` scores and swaps layers of one stack; other stacks do not count, and stay."""
    model = MODELS[name]
    stack = model.stacks[number]
    base, into, donor = (write(place / n, model, i) for i, n in enumerate(("base", "into", "donor")))
    label = called(base, stack)
    report = suture.swap(into, donor, place / "out", base=base, auto=by, stack=label, tau=1e-6)
    proposal = report.proposal
    assert proposal is not None
    assert proposal["stack"] == label
    assert {s["layer"] for s in proposal["scores"]} == set(range(stack.layers))
    found, own = read_checkpoint(place / "out"), read_checkpoint(into)
    inside = {n for s in model.stacks if s is not stack for n in of_layers(s, range(s.layers))}
    assert [n for n in sorted(inside) if found[n] != own[n]] == []
    if by == "layer":
        taken = [i for i, choice in enumerate(proposal["layers"]) if choice == "donor"]
        other = read_checkpoint(donor)
        assert [n for n in of_layers(stack, taken) if found[n] != other[n]] == []


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_a_plan_of_a_stack_goes_through_json(name: str, number: int, place: Path) -> None:
    """A plan that was JSON, of a swap and of slices in any stack, runs to the same bytes."""
    model = MODELS[name]
    stack = model.stacks[number]
    into, donor = pair(place, model)
    label = called(into, stack)
    swap = {
        "into": str(into),
        "donors": [{"from": str(donor), "layers": "0"}],
        "non_layer": "mean",
        "stack": label,
    }
    recipes: list[dict[str, Any]] = [
        {"swap": swap},
        in_slices([into, donor], [(0, stack.layers)], stack=label),
    ]
    for i, recipe in enumerate(recipes):
        plan = _core.Plan(json.dumps(recipe), None, 0)
        again = _core.Plan.from_json(plan.to_json())
        assert again.to_json() == plan.to_json()
        assert again.config_json() == plan.config_json()
        assert again.warnings == plan.warnings
        for j, p in enumerate((plan, again)):
            run_plan(p, place / f"out-{i}-{j}")
        assert read_checkpoint(place / f"out-{i}-0") == read_checkpoint(place / f"out-{i}-1")


@pytest.mark.parametrize("name", SEVERAL)
def test_stacks_are_chosen_in_single_files_and_in_shards(name: str, place: Path) -> None:
    """A stack is the same in a lone file, where no config.json counts, and in several shards."""
    model = MODELS[name]
    stack = model.stacks[0]
    if stack.first or any(s.first for s in model.stacks):
        pytest.skip("without a config nothing tells")
    files = [write_checkpoint(place / n, tensors(model, i)) / "model.safetensors" for i, n in ((1, "a"), (2, "b"))]
    label = called(files[0], stack)
    suture.swap(files[0], files[1], place / "out", layers=[0], stack=label)
    assert whose(place / "out", files[0], files[1]) == of_layers(stack, [0])
    shards = [write(place / n, model, i, shards=3) for i, n in ((1, "c"), (2, "d"))]
    suture.swap(shards[0], shards[1], place / "out-2", layers=[0], stack=label)
    assert read_checkpoint(place / "out-2") == read_checkpoint(place / "out")


@pytest.mark.parametrize("name", SEVERAL)
def test_documents_and_modules_have_stacks_of_their_own(name: str, place: Path) -> None:
    """`stack:` holds in a document, in an output of several, and for the slices of a module."""
    model = MODELS[name]
    stack = model.stacks[0]
    into, donor = pair(place, model)
    label = called(into, stack)
    one = in_slices([into, donor], [(0, stack.layers)], stack=label)
    suture.merge(one, place / "alone")
    text = "---\n".join(json.dumps(d) + "\n" for d in (one | {"name": "first"}, mean(into, donor) | {"name": "second"}))
    (place / "config.yaml").write_text(text)
    suture.merge(place / "config.yaml", place / "all")
    assert read_checkpoint(place / "all" / "first") == read_checkpoint(place / "alone")
    assert read_checkpoint(place / "all" / "second") == read_checkpoint(place / "alone")
