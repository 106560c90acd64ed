"""Weighted sums of any number of models, and the dot products that their coefficients come from."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.table import WARPS, Table


@triton.jit
def operand(origin, starts, t, column, COLUMNS: tl.constexpr, at, near):
    """The elements of an operand in tile `t` as float32."""
    start = tl.multiple_of(tl.load(starts + t * COLUMNS + column), 8)
    return tl.load(origin + start + at, mask=near, other=0.0).to(tl.float32)


@triton.jit
def put(origin, starts, t, column, COLUMNS: tl.constexpr, at, count, TILE: tl.constexpr, values):
    """Writes float32 values into an operand, rounded once."""
    start = tl.multiple_of(tl.load(starts + t * COLUMNS + column), 8)
    rounded = values.to(origin.dtype.element_ty)
    if count == TILE:
        # Without a mask, so that a store takes 16 bytes.
        tl.store(origin + start + at, rounded)
    else:
        tl.store(origin + start + at, rounded, mask=at < count)


@triton.jit
def here(rows, left, t, TILE: tl.constexpr):
    """Of a tile the tensor it is of, its elements, how many there are, and which are read.

    What is read ends with a group of eight: a mask that may end anywhere would have each element loaded by itself
    (1.26 TB/s in place of 2.6 on an H100). The rest of the group lies in the same 16 bytes as an element that is
    there, and is not used.
    """
    at = tl.arange(0, TILE)
    count = tl.load(left + t)
    return tl.load(rows + t).to(tl.int64), at, count, (at // 8) * 8 < count


@triton.jit
def _combine(origin, starts, rows, left, weights, N: tl.constexpr, BASED: tl.constexpr, TILE: tl.constexpr):
    COLUMNS: tl.constexpr = N + 1 + BASED
    t = tl.program_id(0).to(tl.int64)
    row, at, count, near = here(rows, left, t, TILE)
    if BASED:
        base = operand(origin, starts, t, 0, COLUMNS, at, near)
        wide = base.to(tl.float64)
        change = tl.load(weights + row * (N + 1)) * (
            operand(origin, starts, t, 1, COLUMNS, at, near).to(tl.float64) - wide
        )
        for i in tl.static_range(1, N):
            x = operand(origin, starts, t, i + 1, COLUMNS, at, near).to(tl.float64)
            change += tl.load(weights + row * (N + 1) + i) * (x - wide)
        change *= tl.load(weights + row * (N + 1) + N)
        out = tl.where(change == 0.0, base, (wide + change).to(tl.float32))
    else:
        total = tl.load(weights + row * (N + 1)) * operand(origin, starts, t, 0, COLUMNS, at, near).to(tl.float64)
        for i in tl.static_range(1, N):
            x = operand(origin, starts, t, i, COLUMNS, at, near).to(tl.float64)
            total += tl.load(weights + row * (N + 1) + i) * x
        out = total.to(tl.float32)
    put(origin, starts, t, N + BASED, COLUMNS, at, count, TILE, out)


def combine(table: Table, weights: Tensor, *, based: bool) -> None:
    """Writes weighted sums; with a base, of the changes, added to it.

    Args:
        table: the base, if there is one, the inputs, and what is written.
        weights: `[tensors, inputs + 1]` float64: a weight for each input, and a factor on the merged change.
        based: whether there is a base.
    """
    n = weights.shape[1] - 1
    if table.tiles:
        _combine[(table.tiles,)](*table.walk, weights, n, based, table.size, num_warps=WARPS)


@triton.jit
def _products(origin, starts, rows, left, sums, N: tl.constexpr, BASED: tl.constexpr, TILE: tl.constexpr):
    COLUMNS: tl.constexpr = N + 1 + BASED
    t = tl.program_id(0).to(tl.int64)
    _, at, count, near = here(rows, left, t, TILE)
    own = sums + t * (N * N)
    inside = at < count
    for i in tl.static_range(N):
        a = operand(origin, starts, t, i + BASED, COLUMNS, at, near)
        if BASED:
            a -= operand(origin, starts, t, 0, COLUMNS, at, near)
        wide = tl.where(inside, a, 0.0).to(tl.float64)
        for j in tl.static_range(N):
            if j >= i:
                b = operand(origin, starts, t, j + BASED, COLUMNS, at, near)
                if BASED:
                    b -= operand(origin, starts, t, 0, COLUMNS, at, near)
                total = tl.sum(wide * tl.where(inside, b, 0.0).to(tl.float64))
                tl.store(own + i * N + j, total)
                tl.store(own + j * N + i, total)


#: Tiles whose sums are added at a time.
_CHUNK = 1024


@triton.jit
def _collect(sums, first, out, WIDTH: tl.constexpr, CHUNK: tl.constexpr, CHUNKS: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(first + row), tl.load(first + row + 1)
    total = tl.zeros((CHUNK,), tl.float64)
    for chunk in range(CHUNKS):
        tile = begin + chunk * CHUNK + tl.arange(0, CHUNK)
        total += tl.load(sums + tile * WIDTH + column, mask=tile < end, other=0.0)
    tl.store(out + row * WIDTH + column, tl.sum(total))


def collect(table: Table, sums: Tensor) -> Tensor:
    """The sums of each tensor, `[tensors, width]`, of those of its tiles, `[tiles, width]`; always in one order."""
    width = sums.shape[1]
    out = torch.empty(len(table.sizes), width, dtype=torch.float64, device=sums.device)
    chunks = triton.next_power_of_2(triton.cdiv(triton.cdiv(max(table.sizes), table.size), _CHUNK))
    _collect[(len(table.sizes), width)](sums, table.first, out, width, _CHUNK, chunks)
    return out


def products(table: Table, *, based: bool) -> Tensor:
    """The Gram matrices of all tensors, `[tensors, n, n]` float64: of the inputs, or of their changes from the base."""
    n = table.places.shape[1] - 1 - based
    sums = torch.empty(table.tiles, n * n, dtype=torch.float64, device=table.origin.device)
    _products[(table.tiles,)](*table.walk, sums, n, based, table.size, num_warps=WARPS)
    return collect(table, sums).view(-1, n, n)
