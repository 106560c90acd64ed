"""Oracle: DC-Merge for full fine-tunes: sign-elected entries of each task in a common cover space (CVPR 2026)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import CUT, SLACK, Matrix, leading, mean, polar, weighted
from .tsvm import joined, share


def largest(x: Matrix, fraction: float) -> Matrix:
    """Zero below the k-th magnitude, k = max(1, int(fraction * size)); equals (within 1e-9) stay, as in the code.

    They are the rule in rows and columns, where all entries of a task are equal in pairs: an order would decide.
    What is below 1e-5 of the largest is rounding and becomes zero too, or it would vote on signs.
    """
    k = x.size if fraction >= 1.0 else max(1, int(fraction * x.size))
    sizes = np.abs(x)
    threshold = max(np.sort(sizes, axis=None)[-k] * (1.0 - SLACK), CUT * sizes.max())
    return np.where(sizes >= threshold, x, 0.0)


def sign_mean(entries: list[Matrix]) -> Matrix:
    """The mean of the entries that have the sign of the sum (zeros have none); 0 where the sum is 0."""
    stack = np.stack(entries)
    agree = np.sign(stack) == np.sign(stack.sum(axis=0))
    agree &= stack != 0.0
    return np.asarray((stack * agree).sum(axis=0) / np.maximum(agree.sum(axis=0), 1), dtype=np.float64)


def dc_merge(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    k_frac: float = 1e-3,
) -> Matrix:
    """lam * polar(U) (B . sign_mean(largest(M_i))) polar(V)t, with U, V as in `tsvm`, k = max(1, min(m, n) // T).

    M_i = polar(U)t delta_i^(k) polar(V), (K, K), K the triplets of all tasks that are there (at most k each);
    `k_frac` is a share of its K^2 entries. B has ones where row and column belong to the same task. Smoothing of the
    singular values is for adapters only. Vectors: the mean. One task: the leading entries of its truncation.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    parts = [leading(x, share(x.shape, len(tasks))) for x in tasks]
    u, s, vt = joined(parts)
    if s.size == 0:
        return np.zeros(tasks[0].shape)
    left, right = polar(u), polar(vt)
    entries = [largest(left.T @ ((a * b) @ c) @ right.T, k_frac) for a, b, c in parts]
    owner = np.repeat(np.arange(len(parts)), [b.size for _, b, _ in parts])
    block = np.where(owner[:, None] == owner[None, :], sign_mean(entries), 0.0)
    return np.asarray(lam * (left @ block @ right), dtype=np.float64)
