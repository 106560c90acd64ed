"""What layers do to the states of a text (block influence), and which experts its tokens go to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.results.text import Influence, InfluenceLayer, RoutedLayer
from suture.text.corpus import Given, texts
from suture.text.extra import need
from suture.text.forward import Batch, current, run
from suture.text.model import Model, Running, open_model


def influence(
    model: str | PathLike[str],
    *,
    text: Given | Sequence[Given] | Mapping[str, Given],
    lines: int | None = None,
    running: Running | None = None,
) -> Influence:
    """How much each layer turns the states of a text: block influence (ShortGPT, arXiv 2403.03853), 1 less the mean
    cosine of a token's state before and behind the layer. Layers of least influence are those to drop first.

    The baseline is the same with the state of the next token of the text behind the layer: what states that are not one
    another's have. Of a model with experts, how often each is routed to, by language; even routing is its baseline.

    Args:
        model: the model; of an encoder-decoder the encoder is run.
        text: texts, a language a file.
        lines: take so many of each at most.
        running: how the model is run.

    Returns:
        Figures by language and layer, and the layers in the order in which to drop them; see
        :class:`suture.results.text.Influence`.

    Raises:
        UsageError: if the extra `text` is not installed, or a text is missing.
        SutureError: if a file or the model is not sound.
    """
    opened = open_model(model, running or Running())
    layers: list[InfluenceLayer] = []
    routed: list[RoutedLayer] = []
    cut: dict[str, int] = {}
    for one in texts(text, lines):
        ids = opened.ids(one.lines)
        cut[one.language] = sum(len(own) > opened.context for own in ids)
        found, counts = _seen(opened, [own[: opened.context] or [0] for own in ids])
        for i, (turned, wrong, count) in enumerate(found):
            if not math.isfinite(turned):
                raise opened.no_number(f"a state of layer {i}")
            layers.append({"language": one.language, "layer": i, "influence": turned, "baseline": wrong,
                           "tokens": count})  # fmt: skip
        for i, own in sorted(counts.items()):
            share = own / max(int(own.sum()), 1)
            entropy = float(-(share[share > 0] * np.log2(share[share > 0])).sum())
            routed.append({"language": one.language, "layer": i, "counts": [int(n) for n in own],
                           "even": 1 / len(own), "entropy": entropy + 0.0, "even_entropy": float(np.log2(len(own)))}
                          )  # fmt: skip
    by_layer = {i: [row["influence"] for row in layers if row["layer"] == i] for i in {row["layer"] for row in layers}}
    order = sorted(by_layer, key=lambda i: (max(by_layer[i]), i))
    return {
        "schema": 1,
        "model": opened.told(),
        "layers": layers,
        "order": order,
        "routing": routed,
        "warnings": [
            f"{opened.path}: {n:,} lines of {language} are longer than the context and were cut off there"
            for language, n in cut.items()
            if n
        ],
    }


def _seen(
    model: Model, tokens: Sequence[Sequence[int]]
) -> tuple[list[tuple[float, float | None, int]], dict[int, NDArray[np.int64]]]:
    """The figures of each layer, and how often each of its experts was chosen."""
    torch = need("torch")
    sums: dict[int, list[float]] = {}
    counts: dict[int, Any] = {}

    def seen(layer: int, before: Any, after: Any, batch: Batch) -> None:
        real = batch.mask.bool()
        turned = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
        wrong = torch.nn.functional.cosine_similarity(before[:, :-1].double(), after[:, 1:].double(), dim=-1)
        pairs = real[:, 1:]
        own = sums.setdefault(layer, [0.0, 0.0, 0.0, 0.0])
        own[0] += float((1 - turned)[real].sum())
        own[1] += float(real.sum())
        own[2] += float((1 - wrong)[pairs].sum())
        own[3] += float(pairs.sum())

    hooks = []
    for number, layer in enumerate(model.layers):
        for name, module in layer.named_modules():
            if experts := _experts(name, module, model):
                hooks.append(module.register_forward_hook(_counter(counts, number, experts, model)))
    try:
        run(model, tokens, seen=seen)
    finally:
        for hook in hooks:
            hook.remove()
    found = [
        (max(own[0] / own[1], 0.0), own[2] / own[3] if own[3] else None, int(own[1])) for _, own in sorted(sums.items())
    ]
    return found, counts


def _experts(name: str, module: Any, model: Model) -> tuple[int, int] | None:
    """The number of experts that a router chooses among, and how many it chooses; None if a module is no router."""
    config = model.module.config.get_text_config()
    said = [getattr(config, key, None) for key in ("num_local_experts", "num_experts", "n_routed_experts")]
    count = next((int(n) for n in said if n), 0)
    last = name.rpartition(".")[2]
    if not count or last not in ("gate", "router") or getattr(module, "weight", None) is None:
        return None
    chosen = getattr(config, "num_experts_per_tok", None) or getattr(config, "num_experts_per_token", None) or 1
    return (count, int(chosen)) if int(module.weight.shape[0]) == count else None


def _counter(counts: dict[int, Any], layer: int, experts: tuple[int, int], model: Model) -> Any:
    """A hook that counts the experts of real tokens."""
    torch = need("torch")
    count, chosen = experts

    def count_them(module: Any, args: Any, out: Any) -> None:
        parts = out if isinstance(out, tuple) else (out,)
        picked = next((p for p in parts if not p.is_floating_point() and p.shape[-1] == chosen), None)
        if picked is None:
            logits = next(p for p in parts if p.shape[-1] == count)
            picked = logits.topk(chosen, dim=-1).indices
        mask = current(model).mask.reshape(-1).bool()
        rows = picked.reshape(-1, chosen)[mask].reshape(-1)
        own = torch.bincount(rows, minlength=count).cpu().numpy()
        counts[layer] = counts.get(layer, np.zeros(count, dtype=np.int64)) + own

    return count_them
