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


def words(key: int, size: int, start: int = 0) -> NDArray[np.uint32]:
    """The 32-bit draw of each element start .. start+size of a tensor whose 64-bit key is `key`.

    Element i takes word i % 4 of the block whose counter is i // 4.
    """
    index = np.arange(start, start + size, dtype=np.uint64)
    block = index // np.uint64(4)
    first = int(block[0]) if size else 0
    unique = np.arange(first, int(block[-1]) + 1 if size else first, dtype=np.uint64)
    counters = np.zeros((unique.size, 4), dtype=np.uint64)
    counters[:, 0], counters[:, 1] = unique & LOW, unique >> WORD
    drawn = blocks(counters, (key & 0xFFFFFFFF, key >> 32))
    row, word = (block - np.uint64(first)).astype(np.int64), (index % np.uint64(4)).astype(np.int64)
    return np.asarray(drawn[row, word], dtype=np.uint32)


def keep_mask(key: int, size: int, density: float, start: int = 0) -> NDArray[np.bool_]:
    """Keep an element iff its draw is below floor(density * 2**32)."""
    drawn = words(key, size, start).astype(np.uint64)
    return np.asarray(drawn < np.uint64(int(density * 2.0**32)), dtype=np.bool_)
