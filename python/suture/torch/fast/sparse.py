"""The sparse pipeline: thin every change, weight it, elect a sign, add what agrees to the base; one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.blend import here, operand, put
from suture.torch.fast.cuts import Cuts, change_key
from suture.torch.fast.table import WARPS, Table

_WIDE = tl.constexpr(0xFFFFFFFF)


@triton.jit
def _philox(key0, key1, counter, STREAM: tl.constexpr):
    """The four words of 64-bit counters; see `suture.torch.draws`."""
    c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c2, c3 = (c0 * 0 + STREAM).to(tl.uint32), (c0 * 0).to(tl.uint32)
    k0, k1 = key0.to(tl.uint32), key1.to(tl.uint32)
    m0 = tl.full((1,), 0xD2511F53, tl.uint32)
    m1 = tl.full((1,), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        high0, high1 = tl.umulhi(c0, m0), tl.umulhi(c2, m1)
        low0, low1 = (c0 * m0).to(tl.uint32), (c2 * m1).to(tl.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9).to(tl.uint32), (k1 + 0xBB67AE85).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _drawn(key0, key1, limit, at, first, LOW: tl.constexpr, TILE: tl.constexpr):
    """Which draws of a tile's elements, the first of which is `first`, are below a limit."""
    blocks = first // 16 + tl.arange(0, TILE // 16).to(tl.int64)
    a, b, c, d = _philox(key0, key1, blocks, 0)
    words = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (TILE // 4,))
    shifts = tl.arange(0, 4).to(tl.uint32) * 8
    high = tl.reshape((words[:, None] >> shifts[None, :]) & 0xFF, (TILE,)).to(tl.int32)
    most, rest = (limit >> 24).to(tl.int32), (limit & 0xFFFFFF).to(tl.int32)
    kept = high < most
    if LOW:
        blocks = first // 4 + tl.arange(0, TILE // 4).to(tl.int64)
        a, b, c, d = _philox(key0, key1, blocks, 1)
        low = (tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (TILE,)) & 0xFFFFFF).to(tl.int32)
        kept = kept | ((high == most) & (low < rest))
    return kept


@triton.jit
def cut(key, limit, last, at):
    """What a cut keeps of the elements `at` of a tensor.

    What is above its limit, and of what equals it the first ones.
    """
    return (key > limit) | ((key == limit) & (at < last))


@triton.jit
def _pipeline(
    origin, starts, rows, left, tiles, factors, weights, lambdas, threshold, last, keys, limits,
    N: tl.constexpr, CUTS: tl.constexpr, RANDOM: tl.constexpr, LOW: tl.constexpr, CONSENSUS: tl.constexpr,
    MEAN: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    row, at, count, near = here(rows, left, t, TILE)
    first = tl.load(tiles + t).to(tl.int64) * TILE
    base = operand(origin, starts, t, 0, N + 2, at, near)
    votes = tl.zeros((TILE,), tl.float64)
    up, down = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    up_weight, down_weight = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    divisor = tl.zeros((TILE,), tl.float64)
    for e in tl.static_range(N):
        key, x = change_key(origin, starts, t, e, N + 2, at, near)
        s = row * N + e
        factor, weight = tl.load(factors + s), tl.load(weights + s)
        if CUTS > 0:
            kept = cut(key, tl.load(threshold + s * CUTS), (tl.load(last + s * CUTS) - first).to(tl.int32), at)
            if CUTS > 1:
                inner = cut(
                    key, tl.load(threshold + s * CUTS + 1), (tl.load(last + s * CUTS + 1) - first).to(tl.int32), at
                )
                kept = kept & (inner == 0)
            x = x * tl.where(kept, factor, 0.0)
        elif RANDOM:
            kept = _drawn(tl.load(keys + 2 * s), tl.load(keys + 2 * s + 1), tl.load(limits + s), at, first, LOW, TILE)
            x = x * tl.where(kept, factor, 0.0)
        else:
            x = x * factor
        if CONSENSUS == 2:
            # A zero has no vote; a NaN stays one.
            votes += tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x * 0.0)).to(tl.float64)
        else:
            votes += x.to(tl.float64)
        if CONSENSUS > 0:
            up += tl.where(x > 0.0, x, 0.0)
            down += tl.where(x < 0.0, x, 0.0)
            if MEAN:
                up_weight += tl.where(x > 0.0, weight, 0.0)
                down_weight += tl.where(x < 0.0, weight, 0.0)
        elif MEAN:
            divisor += tl.where(x != 0.0, weight, 0.0).to(tl.float64)
    if CONSENSUS > 0:
        merged = tl.where(votes >= 0.0, up, down)
        if MEAN:
            by = tl.where(votes >= 0.0, up_weight, down_weight)
            merged = tl.div_rn(merged, tl.where(by == 0.0, 1.0, by))
        # A NaN in any model agrees with nothing and comes back here.
        merged += (votes * 0.0).to(tl.float32)
    else:
        merged = votes
        if MEAN:
            merged = votes / tl.where(divisor == 0.0, 1.0, divisor)
        merged = merged.to(tl.float32)
    change = merged * tl.load(lambdas + row)
    put(origin, starts, t, N + 1, N + 2, at, count, TILE, tl.where(change == 0.0, base, base + change))


CONSENSUS = {"none": 0, "sum": 1, "count": 2}


def pipeline(
    table: Table,
    factors: Tensor,
    weights: Tensor,
    lambdas: Tensor,
    *,
    cuts: Cuts | None = None,
    keys: Tensor | None = None,
    limits: Tensor | None = None,
    low: bool = True,
    consensus: str = "none",
    mean: bool = False,
) -> None:
    """Writes the merged tensors.

    Args:
        table: the base, the inputs, and what is written.
        factors: `[tensors, inputs]` float32: what a change is multiplied by.
        weights: `[tensors, inputs]` float32: what a mean is divided by.
        lambdas: `[tensors]` float32: factors on the merged change.
        cuts: where changes are cut by magnitude, if they are.
        keys: `[tensors, inputs, 2]` int64: low and high word of the keys of random words, where changes are thinned
            at random.
        limits: `[tensors, inputs]` int64: below what a draw of 32 bits keeps an element.
        low: whether any limit has low bits.
        consensus: ``none``, ``sum`` or ``count``.
        mean: whether sums are divided by the weights of what is left of an element.
    """
    none = factors
    _pipeline[(table.tiles,)](
        *table.walk, table.tile, factors, weights, lambdas,
        none if cuts is None else cuts.threshold, none if cuts is None else cuts.last,
        none if keys is None else keys, none if limits is None else limits,
        factors.shape[1], 0 if cuts is None else cuts.threshold.shape[2], keys is not None, low,
        CONSENSUS[consensus], mean,
        table.size, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def split(keys: list[list[int]], device: torch.device) -> Tensor:
    """64-bit keys as pairs of words that int64 can hold."""
    return torch.tensor([[[k & 0xFFFFFFFF, k >> 32] for k in row] for row in keys], dtype=torch.int64, device=device)
