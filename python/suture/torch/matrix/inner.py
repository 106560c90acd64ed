"""Another method on numbers in memory, under a method of matrices: on coordinates of the changes, or on the changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from suture import _core
from suture.torch import element, gram, scored, sparse
from suture.torch.forms import Block, Form, Params

#: What can stand inside another: methods that go by changes alone, and by nothing larger than a tensor.
FORMS: dict[str, Form] = {**element.FORMS, **gram.FORMS, **sparse.FORMS, **scored.FORMS}
#: Parameters of the merged change, which are the outer method's.
LATE = ("lambda", "svc")
#: Elements in float64 that a form takes for one of its own at most, and for one of each input.
ELEMENT, INPUT = 11, 3
#: And for what it counts, whatever the size of a tensor.
COUNTS = 1 << 19


@cache
def _parameters(method: str) -> list[dict[str, Any]]:
    """What a method says of its parameters."""
    listed: list[dict[str, Any]] = json.loads(_core.methods_json())
    return next(list(spec["parameters"]) for spec in listed if spec["name"] == method)


def inside(word: str, around: Params) -> tuple[str, Params]:
    """The method that a word means, and its parameters: of those of the method around it, else its defaults."""
    method = "task_arithmetic" if word == "mean" else word
    shared, per_input = {}, {}
    for p in _parameters(method):
        name, default = p["name"], 1.0 if p["default"] is None else p["default"]
        given = around.per_input if p["per_input"] else around.shared
        told = given.get(name) if name not in LATE else None
        if p["per_input"]:
            per_input[name] = [default] * around.inputs if told is None else told
        else:
            shared[name] = default if told is None else told
    if word == "mean":
        shared["lambda"] = 1.0 / around.inputs
    return method, Params(shared, per_input, around.inputs, around.seed)


def run(form: Form, params: Params, changes: Sequence[Tensor], keys: Sequence[int]) -> Tensor:
    """What a form makes of changes from nothing, float32 tensors of one shape; of that shape."""
    shape = tuple(changes[0].shape)
    flat = [x.reshape(-1) for x in changes]
    block = Block(torch.zeros_like(flat[0]), flat, 0, flat[0].numel(), keys)
    found = None if form.find is None else form.find(params, shape, lambda: iter((block,)), None)
    return form.apply(params, shape, found)(block).view(shape)
