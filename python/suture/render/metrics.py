"""How figures of a comparison are read before they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What a heat map shows where the metric itself would hide the change.
READINGS = {"cosine": "1 - cosine of base and tuned"}


def reading(row: Mapping[str, Any], metric: str) -> float:
    """The metric as a map draws it: a cosine near one is no change, so that its distance from one is shown."""
    value = float(row[metric])
    return max(1.0 - value, 0.0) if metric in READINGS else value
