"""4 bits of bitsandbytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


def four_bits(codes: U8, table: F32, scales: F32, block: int, shape: tuple[int, ...]) -> F32:
    """``fl(table[n] * a[e // block])`` over all elements in order, the even one in the high half of a byte."""
    n = np.stack([codes >> 4, codes & 15], -1).reshape(-1)[: int(np.prod(shape))]
    own = scales[np.arange(len(n)) // block]
    return (table[n] * own).astype(np.float32).reshape(shape)


def nested(codes: U8, table: F32, absmax: F32, block: int, offset: float) -> F32:
    """``fl(fl(table[c] * absmax[k // block]) + offset)``."""
    product = (table[codes] * absmax[np.arange(len(codes)) // block]).astype(np.float32)
    return (product + np.float32(offset)).astype(np.float32)
