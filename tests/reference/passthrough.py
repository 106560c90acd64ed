"""Oracle: one input handed on, optionally scaled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def passthrough(values: NDArray[Any], scale: float | None = None) -> NDArray[Any]:
    """The input itself without a scale (any dtype), else scale * x."""
    if scale is None:
        return values
    return (values.astype(np.float64) * scale).astype(np.float32)
