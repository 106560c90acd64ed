"""Layers of experts in a checkpoint: which tensors, or rows of tensors, each expert's matrices are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.surgery.moe_targets import DENSE

_APART = re.compile(
    r"(.*\.layers\.(\d+)\.)(mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight"
)
_PACKED = re.compile(r"(.*\.layers\.(\d+)\.)(mlp|block_sparse_moe)\.experts\.(gate_up_proj|down_proj)")
_WORDS = {"w1": 0, "w3": 1, "w2": 2, **{name: i for i, name in enumerate(DENSE)}}
_MIXTRAL = ("w1", "w3", "w2")
#: What a layer has a row of for each expert.
_ROWS = ("gate.weight", "gate.e_score_correction_bias")

_BIAS = re.compile(r"(correction|expert)_bias$|gate\.bias$")

#: A tensor, or some of its rows: a name, and the first row and how many.
Part = tuple[str] | tuple[str, int, int]


@dataclass
class Layer:
    """A layer of experts.

    Attributes:
        prefix: ``model.layers.3.mlp.``.
        layer: ``model.layers.3.``.
        count: how many experts there are.
        parts: each expert's gate, up and down.
        packed: the names of both stacks, if experts are stacked; else None.
        words: what the matrices are called, if they are apart.
        rows: the tensors with a row for each expert.
    """

    prefix: str
    layer: str
    count: int
    parts: list[list[Part]]
    packed: tuple[str, str] | None
    words: tuple[str, ...]
    rows: list[str]

    def tensors(self) -> set[str]:
        """The names of all of its tensors."""
        return {part[0] for parts in self.parts for part in parts} | set(self.rows)


def layers_of(model: Checkpoint) -> dict[int, Layer]:
    """The layers of experts of a model, by their numbers.

    Raises:
        SutureError: if there are none, one is not whole, or they are stacked in a way that is not known.
    """
    found: dict[int, dict[int, list[Part | None]]] = {}
    about: dict[int, tuple[str, str, tuple[str, ...]]] = {}
    stacks: dict[int, dict[str, str]] = {}
    for name in model.names:
        if match := _APART.fullmatch(name):
            layer, word = int(match[2]), match[5]
            found.setdefault(layer, {}).setdefault(int(match[4]), [None] * 3)[_WORDS[word]] = (name,)
            about[layer] = (match[1], match[3], _MIXTRAL if word in _MIXTRAL else DENSE)
        elif match := _PACKED.fullmatch(name):
            stacks.setdefault(int(match[2]), {})[match[4]] = name
            about[int(match[2])] = (match[1], match[3], DENSE)
    for layer, own in stacks.items():
        found[layer] = _stacked(model, layer, own)
    if not found:
        raise SutureError(
            f"{model.path}: has no experts that are known (`mlp.experts.0.gate_proj.weight` and the like)", model.path
        )
    out: dict[int, Layer] = {}
    for layer in sorted(found):
        experts = found[layer]
        start, module, words = about[layer]
        prefix = f"{start}{module}."
        parts: list[list[Part]] = []
        for number in range(max(experts) + 1):
            own_parts = [p for p in experts.get(number, [None]) if p is not None]
            if len(own_parts) < 3:
                raise SutureError(
                    f"{model.path}: tensor `{prefix}experts.{number}`: is not whole; expected gate, up and down",
                    model.path,
                )
            parts.append(own_parts)
        rows = [prefix + name for name in _ROWS if prefix + name in model]
        beside = (n for n in model.names if n.startswith(prefix) and ".experts." not in n and n not in rows)
        rows += [n for n in beside if _BIAS.search(n) and len(parts) in model.info(n).shape]
        if not rows:
            raise SutureError(
                f"{model.path}: tensor `{prefix}gate.weight`: is missing; expected a router beside the experts",
                model.path,
            )
        for name in rows:
            if model.info(name).shape[0] != len(parts):
                message = f"tensor `{name}`: has {model.info(name).shape[0]} rows, and there are {len(parts)} experts"
                raise SutureError(f"{model.path}: {message}", model.path, name)
        packed = (stacks[layer]["gate_up_proj"], stacks[layer]["down_proj"]) if layer in stacks else None
        out[layer] = Layer(prefix, start, len(parts), parts, packed, words, rows)
    return out


def _stacked(model: Checkpoint, layer: int, own: Mapping[str, str]) -> dict[int, list[Part | None]]:
    """The experts of a layer that stacks them: gate and up one behind the other."""
    problem = f"{model.path}: the experts of layer {layer} are stacked in a way that is not taken apart"
    if len(own) < 2:
        raise SutureError(f"{problem}: one of gate_up_proj and down_proj is missing", model.path)
    both, down = (model.info(own[name]).shape for name in ("gate_up_proj", "down_proj"))
    if len(both) != 3 or len(down) != 3 or (both[0], both[2], both[1]) != (down[0], down[1], 2 * down[2]):
        shapes = f"{list(both)} and {list(down)}"
        raise SutureError(
            f"{problem}: expected [experts, 2 * inner, width] and [experts, width, inner], found {shapes}", model.path
        )
    inner, width = down[2], down[1]
    gate_up, last = own["gate_up_proj"], own["down_proj"]
    return {
        e: [(gate_up, e * 2 * inner, inner), (gate_up, e * 2 * inner + inner, inner), (last, e * width, width)]
        for e in range(both[0])
    }


def config_with(config: Mapping[str, Any], experts: int) -> dict[str, Any]:
    """A config with another number of experts, and no more of them for a token than there are."""
    out = dict(config)
    for key in ("num_local_experts", "num_experts", "n_routed_experts"):
        if key in out:
            if out[key] != experts and (out.get("n_group") or 1) != 1:
                raise SutureError("config.json: `n_group`: experts are chosen by groups, and their number is to stay")
            out[key] = experts
    if isinstance(out.get("num_experts_per_tok"), int):
        out["num_experts_per_tok"] = min(out["num_experts_per_tok"], experts)
    return out


def numbers(text: str, count: int, at: str = "experts") -> list[int]:
    """Experts as they are listed: ``0,2,5-7``.

    Raises:
        UsageError: if one is not there, or listed twice.
    """
    out: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", item.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if last < first:
            raise UsageError(f"{at}: expected numbers of experts such as 0,2,5-7, found `{text}`", at=at)
        if last >= count:
            raise UsageError(f"{at}: there is no expert {last}; the model has 0 to {count - 1}", at=at)
        out += range(first, last + 1)
    if len(set(out)) < len(out):
        raise UsageError(f"{at}: expected each expert once, found `{text}`", at=at)
    return out
