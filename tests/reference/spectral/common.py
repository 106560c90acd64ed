"""What the spectral oracles share: weights, the mean, singular triplets that are there, polar factors.

`CUT` is relative to the largest singular value of the matrix at hand, so that no method knows the scale of its
deltas. What is below is rounding: its singular vectors are arbitrary and must not reach a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
#: How several tasks become one, element by element or by a selection.
Inner = Callable[[list[Matrix]], Matrix]
Triplets = tuple[Matrix, Matrix, Matrix]

CUT = 1e-5
#: Slack of comparisons that exact arithmetic would decide.
SLACK = 1e-9


def weighted(deltas: Sequence[NDArray[Any]], weights: Sequence[float] | None) -> list[Matrix]:
    """Each delta times its weight (1 where none are given), in float64."""
    given = [1.0] * len(deltas) if weights is None else weights
    return [w * np.asarray(x, dtype=np.float64) for w, x in zip(given, deltas, strict=True)]


def mean(tasks: list[Matrix]) -> Matrix:
    """The sum over the number of tasks (not over the weights)."""
    return np.asarray(np.sum(tasks, axis=0) / len(tasks), dtype=np.float64)


def triplets(x: Matrix, cut: float = CUT, largest: float | None = None) -> Triplets:
    """U (m, k), s (k), Vt (k, n): the singular values of at least `cut` of the largest; none of a matrix of zeros.

    `largest`: what they are compared with, where that is not the matrix's own.
    """
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    reference = (s[0] if s.size else 0.0) if largest is None else largest
    k = int(np.sum((s >= cut * reference) & ((s > 0.0) | (cut == 0.0))))
    return u[:, :k], s[:k], vt[:k]


def leading(x: Matrix, rank: int, cut: float = CUT) -> Triplets:
    """At most the first `rank` triplets."""
    u, s, vt = triplets(x, cut)
    return u[:, :rank], s[:rank], vt[:rank]


def polar(x: Matrix, cut: float = CUT) -> Matrix:
    """The orthogonal factor of a matrix: P Qt of its SVD P D Qt, over the directions it has."""
    u, _, vt = triplets(x, cut)
    return np.asarray(u @ vt, dtype=np.float64)


def signed(columns: Matrix) -> Matrix:
    """Each column with the sign that makes its entry of largest magnitude (the first of equals) positive."""
    places = np.argmax(np.abs(columns), axis=0)
    signs = np.where(columns[places, np.arange(columns.shape[1])] < 0.0, -1.0, 1.0)
    return np.asarray(columns * signs, dtype=np.float64)


def norm(x: Matrix) -> float:
    """The Frobenius norm."""
    return float(np.linalg.norm(x))


def stacked(method: Callable[..., Matrix], deltas: Sequence[NDArray[Any]], **parameters: Any) -> Matrix:
    """Stacked experts (E, m, n): one matrix an expert, each merged alone."""
    return np.stack([method([x[e] for x in deltas], **parameters) for e in range(len(deltas[0]))])
