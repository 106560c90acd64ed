"""Whether tokens have the same neighbours in two embeddings: the premise of CLP-Transfer (arXiv 2301.09626)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.errors import UsageError
from suture.results.vocabulary import Neighbours
from suture.vocab.tables import Table

#: Cosines that are formed at a time.
BLOCK = 2**22
#: So many tokens are asked for their neighbours, unless told.
SAMPLE = 2000


def common_neighbours(
    tables: tuple[Table, Table],
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    scripts: list[str],
    k: int,
    *,
    sample: int = SAMPLE,
    seed: int = 0,
) -> Neighbours:
    """The share of the k nearest tokens (by cosine, not the token itself) that are the same in both tables.

    Neighbours are looked for among all tokens; where there are more than `sample`, that many are asked, drawn by
    `seed`. Held are their rows (float32), a block of the others, and a number for each pair of both.

    Args:
        tables: both embeddings.
        rows: the row of each shared token in each, [tokens].
        scripts: the script of each.
        k: how many neighbours.
        sample: most tokens to ask.
        seed: of the draw.

    Raises:
        UsageError: if k is not above 0 and below the number of tokens.
    """
    count = len(rows[0])
    if not 0 < k < count:
        most = f"{max(count - 1, 0):,}, the shared tokens but one"
        raise UsageError(f"neighbours: expected a number from 1 to {most}, found {k}", at="neighbours")
    asked = np.arange(count)
    if count > sample:
        asked = np.sort(np.random.default_rng(seed).choice(count, sample, replace=False))
    first, second = (_nearest(table, own, asked, k) for table, own in zip(tables, rows, strict=True))
    common = np.array([len(np.intersect1d(a, b)) for a, b in zip(first, second, strict=True)]) / k
    by_script: Mapping[str, list[float]] = defaultdict(list)
    for at, share in zip(asked.tolist(), common.tolist(), strict=True):
        by_script[scripts[at]].append(share)
    return {
        "k": k,
        "shared": count,
        "asked": len(asked),
        "seed": seed,
        "share": float(common.mean()),
        "chance": k / (count - 1),
        "scripts": [
            {"script": script, "tokens": len(own), "share": sum(own) / len(own)}
            for script, own in sorted(by_script.items(), key=lambda pair: (-len(pair[1]), pair[0]))
        ],
    }


def _nearest(table: Table, rows: NDArray[np.int64], asked: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k tokens nearest to each of those asked, by their places in `rows`, [asked, k]; of equals the first."""
    own = _unit(table.take(rows[asked]))
    # Enough for a block of the others and their products with those asked.
    step = max(BLOCK // max(table.width, len(asked), 1), 1)
    best = np.full((len(asked), k), -np.inf, dtype=np.float32)
    places = np.full((len(asked), k), len(rows), dtype=np.int64)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        found = own @ _unit(table.take(block)).T
        inside = np.flatnonzero((asked >= start) & (asked < start + len(block)))
        found[inside, asked[inside] - start] = -np.inf
        values = np.concatenate([best, found], axis=1)
        at = np.concatenate([places, np.broadcast_to(np.arange(start, start + len(block)), found.shape)], axis=1)
        # Stable: of equal cosines those that were there before, whose places are lower.
        order = _largest(values, k)
        best, places = np.take_along_axis(values, order, 1), np.take_along_axis(at, order, 1)
    return places


def _largest(values: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """The columns of the k largest values of each row, largest first, of equals the first column."""
    if values.shape[1] > 4 * k:
        # All that are not below the k-th, which may be more than k.
        limit = np.partition(values, values.shape[1] - k, axis=1)[:, -k, None]
        made = np.empty((len(values), k), dtype=np.int64)
        for i, row in enumerate(values >= limit):
            columns = np.flatnonzero(row)
            made[i] = columns[np.argsort(-values[i, columns], kind="stable")[:k]]
        return made
    return np.argsort(-values, axis=1, kind="stable")[:, :k]


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1; what has no length, or none that is finite, is zeros."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        made = rows / lengths
    return np.where(np.isfinite(lengths) & (lengths > 0), made, 0).astype(np.float32)
