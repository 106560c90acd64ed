"""Oracle: spherical interpolation of two whole tensors, coefficients applied to the inputs as they are.

Nearly parallel inputs (|cos| > 0.9995, antipodal ones too) and inputs without a direction (a zero vector)
are interpolated linearly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PARALLEL = 0.9995


def coefficients(first: NDArray[Any], second: NDArray[Any], t: float) -> tuple[float, float]:
    """The factors of the two inputs at position t."""
    u, v = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    norms = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    if 0.0 in norms:
        return 1.0 - t, t
    cosine = float(np.clip(np.dot(u / norms[0], v / norms[1]), -1.0, 1.0))
    if abs(cosine) > PARALLEL:
        return 1.0 - t, t
    angle = np.arccos(cosine)
    return float(np.sin((1.0 - t) * angle) / np.sin(angle)), float(np.sin(t * angle) / np.sin(angle))


def slerp(first: NDArray[Any], second: NDArray[Any], t: float) -> NDArray[np.float32]:
    """Position t on the arc from `first` to `second`."""
    a, b = coefficients(first, second, t)
    return (a * first.astype(np.float64) + b * second.astype(np.float64)).astype(np.float32)
