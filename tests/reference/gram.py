"""Oracles of merges whose coefficients come from norms and angles.

NuSLERP and Multi-SLERP as mergekit describes them, the Karcher mean on the sphere (Riemannian centre of mass,
Karcher 1977), Model Stock (arXiv 2403.19522), MetaGPT (arXiv 2406.11385). All in float64, on the vectors
themselves and not on their Gram matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .select import rows
from .task_arithmetic import delta

COLLINEAR = 1e-16
VANISHING_WEIGHTS = 1e-6
VANISHING_DIRECTION = 1e-8
SINGULAR = 1e-6

Vector = NDArray[np.float64]


def _f64(values: NDArray[Any]) -> Vector:
    return np.asarray(values, dtype=np.float64)


def cosine(u: Vector, v: Vector) -> float:
    """The cosine of the angle between two vectors, 0 where one has no direction."""
    norms = float(np.sqrt(np.dot(u, u) * np.dot(v, v)))
    return 0.0 if norms == 0.0 else float(np.clip(np.dot(u, v) / norms, -1.0, 1.0))


def arc(u: Vector, v: Vector, t: float) -> Vector:
    """Position t on the arc from u to v; on the line where there is no arc."""
    c = cosine(u, v)
    if 1.0 - c * c <= COLLINEAR or not u.any() or not v.any():
        return (1.0 - t) * u + t * v
    angle = np.arccos(c)
    return _f64((np.sin((1.0 - t) * angle) * u + np.sin(t * angle) * v) / np.sin(angle))


def nuslerp(
    inputs: Sequence[NDArray[Any]],
    weights: Sequence[float],
    *,
    base: NDArray[Any] | None = None,
    flatten: bool = True,
    row_wise: bool = False,
) -> NDArray[np.float32]:
    """Spherical interpolation of two tensors or of their changes, whole, by rows or along dimension 0."""
    total = sum(weights)
    t = 0.5 if abs(total) < VANISHING_WEIGHTS else weights[1] / total
    first, second = (_f64(x if base is None else delta(base, x)) for x in inputs)
    if flatten:
        merged = arc(first.ravel(), second.ravel(), t)
    elif row_wise and first.ndim >= 1 and first.size:
        columns = [x.reshape(x.shape[0], -1).T for x in (first, second)]
        merged = np.stack([arc(u, v, t) for u, v in zip(*columns, strict=True)]).T
    else:
        pairs = zip(rows(first), rows(second), strict=True)
        merged = np.stack([arc(u, v, t) for u, v in pairs]) if first.size else first
    merged = merged.reshape(first.shape)
    return (merged if base is None else _f64(base) + merged).astype(np.float32)


def multislerp(
    inputs: Sequence[NDArray[Any]],
    weights: Sequence[float],
    *,
    base: NDArray[Any] | None = None,
    normalize_weights: bool = True,
) -> NDArray[np.float32]:
    """The weighted mean norm times the normalised weighted mean of the directions.

    At that mean the tangents cancel, so the step along the sphere which mergekit takes from it has length zero.
    Inputs without a direction count in the mean norm only; nothing but zeros gives zero.
    """
    vectors = [_f64(x if base is None else delta(base, x)) for x in inputs]
    shares = [w / sum(weights) for w in weights] if normalize_weights else list(weights)
    norms = [float(np.linalg.norm(v)) for v in vectors]
    pulls = [w * v / n for w, v, n in zip(shares, vectors, norms, strict=True) if n > 0.0]
    direction = np.sum(pulls, axis=0) if pulls else np.zeros(vectors[0].shape)
    length = float(np.linalg.norm(direction))
    if length >= VANISHING_DIRECTION:
        merged = direction / length * sum(w * n for w, n in zip(shares, norms, strict=True))
    elif len(vectors) == 2 or not pulls:
        merged = np.sum([w * v for w, v in zip(shares, vectors, strict=True)], axis=0)
    else:
        raise ValueError("the directions cancel")
    return np.asarray(merged if base is None else _f64(base) + merged).astype(np.float32)


def karcher(inputs: Sequence[NDArray[Any]], *, max_iter: int = 10, tol: float = 1e-5) -> NDArray[np.float32]:
    """The mean norm times the point of the sphere with the least squared angles to the directions of the inputs.

    Every step goes along the mean of the logarithms. What coincides with the current point or lies opposite has
    none. Zero tensors have no direction, but a share in the mean norm.
    """
    vectors = [_f64(x).ravel() for x in inputs]
    norms = [float(np.linalg.norm(v)) for v in vectors]
    directions = [v / n for v, n in zip(vectors, norms, strict=True) if n > tol]
    if not directions:
        return np.zeros(inputs[0].shape, dtype=np.float32)
    share = 1.0 / len(directions)
    mean = _f64(np.sum(directions, axis=0) * share)
    length = float(np.linalg.norm(mean))
    mean = mean / length if length >= tol else directions[0]
    for _ in range(max_iter):
        tangent = np.zeros(mean.shape)
        for direction in directions:
            c = float(np.clip(np.dot(mean, direction), -1.0, 1.0))
            angle = float(np.arccos(c))
            if tol <= angle <= np.pi - tol:
                tangent += share * angle / np.sin(angle) * (direction - c * mean)
        step = float(np.linalg.norm(tangent))
        if step < tol:
            break
        mean = np.cos(step) * mean + np.sin(step) * tangent / step
        mean /= np.linalg.norm(mean)
    size = sum(norms) / len(norms)
    return np.asarray(size * mean, dtype=np.float64).reshape(inputs[0].shape).astype(np.float32)


def stock_ratio(changes: Sequence[Vector]) -> float:
    """How far Model Stock goes from the base to the mean of the models."""
    count = len(changes)
    mean = float(np.mean([cosine(u, v) for u, v in combinations(changes, 2)]))
    divisor = 1.0 + (count - 1) * mean
    return 0.0 if abs(divisor) < SINGULAR else count * mean / divisor


def model_stock(base: NDArray[Any], tuned: Sequence[NDArray[Any]], *, filter_wise: bool = False) -> NDArray[np.float32]:
    """t * mean + (1 - t) * base, with a t for the tensor or for every row."""
    start, mean = _f64(base), np.mean([_f64(x) for x in tuned], axis=0)
    changes = [_f64(delta(base, x)) for x in tuned]
    if filter_wise:
        ratios = [stock_ratio(by_row) for by_row in zip(*(rows(c) for c in changes), strict=True)]
        t = np.repeat(ratios, base.size // max(len(ratios), 1)).reshape(base.shape)
    else:
        t = np.full(base.shape, stock_ratio([c.ravel() for c in changes]))
    return np.asarray(t * mean + (1.0 - t) * start).astype(np.float32)


def metagpt(
    base: Mapping[str, NDArray[Any]], tuned: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[np.float32]]:
    """base + sum of the changes, each by its share in the sum of all squared norms over the whole model."""
    changes = [{name: _f64(delta(values, x[name])) for name, values in base.items()} for x in tuned]
    squares = [sum(float(np.square(v).sum()) for v in change.values()) for change in changes]
    total = sum(squares) or 1.0
    return {
        name: np.asarray(_f64(values) + sum(s / total * c[name] for s, c in zip(squares, changes, strict=True))).astype(
            np.float32
        )
        for name, values in base.items()
    }
