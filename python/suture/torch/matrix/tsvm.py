"""TSV-Merge: the leading singular vectors of every task, made orthogonal between tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import CUT, Frame, Leading, beside, leading, lefts, share
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack


def tsvm(stack: Stack, params: Params) -> Tensor:
    """TSV-Merge of the first `short / T` triplets of every task."""
    if stack.models == 1:
        return stack.model(0)
    cut = 0.0 if params.switch("official") else CUT
    sets = leading(stack, share(stack), cut)
    return decorrelated(stack, sets, [own.values for own in sets], cut)


def decorrelated(stack: Stack, sets: list[Leading], values: list[Tensor], cut: float) -> Tensor:
    """`polar(U) S polar(V)ᵀ` of the triplets of every task, with other values."""
    if not sum(own.width for own in sets):
        return stack.nothing()
    frame = Frame(lefts(stack, sets), beside([own.right for own in sets]), cut)
    return frame.around(torch.diag_embed(beside(values)))


def _sizes(stack: Stack, i: int, sigmas: float, small: float) -> tuple[Tensor, Tensor]:
    """Of a change without its weight: the sum of the sizes that are outliers, the share of those that are not small."""
    size = stack.plain(i).abs_()
    mean, square = size.mean((-2, -1)), torch.linalg.vector_norm(size, dim=(-2, -1)).square() / size[0].numel()
    far = mean + sigmas * (square - mean * mean).clamp(min=0.0).sqrt()
    dense = (size >= small * square.sqrt()[..., None, None]).double().mean((-2, -1)) * (square > 0)
    return size.mul_(size > far[..., None, None]).sum((-2, -1)), dense


def reweighted(stack: Stack, params: Params) -> Tensor:
    """A reconstruction of the reweighted form.

    Singular values times `T` times the task's share of all outliers, ranks by how dense the tasks' changes are.
    """
    told = [_sizes(stack, i, params.number("sigmas"), params.number("small")) for i in range(stack.models)]
    outliers, dense = torch.stack([own for own, _ in told]), torch.stack([own for _, own in told])
    total, mean = outliers.sum(0), dense.mean(0)
    some = total > 0
    factors = torch.where(some, stack.models * outliers / torch.where(some, total, 1.0), 1.0)
    ranks = share(stack) * dense / torch.where(mean > 0, mean, 1.0) + 1e-9
    ranks = torch.where(mean > 0, ranks.long().clamp(1, stack.short), 0)
    sets = leading(stack, list(ranks), CUT)
    values = [own.values * factor[..., None] for own, factor in zip(sets, factors, strict=True)]
    return decorrelated(stack, sets, values, CUT)


def _frames(size: Size) -> int:
    """The left vectors, twice while they are put side by side, and the products around them."""
    width = max(size.short, size.models)
    return 2 * size.long * width + 8 * width**2


def _reweighted(size: Size) -> int:
    # At least one of every task, whatever its share.
    width = size.short + size.models
    return 2 * size.long * width + 8 * width**2


METHODS = {
    "tsvm": Method(tsvm, more=_frames, solves=lambda params, size: size.models > 1),
    # Together they would be as wide as the densest of each task.
    "tsvm_reweighted": Method(reweighted, more=_reweighted, alone=True),
}
