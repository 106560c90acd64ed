"""Oracle: exact top-k selection by (magnitude descending, index ascending)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def keep_count(density: float, size: int) -> int:
    """How many of `size` elements a density keeps: truncated, but at least one."""
    if size == 0 or density <= 0.0:
        return 0
    if density >= 1.0:
        return size
    return max(1, int(density * size))


def top_k_mask(values: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """True at exactly k places: the largest magnitudes, earlier indices first among equals."""
    flat = np.abs(values).ravel()
    if np.isnan(flat).any():
        raise ValueError("no order among NaN")
    mask = np.zeros(flat.size, dtype=np.bool_)
    mask[np.argsort(-flat, kind="stable")[:k]] = True
    return mask.reshape(values.shape)


def trim(values: NDArray[np.float32], density: float) -> NDArray[np.float32]:
    """Zero everything but the top `density` share."""
    if density >= 1.0:
        return values
    kept = top_k_mask(values, keep_count(density, values.size))
    return np.where(kept, values, np.float32(0))
