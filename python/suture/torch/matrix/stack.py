"""The changes of several models to matrices of one shape, as methods see them.

A matrix that is wider than it is tall is taken transposed, so that a Gram matrix is always of the shorter side. Its
changes are then formed in float32, as the core keeps them; those of a tall one in float64. What has a leading
dimension of experts goes through every operation at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stack:
    """Changes `A_1 .. A_T`, each `[E, long, short]`.

    Attributes:
        base: `[E, m, n]` in float32.
        inputs: the models, each as the base.
        weights: the weight of each model's change.
        vector: whether this is no matrix, but all elements of a tensor in one row or column.
        keys: a random key for each model.
    """

    base: Tensor
    inputs: Sequence[Tensor]
    weights: Sequence[float]
    vector: bool = False
    keys: Sequence[int] = ()

    @property
    def tall(self) -> bool:
        """Whether the longer side is that of the rows, as stored; else all is taken transposed."""
        # A row of one element stays a row.
        rows, columns = self.base.shape[-2:]
        return bool(rows >= columns) and not (self.vector and rows == 1)

    @property
    def short(self) -> int:
        """Length of the shorter side."""
        return int(min(self.base.shape[-2:]))

    @property
    def long(self) -> int:
        """Length of the longer side."""
        return int(max(self.base.shape[-2:]))

    @property
    def models(self) -> int:
        """Number of models."""
        return len(self.weights)

    def plain(self, i: int) -> Tensor:
        """The change of a model without its weight, in memory of its own."""
        if self.tall:
            return self.inputs[i].double().sub_(self.base)
        return (self.inputs[i] - self.base).double().mT

    def unweighted(self, i: int) -> Tensor:
        """The change of a model without its weight; of weight zero nothing."""
        return self.plain(i) if self.weights[i] else self.nothing()

    def model(self, i: int) -> Tensor:
        """The change of a model."""
        return self.of([float(i == j) for j in range(self.models)])

    def sum(self, factor: float = 1.0) -> Tensor:
        """The sum of all changes, times a factor."""
        return self.of([factor] * self.models)

    def of(self, factors: Sequence[float]) -> Tensor:
        """A combination of the changes; one whose factor is zero is not looked at."""
        total: Tensor | None = None
        for i, (factor, weight) in enumerate(zip(factors, self.weights, strict=True)):
            if factor * weight != 0.0:
                part = self.plain(i).mul_(factor * weight)
                total = part if total is None else total.add_(part)
        return self.nothing() if total is None else total

    def nothing(self) -> Tensor:
        """No change at all."""
        shape = (self.base.shape[0], self.long, self.short)
        return torch.zeros(shape, dtype=torch.float64, device=self.base.device)


def gram(a: Tensor) -> Tensor:
    """`Aᵀ A`."""
    return a.mT @ a


def squares(a: Tensor) -> Tensor:
    """The sum of the squares of each matrix `[..., m, n]`."""
    return torch.linalg.vector_norm(a, dim=(-2, -1)).square()


def where(condition: Tensor, value: Tensor) -> Tensor:
    """The value where a condition holds, else zero: a NaN elsewhere does not come through."""
    return torch.where(condition, value, torch.zeros((), dtype=value.dtype, device=value.device))


def over(value: Tensor | float, divisor: Tensor) -> Tensor:
    """The quotient; zero where the divisor is not above zero."""
    there = divisor > 0
    return where(there, value / torch.where(there, divisor, torch.ones_like(divisor)))
