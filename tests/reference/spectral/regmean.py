"""Oracle: RegMean, the layer that fits every task's outputs on its own inputs (arXiv 2212.09849)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import Matrix, weighted

#: Eigenvalues of the scaled Gram matrix below this share of the largest are no data.
EIGENVALUE = 1e-7


def shrunk(gram: NDArray[Any], alpha: float) -> Matrix:
    """Off-diagonal elements times alpha."""
    g = np.asarray(gram, dtype=np.float64)
    return np.asarray(alpha * g + (1.0 - alpha) * np.diag(np.diag(g)), dtype=np.float64)


def regmean(
    deltas: Sequence[NDArray[Any]],
    *,
    grams: Sequence[NDArray[Any]] | None = None,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    alpha: float = 0.9,
) -> Matrix:
    """lam * (sum w_i delta_i G_i)(sum w_i G_i)^-1, G_i (n, n) = XtX of the layer's inputs, off-diagonals * alpha.

    Written as mean + R S^-1 with R = sum w_i (delta_i - mean) G_i, S = sum w_i G_i and the weighted mean: the same
    where S has an inverse, and the least change from the mean elsewhere. S is inverted as D C^+ D with D = diag(S)^-1/2
    and C = D S D (ones on the diagonal, eigenvalues of at least 1 - alpha): inputs that are always zero are left
    out, and eigenvalues below 1e-7 of the largest. Weights are those of the data (how often it was seen), so they
    are not below zero and do not scale one task's result. No Gram matrices, or vectors: the weighted mean.
    """
    factors = [1.0] * len(deltas) if weights is None else list(weights)
    if min(factors) < 0.0 or sum(factors) <= 0.0:
        raise ValueError("RegMean's weights are amounts of data: none below zero, not all zero")
    tasks = weighted(deltas, None)
    middle = np.asarray(np.sum(weighted(deltas, factors), axis=0) / sum(factors), dtype=np.float64)
    if middle.ndim < 2 or grams is None:
        return lam * middle
    data = [w * shrunk(g, alpha) for w, g in zip(factors, grams, strict=True)]
    total = np.sum(data, axis=0)
    right = np.sum([(x - middle) @ g for x, g in zip(tasks, data, strict=True)], axis=0)
    used = np.flatnonzero(np.diag(total) > 0.0)
    if used.size == 0:
        return lam * middle
    scale = 1.0 / np.sqrt(np.diag(total)[used])
    eigenvalues, v = np.linalg.eigh(total[np.ix_(used, used)] * np.outer(scale, scale))
    kept = eigenvalues >= EIGENVALUE * eigenvalues[-1]
    v = v[:, kept] * scale[:, None]
    out = middle.copy()
    out[:, used] += ((right[:, used] @ v) / eigenvalues[kept]) @ v.T
    return lam * out
