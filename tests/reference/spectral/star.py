"""Oracle: STAR, spectral truncation and rescaling (arXiv 2502.10339), and what it leaves of one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import SLACK, Inner, Matrix, mean, weighted


def kept_rank(sizes: Matrix, eta: float) -> int:
    """The smallest number of singular values whose sum is eta percent of the sum of all (1e-9 short of it counts)."""
    if eta >= 100.0:
        return sizes.size
    reached = np.cumsum(sizes) >= eta / 100.0 * sizes.sum() * (1.0 - SLACK)
    return int(np.argmax(reached)) + 1


def truncated(delta: Matrix, eta: float) -> Matrix:
    """One task cut to `kept_rank` and rescaled to its nuclear norm; zeros stay zeros."""
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    if s.sum() == 0.0:
        return np.zeros(delta.shape)
    k = kept_rank(s, eta)
    return np.asarray((u[:, :k] * (s[:k] * s.sum() / s[:k].sum())) @ vt[:k], dtype=np.float64)


def star(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    eta: float = 40.0,
    inner: Inner = mean,
) -> Matrix:
    """lam * inner of the truncated tasks; eta in percent. Vectors: inner of the tasks as they are."""
    tasks = weighted(deltas, weights)
    return lam * inner(tasks if tasks[0].ndim < 2 else [truncated(x, eta) for x in tasks])
