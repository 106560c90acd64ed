"""Tensors of one dtype on one device as tables that kernels walk: addresses, lengths, spans of tiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Kernels hold what they have looked up in tuples, which Triton before 3.3 does not know: it is as if there were none.
from triton.language.core import tuple as _tuple  # noqa: F401

#: Whether Triton interprets kernels instead of compiling them, on the CPU: for their tests.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: Elements of a tile.
TILE = 1024
#: Tiles of a span. What is looked up and added up once a span costs next to nothing an element.
TILES = 32
#: Warps that work on a tile: every thread takes 8 elements, a load of 16 bytes of each operand.
WARPS = 4
#: Bytes that addresses are a multiple of, so that loads are as wide as they can be.
ALIGNED = 16


@dataclass(frozen=True)
class Table:
    """Rows of operands: of each tensor the base (if there is one), the inputs, and what is written; cut into spans.

    Attributes:
        origin: a tensor that all addresses are counted from.
        places: `[tensors, operands]` int64: elements from the origin to each operand.
        lengths: `[tensors]` int64: elements of each tensor.
        row: `[spans]` int32: the tensor that a span is of.
        piece: `[spans]` int32: which of the tensor's spans it is.
        starts: `[spans, operands]` int64: elements from the origin to the span in each operand. A kernel that looked
            them up by tensor would wait twice before it knows where to read.
        left: `[spans]` int32: elements of the span.
        first: `[tensors + 1]` int64: the first span of each tensor.
        sizes: the lengths, on the host.
        span: elements of a span, but for the last one of a tensor.
    """

    origin: Tensor
    places: Tensor
    lengths: Tensor
    row: Tensor
    piece: Tensor
    starts: Tensor
    left: Tensor
    first: Tensor
    sizes: tuple[int, ...]
    span: int

    @classmethod
    def of(cls, operands: Sequence[Sequence[Tensor]]) -> Table:
        """The table of tensors, each with its operands."""
        origin, span = operands[0][0], TILE * TILES
        step, device = origin.element_size(), origin.device
        listed = [[(o.data_ptr() - origin.data_ptr()) // step for o in row] for row in operands]
        sizes = tuple(row[0].numel() for row in operands)
        counts = [-(-own // span) for own in sizes]
        total = sum(counts)
        first = torch.tensor([0, *counts], dtype=torch.int64).cumsum(0).to(device, non_blocking=True)
        counted = torch.tensor(counts, dtype=torch.int64).to(device, non_blocking=True)
        places = torch.tensor(listed, dtype=torch.int64).to(device, non_blocking=True)
        lengths = torch.tensor(sizes, dtype=torch.int64).to(device, non_blocking=True)
        row = torch.repeat_interleave(torch.arange(len(sizes), device=device), counted, output_size=total)
        piece = torch.arange(total, dtype=torch.int64, device=device) - first[row]
        at = piece * span
        starts = places[row] + at.unsqueeze(1)
        left = (lengths[row] - at).clamp(max=span)
        return cls(origin, places, lengths, row.int(), piece.int(), starts, left.int(), first, sizes, span)

    @property
    def walk(self) -> tuple[Tensor, ...]:
        """What every kernel is given to find its way."""
        return self.origin, self.starts, self.row, self.left

    @property
    def shape(self) -> tuple[int, int, int]:
        """What every kernel is compiled for: elements of a thread's load, of a tile, of a span."""
        return ALIGNED // self.origin.element_size(), TILE, self.span

    @property
    def spans(self) -> int:
        """How many spans there are."""
        return len(self.row)

    def writing(self, out: Sequence[Tensor]) -> Table:
        """The same table with results that go to other tensors, one for each."""
        step, begin = self.origin.element_size(), self.origin.data_ptr()
        listed = torch.tensor([(o.data_ptr() - begin) // step for o in out], dtype=torch.int64)
        ends = listed.to(self.origin.device, non_blocking=True)
        starts, places = self.starts.clone(), self.places.clone()
        starts[:, -1] += (ends - self.places[:, -1])[self.row.long()]
        places[:, -1] = ends
        return replace(self, places=places, starts=starts)

    def part(self, start: int, end: int) -> Table:
        """The table of tensors `start` to `end`; waits for nothing.

        Copies, as kernels are compiled once more for addresses that are no multiples of 16.
        """
        begin, stop = (sum(-(-s // self.span) for s in self.sizes[:i]) for i in (start, end))
        spans, rows = slice(begin, stop), slice(start, end)
        return Table(
            self.origin,
            self.places[rows].clone(),
            self.lengths[rows].clone(),
            self.row[spans] - start,
            self.piece[spans].clone(),
            self.starts[spans].clone(),
            self.left[spans].clone(),
            self.first[start : end + 1] - begin,
            self.sizes[rows],
            self.span,
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
