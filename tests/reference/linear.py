"""Oracle: weighted average of checkpoints (model soup, arXiv 2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def linear(inputs: Sequence[NDArray[Any]], weights: Sequence[float], *, normalize: bool = True) -> NDArray[np.float32]:
    """sum(w * x), divided by sum(w) if `normalize`."""
    total = np.zeros(inputs[0].shape, dtype=np.float64)
    for values, weight in zip(inputs, weights, strict=True):
        total += values.astype(np.float64) * weight
    if normalize:
        divisor = float(sum(weights))
        if divisor == 0.0:
            raise ValueError("weights sum to zero")
        total /= divisor
    return total.astype(np.float32)
