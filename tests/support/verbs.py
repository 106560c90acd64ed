"""The verbs that make a model of two, each in its plainest form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import suture

VERBS: dict[str, Callable[[Path, Path, Path], Any]] = {
    "swap": lambda a, b, out: suture.swap(a, b, out, layers="0"),
    "merge": lambda a, b, out: suture.merge(
        {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 0.5}} for m in (a, b)]}, out
    ),
    "stack": lambda a, b, out: suture.merge(
        {
            "merge_method": "passthrough",
            "slices": [{"sources": [{"model": str(m), "layer_range": [0, 1]}]} for m in (a, b)],
        },
        out,
    ),
    "revert": lambda a, b, out: suture.revert(b, a, out, layers="0"),
}
