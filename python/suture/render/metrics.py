"""How figures of a comparison are read before they are shown, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: What tables and charts call a figure whose key alone could be taken for another: there are two cosines.
LABELS = {"cosine": "cosine with base"}
#: The same for figures of two fine-tunes.
PAIR_LABELS = {"cosine": "cosine of changes"}
#: What a heat map shows where the metric itself would hide the change.
READINGS = {"cosine": "1 - cosine with base"}


def label(metric: str) -> str:
    """What a figure of one fine-tune is called."""
    return LABELS.get(metric, metric)


def number(value: float | str | None) -> float:
    """A figure as a number: NaN where nothing could be computed on."""
    return math.nan if value is None else float(value)


def reading(row: Mapping[str, Any], metric: str) -> float:
    """The metric as a map draws it: a cosine near one is no change, so that its distance from one is shown."""
    value = number(row[metric])
    return max(1.0 - value, 0.0) if metric in READINGS else value
