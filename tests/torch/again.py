"""Calls that were made before, made again on other values, with Triton kernels interpreted; run by test_known.py in a
process of its own.

Prints a JSON list: of each call its name, whether it was known, and how many elements are not what the torch forms
give on copies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch

import suture.torch
import suture.torch.models
from suture.torch import merging

Model = dict[str, torch.Tensor]
WEIGHTS = {"weight": [0.2, 0.5]}
SPARSE = {**WEIGHTS, "density": [0.3, 0.6]}
MERGES: list[tuple[str, dict[str, Any], bool]] = [
    ("linear", WEIGHTS, False),
    ("task_arithmetic", WEIGHTS, True),
    ("model_stock", {}, True),
    ("ties", SPARSE, True),
    ("dare_ties", SPARSE, True),
    ("sce", {"select_topk": 0.3}, True),
]
SESSIONS: list[tuple[str, str, bool, dict[str, Any]]] = [
    ("linear", "weight", False, {}),
    ("task_arithmetic", "weight", True, {}),
    ("ties", "weight", True, {"density": 0.4}),
]


def models(seed: int) -> list[Model]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"rows": (41, 32), "few": (5,), "one": (1,)}
    base = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    return [base, *({n: t + 0.1 * torch.randn(t.shape, generator=random) for n, t in base.items()} for _ in range(2))]


def fill(into: list[Model], seed: int) -> None:
    """Other values in the same memory."""
    for own, other in zip(into, models(seed), strict=True):
        for name, tensor in own.items():
            tensor.copy_(other[name])


def by_forms(call: Callable[[], Any]) -> Any:
    os.environ["SUTURE_TRITON"] = "0"
    try:
        return call()
    finally:
        del os.environ["SUTURE_TRITON"]


def unequal(found: Model, expected: Model) -> int:
    return sum(int((found[name] != expected[name]).sum()) for name in expected)


def merged(method: str, parameters: dict[str, Any], based: bool) -> Iterator[dict[str, Any]]:
    """A merge three times in one memory; from the second on nothing is looked at closely."""
    held = models(1)
    for turn in range(3):
        fill(held, 10 + turn)
        base, *tuned = held
        origin = base if based else None
        copies = [{n: t.clone() for n, t in model.items()} for model in tuned]
        expected = by_forms(
            lambda c=copies, o=origin: suture.torch.merge(c, method, base=o, parameters=parameters)  # type: ignore[misc]
        )
        with mock.patch.object(merging, "given", side_effect=merging.given) as looked:
            others = {"model-2": tuned[1]}
            suture.torch.merge_(tuned[0], others, method, base=origin, parameters=parameters, name="model-1")
        yield {"call": f"{method} {turn}", "known": not looked.called, "unequal": unequal(tuned[0], expected)}


def tried(method: str, name: str, based: bool, more: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A session's merges with other coefficients; from the second on the tables are there."""
    base, *tuned = models(2)
    origin = base if based else None
    session = suture.torch.prepare(tuned, method, base=origin, parameters={name: [0.5, 0.5], **more})
    into = {n: torch.empty_like(t) for n, t in base.items()}
    for turn, values in enumerate([[0.2, 0.7], [0.9, 0.1], [0.3, 0.3]]):
        with mock.patch("suture.torch.sessions.resident", side_effect=suture.torch.models.resident) as looked:
            session.apply_(values, into=into)
        expected = by_forms(
            lambda v=values: suture.torch.merge(tuned, method, base=origin, parameters={name: v, **more})  # type: ignore[misc]
        )
        yield {"call": f"session {method} {turn}", "known": not looked.called, "unequal": unequal(into, expected)}


if __name__ == "__main__":
    found = [done for merge in MERGES for done in merged(*merge)]
    found += [done for own in SESSIONS for done in tried(*own)]
    print(json.dumps(found))
