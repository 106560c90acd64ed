"""Oracles: isotropic merging in the common subspace, and with task-specific subspaces (arXiv 2502.04959)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import CUT, Matrix, mean, polar, triplets, weighted


def iso_c(deltas: Sequence[NDArray[Any]], *, weights: Sequence[float] | None = None, lam: float = 1.0) -> Matrix:
    """lam * (mean singular value) * U Vt of the sum of the tasks.

    The mean is over all min(m, n) singular values; U and V have only the directions that are there (1e-5 of the
    largest), since any basis of the rest would do as well. Vectors: the mean of the tasks.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    total = np.sum(tasks, axis=0)
    u, _, vt = triplets(total)
    sizes = np.linalg.svd(total, compute_uv=False)
    return np.asarray(lam * (sizes.mean() if sizes.size else 0.0) * (u @ vt), dtype=np.float64)


def split(rank: int, tasks: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many each task has: c + T * d = rank.

    c = int(common * rank); d = (rank - c) / T rounded half to even (c moves accordingly), down where T * d would be
    above the rank. d may be 0: then everything is common.
    """
    shared = int(common * rank)
    own = round((rank - shared) / tasks)
    if own * tasks > rank:
        own = (rank - shared) // tasks
    return rank - own * tasks, own


def iso_cts(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    common_space_fraction: float = 0.8,
) -> Matrix:
    """lam * (mean of all singular values) * polar([U_1 .. U_T U_c]) polar([V_1 .. V_T V_c])t.

    U_c, s_c, V_c: the first c triplets of the sum; U_i, s_i, V_i: the first d of (I - U_c U_ct) task_i. The mean is
    over c + T d = min(m, n) values, those of directions that are not there included: below 1e-5 of the sum's
    largest singular value, for a task's below 1e-5 of the task's own. Vectors: the mean of the tasks.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    rank = min(tasks[0].shape)
    if rank == 0:
        return np.zeros(tasks[0].shape)
    shared, own = split(rank, len(tasks), common_space_fraction)
    total = np.sum(tasks, axis=0)
    sizes = [np.linalg.svd(total, compute_uv=False)[:shared]]
    u, _, vt = triplets(total)
    basis, lefts, rights = u[:, :shared], [], []
    for x in tasks:
        rest = x - basis @ (basis.T @ x)
        sizes.append(np.linalg.svd(rest, compute_uv=False)[:own])
        left, _, right = triplets(rest, CUT, float(np.linalg.norm(x, 2)))
        lefts.append(left[:, :own])
        rights.append(right[:own])
    left, right = np.hstack([*lefts, basis]), np.vstack([*rights, vt[:shared]])
    if left.shape[1] == 0:
        return np.zeros(tasks[0].shape)
    return np.asarray(lam * np.concatenate(sizes).mean() * (polar(left) @ polar(right)), dtype=np.float64)
