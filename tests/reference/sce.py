"""Oracle: SCE of FuseChat (arXiv 2408.07990): select by variance, calculate weights, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .select import top_k_mask
from .task_arithmetic import add_back, delta


def variances(base: NDArray[Any], tuned: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """The population variance of the models' changes, element by element."""
    return np.asarray(np.var([delta(base, x).astype(np.float64) for x in tuned], axis=0), dtype=np.float64)


def selected(base: NDArray[Any], tuned: Sequence[NDArray[Any]], topk: float, mask: str = "deltas") -> NDArray[np.bool_]:
    """The share `topk`, counted in float32, of the elements that vary. All of it is everything in mergekit."""
    if topk >= 1.0 and mask == "deltas":
        return np.ones(base.shape, dtype=np.bool_)
    variance = variances(base, tuned)
    count = int(np.float32(np.count_nonzero(variance)) * np.float32(topk))
    return top_k_mask(variance, count)


def sce(
    base: NDArray[Any], tuned: Sequence[NDArray[Any]], *, topk: float = 1.0, mask: str = "deltas"
) -> NDArray[np.float32]:
    """base + the weighted mean of the changes that have the majority's sign.

    `mask`: what is not selected is left out of the changes (mergekit) or of the weights only (FuseChat's code).
    """
    changes = np.stack([delta(base, x).astype(np.float64) for x in tuned])
    chosen = np.where(selected(base, tuned, topk, mask), changes, 0.0)
    energy = np.square(chosen).reshape(len(tuned), -1).sum(axis=1)
    share = energy / energy.sum() if energy.sum() > 0.0 else np.full(len(tuned), 1.0 / len(tuned))
    entries = {"deltas": chosen, "weights": changes}[mask]
    majority = np.where(entries.sum(axis=0) >= 0.0, 1.0, -1.0)
    factors = np.where(np.sign(entries) == majority, share.reshape(-1, *([1] * base.ndim)), 0.0)
    divisor = factors.sum(axis=0)
    return add_back(base, (factors * entries).sum(axis=0) / np.where(divisor == 0.0, 1.0, divisor), 1.0)
