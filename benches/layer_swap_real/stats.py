"""Intervals of 95 %: of one model's answers, and of means over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959964
#: Two-sided 95 % quantiles of Student's t, by degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share (Wilson 1927)."""
    share, z = right / count, Z95 * Z95
    middle = (share + z / (2 * count)) / (1 + z / count)
    half = Z95 / (1 + z / count) * math.sqrt(share * (1 - share) / count + z / (4 * count * count))
    # Of none and of all right it ends there, whatever rounding says.
    return max(0.0, middle - half) if right else 0.0, min(1.0, middle + half) if right < count else 1.0


def mean_of(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent values, one a seed, and half the width of Student's interval (NaN of one value)."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.nan
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return mean, T95[min(n - 2, len(T95) - 1)] * deviation / math.sqrt(n)
