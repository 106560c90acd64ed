"""Oracle: what a fine-tune changed in one tensor, in float64.

Elements that are not finite in either tensor are counted and left out of the sums. "Changed" compares bit
patterns, so -0.0 against 0.0 is a change and a NaN against the same NaN is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Metrics:
    """Measures of one tensor pair."""

    mean_abs: float
    max_abs: float
    l2: float
    relative_l2: float
    cosine: float
    changed: float
    sign_flips: float
    nan_base: int
    nan_tuned: int
    inf_base: int
    inf_tuned: int


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").ravel()


def _ratio(top: float, bottom: float, empty: float) -> float:
    if bottom == 0.0:
        return empty if top == 0.0 else float("inf")
    return top / bottom


def metrics(base: NDArray[Any], tuned: NDArray[Any]) -> Metrics:
    """Measures of `tuned` against `base`: float arrays of one shape and dtype."""
    size = base.size
    b, x = base.astype(np.float64).ravel(), tuned.astype(np.float64).ravel()
    finite = np.isfinite(b) & np.isfinite(x)
    fb, fx = b[finite], x[finite]
    change = fx - fb
    l2, norm_base, norm_tuned = (float(np.linalg.norm(v)) for v in (change, fb, fx))
    both_zero = norm_base == 0.0 and norm_tuned == 0.0
    one_zero = norm_base == 0.0 or norm_tuned == 0.0
    return Metrics(
        mean_abs=float(np.abs(change).mean()) if fb.size else 0.0,
        max_abs=float(np.abs(change).max()) if fb.size else 0.0,
        l2=l2,
        relative_l2=_ratio(l2, norm_base, 0.0),
        cosine=1.0 if both_zero else 0.0 if one_zero else float(np.dot(fb, fx)) / (norm_base * norm_tuned),
        changed=int((_bits(base) != _bits(tuned)).sum()) / size if size else 0.0,
        sign_flips=int((np.sign(fb) * np.sign(fx) < 0).sum()) / size if size else 0.0,
        nan_base=int(np.isnan(b).sum()),
        nan_tuned=int(np.isnan(x).sum()),
        inf_base=int(np.isinf(b).sum()),
        inf_tuned=int(np.isinf(x).sum()),
    )
