"""Oracles: merging in shared bases. KnOTS (arXiv 2410.19735) and core space (arXiv 2509.17786).

Both are lossless changes of basis around an `inner` merge, the mean by default. Bases are those of the deltas
(or of the adapters' factors) before the weights, which multiply the coordinates. Where singular values are equal
the basis, and so what an element-wise `inner` makes of it, is arbitrary; signs are fixed by `signed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import Inner, Matrix, mean, signed, triplets, weighted

#: An adapter's delta as B (m, r) and A (r, n), with alpha / r inside B.
Factors = tuple[NDArray[Any], NDArray[Any]]


def left_basis(columns: Matrix) -> Matrix:
    """The left singular vectors that are there (1e-5 of the largest singular value)."""
    return signed(triplets(columns)[0])


def knots(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    inner: Inner = mean,
) -> Matrix:
    """lam * U inner(w_i Ut delta_i), U the left singular vectors of [delta_1 .. delta_T] (m, n T).

    Ut delta_i is the task's S V_it of that joint SVD. Vectors: `inner` of the tasks themselves, which is what KnOTS
    makes of them on a diagonal. All zero: zeros.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * inner(tasks)
    basis = left_basis(np.hstack(weighted(deltas, None)))
    if basis.shape[1] == 0:
        return np.zeros(tasks[0].shape)
    return np.asarray(lam * (basis @ inner([basis.T @ x for x in tasks])), dtype=np.float64)


def core_space(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    inner: Inner = mean,
    factors: Sequence[Factors] | None = None,
) -> Matrix:
    """lam * U_B inner(w_i U_Bt delta_i V_A) V_At: U_B spans all the columns, V_A all the rows.

    U_B: left singular vectors of [B_1 .. B_T], V_A: right ones of [A_1; ..; A_T], for adapters. Deltas that are none
    stand for both B_i and A_i (this side is ours; the paper has adapters only). Vectors: `inner` of the tasks.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * inner(tasks)
    plain = weighted(deltas, None)
    lefts, rights = zip(*(factors if factors is not None else [(x, x) for x in plain]), strict=True)
    left, right = left_basis(np.hstack(lefts)), left_basis(np.vstack(rights).T)
    if left.shape[1] == 0 or right.shape[1] == 0:
        return np.zeros(tasks[0].shape)
    return np.asarray(lam * (left @ inner([left.T @ x @ right for x in tasks]) @ right.T), dtype=np.float64)
