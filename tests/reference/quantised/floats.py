"""Small floats, code by code, from the definition of each format (OCP 8-bit and microscaling, FNUZ)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]


def table(exponent: int, mantissa: int, bias: int, kind: str) -> F32:
    """What the codes of a float stand for; `kind` says which are special: ``ieee``, ``fn``, ``fnuz``."""
    out = np.zeros(256, np.float64)
    for code in range(256):
        sign = -1.0 if code >> 7 else 1.0
        e, m = (code >> mantissa) & (2**exponent - 1), code & (2**mantissa - 1)
        if (kind == "fnuz" and code == 0x80) or (kind == "fn" and code & 0x7F == 0x7F):
            out[code] = np.nan
        elif kind == "ieee" and e == 2**exponent - 1:
            out[code] = np.nan if m else sign * np.inf
        elif e == 0:
            out[code] = sign * m * 2.0 ** (1 - bias - mantissa)
        else:
            out[code] = sign * (1 + m / 2**mantissa) * 2.0 ** (e - bias)
    return out.astype(np.float32)


E4M3 = table(4, 3, 7, "fn")
E5M2 = table(5, 2, 15, "ieee")
E4M3FNUZ = table(4, 3, 8, "fnuz")
E5M2FNUZ = table(5, 2, 16, "fnuz")
E8M0 = np.append(2.0 ** (np.arange(255, dtype=np.float64) - 127), np.nan).astype(np.float32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
BY_DTYPE = {"F8_E4M3": E4M3, "F8_E5M2": E5M2, "F8_E4M3FNUZ": E4M3FNUZ, "F8_E5M2FNUZ": E5M2FNUZ}


def field(words: NDArray[np.int32], bits: int, count: int) -> NDArray[np.int64]:
    """The first `count` fields of `bits` bits along the last axis of words, as one little-endian stream of bits."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    stream = np.unpackbits(raw, axis=-1, bitorder="little")[..., : count * bits]
    each = stream.reshape(*words.shape[:-1], count, bits).astype(np.int64)
    out: NDArray[np.int64] = (each << np.arange(bits)).sum(-1)
    return out
