"""The two sentences that the page begins with: what changed most and where, and what is proposed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from suture.escape import printable
from suture.render.metrics import number
from suture.render.units import figure, ranges

#: What is compared: it does not depend on how large a tensor is, or its values are.
_METRIC = "relative_l2"


def summary(found: Mapping[str, Any], proposal: Mapping[str, Any] | None) -> str:
    """Both sentences as a paragraph."""
    models = sorted(found["models"], key=lambda m: -_order(m["total"]))
    return (
        f'<p class="summary">{_changed(models, found["base"])} {_proposed(proposal, models) or _spread(models[0])}</p>'
    )


def _changed(models: Sequence[Mapping[str, Any]], base: Any) -> str:
    most = models[0]
    if all(not t[_METRIC] or float(t[_METRIC]) == 0 for m in models for t in m["tensors"]):
        names = " and ".join(_strong(m["label"]) for m in models)
        return f"Nothing that is compared was changed in {names}: all values are those of {_code(base)}."
    if len(models) == 1:
        said = f"{_strong(most['label'])} differs from its base by {_far(most['total'])}"
    else:
        others = ", ".join(f"{_strong(m['label'])} {figure(m['total'][_METRIC])}" for m in models[1:])
        said = f"{_strong(most['label'])} changed most, by {_far(most['total'])} ({others})"
    rows = [r for r in most["cells"] if _order(r)]
    inside = [r for r in rows if r["layer"] != "-"]
    outside = [r for r in rows if r["layer"] == "-"]
    places = []
    if inside:
        top = max(inside, key=_order)
        places.append(f"inside the layers most in {_code(top['module'])} of layer {_text(top['layer'])} ({_of(top)})")
    if outside:
        top = max(outside, key=_order)
        places.append(f"outside of them in {_code(top['module'])} ({_of(top)})")
    return f"{said}: {', '.join(places)}." if places else f"{said}."


def _spread(model: Mapping[str, Any]) -> str:
    """Without a proposal: how evenly the layers changed."""
    layers = [row for row in model["layers"] if row["layer"] != "-" and math.isfinite(number(row[_METRIC]))]
    if len(layers) < 2 or not any(map(_order, layers)):
        return "No swap is proposed: that takes two fine-tunes whose layers changed."
    most, least = max(layers, key=_order), min(layers, key=_order)
    return (
        f"Of its layers, {_text(most['layer'])} changed most ({_of(most)}) and {_text(least['layer'])} least "
        f"({_of(least)})."
    )


def _proposed(proposal: Mapping[str, Any] | None, models: Sequence[Mapping[str, Any]]) -> str:
    if not proposal:
        return ""
    labels = {m["tuned"]: m["label"] for m in models}
    into, donor = (labels.get(proposal[key], proposal[key]) for key in ("into", "donor"))
    choices: dict[str, set[int]] = {"donor": set(), "blend": set()}
    for score in proposal["scores"]:
        choices.get(score["choice"], set()).add(score["layer"])
    whole, edges = proposal["by"] == "layer", proposal["edges"]
    parts = [
        f"{verb} {'' if whole else 'blocks of '}{_layers(layers)}"
        for verb, layers in (("take", choices["donor"]), ("blend", choices["blend"]))
        if layers
    ]
    told = " and ".join(parts) if parts else "take no layer"
    ends = f"bottom {edges['bottom']} and top {edges['top']}"
    return f"Proposed for a swap into {_strong(into)} from {_strong(donor)}: {told}; or, as edges, {ends}."


def _layers(numbers: set[int]) -> str:
    """Layers as a list of `--layers` has them."""
    return f"layer{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"


def _order(row: Mapping[str, Any]) -> float:
    """What rows are compared by: what is no number, or is over a base of zeros, comes last."""
    value = number(row[_METRIC])
    return value if math.isfinite(value) else 0.0


def _far(total: Mapping[str, Any]) -> str:
    return f"a relative change of {figure(total[_METRIC])}"


def _of(row: Mapping[str, Any]) -> str:
    return figure(row[_METRIC])


def _text(value: Any) -> str:
    return escape(printable(str(value)))


def _strong(value: Any) -> str:
    return f"<strong>{_text(value)}</strong>"


def _code(value: Any) -> str:
    return f"<code>{_text(value)}</code>"
