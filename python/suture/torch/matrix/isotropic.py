"""Isotropic merging: the sum of the changes with all its singular values the same."""

from __future__ import annotations

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import CUT, Eigen, Frame, Leading, beside
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, gram, over, where


def iso_c(stack: Stack, params: Params) -> Tensor:
    """The polar factor of the sum, times the mean of its singular values."""
    total = stack.sum()
    eigen = Eigen.of(gram(total))
    # Directions that are not there have none to be scaled to, but count in the mean.
    mean = eigen.singular.mean(-1, keepdim=True)
    return total @ eigen.function(over(mean, where(eigen.there(CUT), eigen.singular)))


def split(rank: int, tasks: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many of its own each task has."""
    shared = int(common * rank)
    # Halves to even, as `round` has them.
    own = round((rank - shared) / tasks)
    if own * tasks > rank:
        own = (rank - shared) // tasks
    return rank - own * tasks, own


def iso_cts(stack: Stack, params: Params) -> Tensor:
    """The leading directions of the sum, and of what they leave of each task, made orthogonal, all of the same size."""
    shared, own = split(stack.short, stack.models, params.number("common_space_fraction"))
    total = stack.sum()
    eigen = Eigen.of(gram(total))
    common = Leading.of(eigen, shared, eigen.largest * CUT)
    sizes = eigen.singular[..., :shared].sum(-1)
    del eigen
    middle = total @ common.to_left()
    sets, terms = [], []
    for i in range(stack.models):
        task = stack.model(i)
        g = gram(task)
        whole = largest(g)
        # What is left of the task beside the common left directions; of a matrix taken transposed these are right ones.
        seen = None
        if stack.tall:
            seen = middle.mT @ task
            rest = g - seen.mT @ seen
        else:
            out = torch.eye(stack.short, dtype=g.dtype, device=g.device) - common.right @ common.right.mT
            rest = out @ g @ out
        eigen = Eigen.of(rest)
        sizes = sizes + eigen.singular[..., :own].sum(-1)
        found = Leading.of(eigen, own, whole[..., None] * CUT)
        left = found.to_left()
        term = task @ left
        terms.append(term if seen is None else term - middle @ (seen @ left))
        sets.append(found)
    if not sum(found.width for found in (*sets, common)):
        return stack.nothing()
    frame = Frame(beside([*terms, middle]), beside([found.right for found in (*sets, common)]), CUT)
    return frame.around(torch.diag_embed((sizes / stack.short)[..., None].expand(frame.left_gram.shape[:-1])))


def largest(g: Tensor) -> Tensor:
    """`[E]`: the largest singular values of matrices of which these are the Gram matrices.

    About: enough to tell what is nothing beside them.
    """
    start = g.diagonal(dim1=-2, dim2=-1).argmax(-1)
    v = g.gather(-1, start[..., None, None].expand(*g.shape[:-1], 1))
    size = torch.zeros_like(g[..., 0, 0])
    for _ in range(16):
        norm = torch.linalg.vector_norm(v, dim=-2, keepdim=True)
        v = g @ (v * over(1.0, norm))
        size = torch.linalg.vector_norm(v, dim=(-2, -1))
    return size.sqrt()


def _frames(size: Size) -> int:
    width = size.short + 1
    return 3 * size.long * width + 10 * width**2


METHODS = {"iso_c": Method(iso_c), "iso_cts": Method(iso_cts, more=_frames)}
