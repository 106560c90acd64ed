"""Merges by the Triton kernels, interpreted, beside those by the torch forms; run by test_fast.py in a process of its
own.

Triton decides when it is imported whether it interprets. Prints a JSON list: of each merge its name, how many tensors
kernels took, and how many elements differ.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch

import suture.torch
from suture.torch.fast import batches, cuts, table

WEIGHTS = {"weight": [0.2, 0.5, 0.9]}
SPARSE = {**WEIGHTS, "density": [0.3, 0.5, 0.8]}
Model = dict[str, torch.Tensor]
#: Method, how many models, parameters, whether there is a base.
MERGES: list[tuple[str, int, dict[str, Any], bool]] = [
    ("linear", 3, WEIGHTS, False),
    ("linear", 2, {"weight": [1.0, -1.0], "normalize": False}, False),
    ("task_arithmetic", 3, {**WEIGHTS, "lambda": 0.7}, True),
    ("lines", 3, WEIGHTS, True),
    ("slerp", 1, {"t": 0.3}, True),
    ("nuslerp", 2, {"weight": [0.3, 0.7]}, True),
    ("nuslerp", 2, {"weight": [0.3, 0.7]}, False),
    ("multislerp", 3, {"weight": 0.4}, False),
    ("multislerp", 2, {"weight": 0.4}, True),
    ("karcher", 3, {}, False),
    ("model_stock", 3, {}, True),
    ("ties", 3, SPARSE, True),
    ("ties", 3, {**SPARSE, "consensus": "count", "reduce": "sum"}, True),
    ("ties", 2, {"weight": [0.5, 0.5], "density": [0.2, 0.4], "consensus": "none"}, True),
    ("breadcrumbs", 3, {**SPARSE, "gamma": 0.05}, True),
    ("breadcrumbs_ties", 3, {**SPARSE, "gamma": [0.0, 0.02, 0.1]}, True),
    ("dare_linear", 3, SPARSE, True),
    ("dare_linear", 3, {**WEIGHTS, "density": 0.5}, True),
    ("dare_ties", 3, SPARSE, True),
    ("sce", 3, {"select_topk": 0.3}, True),
    ("sce", 3, {"select_topk": 0.3, "mask": "weights"}, True),
    ("sce", 3, {"mask": "weights"}, True),
    ("sce", 2, {}, True),
]
#: Parameters of the merges with cuts that are made with every kind of bounds.
BOUNDED: list[dict[str, Any]] = [SPARSE, {**SPARSE, "gamma": 0.05}, {"select_topk": 0.3}]
#: How bounds are made: as they are; so that they miss; without room for what lies between them; with all of that
#: gathered; with what is frequent counted.
BOUNDS = {
    "": (4.0, 1, 20),
    "missing bounds": (0.0, 1, 20),
    "no room": (4.0, 8, 20),
    "all gathered": (4.0, 1, 1),
    "frequent": (4.0, 1, 1 << 20),
}
# Small, so that tensors of a test have several spans and end within one, and samples are not all of them.
table.TILES, cuts.SAMPLE, cuts.SAMPLED = 2, 1024, 6


#: Parameters of the merges that are made of changes with NaN, infinities and very unequal sizes.
ODD: list[dict[str, Any]] = [SPARSE, {**SPARSE, "consensus": "count", "reduce": "sum"}, *BOUNDED[1:], {}]


def family(kind: str, seed: int) -> tuple[Model, list[Model]]:
    """A base and three fine-tunes.

    Of smooth changes, of few distinct ones, of some that are exactly equal, of odd ones. The third is of float16: for
    bfloat16 Triton interprets no roundings.
    """
    random = torch.Generator().manual_seed(seed)
    shapes = {"rows": (71, 70), "few": (5,), "a sample": (4096,), "one": (1,), "none": (0, 3)}
    grid = 2.0**-8

    def drawn(shape: tuple[int, ...], scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=random) * scale

    base = {name: drawn(shape, 0.05) for name, shape in shapes.items()}
    if kind == "grid":
        base = {name: (value / grid).round() * grid for name, value in base.items()}
    changes = [
        {n: drawn(s, 3.0) if kind in ("smooth", "odd") else drawn(s, 3.0).round() for n, s in shapes.items()}
        for _ in range(3)
    ]
    if kind == "odd":
        for i, own in enumerate(changes):
            # One row of a hundred times the size, one of ten NaNs, an infinity, nothing at all in a tensor.
            own["rows"][20 + i] *= 100
            own["rows"][30, i : i + 10] = math.nan
            own["rows"][40 + i, 3] = math.inf
            own["a sample"] *= 0
    tuned = [{n: base[n] + own[n] * grid for n in shapes} for own in changes]
    if kind == "grid":
        return {n: x.half() for n, x in base.items()}, [{n: x.half() for n, x in m.items()} for m in tuned]
    return base, tuned


def _unequal(a: torch.Tensor, b: torch.Tensor) -> int:
    return int(((a != b) & ~(a.isnan() & b.isnan())).sum())


def run() -> Iterator[dict[str, Any]]:
    """Every merge on every family, and those with cuts by every kind of bounds."""
    taken = 0
    of = batches.Batches.of

    def counted(*given: Any) -> batches.Batches:
        nonlocal taken
        found = of(*given)
        taken = len(found.taken)
        return found

    batches.Batches.of = counted  # type: ignore[method-assign,assignment]
    for seed, kind in enumerate(("smooth", "near", "grid", "odd")):
        base, tuned = family(kind, seed)
        for method, count, parameters, based in MERGES:
            if kind == "odd" and parameters not in ODD:
                continue
            cut = kind == "near" and parameters in BOUNDED and not method.startswith("dare")
            for word, (sure, room, closed) in BOUNDS.items() if cut else [("", BOUNDS[""])]:
                cuts.SURE, cuts.ROOM, cuts.CLOSED = sure, room, closed
                how: dict[str, Any] = {"base": base if based else None, "parameters": parameters}
                by_kernels = suture.torch.merge(tuned[:count], method, **how)
                os.environ["SUTURE_TRITON"] = "0"
                by_forms = suture.torch.merge(tuned[:count], method, **how)
                del os.environ["SUTURE_TRITON"]
                unequal = sum(_unequal(by_kernels[n], by_forms[n]) for n in base)
                yield {"merge": f"{method} {parameters} {kind} {word}", "taken": taken, "unequal": unequal}


if __name__ == "__main__":
    json.dump(list(run()), sys.stdout)
