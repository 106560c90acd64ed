"""Oracles of merges that decide element by element.

NearSwap (as mergekit has it), RAM and RAM+ (arXiv 2601.13572), MagMax (arXiv 2407.06322), ExPO (arXiv
2404.16792), TALL masks and consensus task arithmetic (arXiv 2405.07813), Fisher averaging (arXiv 2111.09832).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .task_arithmetic import add_back, delta

NEAREST = 1e-6


def _f64(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _changes(base: NDArray[Any], tuned: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.stack([_f64(delta(base, x)) for x in tuned])


def nearswap(base: NDArray[Any], tuned: NDArray[Any], t: float) -> NDArray[np.float32]:
    """Towards `tuned` by t / |base - tuned|, at most all the way."""
    start, end = _f64(base), _f64(tuned)
    weight = np.clip(t / np.maximum(np.abs(start - end), NEAREST), 0.0, 1.0)
    return np.asarray(weight * end + (1.0 - weight) * start).astype(np.float32)


def ram(base: NDArray[Any], tuned: Sequence[NDArray[Any]], *, epsilon: float = 1e-5) -> NDArray[np.float32]:
    """base + the mean of the changes larger than epsilon."""
    changes = _changes(base, tuned)
    active = np.abs(changes) > epsilon
    total = np.where(active, changes, 0.0).sum(axis=0)
    return add_back(base, total / np.maximum(active.sum(axis=0), 1), 1.0)


def ramplus_tl(
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    *,
    epsilon: float = 1e-5,
    r: float = 0.1,
    alpha: float = 0.2,
) -> NDArray[np.float32]:
    """RAM that enlarges what one model alone changed, the more the larger the part it shares with others."""
    changes = _changes(base, tuned)
    active = np.abs(changes) > epsilon
    count = active.sum(axis=0)
    merged = np.where((count > 1) & active, changes, 0.0).sum(axis=0) / np.maximum(count, 1)
    for change, own in zip(changes, active, strict=True):
        shared, unique = int((own & (count > 1)).sum()), int((own & (count == 1)).sum())
        factor = 1.0 + r * float(np.clip(shared / max(unique, epsilon), 0.0, alpha))
        merged = merged + np.where(own & (count == 1), change * factor, 0.0)
    return add_back(base, merged, 1.0)


def magmax(
    base: NDArray[Any], tuned: Sequence[NDArray[Any]], weights: Sequence[float] | None = None, *, lam: float = 1.0
) -> NDArray[np.float32]:
    """base + lambda * the largest weighted change, the later of equals."""
    merged = np.zeros(base.shape)
    for change, weight in zip(_changes(base, tuned), weights or [1.0] * len(tuned), strict=True):
        merged = np.where(np.abs(weight * change) >= np.abs(merged), weight * change, merged)
    return add_back(base, merged, lam)


def expo(base: NDArray[Any], tuned: NDArray[Any], alpha: float) -> NDArray[np.float32]:
    """Beyond `tuned` by alpha times its change."""
    return (_f64(tuned) + alpha * _f64(delta(base, tuned))).astype(np.float32)


def tall_masks(
    base: NDArray[Any], tuned: Sequence[NDArray[Any]], lambdas: Sequence[float], alpha: float = 1.0
) -> NDArray[np.bool_]:
    """Per model: where its change is larger than lambda times what the others put in its way."""
    changes = _changes(base, tuned)
    merged = alpha * changes.sum(axis=0)
    factors = np.asarray(lambdas, dtype=np.float64).reshape(-1, *([1] * base.ndim))
    return np.asarray(np.abs(changes) > factors * np.abs(merged - changes), dtype=np.bool_)


def tall_margins(
    base: NDArray[Any], tuned: Sequence[NDArray[Any]], lambdas: Sequence[float], alpha: float = 1.0
) -> NDArray[np.float64]:
    """How far each comparison of `tall_masks` is from equality, relative to its sides; 1 where both are zero."""
    changes = _changes(base, tuned)
    factors = np.asarray(lambdas, dtype=np.float64).reshape(-1, *([1] * base.ndim))
    left, right = np.abs(changes), factors * np.abs(alpha * changes.sum(axis=0) - changes)
    size = np.maximum(left, right)
    return np.asarray(np.where(size == 0.0, 1.0, np.abs(left - right) / np.where(size == 0.0, 1.0, size)))


def tall_mask(
    base: NDArray[Any], tuned: Sequence[NDArray[Any]], lambdas: Sequence[float], task: int, *, alpha: float = 1.0
) -> NDArray[np.float32]:
    """base + the merged change where the mask of model number `task`, from 1, holds."""
    kept = tall_masks(base, tuned, lambdas, alpha)[task - 1]
    return add_back(base, np.where(kept, alpha * _changes(base, tuned).sum(axis=0), 0.0), 1.0)


def consensus_ta(
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    lambdas: Sequence[float],
    *,
    k: int = 2,
    lam: float = 0.4,
    alpha: float = 1.0,
) -> NDArray[np.float32]:
    """base + lambda * the sum of changes where at least k masks hold."""
    kept = tall_masks(base, tuned, lambdas, alpha).sum(axis=0) >= k
    return add_back(base, np.where(kept, _changes(base, tuned).sum(axis=0), 0.0), lam)


def fisher(
    inputs: Sequence[NDArray[Any]],
    squares: Sequence[NDArray[Any]],
    weights: Sequence[float] | None = None,
    *,
    floor: float = 1e-6,
) -> NDArray[np.float32]:
    """The average weighted by each element's squared gradient."""
    importance = [w * np.maximum(_f64(f), floor) for w, f in zip(weights or [1.0] * len(inputs), squares, strict=True)]
    total = np.sum([f * _f64(x) for f, x in zip(importance, inputs, strict=True)], axis=0)
    return np.asarray(total / np.sum(importance, axis=0)).astype(np.float32)


def mask(
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    masks: Sequence[NDArray[Any]],
    weights: Sequence[float] | None = None,
) -> NDArray[np.float32]:
    """base + the sum of the weighted changes that the masks let through (EMR-Merging, arXiv 2405.17461)."""
    factors = np.asarray(weights or [1.0] * len(tuned)).reshape(-1, *[1] * base.ndim)
    return add_back(base, (factors * np.stack([_f64(m) for m in masks]) * _changes(base, tuned)).sum(axis=0), 1.0)
