"""NumPy oracles of transplants, each a token at a time from its paper's formula; nothing of suture is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def omp(target: Matrix, atoms: Matrix, k: int, tolerance: float = 1e-12) -> tuple[list[int], Matrix]:
    """Orthogonal matching pursuit by the textbook: the best angle, then least squares over all that were chosen."""
    unit = atoms / np.linalg.norm(atoms, axis=1, keepdims=True)
    chosen: list[int] = []
    weights: Any = np.zeros(0)
    rest: Matrix = target.copy()
    while len(chosen) < k and np.linalg.norm(rest) > tolerance * np.linalg.norm(target):
        angles = np.abs(unit @ rest)
        angles[chosen] = -1
        chosen.append(int(angles.argmax()))
        weights = np.linalg.lstsq(atoms[chosen].T, target, rcond=None)[0]
        rest = target - atoms[chosen].T @ weights
    return chosen, weights


def clp(target: Matrix, overlap: Matrix, rows: Matrix, *, clip: bool, top_k: int | None = None) -> Matrix:
    """CLP-Transfer: rows weighted by cosines with the overlapping tokens, over their sum."""
    cosine = np.array([target @ o / (np.linalg.norm(target) * np.linalg.norm(o)) for o in overlap])
    if top_k is not None:
        cosine[np.argsort(-cosine, kind="stable")[top_k:]] = 0
    if clip:
        cosine = np.maximum(cosine, 0)
    return np.asarray((cosine / cosine.sum()) @ rows)


def wechsel(target: Matrix, sources: Matrix, rows: Matrix, k: int, temperature: float) -> Matrix:
    """WECHSEL: the k nearest by cosine, exp(s / tau) over their sum."""
    cosine = np.array([target @ s / (np.linalg.norm(target) * np.linalg.norm(s)) for s in sources])
    best = np.argsort(-cosine, kind="stable")[:k]
    weights = np.exp(cosine[best] / temperature)
    return np.asarray((weights / weights.sum()) @ rows[best])


def sparsemax(z: Matrix) -> Matrix:
    """Sparsemax by bisection: max(z - tau, 0) that adds up to 1."""
    low, high = z.max() - 1, z.max()
    for _ in range(200):
        tau = (low + high) / 2
        low, high = (tau, high) if np.maximum(z - tau, 0).sum() > 1 else (low, tau)
    made: Matrix = np.maximum(z - high, 0)
    return made


def focus(target: Matrix, overlap: Matrix, rows: Matrix) -> Matrix:
    """FOCUS: the sparsemax of cosines with overlapping tokens, of their rows."""
    cosine = np.array([target @ o / (np.linalg.norm(target) * np.linalg.norm(o)) for o in overlap])
    return np.asarray(sparsemax(cosine) @ rows)


def counted(pairs: Sequence[tuple[Sequence[int], Sequence[int], float]]) -> dict[int, dict[int, float]]:
    """Trans-tokenization: counts of aligned units (old tokens, new tokens, count), split all-to-all and monotone."""
    found: dict[int, dict[int, float]] = {}

    def add(new: int, old: int, share: float) -> None:
        found.setdefault(new, {}).setdefault(old, 0.0)
        found[new][old] += share

    for olds, news, count in pairs:
        m, n = len(olds), len(news)
        if m == n == 1:
            add(news[0], olds[0], count)
            continue
        for new in news:
            for old in olds:
                add(new, old, max(count / 2 / (m * n), 1))
        long = m * n // gcd(m, n)
        stretched = [o for o in olds for _ in range(long // m)], [t for t in news for _ in range(long // n)]
        for old, new in zip(*stretched, strict=True):
            add(new, old, max(count / 2 / long, 1))
    return found


def smoothed(counts: Mapping[int, Mapping[int, float]], texts: Mapping[int, str]) -> dict[int, dict[int, float]]:
    """Trans-tokenization's smoothing, comparing every token with every other."""
    made: dict[int, dict[int, float]] = {}
    for number, text in texts.items():
        if number in counts:
            continue
        lenders = {other for other in counts if texts[other].startswith(text)}
        spans = [
            (at, at + len(texts[other]), other)
            for other in counts
            for at in range(len(text))
            if text[at:].startswith(texts[other])
        ]
        for start, stop, other in spans:
            inside = any(s <= start and stop <= e and e - s > stop - start for s, e, _ in spans)
            if not inside:
                lenders.add(other)
        for other in lenders:
            scale = (2000 if texts[other].startswith(" ") else 1000) / sum(counts[other].values())
            for old, count in counts[other].items():
                row = made.setdefault(number, {})
                row[old] = row.get(old, 0.0) + count * scale
    return made


def warped(costs: NDArray[Any]) -> tuple[float, Matrix]:
    """Dynamic time warping by its recursion: the least cost, and the matrix of least costs."""
    total = np.full(costs.shape, np.inf)
    for i in range(costs.shape[0]):
        for j in range(costs.shape[1]):
            before = [total[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if a >= 0 and b >= 0]
            total[i, j] = costs[i, j] + (min(before) if before else 0)
    return float(total[-1, -1]), total


def edits(one: str, other: str) -> int:
    """Levenshtein's distance by its recursion."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row, before = [i], row
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return row[-1]
