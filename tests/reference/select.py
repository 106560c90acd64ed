"""Oracle: exact selection in the order (magnitude descending, index ascending)."""

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


def descending(values: NDArray[Any]) -> NDArray[np.intp]:
    """Flat indices by (magnitude descending, index ascending)."""
    return np.argsort(-np.abs(values).ravel(), kind="stable")


def top_k_mask(values: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """True at exactly k places: the largest magnitudes, earlier indices first among equals."""
    flat = np.abs(values).ravel()
    if np.isnan(flat).any():
        raise ValueError("no order among NaN")
    mask = np.zeros(flat.size, dtype=np.bool_)
    mask[descending(flat)[:k]] = True
    return mask.reshape(values.shape)


def trim(values: NDArray[np.float32], density: float) -> NDArray[np.float32]:
    """Zero everything but the top `density` share."""
    if density >= 1.0:
        return values
    kept = top_k_mask(values, keep_count(density, values.size))
    return np.where(kept, values, np.float32(0))


def middle_mask(values: NDArray[Any], density: float, gamma: float) -> NDArray[np.bool_]:
    """True at int(density * n) places below the int(gamma * n) largest; those give way where too few are left."""
    size = values.size
    keep, top = int(density * size), int(gamma * size)
    bottom = max(0, size - keep - top)
    first = size - bottom - keep
    mask = np.zeros(size, dtype=np.bool_)
    mask[descending(values)[first : first + keep]] = True
    return mask.reshape(values.shape)


def rows(values: NDArray[Any]) -> NDArray[Any]:
    """A matrix whose rows run along the last dimension; a vector is one row, a scalar a row of one."""
    if values.size == 0:
        return values.reshape(0, 1)
    return values.reshape(-1, values.shape[-1] if values.ndim else 1)
