"""What became of a table: norms of new rows beside those of old ones, and rows that are there twice."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.vocab.rowplan import CLASSES, RowPlan
from suture.vocab.tables import BLOCK, Table

#: Elements of old rows, and of new ones, that are looked at, at most: in rows that are evenly spread.
OLD, NEW = 2**21, 2**26
#: Rows that are looked at, however long they are.
_LEAST = 200
_QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)
#: A new row is loud if it is longer than this many times the longest but one in a hundred of the old.
_LOUD = 2.0


def audited(plan: RowPlan, out: Path) -> dict[str, Any]:
    """Look at the first table of an output.

    Args:
        plan: what it was made by.
        out: its folder.

    Returns:
        `table`: its name; `old` and `new`: how many rows of the model's own, and new ones, were looked at, with
        quantiles of their Euclidean norms; `loud`: how many new rows are more than twice as long as 99 of 100 old ones;
        `zero`: how many new rows are zeros; `duplicates`: how many have the bytes of a new row before them.
    """
    table = Table.of(str(out))
    kinds = list(CLASSES)
    padding, own = kinds.index("padding"), np.isin(plan.kind, [kinds.index(k) for k in ("kept", "byte")])
    stays = own & (plan.table.source == 0)
    old = np.flatnonzero(stays)
    new = np.flatnonzero(~stays & (plan.kind != padding))
    old, new = _some(old, OLD // table.width), _some(new, NEW // table.width)
    lengths, others = _norms(table, old), _norms(table, new)
    limit = _LOUD * float(np.quantile(lengths, 0.99)) if len(lengths) else np.inf
    return {
        "table": table.name,
        "old": _quantiles(lengths),
        "new": _quantiles(others),
        "loud": int((others > limit).sum()),
        "zero": int((others == 0).sum()),
        "duplicates": _duplicates(table, new),
    }


def _some(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many rows at most, evenly spread."""
    most = max(most, _LEAST)
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]


def _quantiles(norms: NDArray[np.float64]) -> dict[str, Any]:
    if not len(norms):
        return {"rows": 0}
    values = np.quantile(norms, _QUANTILES)
    return {"rows": len(norms)} | {f"{q:g}": float(v) for q, v in zip(_QUANTILES, values, strict=True)}


def _norms(table: Table, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    step = max(1, BLOCK // table.width)
    parts = [table.take(rows[at : at + step]) for at in range(0, len(rows), step)]
    return np.concatenate([np.zeros(0), *(np.sqrt((part**2).sum(axis=1)) for part in parts)])


def _duplicates(table: Table, rows: NDArray[np.int64]) -> int:
    digest = partial(hashlib.blake2b, digest_size=16)
    seen = {digest(row.tobytes()).digest() for _, row in table.stored(rows)}
    return len(rows) - len(seen)
