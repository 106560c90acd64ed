"""Oracle: OPCM, continual merging by orthogonal projection (arXiv 2501.09522). The order of the tasks counts.

The paper divides the running merge by a factor lambda_t at each step. Singular vectors and the split do not know
that factor, and the next step multiplies it back, so the merge is a plain running sum `M` with one factor at the
end. Only that factor needs the whole model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import SLACK, Matrix, norm, triplets, weighted


def projected(merged: Matrix, delta: Matrix, alpha: float) -> Matrix:
    """The delta without what it shares with the merge so far, whose SVD is U S Vt.

    Of Ut delta V are cleared the block [:r, :r] and the rest of the diagonal, as far as the merge has singular
    values (1e-5 of the largest). r: how many leading ones sum to at most the share alpha (1e-9 above it counts).
    What lies outside of U and V stays. Nothing merged so far: the delta.
    """
    u, s, vt = triplets(merged)
    if s.size == 0:
        return delta
    r = int(np.sum(np.cumsum(s) <= alpha * s.sum() * (1.0 + SLACK)))
    inside = u.T @ delta @ vt.T
    cleared = np.diag(np.diag(inside))
    cleared[:r, :r] = inside[:r, :r]
    return np.asarray(delta - u @ cleared @ vt, dtype=np.float64)


def accumulated(tasks: list[Matrix], alpha: float) -> Matrix:
    """M = task_1 + the projected others in turn; vectors (and, in the paper, all but linear layers): the sum."""
    merged = tasks[0]
    for x in tasks[1:]:
        merged = merged + (projected(merged, x, alpha) if x.ndim == 2 else x)
    return merged


def opcm(
    deltas: Sequence[NDArray[Any]], *, weights: Sequence[float] | None = None, lam: float = 1.0, alpha: float = 0.5
) -> Matrix:
    """lam * M * (mean norm of the tasks) / ||M||, tensor by tensor. M = 0: zeros."""
    tasks = weighted(deltas, weights)
    merged = accumulated(tasks, alpha)
    size = norm(merged)
    return lam * merged * (float(np.mean([norm(x) for x in tasks])) / size if size > 0.0 else 0.0)


def opcm_model(
    models: Sequence[Mapping[str, NDArray[Any]]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    alpha: float = 0.5,
) -> dict[str, Matrix]:
    """The paper's form: the norms are those of whole models (name -> delta)."""
    tasks = {name: weighted([model[name] for model in models], weights) for name in models[0]}
    merged = {name: accumulated(x, alpha) for name, x in tasks.items()}
    sizes = [np.sqrt(sum(norm(x[i]) ** 2 for x in tasks.values())) for i in range(len(models))]
    size = np.sqrt(sum(norm(x) ** 2 for x in merged.values()))
    factor = float(np.mean(sizes) / size) if size > 0.0 else 0.0
    return {name: lam * factor * x for name, x in merged.items()}
