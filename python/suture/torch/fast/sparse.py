"""The sparse pipeline: thin every change, weight it, elect a sign, add what agrees to the base; one pass."""

# Triton compiles no `(*found, next)`, and tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,var-annotated"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.blend import change, operand, places, pointers, put
from suture.torch.fast.cuts import Cuts
from suture.torch.fast.table import WARPS, Table

#: Registers of a thread at most, of cuts by magnitude and at random: the compiler takes up to 126 where it may. On an
#: H200 `ties` of an 8B model took 32.6 ms with 80 and 35.4 with 96, `dare_linear` 39.0 and 38.5.
REGISTERS, REGISTERS_RANDOM = 80, 96


@triton.jit
def _philox(key0, key1, counter, STREAM: tl.constexpr):
    """The four words of 64-bit counters; see `suture.torch.draws`."""
    c0, c1 = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    c2, c3 = (c0 * 0 + STREAM).to(tl.uint32), (c0 * 0).to(tl.uint32)
    k0, k1 = key0.to(tl.uint32), key1.to(tl.uint32)
    m0 = tl.full((1,), 0xD2511F53, tl.uint64)
    m1 = tl.full((1,), 0xCD9E8D57, tl.uint64)
    for _ in tl.static_range(10):
        # One instruction for both halves of a product, where two of 32 bits are two.
        wide0, wide1 = c0.to(tl.uint64) * m0, c2.to(tl.uint64) * m1
        high0, high1 = (wide0 >> 32).to(tl.uint32), (wide1 >> 32).to(tl.uint32)
        low0, low1 = wide0.to(tl.uint32), wide1.to(tl.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9).to(tl.uint32), (k1 + 0xBB67AE85).to(tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def _pick(place, a, b, c, d):
    """The word of that place (0 to 3); no instruction where it is known when compiled."""
    return tl.where(place < 2, tl.where(place == 0, a, b), tl.where(place == 2, c, d))


@triton.jit
def _kept(key0, key1, limit, first, LOW: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr):
    """Which draws of a tile's elements, the first of which is `first`, are below a limit.

    Every thread computes the words of its own elements. That a block of 16 is computed by two or four threads costs
    3 instructions an element; to hand words on to others cost more, and barriers.
    """
    row = tl.arange(0, TILE // VECTOR)
    place = tl.arange(0, VECTOR)[None, :]
    each: tl.constexpr = 16 // VECTOR
    a, b, c, d = _philox(key0, key1, first // 16 + (row // each).to(tl.int64), 0)
    part = row % each
    if VECTOR == 8:
        high = tl.where(place < 4, tl.where(part == 0, a, c)[:, None], tl.where(part == 0, b, d)[:, None])
    else:
        high = _pick(part, a, b, c, d)[:, None]
    # The byte of an element at the top of a word: what is below it does not matter where the limit has no low bits.
    draw = high << (24 - place % 4 * 8).to(tl.uint32)
    if LOW:
        begin = first // 4 + row.to(tl.int64) * (VECTOR // 4)
        a, b, c, d = _philox(key0, key1, begin, 1)
        low = _pick(place % 4, a[:, None], b[:, None], c[:, None], d[:, None])
        if VECTOR == 8:
            a, b, c, d = _philox(key0, key1, begin + 1, 1)
            low = tl.where(place < 4, low, _pick(place % 4, a[:, None], b[:, None], c[:, None], d[:, None]))
        draw = (draw & 0xFF000000) | (low & 0xFFFFFF)
    return draw < limit.to(tl.uint32)


@triton.jit
def cut(key, limit, last, at):
    """What a cut keeps of the elements `at`.

    What is above its limit, and of what equals it the first ones.
    """
    return (key > limit) | ((key == limit) & (at < last))


@triton.jit
def _above(x, limit):
    """Which changes are above a limit in magnitude bits, with one instruction each; of a NaN nothing.

    What is not kept of a NaN is a NaN all the same. A limit that is one has nothing above it but NaN.
    """
    # Below a limit of 0, that 0 is kept: -1.0.
    return tl.abs(x) > tl.where(limit < 0, -1082130432, limit).to(tl.float32, bitcast=True)


@triton.jit
def _thinned(
    x, e, at, first, factors, cuts, draws,
    CUTS: tl.constexpr, RANDOM: tl.constexpr, LOW: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """A change thinned, and times its factor."""
    if CUTS > 0:
        if WHOLE:
            kept = _above(x, cuts[2 * e * CUTS])
            if CUTS > 1:
                kept = kept & (_above(x, cuts[2 * e * CUTS + 2]) == 0)
        else:
            key = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
            kept = cut(key, cuts[2 * e * CUTS], cuts[2 * e * CUTS + 1], at)
            if CUTS > 1:
                kept = kept & (cut(key, cuts[2 * e * CUTS + 2], cuts[2 * e * CUTS + 3], at) == 0)
        return x * tl.where(kept, factors[e], 0.0)
    elif RANDOM:
        kept = _kept(draws[3 * e], draws[3 * e + 1], draws[3 * e + 2], first, LOW, VECTOR, TILE)
        return x * tl.where(kept, factors[e], 0.0)
    else:
        return x * factors[e]


@triton.jit
def _merge(
    found, at, count, first, factors, weights, scale, cuts, draws,
    N: tl.constexpr, CUTS: tl.constexpr, RANDOM: tl.constexpr, LOW: tl.constexpr, CONSENSUS: tl.constexpr,
    MEAN: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """A tile.

    Few of its instructions are of the units that are 2 (integers, comparisons) or 8 times (conversions to and from
    float64) slower than the adding of float32.
    """
    base = operand(found[0], at, count, WHOLE)
    none = tl.zeros_like(base)
    changes, poison, divisor = (), none, none.to(tl.float64)
    votes = none if CONSENSUS == 2 else none.to(tl.float64)
    for e in tl.static_range(N):
        x = change(base, found[e + 1], at, count, WHOLE)
        x = _thinned(x, e, at, first, factors, cuts, draws, CUTS, RANDOM, LOW, VECTOR, TILE, WHOLE)
        changes = changes + (x,)
        if CONSENSUS == 2:
            # A zero has no vote; a NaN stays one.
            votes += tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, x * 0.0))
        else:
            votes += x.to(tl.float64)
        if CONSENSUS == 1:
            poison = tl.fma(x, none, poison)
        if CONSENSUS == 0 and MEAN:
            divisor = tl.where(x != 0.0, divisor + weights[e].to(tl.float64), divisor)
    if CONSENSUS > 0:
        # What agrees is what is positive once the sign is taken out; roundings are the same on both sides of 0.
        sign = tl.where(votes >= 0.0, 1.0, -1.0)
        merged, by = none, none
        for e in tl.static_range(N):
            x = changes[e] * sign
            merged += tl.maximum(x, 0.0)
            if MEAN:
                by = tl.where(x > 0.0, by + weights[e], by)
        if MEAN:
            merged = tl.div_rn(merged, tl.where(by == 0.0, 1.0, by))
        # A NaN in any model agrees with nothing and comes back here.
        if CONSENSUS == 2:
            poison = votes * 0.0
        merged = merged * sign + poison
    else:
        merged = votes
        if MEAN:
            merged = votes / tl.where(divisor == 0.0, 1.0, divisor)
        merged = merged.to(tl.float32)
    merged = merged * scale
    put(found[N + 1], at, count, tl.where(merged == 0.0, base, base + merged), WHOLE)


@triton.jit
def _pipeline(
    origin, starts, rows, left, pieces, factors, weights, lambdas, threshold, last, keys, limits,
    N: tl.constexpr, CUTS: tl.constexpr, RANDOM: tl.constexpr, LOW: tl.constexpr, CONSENSUS: tl.constexpr,
    MEAN: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    row, count = tl.load(rows + t).to(tl.int64), tl.load(left + t)
    first = tl.load(pieces + t).to(tl.int64) * SPAN
    found = pointers(origin, starts, t, N + 2, N + 2)
    scale = tl.load(lambdas + row)
    own_factors, own_weights, draws, exact, simple = (), (), (), (), ()
    whole = count == SPAN
    for e in tl.static_range(N):
        s = row * N + e
        own_factors = own_factors + (tl.load(factors + s),)
        own_weights = own_weights + (tl.load(weights + s),)
        for c in tl.static_range(CUTS):
            limit, end = tl.load(threshold + s * CUTS + c), tl.load(last + s * CUTS + c) - first
            # Of most spans all that equals the threshold is kept, or nothing.
            whole = whole & ((end <= 0) | (end >= SPAN))
            simple = simple + (tl.where(end >= SPAN, limit - 1, limit), limit)
            exact = exact + (limit, tl.minimum(tl.maximum(end, 0), SPAN).to(tl.int32))
        if RANDOM:
            draws = draws + (tl.load(keys + 2 * s), tl.load(keys + 2 * s + 1), tl.load(limits + s))
    at = places(VECTOR, TILE)
    if whole:
        for begin in range(0, SPAN, TILE):
            _merge(
                found, begin + at, count, first + begin, own_factors, own_weights, scale, simple, draws,
                N, CUTS, RANDOM, LOW, CONSENSUS, MEAN, VECTOR, TILE, True,
            )  # fmt: skip
    else:
        for begin in range(0, SPAN, TILE):
            if begin < count:
                _merge(
                    found, begin + at, count, first + begin, own_factors, own_weights, scale, exact, draws,
                    N, CUTS, RANDOM, LOW, CONSENSUS, MEAN, VECTOR, TILE, False,
                )  # fmt: skip


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
    none, inputs = factors, factors.shape[1]
    vector, tile, span = table.shape
    if inputs > 4 and keys is None:
        # Half of the elements for a thread, as all changes are held at a time.
        tile //= 2
    _pipeline[(table.spans,)](
        *table.walk, table.piece, factors, weights, lambdas,
        none if cuts is None else cuts.threshold, none if cuts is None else cuts.last,
        none if keys is None else keys, none if limits is None else limits,
        inputs, 0 if cuts is None else cuts.threshold.shape[2], keys is not None, low,
        CONSENSUS[consensus], mean, vector, tile, span,
        num_warps=WARPS, enable_fp_fusion=False,
        maxnreg=None if inputs > 4 else REGISTERS if keys is None else REGISTERS_RANDOM,
    )  # fmt: skip


def split(keys: list[list[int]], device: torch.device) -> Tensor:
    """64-bit keys as pairs of words that int64 can hold."""
    return torch.tensor([[[k & 0xFFFFFFFF, k >> 32] for k in row] for row in keys], dtype=torch.int64, device=device)
