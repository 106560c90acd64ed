"""A byte an element and a scale for each tile; LLM.int8."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def tiles(values: F32, scales: F32, tile: tuple[int, int], zeros: NDArray[np.int8] | None = None) -> F32:
    """``fl((v - z) * s)`` where element [o, i] has the scale [o // down, i // along]."""
    down, along = tile
    o, i = np.indices(values.shape)
    own = scales[o // down, i // along]
    if zeros is not None:
        values = values - zeros[o // down, i // along].astype(np.float32)
    with np.errstate(all="ignore"):
        out: F32 = (values * own).astype(np.float32)
    return out


def llm_int8(codes: NDArray[np.int8], scb: F32) -> F32:
    """``fl(fl(q * SCB[o]) * fl(1/127))``."""
    seventh = np.array([0x3C010204], np.uint32).view(np.float32)[0]
    once: F32 = (codes.astype(np.float32) * scb[:, None]).astype(np.float32)
    out: F32 = once * seventh
    return out
