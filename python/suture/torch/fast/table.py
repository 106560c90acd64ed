"""Tensors of one dtype on one device as tables that kernels walk: addresses, lengths, tiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Whether Triton interprets kernels instead of compiling them, on the CPU: for their tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: Elements of a tile.
TILE = 1024
#: Warps that work on one: every thread takes 8 elements, a load of 16 bytes of each operand.
WARPS = 4
#: Bytes that addresses are a multiple of, so that loads are as wide as they can be.
ALIGNED = 16


@dataclass(frozen=True)
class Table:
    """Rows of operands: of each tensor the base (if there is one), the inputs, and what is written; cut into tiles.

    Attributes:
        origin: a tensor that all addresses are counted from.
        places: `[tensors, operands]` int64: elements from the origin to each operand.
        lengths: `[tensors]` int64: elements of each tensor.
        row: `[tiles]` int32: the tensor that a tile is of.
        tile: `[tiles]` int32: which of the tensor's tiles it is.
        starts: `[tiles, operands]` int64: elements from the origin to the tile in each operand. A kernel that looked
            them up by tensor would wait twice before it knows where to read.
        left: `[tiles]` int32: elements of the tile, or of the tensor from there on.
        first: `[tensors + 1]` int64: the first tile of each tensor.
        sizes: the lengths, on the host.
        size: elements of a tile.
    """

    origin: Tensor
    places: Tensor
    lengths: Tensor
    row: Tensor
    tile: Tensor
    starts: Tensor
    left: Tensor
    first: Tensor
    sizes: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, operands: Sequence[Sequence[Tensor]], size: int = TILE) -> Table:
        """The table of tensors, each with its operands, in tiles of `size` elements."""
        origin = operands[0][0]
        step, device = origin.element_size(), origin.device
        listed = [[(o.data_ptr() - origin.data_ptr()) // step for o in row] for row in operands]
        sizes = tuple(row[0].numel() for row in operands)
        counts = [-(-own // size) for own in sizes]
        total = sum(counts)
        first = torch.tensor([0, *counts], dtype=torch.int64).cumsum(0).to(device, non_blocking=True)
        counted = torch.tensor(counts, dtype=torch.int64).to(device, non_blocking=True)
        places = torch.tensor(listed, dtype=torch.int64).to(device, non_blocking=True)
        lengths = torch.tensor(sizes, dtype=torch.int64).to(device, non_blocking=True)
        row = torch.repeat_interleave(torch.arange(len(sizes), device=device), counted, output_size=total)
        tile = torch.arange(total, dtype=torch.int64, device=device) - first[row]
        at = tile * size
        starts = places[row] + at.unsqueeze(1)
        left = (lengths[row] - at).clamp(max=size)
        return cls(origin, places, lengths, row.int(), tile.int(), starts, left.int(), first, sizes, size)

    @property
    def walk(self) -> tuple[Tensor, ...]:
        """What every kernel is given to find its way."""
        return self.origin, self.starts, self.row, self.left

    @property
    def tiles(self) -> int:
        """How many tiles there are."""
        return len(self.row)

    def part(self, start: int, end: int) -> Table:
        """The table of tensors `start` to `end`; waits for nothing."""
        begin, stop = (sum(-(-s // self.size) for s in self.sizes[:i]) for i in (start, end))
        tiles, rows = slice(begin, stop), slice(start, end)
        return Table(
            self.origin,
            self.places[rows],
            self.lengths[rows],
            self.row[tiles] - start,
            self.tile[tiles],
            self.starts[tiles],
            self.left[tiles],
            self.first[start : end + 1] - begin,
            self.sizes[rows],
            self.size,
        )


def eligible(tensors: Sequence[Tensor]) -> bool:
    """Whether operands can stand in one row: of one dtype on one GPU, in order, aligned."""
    lead = tensors[0]
    if lead.device.type != "cuda" and not INTERPRETED:
        return False
    return lead.dtype in (torch.bfloat16, torch.float16, torch.float32) and all(
        t.dtype == lead.dtype and t.device == lead.device and t.is_contiguous() and t.data_ptr() % ALIGNED == 0
        for t in tensors
    )
