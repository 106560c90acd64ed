"""What makes a torch form of a method of matrices: where it applies, what memory it takes, what is checked first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from suture.errors import SutureError
from suture.torch.forms import Apply, Block, Blocks, Form, Found, Params, Shape, moved, weighted
from suture.torch.matrix.eigen import NOT_FINITE
from suture.torch.matrix.stack import Stack

#: Elements of stacked experts that are computed at once, about.
TOGETHER = 1 << 22
#: Matrices in float64 of the size of those computed at once that every method has at a time at most, and square ones of
#: the shorter side: a Gram matrix, what an eigenproblem makes of it and the eigenvectors.
LONG, SQUARE = 5, 8


@dataclass(frozen=True)
class Size:
    """What memory depends on.

    Attributes:
        models: how many.
        short, long: sides.
        tall: whether the longer is that of the rows.
    """

    models: int
    short: int
    long: int
    tall: bool


@dataclass(frozen=True)
class Method:
    """A method, by what it makes of the changes of matrices.

    Attributes:
        make: the merged change `[E, long, short]`, before `lambda`; in memory that nothing else reads.
        more: elements in float64 that it takes for each matrix at most, besides `LONG` and `SQUARE`.
        solves: whether, with these parameters, it looks for singular vectors, so that all must be finite.
        vectors: what is no matrix is taken for a `row` or a `column`, or gets the `mean` of the changes.
        alone: whether stacked experts are computed one by one.
    """

    make: Callable[[Stack, Params], Tensor]
    more: Callable[[Size], int] = lambda size: 0
    solves: Callable[[Params, Size], bool] = lambda params, size: True
    vectors: str = "mean"
    alone: bool = False


@dataclass(frozen=True)
class _Matrices:
    """What a tensor is to a method: so many matrices, or a vector in one row."""

    count: int
    rows: int
    columns: int
    vector: bool = False
    alone: bool = False

    def size(self, models: int) -> Size:
        short, long = sorted((self.rows, self.columns))
        return Size(models, short, long, self.rows >= self.columns)

    @property
    def together(self) -> int:
        """How many are computed at once."""
        return 1 if self.alone else min(self.count, max(TOGETHER // (self.rows * self.columns), 1))


def _matrices(method: Method, params: Params, shape: Shape) -> _Matrices | None:
    """What a tensor is; None where it gets the mean of the changes."""
    elements = math.prod(shape)
    if not elements:
        return None
    if len(shape) in (2, 3) and (params.layered or params.word("outside") == "matrix"):
        rows, columns = shape[-2:]
        return _Matrices(elements // (rows * columns), rows, columns, alone=method.alone)
    if method.vectors == "mean":
        return None
    return _Matrices(1, *((1, elements) if method.vectors == "row" else (elements, 1)), vector=True)


def form_of(method: Method) -> Form:
    """The torch form of a method of matrices."""

    def apply(params: Params, shape: Shape, found: Found) -> Apply:
        of, factor = _matrices(method, params, shape), params.number("lambda")
        weights = params.numbers("weight")
        if of is None:
            mean = factor / max(len(weights), 1)
            return lambda block: moved(block.origin, mean * weighted(weights, block.wide))
        if not of.vector and method.solves(params, of.size(len(weights))):
            check(found, weights, of.rows * of.columns)
        return lambda block: _whole(method, params, of, block)

    def unit(params: Params, shape: Shape) -> int:
        return 1 if _matrices(method, params, shape) is None else math.prod(shape)

    def memory(params: Params, shape: Shape, inputs: int) -> int | None:
        of = _matrices(method, params, shape)
        return None if of is None else _bytes(method, of, inputs)

    return Form(apply=apply, find=find_largest, unit=unit, memory=memory, free=True)


def find_largest(params: Params, shape: Shape, blocks: Blocks, wide: Found) -> Tensor:
    """The largest change of each model; it depends on no parameter."""
    most = [_largest(block) for block in blocks()]
    return torch.stack(most).amax(0)


def _largest(block: Block) -> Tensor:
    base, own = block.origin, []
    for x in block.inputs:
        parts = zip(x.split(TOGETHER), base.split(TOGETHER), strict=True)
        own.append(torch.stack([a.double().sub_(b).abs_().amax() for a, b in parts]).amax())
    return torch.stack(own)


def check(largest: Tensor, weights: list[float], elements: int) -> None:
    """Refuses what has no singular vectors before anything is written.

    Raises:
        SutureError: if a change, or the sum of its squares, is not finite.
    """
    for size, weight in zip(largest.tolist(), weights, strict=True):
        bound = abs(weight) * size if weight else 0.0
        if not math.isfinite(bound) or bound > math.sqrt(1e300 / elements):
            raise SutureError(NOT_FINITE)


def _whole(method: Method, params: Params, of: _Matrices, block: Block) -> Tensor:
    """A whole tensor, some of its matrices at a time."""
    out = torch.empty_like(block.origin)
    step = of.together * of.rows * of.columns
    for start, stack in _stacks(params, of, block):
        change = method.make(stack, params).mul_(params.number("lambda"))
        # Of a matrix taken transposed the core keeps the change in float32.
        change = change if stack.tall else change.float().mT
        out[start : start + step] = moved(stack.base, change).reshape(-1)
    return out


def _stacks(params: Params, of: _Matrices, block: Block) -> Iterator[tuple[int, Stack]]:
    step = of.together * of.rows * of.columns
    for start in range(0, block.of, step):
        own = [x[start : start + step].view(-1, of.rows, of.columns) for x in (block.origin, *block.inputs)]
        yield start, Stack(own[0], own[1:], params.numbers("weight"), of.vector, block.keys)


def _bytes(method: Method, of: _Matrices, inputs: int) -> int:
    """Bytes that a whole tensor takes at most, its operands and its result in float32 among them."""
    size = of.size(inputs)
    each = LONG * size.long * size.short + SQUARE * size.short**2 + method.more(size)
    elements = of.count * of.rows * of.columns
    # What is found first goes over some of the elements at a time, in float64.
    return 4 * (inputs + 2) * elements + 8 * max(of.together * each, 3 * min(elements, TOGETHER))
