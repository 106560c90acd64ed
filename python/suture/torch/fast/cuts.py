"""Exact k-th magnitudes of the changes of many tensors at once.

A sample gives two bounds that hold the k-th almost surely. One pass over the tensors counts what lies above and gathers what lies
between; what was gathered is narrowed, eight bits a round, to the one value that is sought. Where the bounds miss it, or hold too
much, the rounds go over the tensors themselves: the result never depends on the sample. At last the equals of the threshold are counted
tile by tile, so that the first of them, in index order, are the ones that are kept. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.blend import operand, where
from suture.torch.fast.table import TILE, Table

#: Elements of a sample. Its bounds hold 8 % of a tensor; a larger one would have to be sorted in several passes.
SAMPLE = 4096
#: Standard deviations between the place that is sought in the sample and the bounds.
SURE = 5.0
#: Room for what lies between the bounds: one in so many elements.
ROOM = 8
#: Bytes of that room at most, unless one tensor needs more.
PACK = 512 << 20
#: Bits that a round tells of the value.
ROUND = 8
BINS = tl.constexpr(1 << ROUND)
ALL_BITS = 31
TOP = 0x7FFFFFFF
#: Gathered values that a program looks at.
_CHUNK = 4096


@triton.jit
def change_key(origin, places, row, i, COLUMNS: tl.constexpr, at, inside):
    """The magnitude bits of an input's change from the base, and the change."""
    x = operand(origin, places, row, i + 1, COLUMNS, at, inside) - operand(origin, places, row, 0, COLUMNS, at, inside)
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, x


@triton.jit
def _sample(origin, places, lengths, out, N: tl.constexpr, SAMPLE: tl.constexpr, CHUNK: tl.constexpr):
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.load(lengths + row)
    i = chunk * CHUNK + tl.arange(0, CHUNK)
    # One of each stretch of equal length, its place in it scrambled: no pattern of rows can hide from it.
    scrambled = (i.to(tl.uint32) * 2654435761) ^ ((i.to(tl.uint32) * 2246822519) >> 15)
    share = (scrambled & 0xFFFF).to(tl.float64) / 65536.0
    spread = ((i.to(tl.float64) + share) * (n.to(tl.float64) / SAMPLE)).to(tl.int64)
    at = tl.where(n > SAMPLE, tl.minimum(spread, n - 1), i.to(tl.int64))
    inside = at < n
    for e in tl.static_range(N):
        key, _ = change_key(origin, places, row, e, N + 2, at, inside)
        tl.store(out + (row * N + e) * SAMPLE + i, tl.where(inside, key, -1))


@triton.jit
def _between(
    origin, places, lengths, rows, tiles, low, high, above, count, room, begin, found, tile_at, tile_count,
    N: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row, at, inside = where(rows, tiles, lengths, TILE)
    t = tl.program_id(0).to(tl.int64)
    for e in tl.static_range(N):
        key, _ = change_key(origin, places, row, e, N + 2, at, inside)
        for c in tl.static_range(CUTS):
            s = (row * N + e) * CUTS + c
            lo, hi = tl.load(low + s), tl.load(high + s)
            beyond = tl.sum((inside & (key > hi)).to(tl.int32))
            held = (inside & (key >= lo) & (key <= hi)).to(tl.int32)
            many = tl.sum(held)
            start = tl.atomic_add(count + s, many.to(tl.int64))
            tl.atomic_add(above + s, beyond.to(tl.int64))
            tl.store(tile_at + t * (N * CUTS) + e * CUTS + c, start)
            tl.store(tile_count + t * (N * CUTS) + e * CUTS + c, many)
            if lo < hi:
                place = start + tl.cumsum(held, 0) - 1
                fits = (held > 0) & (place < tl.load(room + s))
                tl.store(found + tl.load(begin + s) + place, key, mask=fits)


@triton.jit
def _round_found(found, begin, count, low, bits, missed, counts, chunk_of, chunk_at, CHUNK: tl.constexpr, BINS: tl.constexpr):
    s = tl.load(chunk_of + tl.program_id(0)).to(tl.int64)
    at = tl.load(chunk_at + tl.program_id(0)).to(tl.int64) * CHUNK
    width, n = tl.load(bits + s), tl.load(count + s)
    if (width > 0) & (at < n) & (tl.load(missed + s) == 0):
        i = at + tl.arange(0, CHUNK)
        key = tl.load(found + tl.load(begin + s) + i, mask=i < n, other=-1)
        shift = tl.maximum(width - 8, 0)
        bin = (key.to(tl.int64) - tl.load(low + s).to(tl.int64)) >> shift
        own = (i < n) & (bin >= 0) & (bin < BINS)
        many = tl.histogram(tl.where(own, bin, 0).to(tl.int32), BINS, mask=own)
        tl.atomic_add(counts + s * BINS + tl.arange(0, BINS), many, mask=many > 0)


@triton.jit
def _round_tensor(
    origin, places, lengths, rows, tiles, low, bits, missed, counts,
    N: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    row, at, inside = where(rows, tiles, lengths, TILE)
    for e in tl.static_range(N):
        for c in tl.static_range(CUTS):
            s = (row * N + e) * CUTS + c
            width = tl.load(bits + s)
            if (width > 0) & (tl.load(missed + s) != 0):
                key, _ = change_key(origin, places, row, e, N + 2, at, inside)
                bin = (key.to(tl.int64) - tl.load(low + s).to(tl.int64)) >> tl.maximum(width - 8, 0)
                own = inside & (bin >= 0) & (bin < BINS)
                many = tl.histogram(tl.where(own, bin, 0).to(tl.int32), BINS, mask=own)
                tl.atomic_add(counts + s * BINS + tl.arange(0, BINS), many, mask=many > 0)


@triton.jit
def _equals(
    origin, places, lengths, rows, tiles, threshold, given, missed, begin, found, tile_at, tile_count, out,
    N: tl.constexpr, CUTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row, at, inside = where(rows, tiles, lengths, TILE)
    t = tl.program_id(0).to(tl.int64)
    for e in tl.static_range(N):
        for c in tl.static_range(CUTS):
            s, own = (row * N + e) * CUTS + c, t * (N * CUTS) + e * CUTS + c
            limit, held = tl.load(threshold + s), tl.load(tile_count + own)
            equal = held
            if tl.load(missed + s) != 0:
                key, _ = change_key(origin, places, row, e, N + 2, at, inside)
                equal = tl.sum((inside & (key == limit)).to(tl.int32))
            elif tl.load(given + s) == 0:
                i = tl.arange(0, TILE)
                key = tl.load(found + tl.load(begin + s) + tl.load(tile_at + own) + i, mask=i < held, other=-1)
                equal = tl.sum((key == limit).to(tl.int32))
            tl.store(out + own, equal)


@dataclass(frozen=True)
class Cuts:
    """Where the changes of every tensor and input are cut.

    Attributes:
        threshold: `[tensors, inputs, cuts]` int32: the magnitude bits of the k-th largest.
        ties: the same shape, int32: how many that equal it are kept, the first in index order.
        before: `[tiles, inputs, cuts]` int32: how many that equal it come before each tile.
    """

    threshold: Tensor
    ties: Tensor
    before: Tensor


def find(table: Table, ranks: Sequence[Sequence[Sequence[int]]]) -> Cuts:
    """The cuts that keep the `k` largest changes.

    Args:
        table: the base, the inputs, and what is written.
        ranks: `[tensors][inputs][cuts]`: how many are kept; 0 keeps none.
    """
    inputs, cuts = len(ranks[0]), len(ranks[0][0])
    room_of = inputs * cuts * 4 // ROOM
    parts, start, held = [], 0, 0
    for i, size in enumerate(table.sizes):
        if i > start and (held + size) * room_of > PACK:
            parts.append((start, i))
            start, held = i, 0
        held += size
    parts.append((start, len(table.sizes)))
    found = [_find(table.part(a, b), ranks[a:b]) for a, b in parts]
    return Cuts(*(torch.cat([getattr(f, name) for f in found]) for name in ("threshold", "ties", "before")))


def _bounds(sorted_keys: Tensor, sizes: Sequence[int], ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of the k-th of each segment (host ranks `[segments]`), from its sample in descending order."""
    n = torch.tensor(sizes, dtype=torch.float64)
    k = ranks.double()
    share = k / n.clamp(min=1)
    spread = SURE * (SAMPLE * share * (1 - share)).clamp(min=0).sqrt() + 3
    whole = n <= SAMPLE
    upper = torch.where(whole, k - 1, (share * SAMPLE - spread).floor()).long()
    lower = torch.where(whole, k - 1, (share * SAMPLE + spread).ceil()).long()
    device = sorted_keys.device

    def at(place: Tensor) -> Tensor:
        return sorted_keys.gather(1, place.clamp(0, SAMPLE - 1).unsqueeze(1).to(device, non_blocking=True)).squeeze(1)

    high = torch.where((upper < 0).to(device), TOP, at(upper))
    low = torch.where((lower >= SAMPLE).to(device), 0, at(lower))
    # None kept: a threshold above all, of which there are no equals to keep.
    none = (ranks <= 0).to(device)
    return torch.where(none, TOP, low).int(), torch.where(none, TOP, high).int()


def _find(table: Table, ranks: Sequence[Sequence[Sequence[int]]]) -> Cuts:
    tensors, inputs, cuts = len(ranks), len(ranks[0]), len(ranks[0][0])
    device, segments = table.origin.device, tensors * inputs * cuts
    walk = (table.origin, table.places, table.lengths, table.row, table.tile)
    samples = torch.empty(tensors * inputs, SAMPLE, dtype=torch.int32, device=device)
    _sample[(tensors, SAMPLE // 1024)](table.origin, table.places, table.lengths, samples, inputs, SAMPLE, 1024)
    in_order = samples.sort(dim=-1, descending=True).values.repeat_interleave(cuts, dim=0)
    sizes = [size for size in table.sizes for _ in range(inputs * cuts)]
    wanted = torch.tensor(ranks, dtype=torch.int64).view(-1)
    low, high = _bounds(in_order, sizes, wanted)
    wanted = wanted.to(device, non_blocking=True)
    given = (low == high).int()

    def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=dtype, device=device)

    rooms = [0 if size <= SAMPLE else size // ROOM + SAMPLE for size in sizes]
    room = torch.tensor(rooms, dtype=torch.int64)
    begin = (room.cumsum(0) - room).to(device, non_blocking=True)
    found = torch.empty(sum(rooms), dtype=torch.int32, device=device)
    above, count = zeros(torch.int64, segments), zeros(torch.int64, segments)
    tile_at = zeros(torch.int64, table.tiles, inputs * cuts)
    tile_count = zeros(torch.int32, table.tiles, inputs * cuts)
    room = room.to(device, non_blocking=True)
    _between[(table.tiles,)](
        *walk, low, high, above, count, room, begin, found, tile_at, tile_count, inputs, cuts, TILE, num_warps=8
    )
    left = wanted - above
    held = (left >= 1) & (left <= count) & ((given != 0) | (count <= room))
    missed = (~held & (wanted > 0)).int()
    # Bits in which the bounds differ: the exponent of the difference tells.
    spread = (high.long() - low.long()).double()
    width = torch.where(spread > 0, torch.frexp(spread).exponent, 0)
    bits = torch.where(missed != 0, ALL_BITS, width).int()
    base = torch.where(missed != 0, 0, low.long())
    left = torch.where(missed != 0, wanted, left)
    chunks = torch.tensor([-(-r // _CHUNK) for r in rooms], dtype=torch.int64)
    total = int(chunks.sum())
    starts = (chunks.cumsum(0) - chunks).to(device, non_blocking=True)
    owners = torch.arange(segments, device=device)
    chunk_of = torch.repeat_interleave(owners, chunks.to(device, non_blocking=True), output_size=total)
    chunk_at = torch.arange(total, device=device) - starts[chunk_of]
    count = torch.minimum(count, room)
    for _ in range(-(-ALL_BITS // ROUND)):
        counts = zeros(torch.int32, segments, 1 << ROUND)
        known = base.int()
        if total:
            _round_found[(total,)](found, begin, count, known, bits, missed, counts, chunk_of, chunk_at, _CHUNK, BINS)
        _round_tensor[(table.tiles,)](*walk, known, bits, missed, counts, inputs, cuts, TILE, BINS, num_warps=8)
        from_top = counts.flip(1).cumsum(1)
        place = (from_top < left.unsqueeze(1)).sum(1).clamp(max=(1 << ROUND) - 1)
        over = torch.where(place > 0, from_top.gather(1, (place - 1).clamp(min=0).unsqueeze(1)).squeeze(1), 0)
        going = bits > 0
        shift = (bits - ROUND).clamp(min=0)
        base = torch.where(going, base + (((1 << ROUND) - 1 - place) << shift), base)
        left = torch.where(going, left - over, left)
        bits = torch.where(going, shift, bits)
    threshold = base.int()
    equal = zeros(torch.int32, table.tiles, inputs * cuts)
    _equals[(table.tiles,)](
        *walk, threshold, given, missed, begin, found, tile_at, tile_count, equal, inputs, cuts, TILE, num_warps=8
    )
    upto = equal.cumsum(0, dtype=torch.int64)
    first = table.first[table.row.long()]
    start = torch.where((first > 0).unsqueeze(1), upto[(first - 1).clamp(min=0)], 0)
    before = (upto - equal - start).int()
    shape = (tensors, inputs, cuts)
    ties = torch.where(wanted > 0, left, 0).int()
    return Cuts(threshold.view(shape), ties.view(shape), before.view(-1, inputs, cuts))
