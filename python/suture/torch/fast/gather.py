"""The passes of `suture.torch.fast.cuts`: over all elements once, and over what they left to be looked at."""

# Triton compiles no `(*found, next)`, and tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,var-annotated"
from __future__ import annotations

import triton
import triton.language as tl

from suture.torch.fast.keys import keys_of, series, series_key

#: Bits that a round tells of the value. To count 32 bins takes a third of the instructions that 256 take (one count a
#: thread), and to find the 19 bits that are sought 4 rounds in place of 3, of which the last ones find little left.
ROUND = 5
BINS = tl.constexpr(1 << ROUND)
#: What is counted of a span and a cut: at or above the upper bound, at it, in the middle, at the lower one, others
#: between, whether a thread had no room for these, and (for the variance) what is not 0.
FIELDS = 8


@triton.jit
def sample(
    origin, starts, lengths, out, N: tl.constexpr, SERIES: tl.constexpr, SAMPLE: tl.constexpr, CHUNK: tl.constexpr
):
    """Keys of elements all over each tensor; of a small one of all; -1 where there are not so many."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n = tl.load(lengths + row)
    i = chunk * CHUNK + tl.arange(0, CHUNK)
    # One of each stretch of equal length, its place in it scrambled: no pattern of rows can hide from it.
    scrambled = (i.to(tl.uint32) * 2654435761) ^ ((i.to(tl.uint32) * 2246822519) >> 15)
    share = (scrambled & 0xFFFF).to(tl.float64) / 65536.0
    spread = ((i.to(tl.float64) + share) * (n.to(tl.float64) / SAMPLE)).to(tl.int64)
    at = tl.where(n > SAMPLE, tl.minimum(spread, n - 1), i.to(tl.int64))
    for e in tl.static_range(SERIES):
        # Rows of tensors lie as rows of spans do.
        key = series_key(series(origin, starts, row, e, N, SERIES), at, n, False)
        tl.store(out + (row * SERIES + e) * SAMPLE + i, tl.where(at < n, key, -1))


@triton.jit
def _count(
    key, low, pivot, high, room, above, at_high, at_pivot, at_low, place, THREADS: tl.constexpr, END: tl.constexpr
):  # fmt: skip
    """Counts a tile's keys, thread by thread, and puts those between the bounds where the thread has its room."""
    above += tl.sum((key >= high).to(tl.int32), 1)
    if low == high:
        # A value so frequent that both bounds are it: often so in models of bfloat16, which change by few values.
        at_high += tl.sum((key == high).to(tl.int32), 1)
    else:
        others = (key > low) & (key < high) & (key != pivot)
        end = tl.cumsum(tl.where(others, THREADS, 0), 1) + place[:, None]
        tl.store(room + end, key, mask=others & (end < END))
        place += tl.sum(tl.where(others, THREADS, 0), 1)
        if pivot >= 0:
            at_high += tl.sum((key == high).to(tl.int32), 1)
            at_pivot += tl.sum((key == pivot).to(tl.int32), 1)
            at_low += tl.sum((key == low).to(tl.int32), 1)
    return above, at_high, at_pivot, at_low, place


@triton.jit
def between(
    origin, starts, rows, left, low, pivot, high, counted, found,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr,
    SPAN: tl.constexpr, SLOTS: tl.constexpr, ROWS: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """Counts the elements of a span by the bounds, and gathers those between, in any order."""
    THREADS: tl.constexpr = TILE // VECTOR
    # The series of a span side by side, so that the base is read from memory once.
    e, t = tl.program_id(0) % SERIES, tl.program_id(0).to(tl.int64) // SERIES
    row, count = tl.load(rows + t).to(tl.int64), tl.load(left + t)
    given = series(origin, starts, t, e, N, SERIES)
    thread = tl.arange(0, THREADS)
    none = thread * 0
    bounds, sums, some = (), (), none
    for c in tl.static_range(CUTS):
        s = (row * SERIES + e) * CUTS + c
        bounds = bounds + (tl.load(low + s), tl.load(pivot + s), tl.load(high + s))
        sums = sums + (none, none, none, none, thread)
    room = found + (t * SERIES + e) * (CUTS * SLOTS * THREADS)
    for begin in range(0, SPAN, TILE):
        if begin < count:
            key = keys_of(given, begin, count, VECTOR, TILE)
            more = ()
            for c in tl.static_range(CUTS):
                # The place of the next one is counted in rows of threads; the first is put a row earlier.
                more = more + _count(
                    key, bounds[3 * c], bounds[3 * c + 1], bounds[3 * c + 2], room + (c * SLOTS - 1) * THREADS,
                    sums[5 * c], sums[5 * c + 1], sums[5 * c + 2], sums[5 * c + 3], sums[5 * c + 4],
                    THREADS, (SLOTS + 1) * THREADS,
                )  # fmt: skip
            sums = more
            if SERIES < N:
                some += tl.sum((key > 0).to(tl.int32), 1)
    # What each thread has put has been written when others read it.
    tl.debug_barrier()
    for c in tl.static_range(CUTS):
        lo, mid, hi, own = bounds[3 * c], bounds[3 * c + 1], bounds[3 * c + 2], (t * SERIES + e) * CUTS + c
        held = (sums[5 * c + 4] - thread) // THREADS
        equal = tl.sum(sums[5 * c + 1])
        tl.store(counted + own * FIELDS, tl.sum(sums[5 * c]) - equal)
        tl.store(counted + own * FIELDS + 1, equal)
        tl.store(counted + own * FIELDS + 2, tl.where((lo < mid) & (mid < hi), tl.sum(sums[5 * c + 2]), 0))
        tl.store(counted + own * FIELDS + 3, tl.where(lo < hi, tl.sum(sums[5 * c + 3]), 0))
        tl.store(counted + own * FIELDS + 4, tl.sum(held))
        tl.store(counted + own * FIELDS + 5, (tl.max(held) > SLOTS).to(tl.int32))
        if SERIES < N:
            tl.store(counted + own * FIELDS + 6, tl.sum(some))
        if lo < hi:
            # Moved together, some rows of the threads at a time, so that only what there is will be read again. What
            # is moved stays within the rows that have been read.
            slot = tl.arange(0, ROWS)[:, None]
            most = tl.max(held)
            mine, end = found + own * (SLOTS * THREADS), most * 0
            for begin in range(0, SLOTS, ROWS):
                if begin < most:
                    many = tl.minimum(tl.maximum(held - begin, 0), ROWS)
                    there = slot < many[None, :]
                    key = tl.load(mine + (begin + slot) * THREADS + thread[None, :], mask=there, other=0)
                    to = end + tl.cumsum(many, 0) - many
                    tl.debug_barrier()
                    tl.store(mine + to[None, :] + slot, key, mask=there)
                    end += tl.sum(many)


@triton.jit
def of_tensors(
    counted, first, out, EACH: tl.constexpr, FIELDS: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr
):
    """Sums over a part of the spans of each tensor."""
    row, s, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(first + row), tl.load(first + row + 1)
    begin += part * CHUNK * CHUNKS
    if begin < end:
        total = tl.zeros((CHUNK, FIELDS), tl.int64)
        field = tl.arange(0, FIELDS)
        for chunk in range(CHUNKS):
            span = begin + chunk * CHUNK + tl.arange(0, CHUNK)
            place = (span[:, None] * EACH + s) * FIELDS + field[None, :]
            total += tl.load(counted + place, mask=(span < end)[:, None], other=0).to(tl.int64)
        tl.atomic_add(out + (row * EACH + s) * FIELDS + field, tl.sum(total, 0))


@triton.jit
def _binned(counts, key, mine, base, shift, wide, BINS: tl.constexpr):
    bin = (key - base) >> shift
    mine = mine & (bin >= 0) & (bin < wide)
    many = tl.histogram(tl.where(mine, bin, 0), BINS, mask=mine)
    tl.atomic_add(counts + tl.arange(0, BINS), many, mask=many > 0)


@triton.jit(do_not_specialize=["spans"])
def narrow(
    origin, starts, rows, left, found, counted, low, pivot, high, base, bits, missed, counts, spans,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr,
    SPAN: tl.constexpr, ROOM: tl.constexpr, FIELDS: tl.constexpr, ROUND: tl.constexpr, CHUNK: tl.constexpr,
    SPANS: tl.constexpr, DROPS: tl.constexpr,
):  # fmt: skip
    """Counts, in bins, what was gathered of spans and may still be the value that is sought.

    `DROPS` what can not, before: after the first round 31 of 32, which costs half of what to count them again does.
    Of all elements again where the bounds have missed it; of those between them where a thread had no room.
    """
    own = tl.program_id(1)
    for each in range(SPANS):
        t = tl.program_id(0).to(tl.int64) * SPANS + each
        if t < spans:
            s = tl.load(rows + t).to(tl.int64) * (SERIES * CUTS) + own
            width = tl.load(bits + s)
            if width > 0:
                place = t * (SERIES * CUTS) + own
                held = tl.load(counted + place * FIELDS + 4)
                over = tl.load(counted + place * FIELDS + 5) != 0
                miss = tl.load(missed + s) != 0
                begin, shift, wide = tl.load(base + s), tl.maximum(width - ROUND, 0), 1 << tl.minimum(width, ROUND)
                into = counts + s * (1 << ROUND)
                if miss | over:
                    lo, mid, hi = tl.load(low + s), tl.load(pivot + s), tl.load(high + s)
                    if miss:
                        lo, mid = lo * 0 - 1, mid * 0 - 2
                    given, count = series(origin, starts, t, own // CUTS, N, SERIES), tl.load(left + t)
                    for at in range(0, SPAN, TILE):
                        if at < count:
                            key = tl.reshape(keys_of(given, at, count, VECTOR, TILE), (TILE,))
                            mine = (key > lo) & (miss | (key < hi)) & (key != mid)
                            _binned(into, key, mine, begin, shift, wide, 1 << ROUND)
                else:
                    room = found + place * ROOM
                    if DROPS:
                        end = held * 0
                        for at in range(0, ROOM, CHUNK):
                            if at < held:
                                i = at + tl.arange(0, CHUNK)
                                key = tl.load(room + i, mask=i < held, other=0)
                                bin = (key - begin) >> shift
                                stays = (i < held) & (bin >= 0) & (bin < wide)
                                one = stays.to(tl.int32)
                                # They have been read before others take their places.
                                tl.debug_barrier()
                                tl.store(room + end + tl.cumsum(one, 0) - 1, key, mask=stays)
                                end += tl.sum(one)
                        tl.store(counted + place * FIELDS + 4, end)
                        tl.debug_barrier()
                        held = end
                    for at in range(0, ROOM, CHUNK):
                        if at < held:
                            i = at + tl.arange(0, CHUNK)
                            key = tl.load(room + i, mask=i < held, other=0)
                            _binned(into, key, i < held, begin, shift, wide, 1 << ROUND)


@triton.jit
def step(
    counts, low, pivot, high, sums, missed, base, bits, left, equals,
    FIELDS: tl.constexpr, ROUND: tl.constexpr,
):  # fmt: skip
    """Narrows the bits of a segment to the bin that its k-th largest is in, and clears the bins."""
    s = tl.program_id(0).to(tl.int64)
    width = tl.load(bits + s)
    if width > 0:
        bin = tl.arange(0, 1 << ROUND)
        begin, shift, wide = tl.load(base + s), tl.maximum(width - ROUND, 0), 1 << tl.minimum(width, ROUND)
        wanted = tl.load(left + s)
        many = tl.load(counts + s * (1 << ROUND) + bin).to(tl.int64)
        tl.store(counts + s * (1 << ROUND) + bin, bin * 0)
        if tl.load(missed + s) == 0:
            # The bounds and the middle were counted, not gathered.
            for bound in tl.static_range(3):
                if bound == 0:
                    value = tl.load(high + s)
                elif bound == 1:
                    value = tl.load(pivot + s)
                else:
                    value = tl.load(low + s)
                own = tl.where(value < begin, -1, (value - begin) >> shift)
                many += tl.where((bin == own) & (bin < wide), tl.load(sums + s * FIELDS + 1 + bound), 0)
        upto = tl.sum(many) - tl.cumsum(many, 0) + many
        # Bins from the k-th one on have so many at or above them; it is the highest of these.
        place = tl.maximum(tl.sum((upto >= wanted).to(tl.int32)) - 1, 0)
        equal = tl.sum(tl.where(bin == place, many, 0))
        over = tl.sum(tl.where(bin == place, upto, 0)) - equal
        tl.store(base + s, begin + (place << shift))
        tl.store(bits + s, shift)
        tl.store(left + s, wanted - over)
        tl.store(equals + s, equal)


@triton.jit(do_not_specialize=["spans"])
def equals_of(
    origin, starts, rows, left, threshold, low, pivot, high, missed, partial, found, counted, out, spans,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr,
    SPAN: tl.constexpr, ROOM: tl.constexpr, FIELDS: tl.constexpr, CHUNK: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """How many elements of each span equal the threshold, where not all that do are kept."""
    own = tl.program_id(1)
    for each in range(SPANS):
        t = tl.program_id(0).to(tl.int64) * SPANS + each
        if t < spans:
            s = tl.load(rows + t).to(tl.int64) * (SERIES * CUTS) + own
            if tl.load(partial + s) != 0:
                place = t * (SERIES * CUTS) + own
                mine = counted + place * FIELDS
                limit, miss = tl.load(threshold + s), tl.load(missed + s) != 0
                if (limit == tl.load(high + s)) & (miss == 0):
                    equal = tl.load(mine + 1)
                elif (limit == tl.load(low + s)) & (miss == 0):
                    equal = tl.load(mine + 3)
                elif (limit == tl.load(pivot + s)) & (miss == 0):
                    equal = tl.load(mine + 2)
                elif miss | (tl.load(mine + 5) != 0):
                    given, count = series(origin, starts, t, own // CUTS, N, SERIES), tl.load(left + t)
                    equal = limit * 0
                    for at in range(0, SPAN, TILE):
                        if at < count:
                            key = keys_of(given, at, count, VECTOR, TILE)
                            equal += tl.sum(tl.sum((key == limit).to(tl.int32), 1))
                else:
                    held, equal = tl.load(mine + 4), limit * 0
                    for at in range(0, ROOM, CHUNK):
                        if at < held:
                            i = at + tl.arange(0, CHUNK)
                            key = tl.load(found + place * ROOM + i, mask=i < held, other=-1)
                            equal += tl.sum((key == limit).to(tl.int32))
                tl.store(out + own * spans + t, equal)


@triton.jit(do_not_specialize=["spans"])
def last_of(
    origin, starts, rows, left, lengths, firsts, threshold, ties, partial, equal, out, spans,
    N: tl.constexpr, SERIES: tl.constexpr, CUTS: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr,
    SPAN: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr,
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
            span = begin + chunk * CHUNK + tl.arange(0, CHUNK)
            many = tl.load(equal + own * spans + span, mask=span < end, other=0).to(tl.int64)
            upto = seen + tl.cumsum(many, 0)
            short = (upto < wanted) & (span < end)
            # Spans whose equals are not enough, and what they have.
            full += tl.sum(short.to(tl.int64))
            before = tl.maximum(before, tl.max(tl.where(short, upto, 0)))
            seen += tl.sum(many)
        t = begin + full
        given, count = series(origin, starts, t, own // CUTS, N, SERIES), tl.load(left + t)
        limit = tl.load(threshold + segment)
        place = full * SPAN + 1
        for at in range(0, SPAN, TILE):
            if at < count:
                same = (tl.reshape(keys_of(given, at, count, VECTOR, TILE), (TILE,)) == limit).to(tl.int64)
                place += tl.sum((before + tl.cumsum(same, 0) < wanted).to(tl.int64))
                before += tl.sum(same)
        tl.store(out + segment, place)
