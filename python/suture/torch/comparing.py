"""What a fine-tune changed, of models that torch holds: the figures of `suture diff`, computed where they lie."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from suture import _core, temporary
from suture.errors import SutureError, UsageError
from suture.results import Comparison
from suture.results.reading import Row, Stack
from suture.torch.models import DTYPES, Model, Resident, resident
from suture.torch.planned import describe
from suture.torch.resident import block_of

#: Dtypes that are computed on; others are compared by their bytes.
_COMPUTES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
#: Elements of a block at most where nothing else is asked for: a dozen times so many float64 are there at a time.
_BLOCK = 1 << 22
#: Cosine from which on a model counts as tuned from the base, and below which as no relative of it.
_RELATED, _STRANGERS = 0.97, 0.25
#: Sums over pairs of elements (b of the base, t of the fine-tune, d = t - b), and counts; the largest |d| is last.
_SUMS = (
    "changed", "flipped", "skipped", "nonfinite_base", "nonfinite_tuned", "delta", "abs_delta", "abs_base",
    "square_delta", "square_base", "square_tuned", "product", "max_delta",
)  # fmt: skip


#: Dtype and shape of each tensor of a model, by name.
Described: TypeAlias = "Mapping[str, tuple[torch.dtype, tuple[int, ...]]]"
#: A key for the layer that a tensor is in: layers of the main stack, then of other stacks, then what is outside.
_Layer = tuple[int, int]
_OUTSIDE: _Layer = (1 << 62, 0)


@dataclass(frozen=True)
class _Moments:
    """Sums over elements, as the core gathers them."""

    elements: int = 0
    changed: float = 0.0
    flipped: float = 0.0
    skipped: float = 0.0
    nonfinite_base: float = 0.0
    nonfinite_tuned: float = 0.0
    delta: float = 0.0
    abs_delta: float = 0.0
    abs_base: float = 0.0
    square_delta: float = 0.0
    square_base: float = 0.0
    square_tuned: float = 0.0
    product: float = 0.0
    max_delta: float = 0.0

    def __add__(self, other: _Moments) -> _Moments:
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        sums["max_delta"] = max(self.max_delta, other.max_delta)
        return _Moments(self.elements + other.elements, **sums)

    @property
    def cosine(self) -> float:
        """Of base and fine-tune."""
        norms = math.sqrt(self.square_base) * math.sqrt(self.square_tuned)
        if self.square_delta == 0.0:
            return 1.0
        return max(-1.0, min(1.0, self.product / norms)) if norms else 0.0

    def row(self, computes: bool = True) -> Row:
        """All figures; of what is not computed on the counts alone."""
        paired, n = self.elements - self.skipped, float(self.elements)
        l2 = math.sqrt(self.square_delta)
        figures = {
            "mean_abs": _ratio(self.abs_delta, paired),
            "rms": math.sqrt(_ratio(self.square_delta, paired)),
            "max_abs": self.max_delta,
            "mean": _ratio(self.delta, paired),
            "l2": l2,
            "relative_l2": _ratio(l2, math.sqrt(self.square_base)),
            "relative_mean": _ratio(self.abs_delta, self.abs_base),
            "cosine": self.cosine,
            "changed": _ratio(self.changed, n),
            "unchanged": _ratio(n - self.changed, n),
            "flipped": _ratio(self.flipped, n),
            "nonfinite": self.nonfinite_base + self.nonfinite_tuned,
        }
        counts = ("changed", "unchanged", "nonfinite")
        told = {name: _number(v) if computes or name in counts else None for name, v in figures.items()}
        nonfinite = {name: int(getattr(self, name)) for name in ("nonfinite_base", "nonfinite_tuned")}
        return {"elements": self.elements, **told, **nonfinite}


@dataclass(frozen=True)
class _Compared:
    """A tensor of both."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    #: By stack, the main one first, and number.
    layer: tuple[int, int]
    computes: bool
    equal: bool
    moments: _Moments


def diff(base: Model, tuned: Model, *, block: int | None = None) -> Comparison:
    """Measure what a fine-tune changed.

    The figures are those of :func:`suture.diff` with the same keys, in float64: for each tensor, layer, module and
    layer by module, and over all. Left out is what takes more than one pass or more than one fine-tune (``spread``,
    heads, neurons, tokens; ``pairs`` is empty), and that a model may have other names or a tied head: tensors are
    compared that have one name. Pairs with a NaN or infinite element are counted and left out of the sums.

    Args:
        base: the model that `tuned` was tuned from: a module, or tensors by name. Blocks are computed on its device.
        tuned: the fine-tune.
        block: elements looked at at a time.

    Returns:
        What :func:`suture.diff` returns. It waits for the device, once.

    Raises:
        UsageError: if a model is neither a module nor a mapping, or they have no tensor in common.
        SutureError: if a tensor has no values, or cannot be read.
    """
    own, other = resident(base, "base"), resident(tuned, "tuned")
    with temporary.passing("torch") as folder:
        try:
            cores = [_core.Checkpoint(str(describe(model, Path(folder) / model.label))) for model in (own, other)]
        except OSError as e:
            message = f"cannot describe the models: {e.strerror}; is there room for a few MB?"
            raise SutureError(message, path=e.filename) from e
        sides = [Side.of(model, core) for model, core in zip((own, other), cores, strict=True)]
        warnings = [w.replace(folder + "/", "") for core in cores for w in core.warnings]
    found = compare(sides[0], sides[1], block)
    return cast(Comparison, {**found, "warnings": warnings})


@dataclass(frozen=True)
class Side:
    """One of two models that are compared.

    Attributes:
        label: what it is called.
        what: dtype and shape of each tensor by name.
        read: gives the tensor of a name.
        stacks: its stacks of layers.
        layer: the layer that a tensor is in.
    """

    label: str
    what: Described
    read: Callable[[str], Tensor]
    stacks: list[Stack]
    layer: Callable[[str], _Layer]

    @classmethod
    def of(cls, model: Resident, core: _core.Checkpoint) -> Side:
        """A model that is there, described as `core`."""
        what = {name: (t.dtype, tuple(t.shape)) for name, t in model.tensors.items()}
        return cls.reading(model.label, what, model.tensors.__getitem__, core)

    @classmethod
    def reading(
        cls,
        label: str,
        what: Described,
        read: Callable[[str], Tensor],
        core: _core.Checkpoint,
    ) -> Side:
        """A model whose tensors `read` gives."""
        stacks = cast("list[Stack]", json.loads(core.stacks_json()))
        return cls(label, what, read, stacks, _layers(core, stacks))


def compare(own: Side, other: Side, block: int | None) -> dict[str, Any]:
    """What a fine-tune changed, of two sides.

    Raises:
        UsageError: if they have no tensor in common.
    """
    both = [name for name in own.what if name in other.what]
    alike = [name for name in both if _comparable(own.what[name], other.what[name])]
    reshaped = [name for name in both if name not in set(alike)]
    only = [[n for n in a.what if n not in b.what] for a, b in ((own, other), (other, own))]
    if not alike and (both or any(only)):
        what = "no tensor in common" if not reshaped else "no tensor of one shape in common"
        raise UsageError(f"{own.label} and {other.label} have {what}; are these the right models?")
    compared = list(_compared(own, other, alike, block))
    model: Row = {
        **_rolled(compared, own.stacks),
        "tuned": other.label,
        "label": other.label,
        "ancestry": _ancestry(compared),
        "tensors": [_tensor(t, own.stacks) for t in compared],
        "uncomputed": _uncomputed(compared),
        "only_base": only[0],
        "only_tuned": only[1],
        "reshaped": reshaped,
        "lost": {
            **{name: _layer_name(own.layer(name), own.stacks) for name in (*only[0], *reshaped)},
            **{name: _layer_name(other.layer(name), other.stacks) for name in only[1]},
        },
    }
    # What is not computed on counts over all: else a model of which a third changed would hardly have changed.
    everything = sum((t.moments for t in compared), _Moments())
    model["total"] |= {n: everything.row()[n] for n in ("elements", "changed", "unchanged", "nonfinite")}
    # No step of a quantisation is known here.
    metrics = [m for m in json.loads(_core.metrics_json(json.dumps({}))) if m["name"] in model["total"]]
    return {"schema": 1, "base": own.label, "stacks": own.stacks, "metrics": metrics, "models": [model], "pairs": []}


def _comparable(a: tuple[torch.dtype, Any], b: tuple[torch.dtype, Any]) -> bool:
    return bool(a[1] == b[1] and (a[0] == b[0] or (a[0] in _COMPUTES and b[0] in _COMPUTES)))


def _layers(core: _core.Checkpoint, stacks: list[Stack]) -> Callable[[str], _Layer]:
    def layer(name: str) -> _Layer:
        split = _core.layer_of(name)
        if split is None:
            return _OUTSIDE
        prefix, number, _ = split
        for i, stack in enumerate(stacks):
            if stack["prefix"] == prefix and 0 <= number - stack["first"] < stack["layers"]:
                return 0 if stack["main"] else i + 1, number - stack["first"]
        return _OUTSIDE

    return layer


def _layer_name(layer: _Layer, stacks: list[Stack]) -> str:
    if layer == _OUTSIDE:
        return "-"
    return str(layer[1]) if layer[0] == 0 else f"{stacks[layer[0] - 1]['name']}:{layer[1]}"


def _module(name: str) -> str:
    """The kind of module that a tensor is of: its name inside the layer, with every number as ``*``."""
    split = _core.layer_of(name)
    inner = name if split is None else split[2]
    inner = inner.removesuffix(".weight") if inner.endswith(".weight") else inner.removesuffix(".bias")
    return ".".join("*" if part.isascii() and part.isdigit() else part for part in inner.split("."))


def _compared(base: Side, tuned: Side, names: Sequence[str], block: int | None) -> Iterator[_Compared]:
    """Every tensor of these names. All sums are queued before the device is waited for."""
    sums: dict[str, Tensor] = {}
    with torch.no_grad():
        for name in names:
            b, t = base.read(name), tuned.read(name)
            step = block_of(block, [b.device])
            sums[name] = _sums(b, t, min(step, _BLOCK) if block is None else step)
        places: dict[torch.device, list[str]] = {}
        for name, found in sums.items():
            places.setdefault(found.device, []).append(name)
        told: dict[str, list[float]] = {}
        for own in places.values():
            told |= dict(zip(own, torch.stack([sums[name] for name in own]).cpu().tolist(), strict=True))
    for name in names:
        (dtype, shape), other = base.what[name], tuned.what[name][0]
        *values, differing = told[name]
        moments = _Moments(math.prod(shape), **dict(zip(_SUMS, values, strict=True)))
        equal = dtype == other and differing == 0.0
        yield _Compared(name, dtype, shape, base.layer(name), dtype in _COMPUTES, equal, moments)


def _sums(b: Tensor, t: Tensor, step: int) -> Tensor:
    """`[len(_SUMS) + 1]` float64: the sums over two tensors, and how many elements differ in their bytes."""
    total = torch.zeros(len(_SUMS) + 1, dtype=torch.float64, device=b.device)
    for base, tuned in _blocks(b, t, step):
        found = _of_numbers(base, tuned) if b.dtype in _COMPUTES else _of_bytes(base, tuned)
        largest = torch.maximum(total[-2], found[-2])
        total = total + found
        total[-2] = largest
    return total


def _blocks(b: Tensor, t: Tensor, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Elements of both in order, one dimension, on the device of the first."""
    if b.is_contiguous() and t.is_contiguous():
        b, t, rows = b.view(-1), t.view(-1), step
    else:
        b, t = (x.unsqueeze(0) if x.dim() == 0 else x for x in (b, t))
        rows = max(step // max(math.prod(b.shape[1:]), 1), 1)
    for start in range(0, b.shape[0] if b.numel() else 0, rows):
        parts = [x[start : start + rows].reshape(-1) for x in (b, t)]
        yield parts[0], parts[1].to(b.device)


def _of_numbers(b: Tensor, t: Tensor) -> Tensor:
    differing = _count(_bits(b) != _bits(t)) if b.dtype == t.dtype else torch.ones((), dtype=torch.float64)
    width = torch.float64 if torch.float64 in (b.dtype, t.dtype) else torch.float32
    b, t = b.to(width), t.to(width)
    changed = _count(_bits(b) != _bits(t))
    fine_base, fine_tuned = b.isfinite(), t.isfinite()
    fine = fine_base & fine_tuned
    wide_base, wide_tuned = (torch.where(fine, x, 0.0).double() for x in (b, t))
    # Changes of what is 32 bits wide or less are of 32 bits, as on a disk.
    d = (torch.where(fine, t, 0.0) - torch.where(fine, b, 0.0)).double()
    size = d.abs()
    return torch.stack(
        [
            changed,
            _count(wide_base * wide_tuned.sign() < 0),
            _count(~fine),
            _count(~fine_base),
            _count(~fine_tuned),
            d.sum(),
            size.sum(),
            wide_base.abs().sum(),
            (d * d).sum(),
            (wide_base * wide_base).sum(),
            (wide_tuned * wide_tuned).sum(),
            (wide_base * wide_tuned).sum(),
            size.max(),
            differing.to(b.device),
        ]
    )


def _of_bytes(b: Tensor, t: Tensor) -> Tensor:
    found = torch.zeros(len(_SUMS) + 1, dtype=torch.float64, device=b.device)
    width = b.element_size()
    rows = [x.contiguous().view(torch.uint8).view(-1, width) for x in (b, t)]
    found[0] = found[-1] = _count((rows[0] != rows[1]).any(-1))
    return found


def _count(which: Tensor) -> Tensor:
    return which.sum().double()


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def _ratio(a: float, b: float) -> float:
    """`a / b`; nothing over nothing is nothing."""
    if a == 0.0:
        return 0.0
    return a / b if b else math.copysign(math.inf, a)


def _number(value: float) -> float | str:
    """JSON has no infinity."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "inf" if value > 0 else "-inf"


def _tensor(t: _Compared, stacks: list[Stack]) -> Row:
    head = {"name": t.name, "dtype": DTYPES[t.dtype], "shape": list(t.shape), "layer": _layer_name(t.layer, stacks)}
    return head | {"equal": t.equal} | t.moments.row(t.computes)


def _rolled(compared: Iterable[_Compared], stacks: list[Stack]) -> dict[str, Any]:
    """Figures over all, by module, by layer, and by both: layers by number, modules in the order of the model."""
    total = _Moments()
    modules: dict[str, _Moments] = {}
    layers: dict[_Layer, _Moments] = {}
    cells: dict[tuple[_Layer, str], _Moments] = {}
    for t in compared:
        if t.computes:
            module = _module(t.name)
            total = total + t.moments
            modules[module] = modules.get(module, _Moments()) + t.moments
            layers[t.layer] = layers.get(t.layer, _Moments()) + t.moments
            cells[t.layer, module] = cells.get((t.layer, module), _Moments()) + t.moments
    places = {module: i for i, module in enumerate(modules)}
    inside = sorted(cells, key=lambda cell: (cell[0], places[cell[1]]))
    return {
        "total": total.row(),
        "modules": [{"module": m} | moments.row() for m, moments in modules.items()],
        "layers": [{"layer": _layer_name(at, stacks)} | layers[at].row() for at in sorted(layers)],
        "cells": [{"layer": _layer_name(at, stacks), "module": m} | cells[at, m].row() for at, m in inside],
    }


def _ancestry(compared: Iterable[_Compared]) -> Mapping[str, Any]:
    """Whether a model looks tuned from the base: by the cosine of all its matrices."""
    every = sum((t.moments for t in compared if t.computes and len(t.shape) > 1), _Moments())
    if every.square_base == 0.0 or every.square_tuned == 0.0:
        return {"cosine": None, "relative_l2": None, "verdict": "unknown"}
    cosine = every.cosine
    verdict = "related" if cosine >= _RELATED else "strangers" if cosine < _STRANGERS else "doubtful"
    return {"cosine": cosine, "relative_l2": math.sqrt(every.square_delta / every.square_base), "verdict": verdict}


def _uncomputed(compared: Iterable[_Compared]) -> Mapping[str, Any]:
    """What could not be computed on, and was compared by its bytes."""
    those = [t for t in compared if not t.computes]
    return {
        "tensors": len(those),
        "elements": sum(t.moments.elements for t in those),
        "tensors_changed": sum(not t.equal for t in those),
        "elements_changed": int(sum(t.moments.changed for t in those)),
        "dtypes": sorted({DTYPES[t.dtype] for t in those}),
    }


__all__ = ["diff"]
