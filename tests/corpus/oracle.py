"""The same surgery on state dicts, in plain torch, from what :mod:`tests.corpus.facts` states and nothing else."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from .facts import COUNT, EACH, INDEX, Family, How, Part
from .models import State


def split(name: str, stacks: Sequence[str]) -> tuple[str, int, str] | None:
    """The stack, the layer and the name inside the layer of a tensor; None if it is in none of these stacks."""
    for stack in stacks:
        number, _, rest = name.removeprefix(stack).partition(".")
        if name.startswith(stack) and number.isdigit():
            return stack, int(number), rest
    return None


def layer_of(family: Family, name: str) -> int | None:
    """The layer of the main stack that a stored tensor is in."""
    found = split(name, family.stacks)
    return found and found[1]


def swapped(into: State, donor: State, stacks: Sequence[str], layers: Iterable[int]) -> State:
    """`into` with these layers of `donor`."""
    taken = set(layers)

    def source(name: str) -> State:
        found = split(name, stacks)
        return donor if found is not None and found[1] in taken else into

    return {name: source(name)[name] for name in into}


def mean(a: State, b: State) -> State:
    """Half of each: computed in f64, rounded once. What is no float must be the same in both."""
    torch = importlib.import_module("torch")
    found = {}
    for name, one in a.items():
        if one.is_floating_point():
            found[name] = ((one.double() + b[name].double()) / 2).to(one.dtype)
        else:
            assert torch.equal(one, b[name]), name
            found[name] = one
    return found


def stacked(into: State, stacks: Sequence[str], order: Sequence[int]) -> State:
    """The layers of the main stack in another order, renumbered, and blocks that predict after them as before."""
    found, layers = {}, len(set(order))
    for name, tensor in into.items():
        place = split(name, stacks)
        if place is None:
            found[name] = tensor
            continue
        stack, layer, rest = place
        if layer >= layers:
            found[f"{stack}{layer - layers + len(order)}.{rest}"] = tensor
        for new, old in enumerate(order):
            if old == layer:
                found[f"{stack}{new}.{rest}"] = tensor
    return found


def stacked_config(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of the main stack in the family's order."""
    made: dict[str, Any] = json.loads(json.dumps(config))
    for path, how in family.stacking.keys.items():
        *sections, key = path.split(".")
        section = made
        for inner in sections:
            section = section[inner]
        if how != COUNT or key in section:
            section[key] = _restated(how, family.order, section.get(key))
        else:
            section[key] = len(family.order)
    return made


def _restated(how: How, order: list[int], old: Any) -> Any:
    if callable(how):
        return how(order, old)
    if how == COUNT:
        return len(order)
    if how == EACH:
        return [old[layer] for layer in order]
    assert how == INDEX
    return [new for new, layer in enumerate(order) if layer in old]


def owners(part: Part, groups: int, size: int) -> list[int]:
    """For each row (or column) of a tensor the group of heads that it belongs to."""
    shares = (1,) * part.segments if isinstance(part.segments, int) else part.segments
    block, inner = size // part.blocks, groups // part.blocks
    unit = block // sum(shares)
    assert unit * sum(shares) * part.blocks == size
    assert inner * part.blocks == groups
    found = []
    for b in range(part.blocks):
        for share in shares:
            assert unit * share % inner == 0
            each = unit * share // inner
            found += [b * inner + i // each for i in range(unit * share)]
    return found


def parts_of(family: Family, name: str, layer: int) -> Part | None:
    """Where a stored tensor of this layer holds the heads, if it does."""
    found = split(name, family.stacks)
    if found is None or found[1] != layer:
        return None
    return next((p for p in family.attention.parts if fnmatchcase(found[2], p.names)), None)


def with_heads(family: Family, into: State, donor: State, layer: int, groups: Iterable[int]) -> State:
    """`into` with these groups of heads of a layer of `donor`: those that share a head for keys and values."""
    torch = importlib.import_module("torch")
    assert family.attention.heads is not None
    taken, total = set(groups), family.attention.heads[1]
    found = dict(into)
    for name, tensor in into.items():
        part = parts_of(family, name, layer)
        if part is None:
            continue
        rows = [i for i, group in enumerate(owners(part, total, tensor.shape[part.axis])) if group in taken]
        index = torch.tensor(rows, dtype=torch.long)
        found[name] = tensor.index_copy(part.axis, index, donor[name].index_select(part.axis, index))
    return found


def permuted(family: Family, state: State, layer: int) -> State:
    """The groups of heads of a layer in the opposite order: the same function, where heads are alike."""
    torch = importlib.import_module("torch")
    assert family.attention.heads is not None
    total = family.attention.heads[1]
    found = dict(state)
    for name, tensor in state.items():
        part = parts_of(family, name, layer)
        if part is None:
            continue
        whose = owners(part, total, tensor.shape[part.axis])
        rows: dict[int, list[int]] = {}
        for i, group in enumerate(whose):
            rows.setdefault(group, []).append(i)
        source = list(range(len(whose)))
        for group, own in rows.items():
            for here, there in zip(own, rows[total - 1 - group], strict=True):
                source[here] = there
        found[name] = tensor.index_select(part.axis, torch.tensor(source, dtype=torch.long))
    return found
