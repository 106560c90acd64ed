"""Weighted sums of any number of models, and the dot products that their coefficients come from."""

# Triton compiles no `(*found, next)`, and tuples grow.
# ruff: noqa: RUF005
# mypy: disable-error-code="assignment,var-annotated"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.table import TILE, WARPS, Table


@triton.jit
def places(VECTOR: tl.constexpr, TILE: tl.constexpr):
    """The elements of a tile: a row for each load of a thread.

    Sums and scans along a row stay in a thread, where those over a tile would cost shuffles and barriers.
    """
    return tl.arange(0, TILE // VECTOR)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]


@triton.jit
def pointers(origin, starts, t, COLUMNS: tl.constexpr, FIRST: tl.constexpr):
    """Where the first of the operands of span `t`, out of `COLUMNS`, begin; looked up once for all its tiles."""
    found = ()
    for column in tl.static_range(FIRST):
        found = found + (origin + tl.multiple_of(tl.load(starts + t * COLUMNS + column), 8),)
    return found


@triton.jit
def operand(pointer, at, count, WHOLE: tl.constexpr):
    """The elements `at` of an operand as float32; `WHOLE` if all are among the `count` that there are.

    What is read ends with a group of eight: a mask that may end anywhere would have each element loaded by itself
    (1.26 TB/s in place of 2.6 on an H100). The rest of the group lies in the same 16 bytes as an element that is
    there, and is not used.
    """
    if WHOLE:
        return tl.load(pointer + at).to(tl.float32)
    else:
        return tl.load(pointer + at, mask=(at // 8) * 8 < count, other=0.0).to(tl.float32)


@triton.jit
def put(pointer, at, count, values, WHOLE: tl.constexpr):
    """Writes float32 values into an operand, rounded once."""
    rounded = values.to(pointer.dtype.element_ty)
    if WHOLE:
        # Without a mask, so that a store takes 16 bytes.
        tl.store(pointer + at, rounded)
    else:
        tl.store(pointer + at, rounded, mask=at < count)


@triton.jit
def change(base, pointer, at, count, WHOLE: tl.constexpr):
    """What an input adds to the base."""
    return operand(pointer, at, count, WHOLE) - base


@triton.jit
def _combine(
    origin, starts, rows, left, weights,
    N: tl.constexpr, BASED: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    # A tile a program: there is too little to do for a loop to pay, and this way most bytes are on their way at once.
    t = tl.program_id(0).to(tl.int64) // (SPAN // TILE)
    begin = tl.program_id(0) % (SPAN // TILE) * TILE
    count = tl.load(left + t)
    if begin < count:
        own = weights + tl.load(rows + t).to(tl.int64) * (N + 1)
        found = pointers(origin, starts, t, N + 1 + BASED, N + 1 + BASED)
        at = begin + places(VECTOR, TILE)
        first = operand(found[0], at, count, False)
        wide = first.to(tl.float64)
        if BASED:
            change = tl.load(own) * (operand(found[1], at, count, False).to(tl.float64) - wide)
            for i in tl.static_range(1, N):
                change += tl.load(own + i) * (operand(found[i + 1], at, count, False).to(tl.float64) - wide)
            change *= tl.load(own + N)
            out = tl.where(change == 0.0, first, (wide + change).to(tl.float32))
        else:
            total = tl.load(own) * wide
            for i in tl.static_range(1, N):
                total += tl.load(own + i) * operand(found[i], at, count, False).to(tl.float64)
            out = total.to(tl.float32)
        if begin + TILE <= count:
            put(found[N + BASED], at, count, out, True)
        else:
            put(found[N + BASED], at, count, out, False)


def combine(table: Table, weights: Tensor, *, based: bool) -> None:
    """Writes weighted sums; with a base, of the changes, added to it.

    Args:
        table: the base, if there is one, the inputs, and what is written.
        weights: `[tensors, inputs + 1]` float64: a weight for each input, and a factor on the merged change.
        based: whether there is a base.
    """
    n = weights.shape[1] - 1
    if table.spans:
        tiles = table.spans * (table.span // TILE)
        _combine[(tiles,)](*table.walk, weights, n, based, *table.shape, num_warps=WARPS, enable_fp_fusion=False)


@triton.jit
def _multiplied(sums, found, at, count, N: tl.constexpr, BASED: tl.constexpr, WHOLE: tl.constexpr):
    """Sums of products, and those of a tile's elements added to them, thread by thread."""
    wide = ()
    if BASED:
        base = operand(found[0], at, count, WHOLE)
    for i in tl.static_range(N):
        x = operand(found[i + BASED], at, count, WHOLE)
        if BASED:
            x -= base
        if not WHOLE:
            x = tl.where(at < count, x, 0.0)
        wide = wide + (x.to(tl.float64),)
    more = ()
    for i in tl.static_range(N):
        for j in tl.static_range(i, N):
            more = more + (sums[len(more)] + tl.sum(wide[i] * wide[j], 1),)
    return more


@triton.jit
def _products(
    origin, starts, rows, left, out,
    N: tl.constexpr, BASED: tl.constexpr, VECTOR: tl.constexpr, TILE: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    count = tl.load(left + t)
    found = pointers(origin, starts, t, N + 1 + BASED, N + BASED)
    at = places(VECTOR, TILE)
    sums = ()
    for _ in tl.static_range(N * (N + 1) // 2):
        sums = sums + (tl.zeros((TILE // VECTOR,), tl.float64),)
    for tile in range(SPAN // TILE):
        begin = tile * TILE
        if begin + TILE <= count:
            sums = _multiplied(sums, found, begin + at, count, N, BASED, True)
        elif begin < count:
            sums = _multiplied(sums, found, begin + at, count, N, BASED, False)
    for i in tl.static_range(N):
        for j in tl.static_range(i, N):
            total = tl.sum(sums[i * N - i * (i - 1) // 2 + j - i])
            tl.store(out + t * (N * N) + i * N + j, total)
            tl.store(out + t * (N * N) + j * N + i, total)


#: Spans whose sums are added at a time.
_CHUNK = 1024


@triton.jit
def _collect(sums, first, out, WIDTH: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(first + row), tl.load(first + row + 1)
    total = tl.zeros((CHUNK,), tl.float64)
    for chunk in range(CHUNKS):
        span = begin + chunk * CHUNK + tl.arange(0, CHUNK)
        total += tl.load(sums + span * WIDTH + column, mask=span < end, other=0.0)
    tl.store(out + row * WIDTH + column, tl.sum(total))


def collect(table: Table, sums: Tensor) -> Tensor:
    """The sums of each tensor, `[tensors, width]`, of those of its spans, `[spans, width]`; always in one order."""
    width = sums.shape[1]
    out = torch.empty(len(table.sizes), width, dtype=torch.float64, device=sums.device)
    chunks = triton.next_power_of_2(triton.cdiv(triton.cdiv(max(table.sizes), table.span), _CHUNK))
    _collect[(len(table.sizes), width)](sums, table.first, out, width, _CHUNK, chunks)
    return out


def products(table: Table, *, based: bool) -> Tensor:
    """The Gram matrices of all tensors, `[tensors, n, n]` float64: of the inputs, or of their changes from the base."""
    n = table.places.shape[1] - 1 - based
    sums = torch.empty(table.spans, n * n, dtype=torch.float64, device=table.origin.device)
    _products[(table.spans,)](*table.walk, sums, n, based, *table.shape, num_warps=WARPS)
    return collect(table, sums).view(-1, n, n)
