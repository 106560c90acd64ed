"""Numbers made codes and scales, from the rules of each form; every step is one rounding to float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .floats import E2M1, E4M3

F32 = NDArray[np.float32]
U8 = NDArray[np.uint8]


def nearest(values: NDArray[np.floating], table: F32) -> U8:
    """The code of the nearest of `table`'s numbers, which ascend from 0; of two equally near the one whose code is
    even."""
    magnitude = np.minimum(np.abs(values.astype(np.float64)), float(table[-1]))
    above = np.searchsorted(table, magnitude).astype(np.int64)
    below = np.maximum(above - 1, 0)
    up, down = table[above] - magnitude, magnitude - table[below].astype(np.float64)
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return code.astype(np.uint8)


def e4m3(values: F32) -> U8:
    """To E4M3, what is larger than 448 becomes it."""
    return nearest(values, E4M3[:0x7F]) | (np.signbit(values) * 0x80).astype(np.uint8)


def fp8(weight: F32) -> tuple[U8, F32]:
    """Codes, and a scale for each 128 x 128 tile, as transformers' `Fp8Quantize` on a CPU: 448 / amax is the
    reciprocal of amax, and then the product. Where that is no float32 it is 2**127."""
    rows, columns = weight.shape[-2:]
    tiles = weight.reshape(*weight.shape[:-2], rows // 128, 128, columns // 128, 128)
    amax = np.abs(tiles).max(axis=(-3, -1))
    with np.errstate(divide="ignore", over="ignore"):
        rate = np.minimum(np.float32(1) / amax * np.float32(448), np.float32(2.0**127))
    rate = np.where(amax == 0, np.float32(1), rate).astype(np.float32)
    spread = rate[..., :, None, :, None]
    return e4m3((tiles * spread).reshape(weight.shape)), (np.float32(1) / rate).astype(np.float32)


def mxfp4(weight: F32) -> tuple[U8, U8]:
    """Pairs of codes, the even element in the lower half, and a byte of exponent for each 32 of a row, as
    compressed-tensors has it: the power of two in the largest magnitude, the next from 1.75 times that on, over 4."""
    groups = weight.reshape(*weight.shape[:-1], -1, 32)
    amax = np.abs(groups).max(axis=-1)
    fraction, exponent = np.frexp(amax.astype(np.float64))
    power = exponent - 1 + (fraction >= 0.875)
    # A subnormal f32 has the exponent of zero.
    power = np.where(amax < np.float32(2.0**-126), -127, power)
    byte = np.clip(power - 2 + 127, 0, 254)
    scaled = groups.astype(np.float64) / 2.0 ** (byte - 127.0)[..., None]
    code = nearest(scaled, E2M1[:8]) | (np.signbit(groups) * 8).astype(np.uint8)
    code = code.reshape(weight.shape)
    return (code[..., ::2] | code[..., 1::2] << 4).astype(np.uint8), byte.astype(np.uint8)


def q8_0(weight: F32) -> U8:
    """GGML's blocks of 32: an f16 scale, the largest magnitude over 127, and integers: each value times the
    reciprocal of the scale before that is rounded, halves away from zero."""
    groups = weight.reshape(*weight.shape[:-1], -1, 32)
    scale = np.abs(groups).max(axis=-1) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        over = np.float32(1) / scale
    over = np.where(np.isfinite(over), over, np.float32(0))
    times = groups * over[..., None]
    whole = np.floor(np.abs(times) + 0.0)
    whole += np.abs(times) - whole >= 0.5
    codes = np.copysign(whole, times).astype(np.int8).view(np.uint8)
    heads = scale.astype(np.float16)[..., None].view(np.uint8)
    return np.concatenate([heads, codes], -1).reshape(*weight.shape[:-1], -1)
