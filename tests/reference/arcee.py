"""Oracle: Arcee Fusion: only changes of outlying importance are taken over, as mergekit describes it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .select import rows
from .task_arithmetic import add_back, delta

SMOOTHING = 1e-8


def _softmax(values: NDArray[Any]) -> NDArray[np.float64]:
    wide = rows(values).astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True) + SMOOTHING, dtype=np.float64)


def importance(base: NDArray[Any], tuned: NDArray[Any]) -> NDArray[np.float64]:
    """|change| times how far the row's softmax moved (KL divergence)."""
    p, q = _softmax(tuned), _softmax(base)
    moved = (p * np.log(p / q)).sum(axis=1, keepdims=True)
    return np.asarray(np.abs(rows(delta(base, tuned))) * moved, dtype=np.float64).reshape(base.shape)


def threshold(values: NDArray[np.float64]) -> float:
    """The median and one and a half interquartile ranges, by the element at floor(q * (n - 1))."""
    ordered = np.sort(values.ravel())
    low, median, high = (float(ordered[int(q * (ordered.size - 1))]) for q in (0.25, 0.5, 0.75))
    return median + 1.5 * (high - low)


def arcee_fusion(base: NDArray[Any], tuned: NDArray[Any]) -> NDArray[np.float32]:
    """base + the changes whose importance reaches the threshold."""
    if base.size == 0:
        return base.astype(np.float32)
    weight = importance(base, tuned)
    return add_back(base, np.where(weight >= threshold(weight), delta(base, tuned), np.float32(0)), 1.0)
