"""Oracles: WUDI-Merging in closed form (arXiv 2503.08099) and its spectrally filtered form SWUDI (arXiv 2606.07289).

Both minimise sum_i ||(X - T_i) T_it||^2 / ||T_i||^2. With C_i = T_it T_i / ||T_i||^2, C = sum C_i and
D = sum T_i C_i the normal equations are X C = D. C has trace T and so no scale; tasks of zeros are left out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import Matrix, mean, norm, triplets, weighted


def system(tasks: list[Matrix]) -> tuple[Matrix, Matrix]:
    """The tasks that are not zero, each over its norm, as rows (sum m, n) (so that C is their Gram matrix), and D."""
    present = [x for x in tasks if norm(x) > 0.0]
    rows = np.vstack([x / norm(x) for x in present])
    d = np.sum([x @ (x.T @ x) / norm(x) ** 2 for x in present], axis=0)
    return rows, np.asarray(d, dtype=np.float64)


def wudi(deltas: Sequence[NDArray[Any]], *, weights: Sequence[float] | None = None, lam: float = 1.0) -> Matrix:
    """lam * D C^+, the solution of least norm.

    The pseudo-inverse drops singular values of the rows (roots of eigenvalues of C) below 1e-5 of the largest: in
    eigenvalues 1e-10. Vectors, and by the paper the output head: the mean.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    if all(norm(x) == 0.0 for x in tasks):
        return np.zeros(tasks[0].shape)
    rows, d = system(tasks)
    _, s, vt = triplets(rows)
    return np.asarray(lam * ((d @ vt.T) / s**2) @ vt, dtype=np.float64)


def swudi(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    time: float = 300.0,
    rank_ratio: float = 0.85,
    floor: float = 1e-8,
    start: str = "mean",
) -> Matrix:
    """lam * (X0 - X0 V f Vt + D V (f / l) Vt), C = V diag(l) Vt, f = 1 - exp(-l time) on the top ceil(ratio * n).

    l is floored at `floor` (absolute: C has trace T). X0 (`start`): the mean of the tasks, which needs no scale, or
    their "sum", which the released code starts from and scales by about 1 / T afterwards; one task: the same.
    `rank_ratio` 0.85 is the setting for language models (0.65 in vision). Vectors and the output head: the mean.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    if all(norm(x) == 0.0 for x in tasks):
        return np.zeros(tasks[0].shape)
    rows, d = system(tasks)
    eigenvalues, v = np.linalg.eigh(rows.T @ rows)
    eigenvalues = np.maximum(eigenvalues, floor)
    width = eigenvalues.size
    kept = min(width, max(1, int(np.ceil(rank_ratio * width - 1e-9))))
    filtered = np.where(np.arange(width) >= width - kept, -np.expm1(-eigenvalues * time), 0.0)
    x0 = mean(tasks) if start == "mean" else np.sum(tasks, axis=0)
    change = (d @ v) * (filtered / eigenvalues) - (x0 @ v) * filtered
    return np.asarray(lam * (x0 + change @ v.T), dtype=np.float64)
