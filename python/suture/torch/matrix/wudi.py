"""WUDI-Merging: the change that does to every task's inputs what the task's own does.

With `C = sum_i T_iᵀ T_i / |T_i|²` and `D = sum_i T_i T_iᵀ T_i / |T_i|²` the answer is `X = D C⁺`. Of a matrix that is
wider than it is tall `C` would be as large as the longer side; there `Xᵀ = B (Bᵀ B)⁺ S`, with `B = [T_1ᵀ/|T_1| | ..]`
and `S` the blocks `T_i T_iᵀ/|T_i|` one under the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import CUT, Eigen, beside
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, gram, over, where

#: What becomes of a direction, by its number and the share of all inputs that lie in it: how much of the start is taken
#: away, and how much of what the tasks do is put in its place.
Filter = Callable[[Tensor, Tensor], Tensor]


def wudi(stack: Stack, params: Params) -> Tensor:
    """The solution of least norm."""
    return _solved(stack, 0.0, lambda index, value: torch.ones_like(value), CUT)


def swudi(stack: Stack, params: Params) -> Tensor:
    """Its spectrally filtered form: from a start, as far along every direction as `time` allows."""
    time, floor = params.number("time"), params.number("floor")
    # Of all columns as they are stored, of which a matrix taken transposed has as many as it is long.
    columns = stack.short if stack.tall else stack.long
    kept = min(max(math.ceil(params.number("rank_ratio") * columns - 1e-9), 1), columns)
    start = 1.0 if params.word("start") == "sum" else 1.0 / stack.models

    def along(index: Tensor, value: Tensor) -> Tensor:
        return where(index < kept, -torch.expm1(-value.clamp(min=floor) * time))

    return _solved(stack, start, along, 0.0)


def _solved(stack: Stack, start: float, along: Filter, cut: float) -> Tensor:
    return _tall(stack, start, along, cut) if stack.tall else _wide(stack, start, along, cut)


def _squared(g: Tensor) -> Tensor:
    """`[E, 1, 1]`: the squared norms of changes of which these are the Gram matrices."""
    return g.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]


def _shares(eigen: Eigen, along: Filter, cut: float) -> tuple[Tensor, Tensor]:
    """Of every direction how far to go along it, and that over its share; zeros where there is none."""
    there = eigen.there(cut)
    value = where(there, eigen.singular.square())
    index = torch.arange(value.shape[-1], device=value.device)
    far = where(there, along(index, value))
    return far, over(far, value)


def _tall(stack: Stack, start: float, along: Filter, cut: float) -> Tensor:
    grams = [gram(stack.model(i)) for i in range(stack.models)]
    grams = [g * over(1.0, _squared(g)) for g in grams]
    total = torch.zeros_like(grams[0])
    for g in grams:
        total += g
    eigen = Eigen.of(total)
    far, towards = _shares(eigen, along, cut)
    onto = eigen.function(towards)
    result = stack.nothing()
    for i, g in enumerate(grams):
        result += stack.model(i) @ (g @ onto)
    if start:
        first = stack.sum(start)
        result += first
        result -= first @ eigen.function(far)
    return result


def _wide(stack: Stack, start: float, along: Filter, cut: float) -> Tensor:
    tasks, under, first = [], [], []
    eye = torch.eye(stack.short, dtype=torch.float64, device=stack.base.device)
    for i in range(stack.models):
        task = stack.model(i)
        g = gram(task)
        size = _squared(g).sqrt()
        tasks.append(task.mul_(over(1.0, size)))
        under.append(g * over(1.0, size))
        first.append(eye * (size * start))
    b = beside(tasks)
    del tasks, task, g
    eigen = Eigen.of(gram(b))
    far, towards = _shares(eigen, along, cut)
    seen = eigen.vectors.mT @ torch.cat(under, dim=-2)
    again = eigen.vectors @ (towards[..., None] * seen)
    if start:
        begin = torch.cat(first, dim=-2)
        again += begin - eigen.vectors @ (far[..., None] * (eigen.vectors.mT @ begin))
    return b @ again


def _more(size: Size) -> int:
    if size.tall:
        return (size.models + 2) * size.short**2 + size.long * size.short
    # All tasks side by side, while they are put there twice, and their Gram matrix.
    width = size.models * size.short
    return 2 * size.long * width + 8 * width**2 + 8 * width * size.short


METHODS = {"wudi": Method(wudi, more=_more), "swudi": Method(swudi, more=_more)}
