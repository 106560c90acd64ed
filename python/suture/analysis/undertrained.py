"""Rows of a table that look hardly trained: a low norm, or the direction of rows that are known to be unused.

The test is of Land and Bartolo, "Fishing for Magikarp" (arXiv 2405.05417). Thresholds here are not shares of the
table, which would find as many rows in a table that is sound: a norm is low below half the median, a cosine is high
where nine of ten rows that are known to be unused have less, and at least 0.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.analysis.stored import BLOCK, Table
from suture.results.vocabulary import LowRow, TrainedRows
from suture.vocab.tokens import Vocabulary

#: A norm below this share of the median is low.
LOW = 0.5
#: A cosine that is high has at least this value.
NEAR = 0.5
#: The quantile of the cosines of unused rows above which others are near.
_QUANTILE = 0.1
#: If more tokens than this share come near, cosines tell nothing.
_MOST = 0.5


def trained_rows(table: Table, vocabulary: Vocabulary, unused: Mapping[int, str]) -> TrainedRows:
    """What can be told of the rows of an embedding or a head.

    The table is read once, and the rows in `unused` twice; a block of it, two numbers and a digest a row are held.

    Args:
        table: the table, ``[rows, width]``.
        vocabulary: its tokens.
        unused: the rows that are known to be unused, and why.
    """
    centre = _mean(table, np.array(sorted(n for n in unused if n < table.rows), dtype=np.int64))
    norms, cosines = np.zeros(table.rows), np.zeros(table.rows)
    digests = np.zeros(table.rows, dtype=np.uint64)
    for start, block in table.blocks():
        end = start + len(block)
        with np.errstate(invalid="ignore", over="ignore"):
            norms[start:end] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
            if centre is not None:
                cosines[start:end] = block @ centre.astype(block.dtype)
        digests[start:end] = [int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in block]
    finite = np.isfinite(norms)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.where(finite & (norms > 0), cosines / norms, 0.0)
    used = np.zeros(table.rows, dtype=bool)
    used[[n for n in vocabulary.names if n < table.rows and n not in unused]] = True
    plain = used & finite
    middle = float(np.median(norms[plain])) if plain.any() else 0.0
    low = LOW * middle
    known = np.array([n for n in unused if n < table.rows and finite[n] and norms[n] > 0], dtype=np.int64)
    near = _threshold(cosines[known], cosines[plain]) if centre is not None else None
    return {
        "name": table.name,
        "role": table.role,
        "dtype": table.dtype,
        "rows": table.rows,
        "width": table.width,
        "norms": _quantiles(norms[plain]),
        "unused": dict(Counter(unused[n] for n in unused if n < table.rows)),
        "zero": int((norms == 0).sum()),
        "nonfinite": int((~finite).sum()),
        "equal": int(table.rows - len(np.unique(digests))),
        "low": low,
        "near": near,
        "undertrained": _rows(vocabulary, norms, cosines if centre is not None else None, plain, low, near),
    }


def _rows(
    vocabulary: Vocabulary,
    norms: NDArray[np.float64],
    cosines: NDArray[np.float64] | None,
    plain: NDArray[np.bool_],
    low: float,
    near: float | None,
) -> list[LowRow]:
    """The rows that are low or near, lowest norm first."""
    is_low = plain & (norms < low)
    is_near = plain & (cosines > near) if cosines is not None and near is not None else np.zeros_like(plain)
    found = np.flatnonzero(is_low | is_near)
    return [
        {
            "id": n,
            "token": vocabulary.names[n],
            "norm": float(norms[n]),
            "cosine": None if cosines is None else float(cosines[n]),
            "low": bool(is_low[n]),
            "near": bool(is_near[n]),
        }
        for n in found[np.argsort(norms[found], kind="stable")].tolist()
    ]


def _mean(table: Table, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """The direction of the mean of some rows, of length 1; None without rows, or if their mean is nothing."""
    total = np.zeros(table.width)
    step = max(BLOCK // (4 * max(table.width, 1)), 1)
    for start in range(0, len(rows), step):
        block: NDArray[Any] = table.take(rows[start : start + step])
        total += np.where(np.isfinite(block).all(axis=1, keepdims=True), block, 0).sum(axis=0, dtype=np.float64)
    length = float(np.linalg.norm(total))
    return total / length if len(rows) and length > 0 else None


def _threshold(known: NDArray[np.float64], tokens: NDArray[np.float64]) -> float | None:
    """The cosine above which a token is near the rows known to be unused; None if it tells nothing."""
    if not len(known):
        return None
    found = max(NEAR, float(np.quantile(known, _QUANTILE)))
    return None if len(tokens) and (tokens > found).mean() > _MOST else found


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, [0, 0.01, 0.5, 0.99, 1])
    return dict(zip(("min", "q01", "median", "q99", "max"), found.tolist(), strict=True))
