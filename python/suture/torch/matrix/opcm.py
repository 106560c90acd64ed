"""OPCM: one task after the other, each without what it shares with the merge so far."""

from __future__ import annotations

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import CUT, Eigen, width
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, gram, over, where


def opcm(stack: Stack, params: Params) -> Tensor:
    """The running sum, at the end as large as the tasks are on average.

    The paper's factor of each step cancels: singular vectors and the split do not know it, and the next step multiplies
    it back.
    """
    total = stack.model(0)
    norms = torch.linalg.vector_norm(total, dim=(-2, -1))
    for i in range(1, stack.models):
        task = stack.model(i)
        norms = norms + torch.linalg.vector_norm(task, dim=(-2, -1))
        if not stack.vector:
            total -= _shared(total, task, params.number("alpha"))
        total += task
    merged = torch.linalg.vector_norm(total, dim=(-2, -1))
    return total.mul_(torch.where(merged == 0, 0.0, norms / stack.models / merged)[..., None, None])


def _shared(total: Tensor, task: Tensor, alpha: float) -> Tensor:
    """What of the sum so far the next task takes the place of."""
    eigen = Eigen.of(gram(total))
    there = eigen.there(CUT)
    n = width(there)
    there = there[..., :n]
    singular = where(there, eigen.singular[..., :n])
    all_of = singular.sum(-1, keepdim=True)
    leads = there & (singular.cumsum(-1) <= alpha * all_of * (1.0 + 1e-9))
    right = eigen.vectors[..., :n] * there[..., None, :]
    to_left = right * over(1.0, singular)[..., None, :]
    # Uᵀ task V, cleared of all but what is taken away.
    seen = (to_left.mT @ (total.mT @ task)) @ right
    block = leads[..., :, None] & leads[..., None, :]
    shared = where(block | torch.eye(n, dtype=torch.bool, device=total.device), seen)
    return total @ ((to_left @ shared) @ right.mT)


def _more(size: Size) -> int:
    return 8 * size.short**2


METHODS = {"opcm": Method(opcm, more=_more, vectors="column", solves=lambda params, size: size.models > 1)}
