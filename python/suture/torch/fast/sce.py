"""SCE: weights from the changes where models vary most, the sign that prevails; three passes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from suture.torch.fast.blend import collect, here, operand, put
from suture.torch.fast.cuts import Cuts, change_key, variance_key
from suture.torch.fast.sparse import cut
from suture.torch.fast.table import WARPS, Table

#: What is selected: all, what varies at all, what the cut keeps of it.
ALL, VARYING, CUT = 0, 1, 2


@triton.jit
def _selected(
    origin, starts, t, row, first, threshold, last, N: tl.constexpr, SELECT: tl.constexpr, at, near, inside
):  # fmt: skip
    kept = inside
    if SELECT > 0:
        key = variance_key(origin, starts, t, N, at, near)
        if SELECT > 1:
            kept = cut(key, tl.load(threshold + row), (tl.load(last + row) - first).to(tl.int32), at)
        kept = kept & inside & (key != 0)
    return kept


@triton.jit
def _squares(
    origin, starts, rows, left, tiles, threshold, last, sums,
    N: tl.constexpr, SELECT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    row, at, count, near = here(rows, left, t, TILE)
    inside = at < count
    first = tl.load(tiles + t).to(tl.int64) * TILE
    kept = _selected(origin, starts, t, row, first, threshold, last, N, SELECT, at, near, inside)
    for i in tl.static_range(N):
        _, x = change_key(origin, starts, t, i, N + 2, at, near)
        wide = tl.where(kept, x, 0.0).to(tl.float64)
        tl.store(sums + t * N + i, tl.sum(wide * wide))


@triton.jit
def _elect(
    origin, starts, rows, left, tiles, weights, threshold, last,
    N: tl.constexpr, SELECT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64)
    row, at, count, near = here(rows, left, t, TILE)
    inside = at < count
    base = operand(origin, starts, t, 0, N + 2, at, near)
    wide = base.to(tl.float64)
    total = tl.zeros((TILE,), tl.float64)
    for i in tl.static_range(N):
        total += operand(origin, starts, t, i + 1, N + 2, at, near).to(tl.float64) - wide
    sum, by = tl.zeros((TILE,), tl.float64), tl.zeros((TILE,), tl.float64)
    for i in tl.static_range(N):
        change = operand(origin, starts, t, i + 1, N + 2, at, near).to(tl.float64) - wide
        weight = tl.load(weights + row * N + i)
        agrees = ((change > 0.0) & (total >= 0.0)) | ((change < 0.0) & (total < 0.0))
        sum += tl.where(agrees, weight * change, 0.0)
        by += tl.where(agrees, weight, 0.0)
    mean = sum / tl.where(by == 0.0, 1.0, by)
    first = tl.load(tiles + t).to(tl.int64) * TILE
    kept = _selected(origin, starts, t, row, first, threshold, last, N, SELECT, at, near, inside)
    # A NaN in any model agrees with nothing and comes back here.
    change = tl.where(kept, mean, 0.0) + total * 0.0
    put(origin, starts, t, N + 1, N + 2, at, count, TILE, tl.where(change == 0.0, base, (wide + change).to(tl.float32)))


def _cuts(table: Table, found: Cuts | None) -> tuple[Tensor, ...]:
    return (table.first,) * 2 if found is None else (found.threshold, found.last)


def shares(table: Table, found: Cuts | None, select: int) -> Tensor:
    """The weight of each input in each tensor, `[tensors, inputs]` float64.

    Its share of the squared changes that are selected.
    """
    n = table.places.shape[1] - 2
    sums = torch.empty(table.tiles, n, dtype=torch.float64, device=table.origin.device)
    _squares[(table.tiles,)](
        *table.walk, table.tile, *_cuts(table, found), sums, n, select, table.size,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    squares = collect(table, sums)
    total = squares.sum(1, keepdim=True)
    return torch.where(total == 0, 1.0 / n, squares / torch.where(total == 0, 1.0, total))


def elect(table: Table, weights: Tensor, found: Cuts | None, select: int) -> None:
    """Writes the merged tensors."""
    n = table.places.shape[1] - 2
    _elect[(table.tiles,)](
        *table.walk, table.tile, weights, *_cuts(table, found), n, select, table.size,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
