"""Random words as a pure function of key and position, the core's to the bit: Philox4x32-10 (Salmon et al., SC 2011).

So CPU and GPU, blocks and whole tensors choose the same elements.
"""

from __future__ import annotations

import torch
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_WORD = 0xFFFFFFFF
#: Elements whose high bits one block of words holds, and elements whose low ones.
TOGETHER, APART = 16, 4


def _multiplied(a: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """High and low half of the product of 32-bit words that lie in int64.

    The product of two such words does not fit a signed integer, but wraps around to the right bits.
    """
    product = a * (by if by < 1 << 31 else by - (1 << 32))
    # The factor stood for `by - 2^32`: what is missing is `a * 2^32`, all in the high half.
    high = (product >> 32) + (a if by >= 1 << 31 else 0)
    return high & _WORD, product & _WORD


def philox(key: int, counters: Tensor, stream: int) -> list[Tensor]:
    """The four words of every counter (int64), whose third word is `stream`."""
    c = [counters & _WORD, counters >> 32, torch.full_like(counters, stream), torch.zeros_like(counters)]
    k0, k1 = key & _WORD, key >> 32
    for _ in range(_ROUNDS):
        (high0, low0), (high1, low1) = _multiplied(c[0], _M0), _multiplied(c[2], _M1)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c


def draws(key: int, start: int, count: int, device: torch.device) -> Tensor:
    """The draws (int64, 32 bits each) of elements `start` to `start + count`."""
    elements = torch.arange(start, start + count, dtype=torch.int64, device=device)
    first, last = start // TOGETHER, (start + max(count, 1) - 1) // TOGETHER
    words = philox(key, torch.arange(first, last + 1, dtype=torch.int64, device=device), 0)
    high = torch.stack(words, -1).view(-1)[elements // APART - first * (TOGETHER // APART)]
    high = (high >> (8 * (elements % APART))) & 0xFF
    first, last = start // APART, (start + max(count, 1) - 1) // APART
    words = philox(key, torch.arange(first, last + 1, dtype=torch.int64, device=device), 1)
    low = torch.stack(words, -1).view(-1)[elements - first * APART] & 0xFFFFFF
    return high << 24 | low
