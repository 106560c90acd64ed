"""Oracle: rounding once, to nearest, ties to even, from float32 to the 16-bit float formats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bf16_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """bfloat16 bit patterns of float32 values; a NaN stays a (quiet) NaN of the same sign."""
    f32 = np.ascontiguousarray(values, dtype=np.float32)
    bits = f32.view(np.uint32).astype(np.uint64)
    lowest_kept = (bits >> np.uint64(16)) & np.uint64(1)
    rounded = (bits + np.uint64(0x7FFF) + lowest_kept) >> np.uint64(16)
    quiet = (bits >> np.uint64(16)) | np.uint64(0x0040)
    return np.asarray(np.where(np.isnan(f32), quiet, rounded), dtype=np.uint16)


def bf16_values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32 values of bfloat16 bit patterns, exactly."""
    wide: NDArray[np.uint32] = np.asarray(bits, dtype=np.uint32) << np.uint32(16)
    return wide.view(np.float32)


def f16_bits(values: NDArray[Any]) -> NDArray[np.uint16]:
    """IEEE half bit patterns of float32 values; what is too large becomes infinity."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32).astype(np.float16).view(np.uint16)


def round_to(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The values a checkpoint of `dtype` (safetensors name) holds after storing `values`."""
    if dtype == "BF16":
        return bf16_values(bf16_bits(values))
    if dtype == "F16":
        return f16_bits(values).view(np.float16).astype(np.float32)
    if dtype == "F32":
        return values.astype(np.float32)
    if dtype == "F64":
        return values.astype(np.float64)
    raise ValueError(f"not a float dtype that is computed on: {dtype}")
