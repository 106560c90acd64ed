"""SVC: after any merge of changes, the singular values of the merged change made as large as the tasks' are there."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from suture.torch.forms import Apply, Block, Form, Found, Params, Shape, moved
from suture.torch.matrix.eigen import CUT, Eigen, Leading
from suture.torch.matrix.form import LONG, SQUARE, check, find_largest
from suture.torch.matrix.inner import COUNTS, ELEMENT, INPUT, run
from suture.torch.matrix.stack import Stack, gram


def calibrates(params: Params, shape: Shape) -> bool:
    """Whether the merged change of a tensor of this shape is calibrated."""
    return params.number("svc") > 0 and len(shape) in (2, 3) and math.prod(shape) > 0


def calibrated(form: Form) -> Form:
    """A form that calibrates what another makes; only of tensors that are matrices."""

    def apply(params: Params, shape: Shape, found: Found) -> Apply:
        check(found, [1.0] * params.inputs, shape[-1] * shape[-2])

        def whole(block: Block) -> Tensor:
            changes = [block.change(i).view(shape) for i in range(params.inputs)]
            # From nothing, so that what is merged is the change alone.
            merged = run(form, params, changes, block.keys)
            out = torch.empty_like(merged).view(-1, *shape[-2:])
            for i, stack in enumerate(_stacks([*changes, merged], shape)):
                change = calibrate(stack, params.number("svc")).float()
                out[i] = (change if stack.tall else change.mT)[0]
            return moved(block.origin, out.reshape(-1).double())

        return whole

    def memory(params: Params, shape: Shape, inputs: int) -> int:
        elements = math.prod(shape)
        short, long = sorted(shape[-2:])
        own = form.memory(params, shape, inputs) or 8 * (elements * (ELEMENT + INPUT * (inputs + 1)) + COUNTS)
        # The tasks' products with the merged change, and what is made of them.
        after = LONG * long * short + (SQUARE + 2 * inputs + 6) * short**2
        return 4 * elements * (2 * inputs + 6) + max(own, 8 * after, 24 * elements)

    return Form(apply=apply, find=find_largest, unit=lambda params, shape: math.prod(shape), memory=memory)


def _stacks(changes: list[Tensor], shape: Shape) -> Iterator[Stack]:
    """The changes of each matrix, the merged one last."""
    for i in range(math.prod(shape[:-2])):
        own = [x.view(-1, *shape[-2:])[i : i + 1] for x in changes]
        yield Stack(torch.zeros_like(own[0]), own, [1.0] * len(own))


def calibrate(stack: Stack, least: float) -> Tensor:
    """`[1, long, short]`: the last change, each direction as large as the others are along it.

    A task counts `least` of itself at least.
    """
    tasks = stack.models - 1
    merged = stack.model(tasks)
    norms, crosses, grams = [], [], []
    for i in range(tasks):
        task = stack.model(i)
        norms.append(torch.linalg.vector_norm(task))
        crosses.append(merged.mT @ task)
        # Only of a matrix taken transposed the responses are along the longer side.
        grams.append(None if stack.tall else gram(task))
    eigen = Eigen.of(gram(merged))
    own = Leading.of(eigen, stack.short, eigen.largest * CUT)
    del eigen
    there = [i for i, norm in enumerate(norms) if float(norm) > 0.0]
    if not own.width or not there:
        return merged
    turn = _turned(stack, own, crosses)
    v, s = own.right, own.values[..., None, :]
    # What each task does along each direction, and how far that is what the merge does.
    sums = torch.zeros_like(own.values)
    for i in there:
        if (g := grams[i]) is None:
            b, a = ((v / s) @ turn).mT @ crosses[i], (v * s) @ turn
            along, sizes = (a.mT * b).sum(-1), b.square().sum(-1)
        else:
            a = v @ turn
            along, sizes = (a * (crosses[i] @ a)).sum(-2), (a * (g @ a)).sum(-2)
        some = sizes.clamp(min=0.0).sqrt() >= CUT * norms[i]
        sums += torch.where(some, along / torch.where(some, sizes, 1.0), 0.0).clamp(min=least)
    factors = (len(there) / sums)[..., None, :]
    left, right = (v / s, v * s) if stack.tall else (v, v)
    return merged @ (((left @ turn) * factors) @ (right @ turn).mT)


def _turned(stack: Stack, own: Leading, crosses: list[Tensor]) -> Tensor:
    """How the directions of equal singular values are turned among themselves.

    Any basis would be one of theirs, and this is that of what all tasks together do along them.
    """
    values, k = own.values[0].tolist(), own.width
    out = torch.eye(k, dtype=torch.float64, device=own.values.device)[None]
    ends = [i for i in range(1, k + 1) if i == k or values[i - 1] - values[i] > CUT * values[0]]
    if len(ends) == k:
        return out
    total = None if stack.tall else gram(stack.of([1.0] * (stack.models - 1) + [0.0]))
    first = 0
    for end in ends:
        if end - first > 1:
            vectors = own.right[..., first:end]
            # The Gram matrix of what all tasks do along them.
            if total is None:
                along = (vectors / own.values[..., None, first:end]).mT @ torch.stack(crosses).sum(0)
                seen = along @ along.mT
            else:
                seen = vectors.mT @ total @ vectors
            out[..., first:end, first:end] = Eigen.of(seen).vectors
        first = end
    return out
