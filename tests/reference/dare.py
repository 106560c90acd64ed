"""Oracle: DARE (arXiv 2311.03099): drop delta elements at random, rescale what is left, then merge.

The 64-bit key of each (seed, model, tensor) is the caller's: this oracle says what a key means, not where it
comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .philox import keep_mask
from .task_arithmetic import add_back, delta, weighted_sum
from .ties import elect, match_l1


def drop(change: NDArray[np.float32], density: float, key: int, rescale: str | bool = True) -> NDArray[np.float32]:
    """A thinned delta. `rescale`: true or "density" (1 / density), "l1" (norm match), false or "none"."""
    if density >= 1.0:
        return change
    if density <= 0.0:
        return np.zeros_like(change)
    kept = keep_mask(key, change.size, density).reshape(change.shape)
    thinned = np.where(kept, change, np.float32(0))
    if rescale is True or rescale == "density":
        return (thinned.astype(np.float64) / density).astype(np.float32)
    if rescale == "l1":
        return match_l1(thinned, change)
    if rescale is False or rescale == "none":
        return thinned
    raise ValueError(f"unknown rescale {rescale!r}")


def _thinned(
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    densities: Sequence[float],
    keys: Sequence[int],
    rescale: str | bool,
) -> list[NDArray[np.float32]]:
    return [
        drop(delta(base, values), density, key, rescale)
        for values, density, key in zip(tuned, densities, keys, strict=True)
    ]


def _dare(
    join: Callable[..., NDArray[Any]],
    base: NDArray[Any],
    tuned: Sequence[NDArray[Any]],
    weights: Sequence[float],
    densities: Sequence[float],
    keys: Sequence[int],
    *,
    lam: float = 1.0,
    normalize: bool = False,
    rescale: str | bool = True,
) -> NDArray[np.float32]:
    """base + lambda * the thinned deltas, joined."""
    deltas = _thinned(base, tuned, densities, keys, rescale)
    return add_back(base, join(deltas, weights, normalize=normalize), lam)


dare_linear = partial(_dare, weighted_sum)
dare_ties = partial(_dare, elect)
