"""Oracle: TIES (arXiv 2306.01708), trimmed per tensor: trim, weight, elect a sign, merge what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .select import trim
from .task_arithmetic import add_back, delta


def match_l1(trimmed: NDArray[np.float32], whole: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale `trimmed` to the L1 norm of `whole`; nothing to match where either is all zero."""
    kept = float(np.abs(trimmed).sum(dtype=np.float64))
    before = float(np.abs(whole).sum(dtype=np.float64))
    if kept == 0.0 or before == 0.0:
        return trimmed
    return (trimmed.astype(np.float64) * (before / kept)).astype(np.float32)


def elect(deltas: Sequence[NDArray[Any]], weights: Sequence[float], *, normalize: bool) -> NDArray[np.float64]:
    """Per element: the sum of weighted deltas that have the sign of the sum of all of them.

    A sum of zero counts as positive, a zero delta agrees with nobody. `normalize` divides by the sum of the
    agreeing weights, by one where that is zero.
    """
    factors = np.asarray(weights, dtype=np.float64).reshape(-1, *([1] * deltas[0].ndim))
    weighted = np.stack([values.astype(np.float64) for values in deltas]) * factors
    majority = np.where(weighted.sum(axis=0) >= 0.0, 1.0, -1.0)
    agrees = np.sign(weighted) == majority
    merged = np.where(agrees, weighted, 0.0).sum(axis=0)
    if not normalize:
        return np.asarray(merged, dtype=np.float64)
    divisor = np.where(agrees, factors, 0.0).sum(axis=0)
    return np.asarray(merged / np.where(divisor == 0.0, 1.0, divisor), dtype=np.float64)


def sign_margin(deltas: Sequence[NDArray[Any]], weights: Sequence[float]) -> NDArray[np.float64]:
    """|sum| / sum of magnitudes of the weighted deltas, per element (1 where all are zero).

    Where this is at rounding level, float32 and float64 may elect different signs: a comparison of random
    data may leave such elements out.
    """
    weighted = [values.astype(np.float64) * weight for values, weight in zip(deltas, weights, strict=True)]
    size = np.sum(np.abs(weighted), axis=0)
    ratio = np.abs(np.sum(weighted, axis=0)) / np.where(size == 0.0, 1.0, size)
    return np.asarray(np.where(size == 0.0, 1.0, ratio), dtype=np.float64)


def ties(
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    lam: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
) -> NDArray[np.float32]:
    """base + lambda * elect(trimmed deltas)."""
    trimmed = []
    for values, density in zip(tuned, densities, strict=True):
        whole = delta(base, values)
        kept = trim(whole, density)
        trimmed.append(match_l1(kept, whole) if rescale else kept)
    return add_back(base, elect(trimmed, weights, normalize=normalize), lam)
