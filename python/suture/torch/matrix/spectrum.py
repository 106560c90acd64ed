"""Methods that cut the spectrum of every task by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import Eigen
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, gram, over, where

#: What exact arithmetic would decide.
SLACK = 1e-9


def star(stack: Stack, params: Params) -> Tensor:
    """STAR: every task cut to the rank that holds `eta` percent of its nuclear norm, and rescaled to that norm."""
    factor = 1.0 if params.word("reduce") == "sum" else 1.0 / stack.models
    held = params.number("eta") / 100.0
    if held >= 1.0:
        return stack.sum(factor)
    total = stack.nothing()
    for i in range(stack.models):
        task = stack.model(i)
        eigen = Eigen.of(gram(task))
        whole = eigen.singular.sum(-1, keepdim=True)
        sums = eigen.singular.cumsum(-1)
        # The fewest whose sum is that share: all before it fall short.
        short = sums < held * whole * (1.0 - SLACK)
        kept = torch.cat([torch.ones_like(short[..., :1]), short[..., :-1]], dim=-1)
        all_kept = kept.all(-1, keepdim=True)
        scale = torch.where(all_kept, 1.0, over(whole, where(kept, eigen.singular).sum(-1, keepdim=True)))
        onto = eigen.function(kept * (scale * factor))
        total += task @ onto
    return total


def cart(stack: Stack, params: Params) -> Tensor:
    """CART: the mean of the tasks, and of what each has beside it the leading directions."""
    total = stack.sum(1.0 / stack.models)
    k = _kept(params, stack.short)
    for i in range(stack.models if k else 0):
        of = stack.of([float(i == j) - 1.0 / stack.models for j in range(stack.models)])
        right = Eigen.of(gram(of)).vectors[..., :k]
        total += ((of @ right) @ right.mT).mul_(params.number("scale"))
    return total


def _kept(params: Params, short: int) -> int:
    """Directions that are kept of each difference; none where all would be, or none is to be."""
    ratio = params.number("rank_ratio")
    k = min(max(int(ratio * short), 1), short)
    return k if ratio > 0 and k < short else 0


def _more(size: Size) -> int:
    return size.long * size.short


METHODS = {
    "star": Method(star, more=_more),
    "cart": Method(cart, more=_more, solves=lambda params, size: _kept(params, size.short) > 0),
}
