"""4-bit floats in pairs: MXFP4, NVFP4, and gpt-oss's transposed blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .floats import E2M1, E4M3, E8M0

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]


def nibbles(packed: U8) -> NDArray[np.int64]:
    """Codes of the last axis, the low half of a byte first."""
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1).astype(np.int64)


def mxfp4(packed: U8, scales: U8) -> F32:
    """``E2M1 * 2^(s - 127)`` with a scale for 32 values."""
    with np.errstate(all="ignore"):
        return E2M1[nibbles(packed)] * np.repeat(E8M0[scales], 32, -1)


def nvfp4(packed: U8, scales: U8, whole: F32, divides: bool) -> F32:
    """``fl(E2M1 * fl(s / g))``, or with ``s * g``; a scale for 16 values."""
    with np.errstate(all="ignore"):
        own = E4M3[scales] / whole if divides else E4M3[scales] * whole
        # ModelOpt's zero has no sign.
        table = E2M1 if divides else np.where(E2M1 == 0, np.float32(0), E2M1)
        return (table[nibbles(packed)] * np.repeat(own.astype(np.float32), 16, -1)).astype(np.float32)


def gpt_oss(blocks: U8, scales: U8) -> F32:
    """[E, r, blocks, 16] as [E, columns, r]: the transpose of what is stored."""
    with np.errstate(all="ignore"):
        values = E2M1[nibbles(blocks)] * E8M0[scales][..., None]
    return np.ascontiguousarray(values.reshape(*blocks.shape[:2], -1).transpose(0, 2, 1))
