"""Oracle: parameter values as mergekit's YAML writes them: scalars, gradients over layers, name filters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def position(layer: int, layers: int) -> float:
    """Where a layer of an output slice of `layers` layers stands on a gradient; a lone layer at its end."""
    return 1.0 if layers == 1 else layer / (layers - 1)


def at(values: Sequence[Any], t: float) -> Any:
    """The gradient's value at t: linear between neighbours for numbers, else the entry at or before t."""
    last = len(values) - 1
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return values[int(t * last)]
    s = t * last
    left = int(s)
    share = s - left
    return (1.0 - share) * values[left] + share * values[min(left + 1, last)]


def matches(pattern: str | None, name: str) -> bool:
    """A filter matches by plain substring; none and "*" match everything."""
    return pattern is None or pattern == "*" or pattern in name


def resolve(setting: Any, name: str, t: float) -> Any:
    """The value of a setting for tensor `name` at gradient position t; None where no entry applies."""
    if isinstance(setting, dict):
        setting = [setting]
    if not isinstance(setting, list):
        return setting
    if not any(isinstance(entry, dict) for entry in setting):
        return at(setting, t)
    for entry in setting:
        value, pattern = (entry["value"], entry.get("filter")) if isinstance(entry, dict) else (entry, None)
        if matches(pattern, name):
            return at(value, t) if isinstance(value, list) else value
    return None
