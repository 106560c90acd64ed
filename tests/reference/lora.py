"""Oracle: what an adapter makes of a weight, in float64, from the papers and from what PEFT's files mean.

LoRA: arXiv 2106.09685; rsLoRA: 2312.03732; DoRA: 2402.09353.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def scale(alpha: float, rank: int, *, rslora: bool = False) -> float:
    """What the product of the factors is multiplied by."""
    return alpha / (rank**0.5 if rslora else rank)


def linear(a: F64, b: F64) -> F64:
    """The change of a weight [out, in] by A [r, in] and B [out, r]."""
    return b @ a


def table(a: F64, b: F64) -> F64:
    """The change of a table of tokens [V, d] by A [r, V] and B [d, r]."""
    return (b @ a).T


def convolution(a: F64, b: F64) -> F64:
    """The change of kernels [out, in, h, w] by A [r, in, h, w] and B [out, r, 1, 1]."""
    return np.asarray(np.einsum("or,rihw->oihw", b[:, :, 0, 0], a))


def experts(a: F64, b: F64, count: int, *, rows_are_inputs: bool) -> F64:
    """The change of stacked experts by A [r * E, in] and B [out, r * E]: [E, out, in], or [E, in, out].

    The experts are the outer part of A's first axis and the inner part of B's second one.
    """
    rank = a.shape[0] // count
    own_a, own_b = a.reshape(count, rank, -1), b.reshape(b.shape[0], rank, count)
    found = np.stack([own_b[:, :, e] @ own_a[e] for e in range(count)])
    return found.transpose(0, 2, 1) if rows_are_inputs else found


def dora(weight: F64, change: F64, lengths: F64) -> F64:
    """The weight with the change, every row given its length."""
    moved = weight + change
    return np.asarray(lengths.reshape(-1, 1) * moved / np.sqrt((moved**2).sum(axis=1, keepdims=True)))


def once(values: F64, dtype: str) -> F64:
    """Values rounded once, to nearest even, straight from float64."""
    if dtype == "BF16":
        # Eight bits of significand; nothing here is so small that it has fewer.
        mantissa, exponent = np.frexp(values)
        return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, 8)), exponent - 8))
    kinds = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
    return np.asarray(values, dtype=kinds[dtype]).astype(np.float64)
