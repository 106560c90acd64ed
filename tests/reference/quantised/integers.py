"""Integers packed in words: GPTQ, AWQ, pack-quantized."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .floats import field

I32 = NDArray[np.int32]
F32 = NDArray[np.float32]


def gptq(qweight: I32, qzeros: I32, scales: F32, group_of: NDArray[np.int64], bits: int, second: bool) -> F32:
    """``scales[g, o] * (q[i, o] - Z)`` as [o, i]; the first form stores zeros less one, modulo 2^bits."""
    inputs, outputs = len(group_of), qweight.shape[1]
    q = field(np.ascontiguousarray(qweight.T), bits, inputs)
    z = field(qzeros, bits, outputs)
    z = z if second else (z + 1) % 2**bits
    out: F32 = ((q - z.T[:, group_of]).astype(np.float32) * scales.T[:, group_of]).astype(np.float32)
    return out


def awq(qweight: I32, qzeros: I32, scales: F32, group: int) -> F32:
    """gemm: column 8c + k of eight sits in the nibble P[k]; ``scales * (q - z)`` as [o, i]."""
    order = np.array([0, 4, 1, 5, 2, 6, 3, 7])

    def columns(words: I32) -> NDArray[np.int64]:
        nibble = (words.view(np.uint32)[..., None] >> (4 * order).astype(np.uint32)) & 15
        out: NDArray[np.int64] = nibble.reshape(words.shape[0], -1).astype(np.int64)
        return out

    own = np.arange(qweight.shape[0]) // group
    out: F32 = ((columns(qweight) - columns(qzeros)[own]).astype(np.float32) * scales[own]).T.astype(np.float32)
    return out


def awq_gemv(qweight: I32, qzeros: I32, scales: F32, group: int) -> F32:
    """Row by row, in plain order."""
    inputs = qweight.shape[1] * 8
    own = np.arange(inputs) // group
    q, z = field(qweight, 4, inputs), field(qzeros, 4, qzeros.shape[1] * 8)
    out: F32 = ((q - z[:, own]).astype(np.float32) * scales[:, own]).astype(np.float32)
    return out


def packed(
    words: I32,
    scale: F32,
    zeros: NDArray[np.int64] | None,
    group_of: NDArray[np.int64],
    bits: int,
    crossing: bool = True,
) -> F32:
    """``scale[o, g] * (q - z)``, everything stored with an offset of 2^(bits - 1)."""
    columns = len(group_of)
    if crossing:
        q = field(words, bits, columns)
    else:
        per = 32 // bits
        shifts = (np.arange(per) * bits).astype(np.uint32)
        q = ((words.view(np.uint32)[..., None] >> shifts) & (2**bits - 1)).reshape(len(words), -1)[:, :columns]
    own = q.astype(np.int64) - 2 ** (bits - 1)
    if zeros is not None:
        own = own - zeros[:, group_of]
    out: F32 = (own.astype(np.float32) * scale[:, group_of]).astype(np.float32)
    return out


def packed_zeros(words: I32, rows: int, bits: int) -> NDArray[np.int64]:
    """Zero points, packed along the rows."""
    out: NDArray[np.int64] = field(np.ascontiguousarray(words.T), bits, rows).T - 2 ** (bits - 1)
    return out
