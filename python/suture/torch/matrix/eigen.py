"""Singular values and right vectors by the eigenvectors of Gram matrices, and what methods make of them.

What is not there is zeros in its place, so that matrices of different ranks go through the same operations at once;
columns that are there in none of them are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from suture.errors import SutureError
from suture.torch.matrix.stack import Stack, gram, over, where

#: Singular values below this share of the largest are taken for zeros: their vectors are whatever rounding left.
NOTHING = 1e-7
#: Those below this share of the largest of their matrix are rounding, and must not reach a result.
CUT = 1e-5

#: Whatever is wrong with a matrix, in the words of the core.
NOT_FINITE = (
    "holds NaN or infinite values, or changes that their weights make too large to be squared; "
    "no singular vectors can be had"
)


@dataclass(frozen=True)
class Eigen:
    """Of matrices whose Gram matrices are known.

    Attributes:
        singular: `[E, n]`: the singular values, largest first; those that are rounding alone are zeros.
        vectors: `[E, n, n]`: the right vectors as columns, in the same order.
    """

    singular: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, g: Tensor) -> Eigen:
        """Of symmetric matrices without negative eigenvalues, of which the lower triangles are read.

        Raises:
            SutureError: if one holds NaN or infinities, or the algorithm does not converge; the tensor is for those
                to name who know it.
        """
        if not bool(torch.isfinite(g).all()):
            raise SutureError(NOT_FINITE)
        # To about one, so that squares of the smallest and largest changes go through.
        scale = g.diagonal(dim1=-2, dim2=-1).abs().amax(-1)
        scaled = g / torch.where(scale > 0, scale, torch.ones_like(scale))[..., None, None]
        try:
            values, vectors = torch.linalg.eigh(scaled)
        except torch.linalg.LinAlgError:
            raise SutureError("its eigenvalues do not converge; leave it to another method, by a filter") from None
        singular = (values.flip(-1).clamp(min=0.0) * scale[..., None]).sqrt()
        return cls(where(singular > NOTHING * singular[..., :1], singular), vectors.flip(-1))

    @property
    def largest(self) -> Tensor:
        """`[E, 1]`: the largest singular values."""
        return self.singular[..., :1]

    def there(self, cut: float) -> Tensor:
        """`[E, n]`: which singular values are none of rounding, nor below a share of the largest."""
        return (self.singular > 0) & (self.singular >= cut * self.largest)

    def function(self, values: Tensor) -> Tensor:
        """`V diag(values) Vᵀ`."""
        return (self.vectors * values[..., None, :]) @ self.vectors.mT


def width(there: Tensor) -> int:
    """How many columns are there in some matrix, of those that come first in each."""
    return int(there.sum(-1).amax())


@dataclass(frozen=True)
class Leading:
    """Leading triplets of changes: `A V / s` are the left vectors.

    Attributes:
        right: `[E, short, k]`: the right vectors; zeros where a matrix has fewer.
        values: `[E, k]`: the singular values; likewise.
    """

    right: Tensor
    values: Tensor

    @classmethod
    def of(cls, eigen: Eigen, k: int | Tensor, least: Tensor) -> Leading:
        """At most the first `k` triplets, a number for each matrix or one for all.

        Those below `least`, `[E, 1]`, are not there.
        """
        index = torch.arange(eigen.singular.shape[-1], device=eigen.singular.device)
        most = k[..., None] if isinstance(k, Tensor) else k
        there = (eigen.singular > 0) & (eigen.singular >= least) & (index < most)
        n = width(there)
        right = eigen.vectors[..., :n] * there[..., None, :n]
        return cls(right, where(there[..., :n], eigen.singular[..., :n]))

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.values.shape[-1])

    def to_left(self) -> Tensor:
        """How the columns of the change are mixed to its left vectors."""
        return self.right * over(1.0, self.values)[..., None, :]


def leading(stack: Stack, ranks: int | list[Tensor], cut: float) -> list[Leading]:
    """The leading triplets of every task, of each at most so many."""
    sets = []
    for i in range(stack.models):
        eigen = Eigen.of(gram(stack.model(i)))
        sets.append(Leading.of(eigen, ranks if isinstance(ranks, int) else ranks[i], eigen.largest * cut))
    return sets


def lefts(stack: Stack, sets: list[Leading]) -> Tensor:
    """The left vectors of every task side by side."""
    return beside([stack.model(i) @ own.to_left() for i, own in enumerate(sets)])


def beside(sets: list[Tensor]) -> Tensor:
    """Vectors side by side."""
    return torch.cat(sets, dim=-1)


def share(stack: Stack) -> int:
    """The rank that a task may keep."""
    return max(stack.short // stack.models, 1)


class Frame:
    """Left and right vectors side by side, and what makes them orthogonal; directions below a cut are none.

    Attributes:
        left_gram: `Uᵀ U`.
        right_gram: `Vᵀ V`.
        left_root: `(Uᵀ U)^(-1/2)`, so that `U` times it is the polar factor of `U`.
        right_root: `(Vᵀ V)^(-1/2)`.
    """

    def __init__(self, left: Tensor, right: Tensor, cut: float) -> None:
        self._left, self._right = left, right
        self.left_gram, self.right_gram = gram(left), gram(right)
        self.left_root, self.right_root = _root(self.left_gram, cut), _root(self.right_gram, cut)

    def around(self, middle: Tensor) -> Tensor:
        """`polar(U) M polar(V)ᵀ`."""
        return self._left @ ((self.left_root @ middle) @ (self.right_root @ self._right.mT))


def _root(g: Tensor, cut: float) -> Tensor:
    eigen = Eigen.of(g)
    return eigen.function(over(1.0, where(eigen.there(cut), eigen.singular)))
