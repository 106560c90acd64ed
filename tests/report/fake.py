"""Comparisons as `suture.diff` and `suture.propose` return them, with made-up figures."""

from __future__ import annotations

import math
import random
from typing import Any

METRICS = {
    "mean_abs": "mean |d|", "rms": "sqrt(mean d^2)", "max_abs": "largest |d|", "mean": "mean d", "l2": "||d||",
    "relative_l2": "||d|| / ||b||", "relative_mean": "mean |d| / mean |b|", "cosine": "cosine of base and tuned",
    "changed": "share of elements that differ", "unchanged": "share that do not", "flipped": "share of changed signs",
    "nonfinite": "pairs with a NaN or an infinity", "nonfinite_base": "of these in the base",
    "nonfinite_tuned": "of these in the tuned model",
}  # fmt: skip
SPREAD = ("q50", "q90", "q99", "q999", "gini", "top1", "above_1e-4", "above_0.1x")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
MODULES = (*ATTENTION, *MLP, "input_layernorm", "post_attention_layernorm")
OUTSIDE = ("model.embed_tokens", "model.norm", "lm_head")


def comparison(
    labels: tuple[str, ...] = ("math", "swahili"), layers: int = 12, *, slices: bool = True, spread: bool = True
) -> dict[str, Any]:
    """A comparison of as many fine-tunes as there are labels."""
    names = (*METRICS, *(SPREAD if spread else ()))
    models = [_model(label, i, layers, slices, spread) for i, label in enumerate(labels)]
    pairs = [_pair(a, b, layers) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    return {
        "base": "/models/base",
        "metrics": [{"name": n, "summary": METRICS.get(n, f"the {n} of |d|")} for n in names],
        "models": models,
        "pairs": pairs,
    }


def proposal(layers: int = 12, by: str = "layer") -> dict[str, Any]:
    """A proposal to put the outer layers of `swahili` into `math`."""
    dice, scores = random.Random(7), []
    for layer in range(layers):
        for block in (None,) if by == "layer" else ("attention", "mlp"):
            into = 1 / layers * dice.uniform(0.9, 1.1)
            donor = 1 / layers * (1.15 if layer < 3 or layer >= layers - 2 else 0.93)
            gap = donor - into
            choice = "blend" if abs(gap) <= 0.004 else "donor" if gap > 0 else "into"
            score = {"layer": layer, "block": block, "into": into, "donor": donor, "difference": gap}
            scores.append({**score, "margin": abs(abs(gap) - 0.004), "choice": choice})
    edges = {"bottom": 3, "top": 2, "transition_bottom": 1, "transition_top": 0, "gain": 0.061}
    said = {"base": "/models/base", "into": "/models/math", "donor": "/models/swahili", "by": by}
    return {**said, "tau": 0.004, "alpha": 0.5, "scores": scores, "layers": {}, "edges": edges}


def _row(dice: random.Random, size: float, *, spread: bool = False) -> dict[str, Any]:
    size *= dice.uniform(0.8, 1.25)
    row: dict[str, Any] = {"elements": 4096}
    row |= {"mean_abs": size * 1e-2, "rms": size * 1.2e-2, "max_abs": size * 0.2, "mean": size * dice.gauss(0, 1e-4)}
    row |= {"l2": size * 3, "relative_l2": size, "relative_mean": size * 0.9, "cosine": 1 - size * size / 2}
    row |= {"changed": 0.97, "unchanged": 0.03, "flipped": size / 9}
    row |= {"nonfinite": 0, "nonfinite_base": 0, "nonfinite_tuned": 0}
    return row | ({name: size * 0.01 * (i + 1) for i, name in enumerate(SPREAD)} if spread else {})


def _size(model: int, layer: int, layers: int, module: str) -> float:
    """Fine-tunes change different depths: the first one the middle, the second one both ends."""
    depth = layer / max(layers - 1, 1)
    middle = math.exp(-((depth - 0.55) ** 2) / 0.05)
    strength = middle if model % 2 == 0 else 1 - middle * 0.8
    kind = 0.1 if "norm" in module else 1.3 if module in MLP else 1.0
    return 0.04 * (0.3 + strength) * kind * (1 + 0.2 * model)


def _model(label: str, i: int, layers: int, slices: bool, spread: bool) -> dict[str, Any]:
    dice = random.Random(i)
    inside = [(n, m, _row(dice, _size(i, n, layers, m))) for n in range(layers) for m in MODULES]
    outside = [("-", m, _row(dice, 0.02)) for m in OUTSIDE]
    tensors = [
        {**_row(dice, row["relative_l2"], spread=spread), "equal": False, "dtype": "BF16", "shape": [64, 64]}
        | {"name": (f"model.layers.{n}.{m}" if n != "-" else m) + ".weight"}
        for n, m, row in inside + outside
    ]
    model: dict[str, Any] = {
        "tuned": f"/models/{label}",
        "label": label,
        "ancestry": {"cosine": 0.9991 - i / 9, "relative_l2": 0.04, "verdict": ("related", "doubtful", "strangers")[i]},
        "total": _row(dice, 0.05, spread=spread),
        "tensors": tensors,
        "modules": [{**_row(dice, 0.04, spread=spread), "module": m} for m in (MODULES if layers else ()) + OUTSIDE],
        "layers": [
            {**_row(dice, _size(i, n, layers, ""), spread=spread), "layer": str(n) if n < layers else "-"}
            for n in range(layers + 1)
        ],
        "cells": [{**row, "layer": str(n), "module": m} for n, m, row in inside + outside],
        "only_base": [],
        "only_tuned": ["model.layers.0.self_attn.rotary.inv_freq"],
        "reshaped": [],
    }
    return model | (_slices(dice, i, layers) if slices else {})


def _slices(dice: random.Random, i: int, layers: int) -> dict[str, Any]:
    heads = [
        {**_row(dice, _size(i, n, layers, m)), "layer": str(n), "module": m, "head": h}
        for n in range(layers) for m in ATTENTION for h in range(2 if m[10] in "kv" else 8)
    ]  # fmt: skip
    neurons = [
        {**_row(dice, _size(i, n, layers, m)), "layer": str(n), "module": m}
        | {"group": g, "first": g * 16, "last": g * 16 + 15}
        for n in range(layers) for m in MLP for g in range(6)
    ]  # fmt: skip
    tokens = [
        {**_row(dice, 0.3 / (k + 1)), "tensor": "model.embed_tokens.weight", "row": 900 + 7 * k, "token": token}
        for k, token in enumerate(
            [" habari", "\n", "ulimwengu", None, "</script>", "قلب", "\N{RIGHT-TO-LEFT OVERRIDE}x"]
        )
    ]
    vocabularies = [{"tensor": "model.embed_tokens.weight", "rows": 32000, "changed": 1234}]
    return {"heads": heads, "neurons": neurons, "tokens": tokens, "vocabularies": vocabularies}


def _pair(a: str, b: str, layers: int) -> dict[str, Any]:
    dice = random.Random(ascii(a + b))

    def row(wave: float) -> dict[str, Any]:
        return {
            "elements": 4096, "cosine": 0.3 * wave + dice.gauss(0, 0.03), "both": 0.95, "agree": 0.5 + wave / 9,
            "overlap": 0.1 * abs(wave),
        }  # fmt: skip

    cells = [
        {**row(math.cos(3 * n / layers + i / 9)), "layer": str(n), "module": m}
        for n in range(layers) for i, m in enumerate(MODULES)
    ]  # fmt: skip
    outside = [{**row(0.1), "layer": "-", "module": m} for m in OUTSIDE]
    return {
        "a": a, "b": b, "total": row(0.2), "cells": cells + outside,
        "tensors": [{**row(0.2), "name": "model.layers.0.mlp.up_proj.weight"}],
        "modules": [{**row(0.2), "module": m} for m in MODULES],
        "layers": [{**row(0.2), "layer": str(n)} for n in range(layers)],
    }  # fmt: skip
