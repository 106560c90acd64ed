"""Means over seeds with Student's 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Two-sided 95 % quantiles of Student's t, by degrees of freedom.
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """A mean, and half the width of its 95 % interval (NaN of fewer than two values)."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of independent values, one a seed."""
        n = len(values)
        mean = math.fsum(values) / n
        if n < 2:
            return cls(mean, math.nan)
        variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
        return cls(mean, T95[min(n - 1, len(T95)) - 1] * math.sqrt(variance / n))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def paired(left: Sequence[float], right: Sequence[float]) -> Estimate:
    """The mean difference of two models made from the same seeds."""
    return Estimate.of([a - b for a, b in zip(left, right, strict=True)])
