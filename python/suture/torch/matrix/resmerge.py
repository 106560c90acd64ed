"""ResMerge: what each task has beside its first direction is averaged on a sphere, the first ones as they agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from suture.torch.forms import Params
from suture.torch.matrix.eigen import CUT, Eigen, beside
from suture.torch.matrix.form import Method, Size
from suture.torch.matrix.stack import Stack, gram, over, where

#: Coherence this near that of chance is chance.
TIE = 1e-6


@dataclass(frozen=True)
class _Tasks:
    """Of `n` tasks of each matrix.

    Attributes:
        right: of each `[E, short, 1]`: the first right vector.
        first: `[E, n]`: the first singular values.
        rest: `[E, n]`: the norms of what is left.
    """

    right: list[Tensor]
    first: Tensor
    rest: Tensor

    @classmethod
    def of(cls, stack: Stack) -> _Tasks:
        right, first, rest = [], [], []
        for i in range(stack.models):
            eigen = Eigen.of(gram(stack.model(i)))
            right.append(eigen.vectors[..., :1].clone())
            others = eigen.singular[..., 1:]
            norm = torch.linalg.vector_norm(others, dim=-1)
            first.append(eigen.singular[..., 0])
            rest.append(where(eigen.there(CUT)[..., 1:2].any(-1), norm))
        return cls(right, torch.stack(first, -1), torch.stack(rest, -1))


def _products(stack: Stack, tasks: _Tasks) -> tuple[Tensor, Tensor]:
    """`[E, n, n]`: the products of the rests of every two tasks, and of their heads."""
    n, changes = stack.models, [stack.model(i) for i in range(stack.models)]
    rights = beside(tasks.right)
    # `A_i v_j` for all i and j.
    seen = gram(beside([a @ rights for a in changes]))
    vectors = gram(rights)
    rests, heads = torch.zeros_like(vectors), torch.zeros_like(vectors)
    for i in range(n):
        for j in range(i + 1):
            # (A_i v_a)ᵀ (A_j v_b) is in row i n + a and column j n + b.
            head = vectors[..., i, j] * seen[..., i * n + i, j * n + j]
            whole = torch.linalg.vecdot(changes[i].flatten(-2), changes[j].flatten(-2))
            rest = whole - seen[..., i * n + i, j * n + i] - seen[..., i * n + j, j * n + j] + head
            for r, c in {(i, j), (j, i)}:
                heads[..., r, c], rests[..., r, c] = head, rest
        rests[..., i, i], heads[..., i, i] = tasks.rest[..., i].square(), tasks.first[..., i].square()
    return rests, heads


def _over_pairs(cosines: Tensor, there: Tensor) -> Tensor:
    """The mean over all pairs of what is there; of none, 1."""
    above = torch.ones_like(cosines, dtype=torch.bool).triu(1)
    pairs = above & there[..., :, None] & there[..., None, :]
    count = pairs.sum((-2, -1))
    return torch.where(count > 0, where(pairs, cosines).sum((-2, -1)) / count.clamp(min=1), 1.0)


def resmerge(stack: Stack, params: Params) -> Tensor:
    """The merged change."""
    n = stack.models
    tasks = _Tasks.of(stack)
    rests, heads = _products(stack, tasks)
    size = tasks.rest
    cosines = over(rests, size[..., :, None] * size[..., None, :])
    # The norm of the sum of unit rests.
    total = cosines.sum((-2, -1)).clamp(min=0.0).sqrt()
    along = over(cosines.sum(-1), total[..., None].expand(size.shape))
    coherence = where(total > CUT, along.mean(-1).clamp(0.0, 1.0))
    # The factor of each rest in the backbone, and its norm: of tasks as different as by chance, and of others.
    chance = coherence <= (1.0 + TIE) / math.sqrt(n)
    plain = rests.sum((-2, -1)).clamp(min=0.0).sqrt() / n
    least, most = params.number("beta_min"), params.number("beta_max")
    pairs = _over_pairs(cosines, torch.ones_like(size, dtype=torch.bool))
    score = 0.5 * ((pairs + 1.0) / 2.0 + (coherence + 1.0) / 2.0)
    backbone = coherence.pow(most - (most - least) * score) * size.mean(-1)
    norm = torch.where(chance, plain, backbone)
    sphere = over(over(backbone, total)[..., None], size)
    factors = where(size > 0, torch.where(chance[..., None], 1.0 / n, sphere))
    agree = over(heads, tasks.first[..., :, None] * tasks.first[..., None, :]).clamp(min=0.0)
    agreement = _over_pairs(agree, tasks.first > 0).clamp(max=1.0)
    middle = heads.sum((-2, -1)).clamp(min=0.0).sqrt() / n
    some = middle > CUT * tasks.first.amax(-1)
    head = where(some, over(params.number("head_ratio") * agreement * norm / n, middle))
    # Where no task has anything but its first direction, the mean of all.
    alone = (size == 0).all(-1)
    factors = torch.where(alone[..., None], 1.0 / n, factors)
    head = torch.where(alone, 1.0 / n, head)
    result = stack.nothing()
    for i, right in enumerate(tasks.right):
        task, rest = stack.model(i), factors[..., i]
        along_first = (task @ right) @ right.mT
        result += along_first.mul_((head - rest)[..., None, None])
        result += task.mul_(rest[..., None, None])
    return result


def _more(size: Size) -> int:
    # Every change at once, and of every two how one looks along the other's first direction.
    return size.models * size.long * size.short + 2 * size.models**2 * size.long + 2 * size.models**4


METHODS = {"resmerge": Method(resmerge, more=_more)}
