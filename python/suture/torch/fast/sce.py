"""SCE: weights from the changes where models vary most, the sign that prevails; three passes."""

# Triton compiles no `(*found, next)`, and tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,var-annotated"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.blend import change, collect, operand, places, pointers, put
from suture.torch.fast.cuts import Cuts
from suture.torch.fast.keys import variance
from suture.torch.fast.sparse import cut
from suture.torch.fast.table import WARPS, Table

#: Registers of a thread that elects: for five programs on a multiprocessor.
REGISTERS = 96
#: What is selected: all, what varies at all, what the cut keeps of it.
ALL, VARYING, CUT = 0, 1, 2


@triton.jit
def _changes(found, base, at, count, N: tl.constexpr, WHOLE: tl.constexpr):
    """The changes of all inputs in float32, as the selection sees them."""
    changes = ()
    for i in tl.static_range(N):
        changes = changes + (change(base, found[i + 1], at, count, WHOLE),)
    return changes


@triton.jit
def _selected(changes, limit, end, at, SELECT: tl.constexpr):
    """Which elements are selected, of those whose changes are given as float64."""
    key = variance(changes)
    kept = key != 0
    if SELECT > 1:
        kept = kept & cut(key, limit, end, at)
    return kept


@triton.jit
def _squared(
    sums, found, at, count, limit, end, N: tl.constexpr, SELECT: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    """Sums of squares, and those of a tile's elements added to them, thread by thread."""
    changes = _changes(found, operand(found[0], at, count, WHOLE), at, count, N, WHOLE)
    wide = ()
    for i in tl.static_range(N):
        wide = wide + (changes[i].to(tl.float64),)
    if SELECT > 0:
        kept = _selected(wide, limit, end, at, SELECT)
        if not WHOLE:
            kept = kept & (at < count)
    elif not WHOLE:
        kept = at < count
    more = ()
    for i in tl.static_range(N):
        square = wide[i] * wide[i]
        if SELECT > 0 or not WHOLE:
            square = tl.where(kept, square, 0.0)
        more = more + (sums[i] + tl.sum(square, 1),)
    return more


@triton.jit
def _squares(
    origin, starts, rows, left, pieces, threshold, last, out,
    N: tl.constexpr, SELECT: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    row, count = tl.load(rows + t).to(tl.int64), tl.load(left + t)
    found = pointers(origin, starts, t, N + 2, N + 1)
    limit, end = bounds(pieces, threshold, last, t, row, SPAN)
    at = places(VECTOR, TILE)
    sums = ()
    for _ in tl.static_range(N):
        sums = sums + (tl.zeros((TILE // VECTOR,), tl.float64),)
    for tile in range(SPAN // TILE):
        begin = tile * TILE
        if begin + TILE <= count:
            sums = _squared(sums, found, begin + at, count, limit, end, N, SELECT, True)
        elif begin < count:
            sums = _squared(sums, found, begin + at, count, limit, end, N, SELECT, False)
    for i in tl.static_range(N):
        tl.store(out + t * N + i, tl.sum(sums[i]))


@triton.jit
def bounds(pieces, threshold, last, t, row, SPAN: tl.constexpr):
    """The threshold of a tensor, and before which element of span `t` those equal to it are kept."""
    end = tl.load(last + row) - tl.load(pieces + t).to(tl.int64) * SPAN
    return tl.load(threshold + row).to(tl.int32), tl.minimum(tl.maximum(end, 0), SPAN).to(tl.int32)


@triton.jit
def _elected(
    found, at, count, weights, limit, end, N: tl.constexpr, SELECT: tl.constexpr, WHOLE: tl.constexpr
):  # fmt: skip
    base = operand(found[0], at, count, WHOLE)
    wide = base.to(tl.float64)
    inputs, changes, total = (), (), tl.zeros_like(wide)
    for i in tl.static_range(N):
        x = operand(found[i + 1], at, count, WHOLE)
        inputs = inputs + (x,)
        changes = changes + (x.to(tl.float64) - wide,)
        total += changes[i]
    # Which way an input goes float32 tells as well, in a quarter of the time.
    sign = tl.where(total >= 0.0, 1.0, -1.0)
    sum, by = tl.zeros_like(wide), tl.zeros_like(wide)
    for i in tl.static_range(N):
        agrees = inputs[i] * sign > base * sign
        # What times 0 is not 0 is none that `total` leaves finite.
        weight = tl.where(agrees, weights[i], 0.0)
        sum += weight * changes[i]
        by += weight
    merged = sum / tl.where(by == 0.0, 1.0, by)
    if SELECT > 0:
        seen = ()
        for i in tl.static_range(N):
            seen = seen + ((inputs[i] - base).to(tl.float64),)
        merged = tl.where(_selected(seen, limit, end, at, SELECT), merged, 0.0)
    # A NaN in any model agrees with nothing and comes back here.
    merged += total * 0.0
    put(found[N + 1], at, count, tl.where(merged == 0.0, base, (wide + merged).to(tl.float32)), WHOLE)


@triton.jit
def _elect(
    origin, starts, rows, left, pieces, weights, threshold, last,
    N: tl.constexpr, SELECT: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    row, count = tl.load(rows + t).to(tl.int64), tl.load(left + t)
    found = pointers(origin, starts, t, N + 2, N + 2)
    limit, end = bounds(pieces, threshold, last, t, row, SPAN)
    own = ()
    for i in tl.static_range(N):
        own = own + (tl.load(weights + row * N + i),)
    at = places(VECTOR, TILE)
    for tile in range(SPAN // TILE):
        begin = tile * TILE
        if begin + TILE <= count:
            _elected(found, begin + at, count, own, limit, end, N, SELECT, True)
        elif begin < count:
            _elected(found, begin + at, count, own, limit, end, N, SELECT, False)


def _cuts(table: Table, found: Cuts | None) -> tuple[Tensor, ...]:
    return (table.first,) * 2 if found is None else (found.threshold, found.last)


def shares(table: Table, found: Cuts | None, select: int) -> Tensor:
    """The weight of each input in each tensor, `[tensors, inputs]` float64.

    Its share of the squared changes that are selected.
    """
    n = table.places.shape[1] - 2
    sums = torch.empty(table.spans, n, dtype=torch.float64, device=table.origin.device)
    _squares[(table.spans,)](
        *table.walk, table.piece, *_cuts(table, found), sums, n, select, *table.shape,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    squares = collect(table, sums)
    total = squares.sum(1, keepdim=True)
    return torch.where(total == 0, 1.0 / n, squares / torch.where(total == 0, 1.0, total))


def elect(table: Table, weights: Tensor, found: Cuts | None, select: int) -> None:
    """Writes the merged tensors."""
    n = table.places.shape[1] - 2
    vector, tile, span = table.shape
    # Half of the elements for a thread: those of a whole load take 202 registers, and so 8 warps a multiprocessor.
    _elect[(table.spans,)](
        *table.walk, table.piece, weights, *_cuts(table, found), n, select, vector, tile // 2, span,
        num_warps=WARPS, enable_fp_fusion=False, maxnreg=REGISTERS if n <= 3 else None,
    )  # fmt: skip
