"""Rows as vectors that the user brings say: mixes of the nearest tokens' rows (WECHSEL) or of all near ones (FOCUS)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suture.vocab.clp import cosines, largest
from suture.vocab.mixes import Mixes
from suture.vocab.stored import Table, lengths

#: What WECHSEL takes: neighbours, and the temperature of the softmax over their cosines.
NEIGHBOURS, TEMPERATURE = 10, 0.1
#: Of so many of the largest cosines the sparsemax is taken first; all are, where that is not the whole support.
_FIRST = 512


def nearest(
    of: Table,
    targets: NDArray[np.int64],
    among: Table,
    anchors: NDArray[np.int64],
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Mixes:
    """The k nearest by cosine, weighted by softmax(cosine / temperature): WECHSEL (Minixhofer et al., 2112.06598).

    Args:
        of: vectors of the new tokens; `targets` are rows of it.
        targets: the tokens that need a mix. One whose vector is zeros gets none.
        among: vectors of the old tokens, in the same space; `anchors` are rows of it.
        anchors: the tokens whose rows are mixed, by their places in the result. Zeros are nobody's neighbour.
        k: how many neighbours.
        temperature: of the softmax.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    at: list[int] = []
    good, pool = lengths(of, targets) > 0, np.flatnonzero(lengths(among, anchors) > 0)
    for start, found in cosines(of, targets, among, anchors[pool]):
        for i, row in enumerate(found):
            if good[start + i] and len(row):
                places = largest(row, k)
                share = np.exp((row[places] - row[places].max()) / temperature)
                at.append(start + i)
                parts.append((pool[places], share / share.sum()))
    return Mixes.joined(np.array(at, dtype=np.int64), parts)


def sparse(of: Table, targets: NDArray[np.int64], anchors: NDArray[np.int64]) -> Mixes:
    """Sparsemax of the cosines with all anchors: FOCUS (Dobler and de Melo, arXiv 2305.14481).

    Args:
        of: vectors of the new vocabulary's tokens; targets and anchors are rows of it.
        targets: the tokens that need a mix. One whose vector is zeros gets none.
        anchors: the tokens that both vocabularies have, by their places in the result.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
    at: list[int] = []
    good, pool = lengths(of, targets) > 0, np.flatnonzero(lengths(of, anchors) > 0)
    for start, found in cosines(of, targets, of, anchors[pool]):
        for i, row in enumerate(found):
            if good[start + i] and len(row):
                places, weight = sparsemax(row)
                at.append(start + i)
                parts.append((pool[places], weight))
    return Mixes.joined(np.array(at, dtype=np.int64), parts)


def sparsemax(row: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The places of a sparsemax's support, ascending, and its weights: the projection onto the simplex (1602.02068)."""
    some = largest(row, _FIRST)
    edge = _threshold(row[some])
    # Whatever is left out is at most the least that was looked at.
    if len(some) < len(row) and row[some].min() > edge:
        some = np.arange(len(row))
        edge = _threshold(row)
    places = some[row[some] > edge]
    return places, row[places] - edge


def _threshold(values: NDArray[np.float64]) -> float:
    """What is taken off each of the values so that what stays above 0 adds up to 1."""
    falling = np.sort(values)[::-1]
    total = np.cumsum(falling)
    counts = np.arange(1, len(falling) + 1)
    support = int(np.flatnonzero(1 + counts * falling > total)[-1])
    return float((total[support] - 1) / (support + 1))
