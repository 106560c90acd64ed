"""Exact k-th magnitudes of the changes of many tensors at once, of each input, or of their variance.

A sample gives two bounds that hold the k-th almost surely. One pass over the tensors counts what lies above and
gathers what lies between; what was gathered is narrowed, some bits a round, to the one value that is sought. Where
the bounds miss it, the rounds go over the tensors themselves: the result never depends on the sample. At last the
equals of the threshold are counted span by span, so that the first of them, in index order, are the ones that are
kept. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from suture.torch.fast import gather
from suture.torch.fast.table import WARPS, Table

#: Elements of a sample. Its bounds hold up to 3.2 % of a tensor, and are the closer the less there is to gather.
SAMPLE = 16384
#: Samples that are put in order at a time, which takes 250 MB.
SAMPLED = 1024
#: Standard deviations between the place that is sought in the sample and the bounds.
SURE = 4.0
#: Room for what lies between the bounds in a span: one in so many of its elements. A thread that needs more than its
#: part, though four times what there is on average, has its span read again.
ROOM = 8
#: What between the bounds, them included, is gathered whatever it is: one in so many of the sample. Where there is
#: more, something is frequent, and the bounds and the middle are counted instead.
CLOSED = 20
#: Bytes of that room at most, unless one tensor needs more.
PACK = 1 << 30
ALL_BITS = 31
TOP = 0x7FFFFFFF
#: Gathered values that a program looks at at a time, and spans that it goes over.
_CHUNK, _SPANS = 512, 4


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
    return _find(table, torch.tensor(ranks, dtype=torch.int64), None)


def find_varied(table: Table, shares: Sequence[float]) -> Cuts:
    """The cut of every tensor that keeps that share of the elements whose variance over the inputs is not 0, the
    largest ones.

    Args:
        table: the base, the inputs (at least two), and what is written.
        shares: one for each tensor, above 0 and below 1.
    """
    return _find(table, torch.zeros(len(shares), 1, 1, dtype=torch.int64), torch.tensor(shares, dtype=torch.float32))


def _find(table: Table, ranks: Tensor, shares: Tensor | None) -> Cuts:
    tensors, series, cuts = ranks.shape
    device, each = table.origin.device, series * cuts
    lengths = table.lengths.repeat_interleave(each)
    wanted = ranks.view(-1).to(device, non_blocking=True)
    shares = None if shares is None else shares.to(device, non_blocking=True)
    parts, step = [], max(SAMPLED // series, 1)
    for begin in range(0, tensors, step):
        in_order = _sample(table, series, slice(begin, begin + step)).repeat_interleave(cuts, dim=0)
        own = slice(begin * each, (begin + step) * each)
        share = None if shares is None else shares[begin : begin + step]
        parts.append(_bounds(in_order, lengths[own], wanted[own], share))
    bounds = [torch.cat(same) for same in zip(*parts, strict=True)]
    found = []
    for begin, end in _packs(table, each):
        own = slice(begin * each, end * each)
        share = None if shares is None else shares[begin:end]
        found.append(_narrowed(table.part(begin, end), ranks.shape, [b[own] for b in bounds], wanted[own], share))
    threshold, last = (torch.cat(parts).view(tensors, series, cuts) for parts in zip(*found, strict=True))
    return Cuts(threshold, last)


def _packs(table: Table, each: int) -> list[tuple[int, int]]:
    """Tensors a few at a time, so that what is gathered has room."""
    parts, start, held = [], 0, 0
    for i, size in enumerate(table.sizes):
        if i > start and (held + size) * each * 4 / ROOM > PACK:
            parts.append((start, i))
            start, held = i, 0
        held += size
    return [*parts, (start, len(table.sizes))]


def _sample(table: Table, series: int, rows: slice) -> Tensor:
    """Keys of each series of some tensors in descending order, `[tensors * series, SAMPLE]`."""
    places, lengths = table.places[rows].clone(), table.lengths[rows].clone()
    tensors, inputs = len(places), places.shape[1] - 2
    keys = torch.empty(tensors * series, SAMPLE, dtype=torch.int32, device=table.origin.device)
    chunk = min(SAMPLE, 1024)
    gather.sample[(tensors, SAMPLE // chunk)](
        table.origin, places, lengths, keys, inputs, series, SAMPLE, chunk, enable_fp_fusion=False
    )
    return keys.sort(dim=-1, descending=True).values


def _bounds(in_order: Tensor, lengths: Tensor, wanted: Tensor, shares: Tensor | None) -> tuple[Tensor, ...]:
    """Bounds of the k-th of each segment and what lies in the middle, from its sample in descending order.

    Between two neighbours of the three the sample has at most half of what it has between the bounds, so that what is
    frequent is one of the three. Where nothing is, the bounds are a little wider and the middle is -2, so that no
    element equals one of them. If all three are one, it is that value, or it was missed.
    """
    sizes, guess = lengths.double(), wanted.double()
    if shares is not None:
        varying = (in_order > 0).sum(1)
        guess = varying.double() * (sizes / SAMPLE) * shares
        guess = torch.where(lengths <= SAMPLE, _kept(varying, shares).double(), guess)
    share = guess / sizes.clamp(min=1)
    spread = SURE * (SAMPLE * share * (1 - share)).clamp(min=0).sqrt() + 3
    whole = lengths <= SAMPLE
    upper = torch.where(whole, guess - 1, (share * SAMPLE - spread).floor()).long()
    lower = torch.where(whole, guess - 1, (share * SAMPLE + spread).ceil()).long()
    middle = torch.where(whole, guess - 1, (share * SAMPLE).floor()).long()

    def at(place: Tensor) -> Tensor:
        return in_order.gather(1, place.clamp(0, SAMPLE - 1).unsqueeze(1)).squeeze(1)

    high = torch.where(upper < 0, TOP, at(upper))
    low = torch.where(lower >= SAMPLE, 0, at(lower))
    # None kept: a threshold above all, of which there are no equals to keep.
    none = (guess <= 0) & whole
    low, middle, high = (torch.where(none, TOP, bound).int() for bound in (low, at(middle), high))
    within = ((in_order >= low.unsqueeze(1)) & (in_order <= high.unsqueeze(1))).sum(1)
    closed = (low < high) & (high < TOP) & (within <= SAMPLE // CLOSED)
    return torch.where(closed, low - 1, low), torch.where(closed, -2, middle), torch.where(closed, high + 1, high)


def _kept(varying: Tensor, shares: Tensor) -> Tensor:
    """How many of so many are kept; mergekit multiplies in float32."""
    return (varying.float() * shares).long()


def _narrowed(
    table: Table, shape: tuple[int, ...], bounds: Sequence[Tensor], wanted: Tensor, shares: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The thresholds, and where the last of their equals is kept, of each segment: a series of a tensor and a cut."""
    tensors, (_, series, cuts) = len(table.sizes), shape
    inputs, each = table.places.shape[1] - 2, series * cuts
    device, segments = table.origin.device, tensors * each
    low, pivot, high = (bound.contiguous().clone() for bound in bounds)
    vector, tile, span = table.shape
    threads = tile // vector
    slots = max(span // ROOM // threads, 1)
    room, spans = slots * threads, table.spans
    compiled = (inputs, series, cuts, *table.shape)
    how = {"num_warps": WARPS, "enable_fp_fusion": False}
    counted = torch.empty(spans, each, gather.FIELDS, dtype=torch.int32, device=device)
    found = torch.empty(spans, each, room, dtype=torch.int32, device=device)
    gather.between[(spans * series,)](
        *table.walk, low, pivot, high, counted, found, *compiled, slots, min(slots, 8), gather.FIELDS, **how
    )
    sums = torch.zeros(segments, gather.FIELDS, dtype=torch.int64, device=device)
    most = triton.cdiv(max(table.sizes), span)
    gather.of_tensors[(tensors, each, triton.cdiv(most, 256 * 16))](
        counted, table.first, sums, each, gather.FIELDS, 256, 16
    )
    above, at_high, at_pivot, at_low, others, _, some = sums.unbind(1)[:7]
    if shares is not None:
        wanted = torch.minimum(_kept(some, shares), table.lengths)
    left = wanted - above
    missed = ((left < 1) | (left > at_high + at_pivot + at_low + others)) & (wanted > 0)
    # Bits in which the bounds differ: the exponent of the difference tells.
    width = torch.frexp((high.long() - low.long()).double()).exponent
    bits = torch.where(missed, ALL_BITS, torch.where(wanted > 0, width, 0)).int()
    base = torch.where(missed, 0, low).int()
    left = torch.where(missed, wanted, left)
    equals, missed = at_high.clone(), missed.int()
    counts = torch.zeros(segments, 1 << gather.ROUND, dtype=torch.int32, device=device)
    programs = (triton.cdiv(spans, _SPANS), each)
    for turn in range(-(-ALL_BITS // gather.ROUND)):
        gather.narrow[programs](
            *table.walk, found, counted, low, pivot, high, base, bits, missed, counts, spans,
            *compiled, room, gather.FIELDS, gather.ROUND, _CHUNK, _SPANS, turn == 1, **how,
        )  # fmt: skip
        gather.step[(segments,)](
            counts, low, pivot, high, sums, missed, base, bits, left, equals, gather.FIELDS, gather.ROUND, num_warps=1
        )
    # None kept: a threshold above all.
    threshold = torch.where(wanted > 0, base, TOP).int()
    ties = torch.where(wanted > 0, left, 0)
    partial = (ties < equals).int()
    equal = torch.empty(each, spans, dtype=torch.int32, device=device)
    gather.equals_of[programs](
        *table.walk, threshold, low, pivot, high, missed, partial, found, counted, equal, spans,
        *compiled, room, gather.FIELDS, _CHUNK, _SPANS, **how,
    )  # fmt: skip
    last = torch.empty(segments, dtype=torch.int64, device=device)
    chunks = triton.next_power_of_2(triton.cdiv(most, 1024))
    gather.last_of[(segments,)](
        *table.walk, table.lengths, table.first, threshold, ties, partial, equal, last, spans,
        *compiled, 1024, chunks, **how,
    )  # fmt: skip
    return threshold, last
