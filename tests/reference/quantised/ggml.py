"""The block types of GGML, from their formulas: one element of a block at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Bytes = NDArray[np.uint8]

#: What the codes of IQ4_NL stand for.
STEPS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
#: E2M1; in GGML code 8 is 0.
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@dataclass(frozen=True)
class Type:
    """A type: its number, elements and bytes of a block, where its f16 scales lie, and element `i` of blocks `b`."""

    number: int
    elements: int
    bytes: int
    scales: tuple[int, ...]
    element: Callable[[Bytes, int], F32]


def half(b: Bytes, at: int) -> F32:
    return np.ascontiguousarray(b[:, at : at + 2]).view("<f2")[:, 0].astype(np.float32)


def wide(b: Bytes, at: int) -> NDArray[np.int64]:
    return b[:, at].astype(np.int64)


def nibble(b: Bytes, at: int, i: int) -> NDArray[np.int64]:
    return wide(b, at + i) & 15 if i < 16 else wide(b, at + i - 16) >> 4


def fifth(b: Bytes, at: int, i: int) -> NDArray[np.int64]:
    return ((wide(b, at + i // 8) >> (i % 8)) & 1) << 4


def two(b: Bytes, at: int, i: int) -> NDArray[np.int64]:
    return (wide(b, at + 32 * (i // 128) + i % 32) >> (2 * (i % 128 // 32))) & 3


def fours(b: Bytes, at: int, i: int) -> NDArray[np.int64]:
    g = i // 32
    return (wide(b, at + 32 * (g // 2) + i % 32) >> (4 * (g % 2))) & 15


def f(values: NDArray[np.int64]) -> F32:
    return values.astype(np.float32)


def signed(b: Bytes, at: int) -> F32:
    return b[:, at].view(np.int8).astype(np.float32)


def sixes(b: Bytes, g: int) -> tuple[F32, F32]:
    """The scale and the minimum of 32 elements, of the 12 bytes at 4."""
    if g < 4:
        return f(wide(b, 4 + g) & 63), f(wide(b, 8 + g) & 63)
    low, high = wide(b, 8 + g), (wide(b, g) >> 6) << 4
    return f((low & 15) | high), f((low >> 4) | ((wide(b, 4 + g) >> 6) << 4))


def q2_k(b: Bytes, i: int) -> F32:
    sc = wide(b, i // 16)
    return half(b, 80) * f(sc & 15) * f(two(b, 16, i)) - half(b, 82) * f(sc >> 4)


def q3_k(b: Bytes, i: int) -> F32:
    k = i // 16
    low = wide(b, 96 + k) & 15 if k < 8 else wide(b, 96 + k - 8) >> 4
    s = low | (((wide(b, 104 + k % 4) >> (2 * (k // 4))) & 3) << 4)
    bit = (wide(b, i % 32) >> (4 * (i // 128) + i % 128 // 32)) & 1
    return half(b, 108) * f(s - 32) * f(two(b, 32, i) - 4 * (1 - bit))


def q4_k(b: Bytes, i: int) -> F32:
    s, m = sixes(b, i // 32)
    return half(b, 0) * s * f(fours(b, 16, i)) - half(b, 2) * m


def q5_k(b: Bytes, i: int) -> F32:
    s, m = sixes(b, i // 32)
    q = fours(b, 48, i) | (((wide(b, 16 + i % 32) >> (i // 32)) & 1) << 4)
    return half(b, 0) * s * f(q) - half(b, 2) * m


def q6_k(b: Bytes, i: int) -> F32:
    h, j, low = i // 128, i % 128 // 32, i % 32
    q = (wide(b, 64 * h + 32 * (j % 2) + low) >> (4 * (j // 2))) & 15
    q |= ((wide(b, 128 + 32 * h + low) >> (2 * j)) & 3) << 4
    return half(b, 208) * signed(b, 192 + i // 16) * f(q - 32)


def iq4_xs(b: Bytes, i: int) -> F32:
    g = i // 32
    s = (wide(b, 4 + g // 2) >> (4 * (g % 2))) & 15
    s |= ((wide(b, 2) | wide(b, 3) << 8) >> (2 * g) & 3) << 4
    return half(b, 0) * f(s - 32) * STEPS[nibble(b, 8 + 16 * g, i % 32)]


def mxfp4(b: Bytes, i: int) -> F32:
    power = np.ldexp(np.float64(1), b[:, 0].astype(np.int32) - 128).astype(np.float32)
    out: F32 = power * (2 * E2M1[nibble(b, 1, i)])
    return out


def nvfp4(b: Bytes, i: int) -> F32:
    t, u = i // 16, i % 16
    s, q = wide(b, t), wide(b, 4 + 8 * t + u % 8)
    e, m = (s >> 3) & 15, (s & 7).astype(np.float64)
    scale = np.where(e == 0, m * 2.0**-9, (1 + m / 8) * 2.0 ** (e - 7))
    out: F32 = np.where(s == 0x7F, 0, scale).astype(np.float32) * E2M1[q & 15 if u < 8 else q >> 4]
    return out


def tq1_0(b: Bytes, i: int) -> F32:
    if i < 160:
        byte, n = wide(b, i % 32), i // 32
    elif i < 240:
        byte, n = wide(b, 32 + (i - 160) % 16), (i - 160) // 16
    else:
        byte, n = wide(b, 48 + (i - 240) % 4), (i - 240) // 4
    return half(b, 52) * f(((((byte * 3**n) & 255) * 3) >> 8) - 1)


TYPES: dict[str, Type] = {
    "Q4_0": Type(2, 32, 18, (0,), lambda b, i: half(b, 0) * f(nibble(b, 2, i) - 8)),
    "Q4_1": Type(3, 32, 20, (0, 2), lambda b, i: half(b, 0) * f(nibble(b, 4, i)) + half(b, 2)),
    "Q5_0": Type(6, 32, 22, (0,), lambda b, i: half(b, 0) * f((nibble(b, 6, i) | fifth(b, 2, i)) - 16)),
    "Q5_1": Type(7, 32, 24, (0, 2), lambda b, i: half(b, 0) * f(nibble(b, 8, i) | fifth(b, 4, i)) + half(b, 2)),
    "Q8_0": Type(8, 32, 34, (0,), lambda b, i: half(b, 0) * signed(b, 2 + i)),
    "Q2_K": Type(10, 256, 84, (80, 82), q2_k),
    "Q3_K": Type(11, 256, 110, (108,), q3_k),
    "Q4_K": Type(12, 256, 144, (0, 2), q4_k),
    "Q5_K": Type(13, 256, 176, (0, 2), q5_k),
    "Q6_K": Type(14, 256, 210, (208,), q6_k),
    "IQ4_NL": Type(20, 32, 18, (0,), lambda b, i: half(b, 0) * STEPS[nibble(b, 2, i)]),
    "IQ4_XS": Type(23, 256, 136, (0,), iq4_xs),
    "TQ1_0": Type(34, 256, 54, (52,), tq1_0),
    "TQ2_0": Type(35, 256, 66, (64,), lambda b, i: half(b, 64) * f(two(b, 0, i) - 1)),
    "MXFP4": Type(39, 32, 17, (), mxfp4),
    "NVFP4": Type(40, 64, 36, (), nvfp4),
    "Q1_0": Type(
        41, 128, 18, (0,), lambda b, i: np.where((wide(b, 2 + i // 8) >> (i % 8)) & 1, half(b, 0), -half(b, 0))
    ),
}


def decode(name: str, raw: bytes) -> F32:
    """Every element of blocks of the type called `name`, f32 [elements]."""
    kind = TYPES[name]
    b = np.frombuffer(raw, np.uint8).reshape(-1, kind.bytes)
    out = np.empty((len(b), kind.elements), np.float32)
    with np.errstate(all="ignore"):
        for i in range(kind.elements):
            out[:, i] = kind.element(b, i)
    return out.reshape(-1)


def blocks(name: str, count: int, seed: int) -> bytes:
    """Random blocks of a type, whose values are finite; some scales are zero or subnormal."""
    kind, rng = TYPES[name], np.random.default_rng(seed)
    b = rng.integers(0, 256, (count, kind.bytes), np.uint8)
    for at in kind.scales:
        scales = rng.normal(0, 0.1, count).astype(np.float16)
        scales[::7], scales[1::11] = 0, np.float16(6e-8)
        b[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    if name == "MXFP4":
        b[:, 0] = rng.integers(100, 140, count)
        b[0, 0] = 0
    return b.tobytes()


def permuted(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows as a conversion to GGUF puts them: ``GGUF[2 j + t] = HF[t D / 2 + j]`` in every head."""
    size = len(rows) // heads
    order = [h * size + t * size // 2 + j for h in range(heads) for j in range(size // 2) for t in range(2)]
    return rows[order]
