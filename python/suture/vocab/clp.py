"""Cross-lingual progressive transfer: rows as similarities in a smaller model's space say (CLP-Transfer).

A helper that already has the new tokenizer says how alike a missing token is to every token that both vocabularies
have; the new row is the mean of the model's rows of these, weighted by the cosines (Ostendorff and Rehm, arXiv
2301.09626). Published code neither clips cosines nor leaves any out; weights of either sign then add up to 1 and may
be far above it, so that here negative ones count as 0 unless the published form is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from suture.errors import UsageError
from suture.vocab.mixes import Mixes
from suture.vocab.stored import Table, directions

#: More entries than this are not kept: 4 GiB as they are held.
MOST = 2**28
#: So many bytes of cosines are held at a time.
_HELD = 64 * 2**20


def check_entries(targets: int, anchors: int, top_k: int | None, most: int) -> int:
    """How many entries a plan may have, and refuse it where they are too many, before anything is computed.

    Raises:
        UsageError: if they are more than `most` or 2**28.
    """
    each = anchors if top_k is None else min(top_k, anchors)
    most = min(MOST, most)
    if targets * each > most:
        fits = max(most // targets, 1)
        raise UsageError(
            f"top_k: {targets:,} tokens, each a mix of {each:,} rows, are more than {most:,} entries, which are kept "
            f"at most; keep the nearest alone, such as --top-k {min(fits, 256)} (at most {fits:,})",
            at="top_k",
        )
    return targets * each


def weigh(
    helper: Table,
    targets: NDArray[np.int64],
    anchors: NDArray[np.int64],
    *,
    top_k: int | None = None,
    reference: bool = False,
    most: int = MOST,
) -> Mixes:
    """Mixes of anchors, by their places, one for each target that is like any.

    Args:
        helper: the table in which tokens are compared.
        targets: rows of the tokens that need a mix.
        anchors: rows of the tokens that both vocabularies have.
        top_k: how many of the most similar are kept; None for all.
        reference: whether negative cosines keep their sign, as in the published code.
        most: how many entries all mixes may have.

    Raises:
        UsageError: if there would be more entries than that, or than 2**28.
    """
    # Pages of it that are not written to are not held.
    capacity = check_entries(len(targets), len(anchors), top_k, most)
    index, weight = np.empty(capacity, dtype=np.int64), np.empty(capacity)
    at, starts = [], [0]
    for start, found in cosines(helper, targets, helper, anchors):
        for i, row in enumerate(found):
            places = largest(row, top_k) if top_k is not None else np.arange(len(row))
            own = row[places]
            if not reference:
                places, own = places[own > 0], own[own > 0]
            total = own.sum()
            # Cosines that add up to nothing say nothing.
            if abs(total) > 1e-12 * max(len(own), 1):
                at.append(start + i)
                part = slice(starts[-1], starts[-1] + len(own))
                index[part], weight[part] = places, own / total
                starts.append(part.stop)
    last = starts[-1]
    return Mixes(np.array(at, dtype=np.int64), np.array(starts, dtype=np.int64), index[:last], weight[:last])


def cosines(
    of: Table, targets: NDArray[np.int64], among: Table, anchors: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Cosines of targets with all anchors, f64 [part, anchors], a part at a time, with the place of its first.

    It holds all anchors in f32, and 128 MiB beside them. Products are of values in f32, summed in f64: exact to its
    last bits whatever the threads.
    """
    held, _ = directions(among, anchors)
    step = max(_HELD // (8 * max(len(anchors), 1)), 1)
    most = max(_HELD // (16 * among.width), 1)
    for start in range(0, len(targets), step):
        own = directions(of, targets[start : start + step])[0].astype(np.float64)
        found = np.empty((len(own), len(anchors)))
        for first in range(0, len(anchors), most):
            found[:, first : first + most] = own @ held[first : first + most].T.astype(np.float64)
        yield start, found


def largest(row: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The places of the k largest numbers, ascending; of equal ones the first."""
    if k >= len(row):
        return np.arange(len(row))
    least = np.partition(row, len(row) - k)[len(row) - k]
    above = np.flatnonzero(row > least)
    equal = np.flatnonzero(row == least)[: k - len(above)]
    return np.sort(np.concatenate([above, equal]))
