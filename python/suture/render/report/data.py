"""A comparison as the page's script reads it: tables of columns, few digits, nothing that HTML takes for markup."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from suture.escape import printable
from suture.render.metrics import LABELS, PAIR_LABELS, READINGS
from suture.render.report.values import PAIR_METRICS, short_names, signed

#: Digits of a figure, and of those of which there are very many; three are shown. A cosine needs more of them: what
#: matters in it is its distance from one.
_DIGITS, _FEW_DIGITS, _COSINE_DIGITS = 6, 4, 10
_MANY = frozenset({"heads", "neurons"})
_MODEL_TABLES = ("tensors", "modules", "layers", "cells", "heads", "neurons", "tokens", "vocabularies")
_PAIR_TABLES = ("tensors", "modules", "layers", "cells")


def page_data(found: Mapping[str, Any], proposal: Mapping[str, Any] | None) -> dict[str, Any]:
    """Everything the script draws."""
    modules = [c["module"] for m in found["models"] for c in m["cells"]]
    return {
        "metrics": found["metrics"],
        "pairMetrics": {
            name: {"summary": summary, "low": low, "mid": mid, "high": high}
            for name, (summary, low, mid, high) in PAIR_METRICS.items()
        },
        "signed": sorted(signed()),
        "readings": READINGS,
        "labels": LABELS,
        "pairLabels": PAIR_LABELS,
        "short": {printable(name): short for name, short in short_names(modules).items()},
        "models": [_part(m, _MODEL_TABLES, ("label", "total")) for m in found["models"]],
        "pairs": [_part(p, _PAIR_TABLES, ("a", "b", "total")) for p in found.get("pairs", [])],
        "proposal": proposal and _part(proposal, ("scores",), ("into", "donor", "by", "tau", "alpha", "edges")),
    }


def as_script(data: Any) -> str:
    """JSON that can stand inside a `script` element: it holds no `<`, whatever the names in the checkpoints say."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _part(whole: Mapping[str, Any], tables: Sequence[str], fields: Sequence[str]) -> dict[str, Any]:
    part = {n: _table(whole[n], _FEW_DIGITS if n in _MANY else _DIGITS) for n in tables if whole.get(n)}
    return part | {name: _packed(name, whole[name]) for name in fields if name in whole}


def _table(rows: Sequence[Mapping[str, Any]], digits: int) -> dict[str, Any]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "rows": [[_packed(c, row.get(c), digits) for c in columns] for row in rows]}


def _packed(name: str, value: Any, digits: int = _DIGITS) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        short = float(f"{value:.{_COSINE_DIGITS if name == 'cosine' else digits}g}")
        return int(short) if short.is_integer() else short
    if isinstance(value, Mapping):
        return {key: _packed(key, v) for key, v in value.items()}
    if name == "shape":
        return "x".join(map(str, value)) or "scalar"
    return value
