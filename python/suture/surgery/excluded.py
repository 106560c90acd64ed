"""What Twin-Merging leaves out of experts' differences: output heads and biases (arXiv 2406.15479)."""

from __future__ import annotations

import json
import re

from suture import _core

#: Heads of classifiers, as their libraries call them. Those over the vocabulary the core knows.
_CLASSIFIERS = re.compile(r"(^|\.)(classifier|score|classification_head|qa_outputs|logits_proj)(\.|$)")
_BIAS = re.compile(r"(^|[._])bias([._]|$)")
_NUMBERS = ("F64", "F32", "F16", "BF16")


def excluded(model: _core.Checkpoint) -> list[str]:
    """The names of a model's output heads, biases, and tensors that have no arithmetic (integers, 8-bit floats).

    A table of tokens that a head is tied to is a table: it is not among them.
    """
    tables = set(model.tables())

    def out(name: str) -> bool:
        head = _core.is_vocabulary(name) and name not in tables
        # A bias by the last part of its name: T5's `relative_attention_bias.weight` is a table of numbers.
        bias = _BIAS.search(name.rpartition(".")[2]) is not None
        return head or bias or _CLASSIFIERS.search(name) is not None or _dtype(model, name) not in _NUMBERS

    return [name for name in model.names() if out(name)]


def _dtype(model: _core.Checkpoint, name: str) -> str:
    return str(json.loads(model.info_json(name))["dtype"])
