"""What a merge does, in words: class of tensors by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from suture import _core
from suture.render.units import plural, ranges, size
from suture.results import PlannedTensor
from suture.results.report import Report
from suture.results.surgery import places

#: Names of one class that are listed at most.
_LISTED = 6


@dataclass
class _Class:
    """Tensors of which one sentence is true.

    Attributes:
        names: what they are called, without their layer.
        layers: the layers they are in; none of what is in no layer.
        taken: the layers they are taken from, by model.
        values: the values of each parameter of each model, as they occur.
    """

    names: dict[str, None] = field(default_factory=dict)
    layers: dict[int, None] = field(default_factory=dict)
    taken: dict[str, dict[int, None]] = field(default_factory=dict)
    values: dict[tuple[str, str], dict[Any, None]] = field(default_factory=dict)

    def signature(self) -> str:
        """All but the names."""
        return repr((list(self.layers), self.taken, self.values))


def explained(report: Report, methods: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Lines that say what a plan does; `methods` are what methods say of themselves, by name."""
    for name, part in report.parts.items():
        yield f"{name}:"
        yield from _explained(part, methods)
    if "title" in report.data:
        yield from _explained(report, methods)


def _explained(report: Report, methods: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    data = report.data
    tensors: Sequence[PlannedTensor] = data["tensors"]
    total = sum(shard["bytes"] for shard in data["shards"])
    yield f"{data['title']} writes {plural(len(tensors), 'tensor')}, {size(total)}, to {report.out}"
    for name in dict.fromkeys(t["method"] for t in tensors if "method" in t):
        spec = methods.get(name)
        if spec is not None:
            yield f"  {name}: {spec['summary']}: {spec['formula']}"
    for title, text in data["notes"]:
        yield f"  {title}: {text}"
    found = _classes(tensors)
    stacks = list(dict.fromkeys(stack for stack, _ in found if stack))
    for stack in stacks:
        yield f"in the layers of {stack.rstrip('.')}:"
        yield from _lines([(key, c) for (own, key), c in found.items() if own == stack])
    outside = [(key, c) for (own, key), c in found.items() if not own]
    if outside:
        yield "outside the layers:" if stacks else "tensors:"
        yield from _lines(outside)
    if data["unused"]:
        yield f"left out: {plural(len(data['unused']), 'input tensor')} (listed with --dry-run --verbose)"
    if beside := data.get("sidecars"):
        yield f"beside the tensors: {', '.join(beside)}"


def _classes(tensors: Sequence[PlannedTensor]) -> dict[tuple[str, tuple[Any, ...]], _Class]:
    """Tensors by their stack and by what is done to them: modules of which all the same is true are one class."""
    found: dict[tuple[str, str, tuple[Any, ...]], _Class] = {}
    for t in tensors:
        place = _core.layer_of(t["name"])
        stack, layer, inside = place or ("", None, t["name"])
        base, inputs = places([t.get("base")]), places(t["inputs"])
        models = tuple(model for model, _ in inputs)
        method = t.get("method", t["action"])
        set_by = t.get("from") or {}
        key = (method, base[0][0] if base else None, models, tuple(sorted(set_by)))
        own = found.setdefault((stack, _modules(inside), key), _Class())
        own.names[_modules(inside)] = None
        if layer is not None:
            own.layers[layer] = None
        for model, name in (*base, *inputs):
            there = _core.layer_of(name)
            if there is not None:
                own.taken.setdefault(model, {})[there[1]] = None
        params = t.get("params") or {}
        for name in set_by:
            if name in params.get("shared", {}):
                own.values.setdefault(("", name), {})[params["shared"][name]] = None
            for model, value in zip(models, params.get("per_input", {}).get(name, ()), strict=False):
                own.values.setdefault((model, name), {})[value] = None
    joined: dict[tuple[str, tuple[Any, ...]], _Class] = {}
    for (stack, _, key), own in found.items():
        joined.setdefault((stack, (*key, own.signature())), own).names |= own.names
    return joined


def _modules(inside: str) -> str:
    """The module of a tensor; experts by number are one."""
    parts = inside.split(".")
    return ".".join("*" if part.isdigit() else part for part in parts)


def _lines(classes: Sequence[tuple[tuple[Any, ...], _Class]]) -> Iterator[str]:
    for (method, base, models, *_), own in classes:
        names = list(own.names)
        listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        layers = f"layers {ranges(sorted(own.layers), ', ')}: " if own.layers else ""
        yield f"  {layers}{_what(method, base, models, own)}"
        yield f"    {listed}"


def _what(method: str, base: str | None, models: tuple[str, ...], own: _Class) -> str:
    """What is done to tensors of a class."""
    named = [model + _given(own, model) for model in dict.fromkeys(models)]
    if method == "copy":
        return f"copied bit for bit from {named[0]}{_from_layers(own, models[0])}"
    if method == "move":
        return f"parts of {' and '.join(named)}, bit for bit"
    listed = ", ".join(n + _from_layers(own, m) for n, m in zip(named, dict.fromkeys(models), strict=True))
    shared = _given(own, "")
    against = f", as changes of {base}{_from_layers(own, base)}" if base else ""
    return f"{method}{shared} of {listed}{against}"


def _from_layers(own: _Class, model: str) -> str:
    """Which layers of a model they are from, where these are others than they become."""
    taken = sorted(own.taken.get(model, ()))
    return "" if not taken or taken == sorted(own.layers) else f" (its layers {ranges(taken, ', ')})"


def _given(own: _Class, model: str) -> str:
    """The parameters that the config sets for a model, or with no model for all."""
    told = [f"{name} {_values(list(values))}" for (of, name), values in own.values.items() if of == model]
    return f" ({', '.join(told)})" if told else ""


def _values(values: Sequence[Any]) -> str:
    """One value, or from which to which they go."""
    if len(values) == 1:
        return f"{values[0]:g}" if isinstance(values[0], float) else str(values[0]).lower()
    if all(isinstance(v, int | float) for v in values):
        return f"{min(values):g} to {max(values):g} by layer"
    return f"{len(values)} values by tensor"
