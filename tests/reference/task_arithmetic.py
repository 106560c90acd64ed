"""Oracle: task arithmetic (arXiv 2212.04089): the base plus a weighted sum of task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

VANISHING = 1e-8


def delta(base: NDArray[Any], tuned: NDArray[Any]) -> NDArray[np.float32]:
    """tuned - base, formed in float32."""
    return tuned.astype(np.float32) - base.astype(np.float32)


def add_back(base: NDArray[Any], change: NDArray[Any], lam: float) -> NDArray[np.float32]:
    """base + lambda * change."""
    return (base.astype(np.float64) + lam * change.astype(np.float64)).astype(np.float32)


def weighted_sum(deltas: Sequence[NDArray[Any]], weights: Sequence[float], *, normalize: bool) -> NDArray[np.float64]:
    """sum(w * delta), divided by sum(w) if `normalize`; a vanishing sum of weights divides by one."""
    total = np.zeros(deltas[0].shape, dtype=np.float64)
    for values, weight in zip(deltas, weights, strict=True):
        total += values.astype(np.float64) * weight
    divisor = float(sum(weights))
    return total / divisor if normalize and abs(divisor) >= VANISHING else total


def task_arithmetic(
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    weights: Sequence[float],
    *,
    lam: float = 1.0,
    normalize: bool = False,
) -> NDArray[np.float32]:
    """base + lambda * sum(w * (x - base))."""
    deltas = [delta(base, values) for values in tuned]
    return add_back(base, weighted_sum(deltas, weights, normalize=normalize), lam)
