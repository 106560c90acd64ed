"""Oracle: SVC, singular value calibration of what any merge has made (arXiv 2602.05536)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import CUT, Matrix, norm, triplets, weighted

#: What alpha follows which method (0.1 for all others).
ALPHAS = {"iso_cts": 0.2, "tsvm": 1.0, "tsvm_reweighted": 1.0, "wudi": 1.0, "swudi": 1.0}


def directions(merged: Matrix, tasks: list[Matrix]) -> Matrix:
    """The merge's left singular vectors that are there, (m, k).

    Of equal singular values (neighbours within 1e-5 of the largest) any basis is one, and isotropic merges have no
    others: there the basis is that of the left singular vectors of Ut sum_i delta_i, which for Iso-C is its own.
    """
    u, s, _ = triplets(merged)
    total = np.sum(tasks, axis=0)
    ends = [*(np.flatnonzero(s[:-1] - s[1:] > CUT * s[0]) + 1), s.size]
    parts, first = [], 0
    for end in ends:
        part = u[:, first:end]
        if end - first > 1:
            part = part @ np.linalg.svd(part.T @ total, full_matrices=False)[0]
        parts.append(part)
        first = int(end)
    return np.hstack(parts)


def factors(merged: Matrix, tasks: list[Matrix], u: Matrix, alpha: float) -> Matrix:
    """gamma_r = K / sum_i max(alpha, <a_r, b_ri> / ||b_ri||^2), a_r = u_rt merged, b_ri = u_rt delta_i.

    A response b_ri below 1e-5 of its task's norm is none: its coefficient is 0, so alpha counts. The K tasks are
    those that are not zero.
    """
    sums = np.zeros(u.shape[1])
    for x in tasks:
        responses = u.T @ x
        sizes = np.linalg.norm(responses, axis=1)
        along = np.sum((u.T @ merged) * responses, axis=1)
        there = sizes >= CUT * norm(x)
        coefficients = np.where(there, along / np.where(there, sizes, 1.0) ** 2, 0.0)
        sums += np.maximum(alpha, coefficients)
    return np.asarray(len(tasks) / sums, dtype=np.float64)


def svc(merged: NDArray[Any], deltas: Sequence[NDArray[Any]], *, alpha: float = 0.1) -> Matrix:
    """U diag(gamma) Ut merged, (m, n), U the merge's left singular vectors: each singular value times its gamma.

    The deltas are the experts', without weights. alpha > 0. Vectors and a merge of zeros stay as they are; so does
    a merge of experts that are all zero.
    """
    if alpha <= 0.0:
        raise ValueError("alpha of SVC is above zero")
    x = np.asarray(merged, dtype=np.float64)
    tasks = [d for d in weighted(deltas, None) if norm(d) > 0.0]
    if x.ndim < 2 or not tasks or norm(x) == 0.0:
        return x
    u = directions(x, tasks)
    return np.asarray((u * factors(x, tasks, u, alpha)) @ (u.T @ x), dtype=np.float64)
