"""Oracle: ResMerge, spherical merging of what is left beside the first singular direction (arXiv 2606.02252).

The released code has absolute epsilons of 1e-8; here they are relative, and a tie that exact arithmetic has (the
residuals orthogonal: coherence 1 / sqrt(N)) falls to the mean with a slack of 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import CUT, Matrix, mean, norm, weighted

TIE = 1e-6


def parted(delta: Matrix) -> tuple[Matrix, Matrix]:
    """s_1 u_1 v_1t and the rest; a rest whose largest singular value is below 1e-5 of s_1 is zero."""
    u, s, vt = np.linalg.svd(delta, full_matrices=False)
    if s.size == 0 or s[0] == 0.0:
        return np.zeros(delta.shape), np.zeros(delta.shape)
    head = s[0] * np.outer(u[:, 0], vt[0])
    return head, delta - head if s.size > 1 and s[1] >= CUT * s[0] else np.zeros(delta.shape)


def unit(x: Matrix) -> Matrix:
    """Over its norm; zeros stay."""
    size = norm(x)
    return x / size if size > 0.0 else x


def pairs(units: list[Matrix]) -> list[float]:
    """The cosines of all pairs; of none, a 1."""
    found = [float(np.sum(units[i] * units[j])) for i in range(len(units)) for j in range(i + 1, len(units))]
    return found or [1.0]


def backbone(residuals: list[Matrix], beta_min: float, beta_max: float, scored: bool) -> Matrix:
    """c^beta * (mean norm) * (mean direction), or the plain mean where the coherence c is that of chance."""
    units = [unit(x) for x in residuals]
    total = np.sum(units, axis=0)
    if norm(total) <= CUT:
        return mean(residuals)
    direction = unit(total)
    coherence = min(1.0, max(0.0, float(np.mean([np.sum(x * direction) for x in units]))))
    if coherence <= (1.0 + TIE) / np.sqrt(len(residuals)):
        return mean(residuals)
    similarity = float(np.mean(pairs(units)))
    score = 0.5 * ((similarity + 1.0) / 2.0 + (coherence + 1.0) / 2.0) if scored else 0.0
    beta = beta_max - (beta_max - beta_min) * score
    return np.asarray(coherence**beta * np.mean([norm(x) for x in residuals]) * direction, dtype=np.float64)


def resmerge(
    deltas: Sequence[NDArray[Any]],
    *,
    weights: Sequence[float] | None = None,
    lam: float = 1.0,
    beta_min: float = 0.7,
    beta_max: float = 1.0,
    head_ratio: float = 0.2,
    scored: bool = True,
) -> Matrix:
    """lam * (backbone + head_ratio * agreement * ||backbone|| * direction of the mean head).

    agreement: the mean of max(0, cosine) over the pairs of heads that are not zero (one head: 1). `scored` is False
    for what is neither attention nor feed-forward: beta is beta_max there. One task is not given back: its head
    shrinks to a fifth of its rest. No residual at all (rank 1): the mean of the tasks (ours; the code has zeros).
    Vectors, norms, embeddings and heads: the mean.
    """
    tasks = weighted(deltas, weights)
    if tasks[0].ndim < 2:
        return lam * mean(tasks)
    heads, residuals = (list(x) for x in zip(*(parted(x) for x in tasks), strict=True))
    if all(norm(x) == 0.0 for x in residuals):
        return lam * mean(tasks)
    rest = backbone(residuals, beta_min, beta_max, scored)
    present = [unit(x) for x in heads if norm(x) > 0.0]
    agreement = min(1.0, float(np.mean([max(0.0, x) for x in pairs(present)])))
    middle = mean(heads)
    if norm(middle) <= CUT * max(norm(x) for x in heads):
        return lam * rest
    return lam * (rest + head_ratio * agreement * norm(rest) * unit(middle))
