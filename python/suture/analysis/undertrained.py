"""Rows of a table that look hardly trained: a low norm, or the direction of rows that are known to be unused.

The test is of Land and Bartolo, "Fishing for Magikarp" (arXiv 2405.05417). Directions are taken from the mean of the
tokens in use, as all rows may share a component. Thresholds are not shares of the table, which would find as many rows
in a table that is sound: a norm is low below half the median, a cosine is high where nine of ten rows that are known to
be unused have more, and at least 0.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from suture.analysis.stored import Stored
from suture.results.vocabulary import LowRow, TrainedRows
from suture.vocab.tables import Table
from suture.vocab.tokens import Vocabulary

#: A norm below this share of the median is low.
LOW = 0.5
#: A cosine that is high has at least this value.
NEAR = 0.5
#: The quantile of the cosines of unused rows above which those of others are high.
_QUANTILE = 0.1
#: A difference below this share of both is none, as stored numbers are rounded.
_NOTHING = 1e-3


def trained_rows(stored: Stored, vocabulary: Vocabulary, unused: Mapping[int, str]) -> TrainedRows:
    """What can be told of the rows of an embedding or a head.

    The table is read twice; a block of it in float64 (16 MiB), two numbers and a digest a row are held.

    Raises:
        SutureError: if its dtype is none that is computed on, or it cannot be read.

    Args:
        stored: the table, ``[rows, width]``.
        vocabulary: its tokens.
        unused: the rows that are known to be unused, and why.
    """
    table = stored.table()
    used = np.zeros(table.rows, dtype=bool)
    used[[n for n in vocabulary.names if n < table.rows and n not in unused]] = True
    known = np.zeros(table.rows, dtype=bool)
    known[[n for n in unused if n < table.rows]] = True
    norms = np.zeros(table.rows)
    digests = np.zeros(table.rows, dtype=np.uint64)
    sums = np.zeros((2, table.width))
    for start, block in table.blocks():
        end = start + len(block)
        with np.errstate(invalid="ignore", over="ignore"):
            norms[start:end] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        digests[start:end] = [int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in block]
        for i, which in enumerate((used, known)):
            wanted = which[start:end] & np.isfinite(norms[start:end])
            sums[i] += block[wanted].sum(axis=0, dtype=np.float64)
    finite = np.isfinite(norms)
    used, known = used & finite, known & finite
    cosines = _cosines(table, sums, used, known)
    low = LOW * float(np.median(norms[used])) if used.any() else 0.0
    near = None if cosines is None else max(NEAR, float(np.quantile(cosines[known], _QUANTILE)))
    return {
        "name": table.name,
        "role": stored.role,
        "dtype": stored.dtype,
        "rows": table.rows,
        "width": table.width,
        "norms": _quantiles(norms[used]),
        "unused": dict(Counter(unused[n] for n in unused if n < table.rows)),
        "zero": int((norms == 0).sum()),
        "nonfinite": int((~finite).sum()),
        "equal": int(table.rows - len(np.unique(digests))),
        "low": low,
        "near": near,
        "undertrained": _rows(vocabulary, norms, cosines, used, low, near),
    }


def _rows(
    vocabulary: Vocabulary,
    norms: NDArray[np.float64],
    cosines: NDArray[np.float64] | None,
    used: NDArray[np.bool_],
    low: float,
    near: float | None,
) -> list[LowRow]:
    """The rows that are low or near, lowest norm first."""
    is_low = used & (norms < low)
    is_near = used & (cosines > near) if cosines is not None and near is not None else np.zeros_like(used)
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


def _cosines(
    table: Table, sums: NDArray[np.float64], used: NDArray[np.bool_], known: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """The cosine of each row with the mean of those known to be unused, both from the mean of those in use, [rows];
    None if there are none, or their mean is that of the others, as where padding was made of it.
    """
    if not (used.any() and known.any()):
        return None
    middle, mean = sums[0] / used.sum(), sums[1] / known.sum()
    away = mean - middle
    length = float(np.linalg.norm(away))
    if length <= _NOTHING * (np.linalg.norm(middle) + np.linalg.norm(mean)):
        return None
    found = np.zeros(table.rows)
    for start, block in table.blocks():
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            rest = block - middle
            cosines = rest @ (away / length) / np.linalg.norm(rest, axis=1)
        found[start : start + len(block)] = np.where(np.isfinite(cosines), cosines, 0.0)
    return found


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.quantile(values, [0, 0.01, 0.5, 0.99, 1])
    return dict(zip(("min", "q01", "median", "q99", "max"), found.tolist(), strict=True))
