"""Oracle: PCB-Merging (arXiv 2410.02396): parameters compete within and between the models, over whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .task_arithmetic import add_back, delta

Model = Mapping[str, NDArray[Any]]
NOTHING = 1e-12


def flat(base: Model, tuned: Sequence[Model]) -> NDArray[np.float64]:
    """Each model's changes as one vector."""
    return np.stack([np.concatenate([delta(v, x[n]).ravel() for n, v in base.items()]) for x in tuned]).astype(
        np.float64
    )


def minmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stretched to [0, 1]; a constant is 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros(values.shape)


def clipped(changes: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """Magnitudes with the share `clip` at both ends moved to the quantile there, model by model."""
    size = changes.shape[1]
    ordered = np.sort(np.abs(changes), axis=1)
    low, high = ordered[:, int(size * clip)], ordered[:, int(size * (1.0 - clip) - 1.0)]
    return np.asarray(np.clip(np.abs(changes), low[:, None], high[:, None]), dtype=np.float64)


def scores(changes: NDArray[np.float64], clip: float) -> NDArray[np.float64]:
    """Success within the model times success against the others."""
    intra = np.exp(len(changes) * np.stack([minmax(a) for a in clipped(changes, clip)]) ** 2)
    return np.asarray(intra * np.tanh(changes * changes.sum(axis=0)), dtype=np.float64)


def thresholds(scored: NDArray[np.float64], ratio: float) -> NDArray[np.float64]:
    """Per model the score above which the share `ratio` lies."""
    place = min(int(scored.shape[1] * (1.0 - ratio)), scored.shape[1] - 1)
    return np.asarray(np.sort(scored, axis=1)[:, place], dtype=np.float64)


def pcb(
    base: Model,
    tuned: Sequence[Model],
    weights: Sequence[float] | None = None,
    *,
    ratio: float = 0.1,
    clip: float = 1e-4,
    lam: float = 1.0,
) -> dict[str, NDArray[np.float32]]:
    """base + lambda * the mean of the clipped changes weighted by the scores that survive."""
    changes = flat(base, tuned)
    scored = scores(changes, clip)
    limits = thresholds(scored, ratio)
    share = np.stack([minmax(np.maximum(s, limit)) for s, limit in zip(scored, limits, strict=True)])
    factors = np.asarray(weights or [1.0] * len(tuned), dtype=np.float64)[:, None]
    signed = np.sign(changes) * clipped(changes, clip)
    merged = (factors * signed * share).sum(axis=0) / np.maximum(share.sum(axis=0), NOTHING)
    parts = np.split(merged, np.cumsum([v.size for v in base.values()])[:-1])
    return {n: add_back(v, p.reshape(v.shape), lam) for (n, v), p in zip(base.items(), parts, strict=True)}
