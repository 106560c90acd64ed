"""What of a merge config is searched: each `{search: [low, high]}` is a gene, or one for every few layers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from suture.checkpoint import opened
from suture.errors import UsageError, near

#: What a searched value may say.
_KEYS = ("search", "start", "layer_granularity", "smooth", "random_start")
#: More than CMA-ES, whose matrix is of their square, is any use for.
_MOST = 2000
#: Where a merge config has its models.
_PER_MODEL = "models"


@dataclass(frozen=True)
class Gene:
    """A number that is searched.

    Attributes:
        name: which it is, such as ``weight of math, mlp, layers 0-3``.
        start: where the search begins.
        low: the least it may be; -inf if there is none.
        high: the most it may be; inf if there is none.
        random: whether the search begins at a random place between the two.
    """

    name: str
    start: float
    low: float
    high: float
    random: bool = False


@dataclass(frozen=True)
class Knob:
    """A value of the config that genes make.

    Attributes:
        path: the keys and indices it stands at.
        name: what it is.
        first: the number of its first gene.
        groups: the layers of each of its genes; empty if it is one number for all tensors.
        smooth: whether values are interpolated between the groups.
    """

    path: tuple[str | int, ...]
    name: str
    first: int
    groups: tuple[tuple[int, ...], ...]
    smooth: bool

    @property
    def count(self) -> int:
        """How many genes it has."""
        return len(self.groups) or 1

    def value(self, genes: Sequence[float]) -> Any:
        """The value as a config has it: a number, or one for each layer, and for all else that of the first layers."""
        own = [float(g) for g in genes[self.first : self.first + self.count]]
        if not self.groups:
            return own[0]
        layers = [layer for group in self.groups for layer in group]
        if self.smooth and len(own) > 1 and len(layers) > 1:
            at = [i * (len(own) - 1) / (len(layers) - 1) for i in range(len(layers))]
            each = [_between(own, x) for x in at]
        else:
            each = [own[i] for i, group in enumerate(self.groups) for _ in group]
        return {"layers": {str(layer): v for layer, v in zip(layers, each, strict=True)}, "default": each[0]}


def _between(values: Sequence[float], x: float) -> float:
    """Values at 0, 1, ... interpolated at `x`; equal ones give that very number."""
    i = min(int(x), len(values) - 2)
    return values[i] + (x - i) * (values[i + 1] - values[i])


@dataclass(frozen=True)
class Genome:
    """A merge config and what of it is searched.

    Attributes:
        config: the config, with `{search: ...}` in it.
        knobs: the values that are searched.
        genes: the numbers that they are made of.
    """

    config: dict[str, Any]
    knobs: tuple[Knob, ...]
    genes: tuple[Gene, ...]

    def merge(self, genes: Sequence[float], written: Callable[[Knob, Any], Any] | None = None) -> dict[str, Any]:
        """The merge config of some genes; `written` says what stands for the value of a knob, if not itself."""
        made: dict[str, Any] = json_copy(self.config)
        for knob in self.knobs:
            node: Any = made
            for key in knob.path[:-1]:
                node = node[key]
            value = knob.value(genes)
            node[knob.path[-1]] = value if written is None else written(knob, value)
        return made


def json_copy(node: Any) -> Any:
    """A copy whose lists and mappings are its own; models stay what they are."""
    if isinstance(node, dict):
        return {key: json_copy(value) for key, value in node.items()}
    return [json_copy(item) for item in node] if isinstance(node, list) else node


def genome_of(config: Mapping[str, Any]) -> Genome:
    """Find what of a config is searched; where layers are told apart, those of its base or first model are asked for.

    Raises:
        UsageError: if nothing is, or a range, a start or a group of layers is none; it names the key.
        SutureError: if the model whose layers are counted cannot be read.
    """
    knobs: list[Knob] = []
    genes: list[Gene] = []
    layers: list[int] | None = None
    for path, node in _searched(config, ()):
        at = _written(path)
        low, high, start = _range(node, at)
        granularity = node.get("layer_granularity", 0)
        if isinstance(granularity, bool) or not isinstance(granularity, int) or granularity < 0:
            message = f"expected how many layers share a number, 0 for all, found `{granularity}`"
            raise UsageError(f"{at}.layer_granularity: {message}", at=f"{at}.layer_granularity")
        name = _name(config, path)
        groups: tuple[tuple[int, ...], ...] = ()
        if granularity:
            if path[0] in ("slices", "modules"):
                message = f"layers are not told apart below `{path[0]}`, which counts them anew; leave it out"
                raise UsageError(f"{at}.layer_granularity: {message}", at=f"{at}.layer_granularity")
            layers = _layers(config) if layers is None else layers
            groups = tuple(tuple(layers[i : i + granularity]) for i in range(0, len(layers), granularity))
        knob = Knob(path, name, len(genes), groups, bool(node.get("smooth")))
        knobs.append(knob)
        rand = bool(node.get("random_start"))
        names = [f"{name}, {_span(group)}" for group in groups] or [name]
        genes += [Gene(n, start, low, high, rand) for n in names]
    if not genes:
        message = (
            "nothing is searched: write `{search: [0, 1], start: 0.5}` for a value, or give a config of mergekit-evolve"
        )
        raise UsageError(message)
    if len(genes) > _MOST:
        raise UsageError(f"{len(genes):,} numbers would be searched, of at most {_MOST:,}; raise layer_granularity")
    return Genome(json_copy(dict(config)), tuple(knobs), tuple(genes))


def _span(group: Sequence[int]) -> str:
    return f"layer {group[0]}" if len(group) == 1 else f"layers {group[0]}-{group[-1]}"


def _searched(node: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any]]]:
    if isinstance(node, dict):
        if "search" in node:
            at = _written(path)
            for key in node:
                if key not in _KEYS:
                    raise UsageError(
                        f"{at}.{key}: unknown key beside `search`{near(str(key), _KEYS)}", at=f"{at}.{key}"
                    )
            if "parameters" not in path:
                raise UsageError(f"{at}.search: only numbers below `parameters` are searched", at=f"{at}.search")
            yield path, node
            return
        for key, value in node.items():
            yield from _searched(value, (*path, key))
    elif isinstance(node, list):
        for i, item in enumerate(node):
            yield from _searched(item, (*path, i))


def _written(path: Sequence[str | int]) -> str:
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def _range(node: Mapping[str, Any], at: str) -> tuple[float, float, float]:
    given = node["search"]
    problem = f"expected [low, high], null for none, found `{given}`"
    if not isinstance(given, list) or len(given) != 2 or not all(x is None or _number(x) for x in given):
        raise UsageError(f"{at}.search: {problem}", at=f"{at}.search")
    low, high = (-math.inf if given[0] is None else float(given[0]), math.inf if given[1] is None else float(given[1]))
    if not low < high:
        raise UsageError(f"{at}.search: {problem}; the first must be the smaller", at=f"{at}.search")
    middle = (low + high) / 2 if math.isfinite(high - low) else min(max(0.5, low), high)
    start = node.get("start", middle)
    if not _number(start) or not low <= start <= high:
        raise UsageError(f"{at}.start: expected a number from {low:g} to {high:g}, found `{start}`", at=f"{at}.start")
    if node.get("random_start") and not math.isfinite(high - low):
        # As wide as what the search begins with would be.
        low_, high_ = max(low, float(start) - 0.5), min(high, float(start) + 0.5)
        start = (low_ + high_) / 2
    return low, high, float(start)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(config: Mapping[str, Any], path: Sequence[str | int]) -> str:
    """What a searched value is: the parameter, of which model and by which filter."""
    keys = [key for key in path if isinstance(key, str)]
    below = keys[keys.index("parameters") + 1 :]
    name = below[0] if below else "value"
    node: Any = config
    whose = ""
    told = []
    for key in path:
        if isinstance(node, dict) and "model" in node and node["model"] is not None:
            whose = _short(node["model"])
        node = node[key]
        if isinstance(node, dict) and isinstance(node.get("filter"), str):
            told.append(node["filter"])
        elif isinstance(node, dict) and set(node) == {"value"}:
            told.append("all else")
    return ", ".join([f"{name} of {whose}" if whose else name, *told])


def _short(model: Any) -> str:
    return str(model).rstrip("/").rsplit("/", 1)[-1]


def _layers(config: Mapping[str, Any]) -> list[int]:
    """The layers of the base, or of the first model."""
    first = config.get("base_model")
    if first is None:
        models = config.get(_PER_MODEL)
        entry = models[0] if isinstance(models, list) and models else None
        first = entry.get("model") if isinstance(entry, dict) else entry
    if first is None:
        raise UsageError("layer_granularity: the config names no model whose layers could be counted")
    stacks = json.loads(opened(first).stacks_json())
    main = next((s for s in stacks if s["main"]), None)
    if main is None:
        raise UsageError(f"{_short(first)}: has no layers to be told apart; leave layer_granularity out")
    return list(range(main["first"], main["first"] + main["layers"]))
