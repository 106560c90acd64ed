"""How the figures of a comparison are read before they are drawn; the page's script follows the same rules."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from suture import _core
from suture.render.metrics import reading
from suture.render.names import cut, endings

#: The figures of two fine-tunes: meaning, lowest, neutral and highest value.
PAIR_METRICS: dict[str, tuple[str, float, float | None, float]] = {
    "cosine": ("cosine of changes: 1 the same direction, 0 unrelated, -1 opposite", -1.0, 0.0, 1.0),
    "agree": ("of the elements both changed, the share with the same sign: 0.5 is chance", 0.0, 0.5, 1.0),
    "both": ("share of elements both changed", 0.0, None, 1.0),
    "overlap": ("of the elements that changed most in one, the share that also did in the other", 0.0, None, 1.0),
}
#: Characters of a name at an axis; `charts.grid` has room for them.
_LABEL = 24
#: Names that every object of JavaScript has a field of: Vega's look-ups trip over them.
_FIELDS = frozenset({
    "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__", "__proto__", "constructor",
    "hasOwnProperty", "isPrototypeOf", "propertyIsEnumerable", "toLocaleString", "toString", "valueOf",
})  # fmt: skip


@cache
def signed() -> frozenset[str]:
    """Metrics of either sign: drawn in two colours around zero."""
    return frozenset(m["name"] for m in json.loads(_core.metrics_json("{}")) if m["signed"])


def plain(name: str) -> str:
    """`name` as a chart may hold it: a blank behind it makes a field's name harmless."""
    return f"{name} " if name in _FIELDS else name


def short_names(modules: Iterable[str]) -> dict[str, str]:
    """Each module's shortest ending that no other module shares, as a chart may hold it.

    A chart would cut what is longer at its end, where two may differ.
    """
    return {name: plain(ending) for name, ending in cut(endings(modules), _LABEL).items()}


def span(values: Iterable[float], signed: bool) -> tuple[float, float]:
    """The lowest and the highest value of a colour scale."""
    finite = [abs(v) for v in values if math.isfinite(v)]
    top = max(finite, default=0.0) or 1.0
    return (-top if signed else 0.0), top


def shares(rows: Iterable[Mapping[str, Any]], metric: str) -> dict[tuple[str, str], float]:
    """The normalised scores: each cell's size of the metric over the sum of all cells inside the layers."""
    sizes = {(r["layer"], r["module"]): abs(reading(r, metric)) for r in rows if r["layer"] != "-"}
    total = sum(v for v in sizes.values() if math.isfinite(v))
    return {key: v / total if total and math.isfinite(v) else math.nan for key, v in sizes.items()}
