"""Oracle: LARV, a scale a layer for each task before any merge (arXiv 2602.09413). A reconstruction.

Read in public summaries of the paper and in one project that cites its equations: effective-rank contrast,
commutator conflict, score and the continuous map. Not found, and so ours: how a layer's matrices are pooled (the
mean), and the values of the tiers (the ends and the middle of the continuous map).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .common import Matrix, norm

#: A layer: its 2-D weights (m, n); matrices of one place have one shape.
Layer = Sequence[NDArray[Any]]


def effective_rank(x: Matrix) -> float:
    """exp of the entropy of p_j = s_j^2 / ||x||^2; 1 of a matrix of zeros."""
    p = np.linalg.svd(x, compute_uv=False) ** 2
    if p.sum() == 0.0:
        return 1.0
    p = p[p > 0.0] / p.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def conflict(base: Matrix, delta: Matrix) -> float:
    """Half of ||A Dt - D At|| + ||At D - Dt A||, over ||A|| ||D||; 0 where either is zero."""
    size = norm(base) * norm(delta)
    if size == 0.0:
        return 0.0
    left, right = base @ delta.T, base.T @ delta
    return 0.5 * (norm(left - left.T) + norm(right - right.T)) / size


def scores(base: Sequence[Layer], task: Sequence[Layer], eta: float = 1.0, rho: float = 0.5) -> Matrix:
    """r_l = e_l^eta ((l + 1) / L)^rho / (1 + softplus(z_l)), NaN where the task left the layer alone.

    e_l: mean over the layer's changed matrices of effective_rank(base) / effective_rank(delta); z_l: their mean
    conflict, standardised over the task's changed layers (population deviation; all equal: 0).
    """
    contrast, conflicts = np.full(len(base), np.nan), np.full(len(base), np.nan)
    for place, (weights, changes) in enumerate(zip(base, task, strict=True)):
        changed = [(np.asarray(a, float), np.asarray(d, float)) for a, d in zip(weights, changes, strict=True)]
        changed = [(a, d) for a, d in changed if norm(d) > 0.0]
        if changed:
            contrast[place] = np.mean([effective_rank(a) / effective_rank(d) for a, d in changed])
            conflicts[place] = np.mean([conflict(a, d) for a, d in changed])
    if np.isnan(contrast).all():
        return contrast
    centred, deviation = conflicts - np.nanmean(conflicts), np.nanstd(conflicts)
    z = np.nan_to_num(centred / deviation if deviation > 1e-9 else 0.0 * centred)
    depth = (np.arange(len(base)) + 1.0) / len(base)
    return np.asarray(contrast**eta * depth**rho / (1.0 + np.logaddexp(0.0, z)), dtype=np.float64)


def larv(
    base: Sequence[Layer],
    task: Sequence[Layer],
    *,
    gate: str = "continuous",
    eta: float = 1.0,
    rho: float = 0.5,
    gamma: float = 3.0,
    levels: tuple[float, float, float] = (0.5, 1.0, 1.5),
) -> list[float]:
    """One scale a layer, for every tensor of it (vectors too), of one task; layers left alone get 1.

    continuous: 1 + 0.5 tanh(gamma (r_l - 1)). tiered: levels[0] up to the lower third of the scores (linear
    quantile), levels[1] up to the upper, levels[2] above. What is in no layer (embeddings, head) is not scaled.
    """
    r = scores(base, task, eta, rho)
    if gate == "continuous":
        scales = 1.0 + 0.5 * np.tanh(gamma * (r - 1.0))
    elif np.isnan(r).all():
        scales = r
    else:
        lower, upper = np.nanquantile(r, [1.0 / 3.0, 2.0 / 3.0])
        scales = np.where(r <= lower, levels[0], np.where(r <= upper, levels[1], levels[2]))
    return [1.0 if np.isnan(score) else float(scale) for score, scale in zip(r, scales, strict=True)]
