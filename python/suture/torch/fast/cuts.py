"""Exact k-th magnitudes of the changes of many tensors at once, of each input, or of their variance.

A sample gives two bounds that hold the k-th almost surely. One pass over the tensors counts what lies above and
gathers what lies between; what was gathered is narrowed, eight bits a round, to the one value that is sought. Where
the bounds miss it, or hold too much, the rounds go over the tensors themselves: the result never depends on the
sample. At last the equals of the threshold are counted tile by tile, so that the first of them, in index order, are
the ones that are kept. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.blend import here, operand
from suture.torch.fast.table import WARPS, Table

#: Elements of a sample. Its bounds hold up to 6 % of a tensor; a larger one would have to be sorted in several passes.
SAMPLE = 4096
#: Standard deviations between the place that is sought in the sample and the bounds.
SURE = 4.0
#: Room for what lies between the bounds in a tile: one in so many of its elements, twice what there is on average.
ROOM = 8
#: What is counted of a tile and a cut: above the bounds, at the upper one, in the middle, at the lower one, others
#: between, tiles that have no room for these, and (for the variance) what is not 0.
FIELDS = 8
#: Programs that go over tensors again where bounds have missed.
FALLBACK = 2048
#: Bytes of that room at most, unless one tensor needs more.
PACK = 1 << 30
#: Bits that a round tells of the value.
ROUND = 8
BINS = tl.constexpr(1 << ROUND)
ALL_BITS = 31
TOP = 0x7FFFFFFF
#: Gathered values that a program looks at.
_CHUNK = 4096


@triton.jit
def change_key(origin, starts, t, i, COLUMNS: tl.constexpr, at, near):
    """The magnitude bits of an input's change from the base, and the change."""
    x = operand(origin, starts, t, i + 1, COLUMNS, at, near) - operand(origin, starts, t, 0, COLUMNS, at, near)
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, x


@triton.jit
def _over(x, N: tl.constexpr):
    """`x / N` in float64, rounded as a division is.

    The product with the reciprocal, corrected once (Markstein, 1990).
    """
    reciprocal = 1.0 / tl.full((1,), N, tl.float64)
    guess = x * reciprocal
    return tl.fma(tl.fma(-guess, tl.full((1,), N, tl.float64), x), reciprocal, guess)


@triton.jit
def variance_key(origin, starts, t, N: tl.constexpr, at, near):
    """The magnitude bits of the variance of the inputs' changes from the base."""
    base = operand(origin, starts, t, 0, N + 2, at, near)
    mean = (operand(origin, starts, t, 1, N + 2, at, near) - base).to(tl.float64)
    for i in tl.static_range(1, N):
        mean += (operand(origin, starts, t, i + 1, N + 2, at, near) - base).to(tl.float64)
    mean = _over(mean, N)
    off = (operand(origin, starts, t, 1, N + 2, at, near) - base).to(tl.float64) - mean
    square = off * off
    for i in tl.static_range(1, N):
        off = (operand(origin, starts, t, i + 1, N + 2, at, near) - base).to(tl.float64) - mean
        square += off * off
    return _over(square, N).to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def series_key(origin, starts, t, e, N: tl.constexpr, SERIES: tl.constexpr, at, near):
    """The key of one of the series that are cut: each input's changes, or, if there is but one, their variance."""
    if SERIES == N:
        key, _ = change_key(origin, starts, t, e, N + 2, at, near)
    else:
        key = variance_key(origin, starts, t, N, at, near)
    return key


@triton.jit
def _sample(
    origin, places, lengths, out, N: tl.constexpr, SERIES: tl.constexpr, SAMPLE: tl.constexpr, CHUNK: tl.constexpr
):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.load(lengths + row)
    i = chunk * CHUNK + tl.arange(0, CHUNK)
    # One of each stretch of equal length, its place in it scrambled: no pattern of rows can hide from it.
    scrambled = (i.to(tl.uint32) * 2654435761) ^ ((i.to(tl.uint32) * 2246822519) >> 15)
    share = (scrambled & 0xFFFF).to(tl.float64) / 65536.0
    spread = ((i.to(tl.float64) + share) * (n.to(tl.float64) / SAMPLE)).to(tl.int64)
    at = tl.where(n > SAMPLE, tl.minimum(spread, n - 1), i.to(tl.int64))
    inside = at < n
    for e in tl.static_range(SERIES):
        # Rows of tensors lie as rows of tiles do.
        key = series_key(origin, places, row, e, N, SERIES, at, inside)
        tl.store(out + (row * SERIES + e) * SAMPLE + i, tl.where(inside, key, -1))


@triton.jit
def _between(
    origin, starts, rows, left, low, pivot, high, counted, found,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr, SLOT: tl.constexpr,
    FIELDS: tl.constexpr,
):  # fmt: skip
    BASE: tl.constexpr = TILE + 1
    # The series of a tile side by side, so that the base is read from memory once.
    e, t = tl.program_id(0) % SERIES, tl.program_id(0).to(tl.int64) // SERIES
    row, at, count, near = here(rows, left, t, TILE)
    # Nothing equals -1, nor is above or between anything.
    key = tl.where(at < count, series_key(origin, starts, t, e, N, SERIES, at, near), -1)
    for c in tl.static_range(CUTS):
        s, own = (row * SERIES + e) * CUTS + c, (t * SERIES + e) * CUTS + c
        lo, mid, hi = tl.load(low + s), tl.load(pivot + s), tl.load(high + s)
        others = (key > lo) & (key < hi) & (key != mid)
        # Three counts in one sum: a sum over a tile costs more than what is summed.
        upper = tl.sum(tl.where(key > hi, 1, tl.where(key == hi, BASE, tl.where(others, BASE * BASE, 0))))
        lower = tl.sum(tl.where(key == lo, 1, tl.where(key == mid, BASE, 0)))
        many = upper // (BASE * BASE)
        tl.store(counted + own * FIELDS, upper % BASE)
        tl.store(counted + own * FIELDS + 1, upper // BASE % BASE)
        tl.store(
            counted + own * FIELDS + 2, tl.where(mid < hi, lower // BASE + tl.where(lo == mid, lower % BASE, 0), 0)
        )
        tl.store(counted + own * FIELDS + 3, tl.where((lo < mid) & (lo < hi), lower % BASE, 0))
        tl.store(counted + own * FIELDS + 4, many)
        tl.store(counted + own * FIELDS + 5, (many > SLOT).to(tl.int32))
        if SERIES < N:
            tl.store(counted + own * FIELDS + 6, tl.sum((key > 0).to(tl.int32)))
        place = tl.cumsum(others.to(tl.int32), 0) - 1
        tl.store(found + own * SLOT + place, key, mask=others & (place < SLOT))


@triton.jit
def _of_tensors(
    counted, first, out, EACH: tl.constexpr, FIELDS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr
):
    """Sums over a part of the tiles of each tensor."""
    row, s, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(first + row), tl.load(first + row + 1)
    begin += part * CHUNK * CHUNKS
    if begin < end:
        total = tl.zeros((CHUNK, FIELDS), tl.int64)
        field = tl.arange(0, FIELDS)
        for chunk in range(CHUNKS):
            tile = begin + chunk * CHUNK + tl.arange(0, CHUNK)
            place = (tile[:, None] * EACH + s) * FIELDS + field[None, :]
            total += tl.load(counted + place, mask=(tile < end)[:, None], other=0).to(tl.int64)
        tl.atomic_add(out + (row * EACH + s) * FIELDS + field, tl.sum(total, 0))


@triton.jit
def _round_found(
    found, firsts, counted, low, bits, missed, counts, chunk_of, chunk_at,
    EACH: tl.constexpr, SLOT: tl.constexpr, TILES: tl.constexpr, FIELDS: tl.constexpr, BINS: tl.constexpr,
    FIRST: tl.constexpr,
):  # fmt: skip
    row = tl.load(chunk_of + tl.program_id(0)).to(tl.int64)
    segment = row * EACH + tl.program_id(1)
    width = tl.load(bits + segment)
    if (width > 0) & (tl.load(missed + segment) == 0):
        i = tl.arange(0, TILES * SLOT)
        tile = tl.load(firsts + row) + tl.load(chunk_at + tl.program_id(0)).to(tl.int64) * TILES + i // SLOT
        mine = tile < tl.load(firsts + row + 1)
        own = tile * EACH + tl.program_id(1)
        held = tl.load(counted + own * FIELDS + 4, mask=mine, other=0)
        mine = mine & (i % SLOT < held)
        key = tl.load(found + own * SLOT + i % SLOT, mask=mine, other=0)
        bin = (key - tl.load(low + segment)) >> tl.maximum(width - 8, 0)
        mine = mine & (bin >= 0) & (bin < (1 << tl.minimum(width, 8)))
        if FIRST:
            many = tl.histogram(tl.where(mine, bin, 0), BINS, mask=mine)
            tl.atomic_add(counts + segment * BINS + tl.arange(0, BINS), many, mask=many > 0)
        else:
            # One in 256 of the first round is left: fewer than a histogram of them would have bins.
            tl.atomic_add(counts + segment * BINS + bin, 1, mask=mine)


@triton.jit
def _round_tensor(
    origin, starts, rows, left, low, bits, missed, any_missed, counts, all_tiles,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    if tl.load(any_missed) != 0:
        t = tl.program_id(0).to(tl.int64)
        while t < all_tiles:
            row = tl.load(rows + t).to(tl.int64)
            _, at, many_left, near = here(rows, left, t, TILE)
            inside = at < many_left
            for e in tl.static_range(SERIES):
                for c in tl.static_range(CUTS):
                    s = (row * SERIES + e) * CUTS + c
                    width = tl.load(bits + s)
                    if (width > 0) & (tl.load(missed + s) != 0):
                        key = series_key(origin, starts, t, e, N, SERIES, at, near)
                        bin = (key - tl.load(low + s)) >> tl.maximum(width - 8, 0)
                        own = inside & (bin >= 0) & (bin < (1 << tl.minimum(width, 8)))
                        many = tl.histogram(tl.where(own, bin, 0), BINS, mask=own)
                        tl.atomic_add(counts + s * BINS + tl.arange(0, BINS), many, mask=many > 0)
            t += tl.num_programs(0)


@triton.jit
def _equals(
    origin, starts, rows, left, threshold, low, pivot, high, missed, partial, found, counted, out, all_tiles,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr, SLOT: tl.constexpr,
    FIELDS: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    for each in range(TILES):
        t = tl.program_id(0).to(tl.int64) * TILES + each
        if t < all_tiles:
            row = tl.load(rows + t).to(tl.int64)
            for e in tl.static_range(SERIES):
                for c in tl.static_range(CUTS):
                    s, own = (row * SERIES + e) * CUTS + c, (t * SERIES + e) * CUTS + c
                    # Where all equals are kept it does not matter where they are.
                    if tl.load(partial + s) != 0:
                        limit = tl.load(threshold + s)
                        if tl.load(missed + s) != 0:
                            _, at, many_left, near = here(rows, left, t, TILE)
                            inside = at < many_left
                            key = series_key(origin, starts, t, e, N, SERIES, at, near)
                            equal = tl.sum((inside & (key == limit)).to(tl.int32))
                        elif limit == tl.load(high + s):
                            equal = tl.load(counted + own * FIELDS + 1)
                        elif limit == tl.load(pivot + s):
                            equal = tl.load(counted + own * FIELDS + 2)
                        elif limit == tl.load(low + s):
                            equal = tl.load(counted + own * FIELDS + 3)
                        else:
                            i = tl.arange(0, SLOT)
                            held = tl.load(counted + own * FIELDS + 4)
                            key = tl.load(found + own * SLOT + i, mask=i < held, other=-1)
                            equal = tl.sum((key == limit).to(tl.int32))
                        tl.store(out + (e * CUTS + c) * all_tiles + t, equal)


@triton.jit
def _last(
    origin, starts, rows, left, lengths, firsts, threshold, ties, partial, equal, out, all_tiles,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
):  # fmt: skip
    """How far elements that equal a threshold are kept: up to the one that makes their number full."""
    segment = tl.program_id(0).to(tl.int64)
    row, own = segment // (SERIES * CUTS), segment % (SERIES * CUTS)
    wanted = tl.load(ties + segment)
    if (tl.load(partial + segment) == 0) | (wanted == 0):
        tl.store(out + segment, tl.where(wanted > 0, tl.load(lengths + row), 0))
    else:
        begin, end = tl.load(firsts + row), tl.load(firsts + row + 1)
        seen, before, full = wanted * 0, wanted * 0, begin * 0
        for chunk in range(CHUNKS):
            tile = begin + chunk * CHUNK + tl.arange(0, CHUNK)
            many = tl.load(equal + own * all_tiles + tile, mask=tile < end, other=0).to(tl.int64)
            upto = seen + tl.cumsum(many, 0)
            short = (upto < wanted) & (tile < end)
            # Tiles whose equals are not enough, and what they have.
            full += tl.sum(short.to(tl.int64))
            before = tl.maximum(before, tl.max(tl.where(short, upto, 0)))
            seen += tl.sum(many)
        t = begin + full
        _, at, count, near = here(rows, left, t, TILE)
        inside = at < count
        key = series_key(origin, starts, t, own // CUTS, N, SERIES, at, near)
        rank = before + tl.cumsum((inside & (key == tl.load(threshold + segment))).to(tl.int64), 0)
        tl.store(out + segment, full * TILE + tl.sum((rank < wanted).to(tl.int64)) + 1)


@dataclass(frozen=True)
class Cuts:
    """Where the changes of every tensor and input, or their variance, are cut.

    Attributes:
        threshold: `[tensors, series, cuts]` int32: the magnitude bits of the k-th largest.
        last: the same shape, int64: before which element of the tensor those equal to it are kept.
    """

    threshold: Tensor
    last: Tensor


def find(table: Table, ranks: Sequence[Sequence[Sequence[int]]]) -> Cuts:
    """The cuts that keep the `k` largest changes of every input.

    Args:
        table: the base, the inputs, and what is written.
        ranks: `[tensors][inputs][cuts]`: how many are kept; 0 keeps none.
    """
    return _packed(table, torch.tensor(ranks, dtype=torch.int64), None)


def find_varied(table: Table, shares: Sequence[float]) -> Cuts:
    """The cut of every tensor that keeps that share of the elements whose variance over the inputs is not 0, the
    largest ones.

    Args:
        table: the base, the inputs (at least two), and what is written.
        shares: one for each tensor, above 0 and below 1.
    """
    return _packed(table, torch.zeros(len(shares), 1, 1, dtype=torch.int64), torch.tensor(shares, dtype=torch.float32))


def _packed(table: Table, ranks: Tensor, shares: Tensor | None) -> Cuts:
    """Tensors a few at a time, so that what is gathered has room."""
    room_of = ranks.shape[1] * ranks.shape[2] * 4 / ROOM
    parts, start, held = [], 0, 0
    for i, size in enumerate(table.sizes):
        if i > start and (held + size) * room_of > PACK:
            parts.append(slice(start, i))
            start, held = i, 0
        held += size
    parts.append(slice(start, len(table.sizes)))
    found = [_find(table.part(p.start, p.stop), ranks[p], None if shares is None else shares[p]) for p in parts]
    return Cuts(*(torch.cat([getattr(f, name) for f in found]) for name in ("threshold", "last")))


def _bounds(in_order: Tensor, sizes: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds of the k-th of each segment and what lies in the middle, from its sample in descending order.

    `wanted` (float64) may be an estimate. Between two neighbours of the three the sample has at most half of what it
    has between the bounds, so that what is frequent is one of the three.
    """
    share = wanted / sizes.clamp(min=1)
    spread = SURE * (SAMPLE * share * (1 - share)).clamp(min=0).sqrt() + 3
    whole = sizes <= SAMPLE
    upper = torch.where(whole, wanted - 1, (share * SAMPLE - spread).floor()).long()
    lower = torch.where(whole, wanted - 1, (share * SAMPLE + spread).ceil()).long()
    middle = torch.where(whole, wanted - 1, (share * SAMPLE).floor()).long()

    def at(place: Tensor) -> Tensor:
        return in_order.gather(1, place.clamp(0, SAMPLE - 1).unsqueeze(1)).squeeze(1)

    high = torch.where(upper < 0, TOP, at(upper))
    low = torch.where(lower >= SAMPLE, 0, at(lower))
    # None kept: a threshold above all, of which there are no equals to keep.
    none = (wanted <= 0) & whole
    return tuple(torch.where(none, TOP, bound).int() for bound in (low, at(middle), high))  # type: ignore[return-value]


def _kept(varying: Tensor, shares: Tensor) -> Tensor:
    """How many of so many are kept; mergekit multiplies in float32."""
    return (varying.float() * shares).long()


def _find(table: Table, ranks: Tensor, shares: Tensor | None) -> Cuts:
    tensors, series, cuts = ranks.shape
    inputs = table.places.shape[1] - 2
    device, segments, each = table.origin.device, tensors * series * cuts, series * cuts
    slot = table.size // ROOM
    shape = (inputs, series, cuts, table.size)
    samples = torch.empty(tensors * series, SAMPLE, dtype=torch.int32, device=device)
    _sample[(tensors, SAMPLE // 1024)](
        table.origin, table.places, table.lengths, samples, inputs, series, SAMPLE, 1024, enable_fp_fusion=False
    )
    in_order = samples.sort(dim=-1, descending=True).values.repeat_interleave(cuts, dim=0)
    sizes = [size for size in table.sizes for _ in range(each)]
    elements = torch.tensor(sizes, dtype=torch.int64).to(device, non_blocking=True)
    wanted = ranks.view(-1).to(device, non_blocking=True)
    if shares is None:
        guess = wanted.double()
    else:
        shares = shares.to(device, non_blocking=True)
        varying = (in_order > 0).sum(1)
        guess = varying.double() * (elements.double() / SAMPLE) * shares
        guess = torch.where(elements <= SAMPLE, _kept(varying, shares).double(), guess)
    low, pivot, high = _bounds(in_order, elements.double(), guess)
    counted = torch.empty(table.tiles, each, FIELDS, dtype=torch.int32, device=device)
    found = torch.empty(table.tiles, each, slot, dtype=torch.int32, device=device)
    _between[(table.tiles * series,)](
        *table.walk, low, pivot, high, counted, found, *shape, slot, FIELDS, num_warps=WARPS, enable_fp_fusion=False
    )
    sums = torch.zeros(segments, FIELDS, dtype=torch.int64, device=device)
    most = triton.cdiv(max(table.sizes), table.size)
    _of_tensors[(tensors, each, triton.cdiv(most, 256 * 16))](counted, table.first, sums, each, FIELDS, 256, 16)
    above, at_high, at_pivot, at_low, others, full, some = sums.unbind(1)[:7]
    if shares is not None:
        wanted = torch.minimum(_kept(some, shares), elements)
    left = wanted - above
    count = at_high + at_pivot + at_low + others
    missed = (((left < 1) | (left > count) | (full > 0)) & (wanted > 0)).int()
    any_missed = missed.amax()
    # Bits in which the bounds differ: the exponent of the difference tells.
    spread = (high.long() - low.long()).double()
    width = torch.where(spread > 0, torch.frexp(spread).exponent, 0)
    bits = torch.where(missed != 0, ALL_BITS, width).int()
    base = torch.where(missed != 0, 0, low.long())
    left = torch.where(missed != 0, wanted, left)
    equals = at_high
    known = [(high, at_high), (pivot, at_pivot), (low, at_low)]
    together = max(_CHUNK // slot, 1)
    chunked = [triton.cdiv(triton.cdiv(size, table.size), together) for size in table.sizes]
    total = sum(chunked)
    listed = torch.tensor(chunked, dtype=torch.int64).to(device, non_blocking=True)
    chunk_of = torch.repeat_interleave(torch.arange(tensors, device=device), listed, output_size=total)
    chunk_at = torch.arange(total, device=device) - (listed.cumsum(0) - listed)[chunk_of]
    for turn in range(-(-ALL_BITS // ROUND)):
        counts = torch.zeros(segments, 1 << ROUND, dtype=torch.int32, device=device)
        origin = base.int()
        shift = (bits - ROUND).clamp(min=0)
        _round_found[(total, each)](
            found, table.first, counted, origin, bits, missed, counts, chunk_of, chunk_at,
            each, slot, together, FIELDS, BINS, turn == 0, num_warps=4,
        )  # fmt: skip
        _round_tensor[(min(table.tiles, FALLBACK),)](
            *table.walk, origin, bits, missed, any_missed, counts, table.tiles, *shape, BINS, num_warps=WARPS,
            enable_fp_fusion=False,
        )  # fmt: skip
        for value, many in known:
            place = (value.long() - base) >> shift
            own = (missed == 0) & (bits > 0) & (place >= 0) & (place < 1 << bits.clamp(max=ROUND))
            counts.scatter_add_(
                1, torch.where(own, place, 0).unsqueeze(1), torch.where(own, many, 0).int().unsqueeze(1)
            )
        from_top = counts.flip(1).cumsum(1)
        place = (from_top < left.unsqueeze(1)).sum(1).clamp(max=(1 << ROUND) - 1)
        upto = from_top.gather(1, place.unsqueeze(1)).squeeze(1)
        over = torch.where(place > 0, from_top.gather(1, (place - 1).clamp(min=0).unsqueeze(1)).squeeze(1), 0)
        going = bits > 0
        base = torch.where(going, base + (((1 << ROUND) - 1 - place) << shift), base)
        left = torch.where(going, left - over, left)
        equals = torch.where(going, upto - over, equals)
        bits = torch.where(going, shift, bits)
    # None kept: a threshold above all.
    threshold = torch.where(wanted > 0, base, TOP).int()
    ties = torch.where(wanted > 0, left, 0)
    partial = (ties < equals).int()
    equal = torch.zeros(each, table.tiles, dtype=torch.int32, device=device)
    _equals[(triton.cdiv(table.tiles, 32),)](
        *table.walk, threshold, low, pivot, high, missed, partial, found, counted, equal, table.tiles,
        *shape, slot, FIELDS, 32,
        num_warps=1, enable_fp_fusion=False,
    )  # fmt: skip
    last = torch.empty(segments, dtype=torch.int64, device=device)
    chunks = triton.next_power_of_2(triton.cdiv(most, 1024))
    _last[(segments,)](
        *table.walk, table.lengths, table.first, threshold, ties, partial, equal, last, table.tiles,
        *shape, 1024, chunks, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    own = (tensors, series, cuts)
    return Cuts(threshold.view(own), last.view(own))
