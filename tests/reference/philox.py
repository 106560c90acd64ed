"""Oracle: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)


def blocks(counters: NDArray[Any], key: tuple[int, int]) -> NDArray[np.uint32]:
    """The four output words of each counter: shape (n, 4) in, (n, 4) out."""
    c0, c1, c2, c3 = (counters[:, i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> WORD) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> WORD) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def _drawn(key: int, counters: NDArray[np.uint64], stream: int) -> NDArray[np.uint32]:
    """The output words of 64-bit counters, which are few of many, in one of the two streams: shape (n, 4)."""
    unique, place = np.unique(counters, return_inverse=True)
    parts = np.zeros((unique.size, 4), dtype=np.uint64)
    parts[:, 0], parts[:, 1], parts[:, 2] = unique & LOW, unique >> WORD, stream
    return blocks(parts, (key & 0xFFFFFFFF, key >> 32))[place]


def words(key: int, size: int, start: int = 0) -> NDArray[np.uint32]:
    """The 32-bit draw of each element start .. start+size of a tensor whose 64-bit key is `key`.

    The high 8 bits of element i are byte i % 16, the lowest of the first word first, of the block whose counter is
    i // 16 in stream 0; the low 24 those of word i % 4 of the block i // 4 in stream 1.
    """
    index = np.arange(start, start + size, dtype=np.uint64)
    if not size:
        return np.zeros(0, np.uint32)
    every = np.arange(size)
    four, sixteen = np.uint64(4), np.uint64(16)
    rows = _drawn(key, index // sixteen, 0).astype("<u4").view(np.uint8)
    high = rows[every, (index % sixteen).astype(np.int64)].astype(np.uint32)
    low = _drawn(key, index // four, 1)[every, (index % four).astype(np.int64)] & np.uint32(0xFFFFFF)
    return np.asarray((high << np.uint32(24)) | low, dtype=np.uint32)


def keep_mask(key: int, size: int, density: float, start: int = 0) -> NDArray[np.bool_]:
    """Keep an element iff its draw is below floor(density * 2**32)."""
    drawn = words(key, size, start).astype(np.uint64)
    return np.asarray(drawn < np.uint64(int(density * 2.0**32)), dtype=np.bool_)
