"""Oracle: VaRM of FuseChat's first version (arXiv 2402.16107): models weighted by how much they changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layers import layer_of, module_of
from .task_arithmetic import add_back, delta

Model = Mapping[str, NDArray[Any]]


def shares(amounts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divided by their sum along the first axis; equal shares where all are zero."""
    total = amounts.sum(axis=0)
    return np.asarray(np.where(total > 0.0, amounts / np.where(total > 0.0, total, 1.0), 1.0 / len(amounts)))


def _mean_square(change: NDArray[Any]) -> float:
    return float(np.square(change.astype(np.float64)).mean()) if change.size else 0.0


def _group(name: str, granularity: str) -> tuple[object, ...] | None:
    """The tensors whose changes are measured together; none: equal shares."""
    layer = layer_of(name)
    if granularity == "param" or (granularity == "module" and layer is None):
        return ("tensor", name)
    if granularity == "module":
        return ("module", layer, module_of(name))
    return None if layer is None else ("layer", layer)


def varm(base: Model, tuned: Sequence[Model], *, granularity: str = "param") -> dict[str, NDArray[np.float32]]:
    """base + sum(w * change), w the share in the mean squared change at the granularity."""
    changes = [{name: delta(values, x[name]) for name, values in base.items()} for x in tuned]

    def weights(name: str) -> NDArray[np.float64]:
        if granularity == "item":
            return shares(np.stack([np.square(c[name].astype(np.float64)) for c in changes]))
        if granularity == "model":
            return shares(np.asarray([sum(np.square(v.astype(np.float64)).sum() for v in c.values()) for c in changes]))
        group = _group(name, granularity)
        members = [n for n in base if group is not None and _group(n, granularity) == group]
        return shares(np.asarray([sum((_mean_square(c[n]) for n in members), 0.0) for c in changes]))

    merged: dict[str, NDArray[np.float32]] = {}
    for name, values in base.items():
        own = weights(name)
        total = sum(own[i] * c[name].astype(np.float64) for i, c in enumerate(changes))
        merged[name] = add_back(values, np.asarray(total), 1.0)
    return merged
