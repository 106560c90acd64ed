"""Oracles: TSV-Merge (arXiv 2412.00081) and a reconstruction of its reweighted form (after arXiv 2502.06876)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import CUT, SLACK, Matrix, Triplets, leading, mean, polar, weighted


def share(shape: tuple[int, ...], tasks: int) -> int:
    """The rank a task may keep: min(m, n) over the number of tasks, rounded down, but at least 1."""
    return max(1, min(shape) // tasks)


def joined(parts: Sequence[Triplets]) -> Triplets:
    """The tasks' triplets side by side: U (m, K), s (K), Vt (K, n)."""
    u, s, vt = zip(*parts, strict=True)
    return np.hstack(u), np.concatenate(s), np.vstack(vt)


def decorrelated(parts: Sequence[Triplets], cut: float) -> Matrix:
    """polar(U) diag(s) polar(V)t of the joined triplets; zeros where there are none."""
    u, s, vt = joined(parts)
    if s.size == 0:
        return np.zeros((u.shape[0], vt.shape[1]))
    return np.asarray((polar(u, cut) * s) @ polar(vt, cut), dtype=np.float64)


def tsvm(
    deltas: Sequence[NDArray[Any]], *, weights: Sequence[float] | None = None, lam: float = 1.0, official: bool = False
) -> Matrix:
    """lam * polar(U) S polar(V)t over the first min(m, n) // T triplets of every task.

    Robust: triplets below 1e-5 of their task's largest singular value are not there, and the polar factors drop
    directions below 1e-5 of the largest; identical tasks then give the truncation of one. `official`: both stay.
    More tasks than min(m, n): one triplet each. Vectors: the mean. A task of zeros counts in T and nowhere else.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    cut = 0.0 if official else CUT
    rank = share(tasks[0].shape, len(tasks))
    return lam * decorrelated([leading(x, rank, cut) for x in tasks], cut)


def interference(deltas: Sequence[NDArray[Any]], weights: Sequence[float] | None = None) -> float:
    """The sum of the magnitudes in (UtU - I) diag(s) (VtV - I), over the triplets that `tsvm` keeps."""
    tasks = weighted(deltas, weights)
    u, s, vt = joined([leading(x, share(x.shape, len(tasks))) for x in tasks])
    eye = np.eye(s.size)
    return float(np.abs(((u.T @ u - eye) * s) @ (vt @ vt.T - eye)).sum())


def outlier_mass(delta: Matrix, sigmas: float) -> float:
    """The sum of the magnitudes above their mean by more than `sigmas` (population) standard deviations."""
    sizes = np.abs(delta)
    return float(sizes[sizes > sizes.mean() + sigmas * sizes.std()].sum())


def density(delta: Matrix, small: float) -> float:
    """The share of the elements that are at least `small` of the root mean square; 0 of a delta of zeros."""
    rms = np.sqrt(np.mean(np.square(delta)))
    return float(np.mean(np.abs(delta) >= small * rms)) if rms > 0.0 else 0.0


def tsvm_reweighted(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    sigmas: float = 3.0,
    small: float = 0.1,
) -> Matrix:
    """`tsvm` with singular values times T * (share of the outlier mass) and ranks by density. A reconstruction.

    The paper's formulas could not be had. Ranks: k_i = floor(k * density_i / mean density), k that of `tsvm`, within
    1 and min(m, n); rounding down keeps their sum within min(m, n) but for those raised to 1. No outliers at all: all
    factors 1. Masses and densities are those of the deltas before the user's weights. Vectors: the plain mean.
    """
    plain, tasks = weighted(deltas, None), weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    masses = np.asarray([outlier_mass(x, sigmas) for x in plain])
    factors = len(tasks) * masses / masses.sum() if masses.sum() > 0.0 else np.ones(len(tasks))
    densities = np.asarray([density(x, small) for x in plain])
    if densities.sum() == 0.0:
        return np.zeros(tasks[0].shape)
    ratios = densities / densities.mean()
    most, k = min(tasks[0].shape), share(tasks[0].shape, len(tasks))
    ranks = [min(max(1, int(np.floor(k * ratio + SLACK))), most) for ratio in ratios]
    parts = [leading(x, rank) for x, rank in zip(tasks, ranks, strict=True)]
    return lam * decorrelated([(u, s * f, vt) for (u, s, vt), f in zip(parts, factors, strict=True)], CUT)
