"""Oracle: EMR-Merging (arXiv 2405.17461): elect one change for all, then mask and rescale it for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .task_arithmetic import add_back, delta

Model = Mapping[str, NDArray[Any]]


def unified(changes: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The largest magnitude among the changes with the sign of their sum; a sum of zero counts as negative."""
    wide = np.stack([c.astype(np.float64) for c in changes])
    sign = np.where(wide.sum(axis=0) > 0.0, 1.0, -1.0)
    return np.asarray(sign * np.where(wide * sign > 0.0, np.abs(wide), 0.0).max(axis=0), dtype=np.float64)


def _size(change: NDArray[Any]) -> float:
    return float(np.abs(change).mean(dtype=np.float64)) if change.size else 0.0


def emr(base: Model, tuned: Sequence[Model], *, task: int = 0) -> dict[str, NDArray[np.float32]]:
    """The unified model, or with `task` from 1 what its mask and scale make of it for that model."""
    changes = [{name: delta(values, x[name]) for name, values in base.items()} for x in tuned]
    merged = {name: unified([c[name] for c in changes]) for name in base}
    scale = 1.0
    if task:
        own = changes[task - 1]
        merged = {name: np.where(own[name] * tau > 0.0, tau, 0.0) for name, tau in merged.items()}
        masked = sum(_size(tau) for tau in merged.values())
        scale = sum(_size(change) for change in own.values()) / masked if masked > 0.0 else 1.0
    return {name: add_back(values, merged[name], scale) for name, values in base.items()}
