"""Oracle: CART, task arithmetic around the mean of the models with low-rank differences (as in arXiv 2503.22178)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import Matrix, mean, weighted


def truncation(x: Matrix, rank: int) -> Matrix:
    """The best approximation of that rank."""
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank], dtype=np.float64)


def cart(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    rank_ratio: float = 0.04,
    scale: float = 1.0,
) -> Matrix:
    """lam * (mean + scale * sum_i truncation(task_i - mean)), rank max(1, int(ratio * min(m, n))).

    A ratio of 0 gives the mean, of 1 too (the differences sum to zero), and so do two tasks at any ratio. Vectors,
    and in the released code all but attention and feed-forward weights: the mean.
    """
    tasks = weighted(deltas, weights)
    middle = mean(tasks)
    if middle.ndim < 2 or rank_ratio <= 0.0:
        return lam * middle
    rank = min(min(middle.shape), max(1, int(rank_ratio * min(middle.shape))))
    return np.asarray(lam * (middle + scale * np.sum([truncation(x - middle, rank) for x in tasks], axis=0)))
