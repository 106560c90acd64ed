"""Rows of a table as runs.

A segment is one of

* ``[count, model, row]``: `count` rows of that model's table, from `row` on;
* ``{"mean": [[model, row], ...]}``: one row, the mean of these;
* ``{"mix": number}``: one row, a weighted sum of rows, by its number among the mixes;
* ``{"zero": count}``: rows of zeros;
* ``{"pad": count}``: rows that are no tokens, each the mean of all rows of the new table that are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from suture.vocab.rowplan import MIX, PAD, ZERO, Rows

Segment: TypeAlias = list[int] | dict[str, Any]

#: In the place of a model: the mean of several, which stands alone as a mix does. `ZERO` and `PAD` are as in row plans.
MEAN = MIX
#: More rows than any table has.
MOST = 2**27


def segments_of(
    model: NDArray[np.int64], row: NDArray[np.int64], means: Mapping[int, list[list[int]]], padding: int
) -> list[Segment]:
    """The runs of a table.

    Args:
        model: the model of each row, or `MEAN`, `ZERO` or `PAD`.
        row: its row there.
        means: what each row that is a mean is the mean of.
        padding: rows to pad with behind the last.
    """
    model = np.concatenate([model, np.full(padding, PAD)])
    row = np.concatenate([row, np.zeros(padding, dtype=np.int64)])
    found = _runs(model, row)
    return [{"mean": means[at]} if kind == MEAN else _run(kind, first, count) for at, kind, first, count in found]


def runs_of(rows: Rows) -> list[Segment]:
    """The runs of the rows of a plan."""
    found = _runs(rows.source, rows.row)
    return [{"mix": first} if kind == MIX else _run(kind, first, count) for _, kind, first, count in found]


def _runs(source: NDArray[np.int64], row: NDArray[np.int64]) -> list[tuple[int, int, int, int]]:
    """Where each run begins, what it is of, its first row there, and how long it is; what is formed stands alone."""
    if not len(source):
        return []
    goes_on = (source[1:] == source[:-1]) & (source[1:] != MIX)
    goes_on &= (source[1:] < 0) | (row[1:] == row[:-1] + 1)
    starts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    counts = np.diff(np.append(starts, len(source)))
    columns = (starts, source[starts], row[starts], counts)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _run(kind: int, first: int, count: int) -> Segment:
    if kind in (ZERO, PAD):
        return {"zero" if kind == ZERO else "pad": count}
    return [count, kind, first]


def rows_of(runs: Sequence[Segment]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The source and row of each row, of the runs that :func:`runs_of` gives.

    Raises:
        ValueError: if there are more rows than `MOST`.
    """
    source, row = [], []
    total = 0
    for run in runs:
        total += run[0] if isinstance(run, list) else 1 if "mix" in run else int(run.get("zero") or run.get("pad") or 0)
        if total > MOST:
            raise ValueError(f"more than {MOST:,} rows")
        if isinstance(run, list):
            count, model, first = run
            source.append(np.full(count, model, dtype=np.int64))
            row.append(np.arange(first, first + count, dtype=np.int64))
        elif "mix" in run:
            source.append(np.array([MIX], dtype=np.int64))
            row.append(np.array([run["mix"]], dtype=np.int64))
        else:
            kind, count = (ZERO, run["zero"]) if "zero" in run else (PAD, run["pad"])
            source.append(np.full(count, kind, dtype=np.int64))
            row.append(np.zeros(count, dtype=np.int64))
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *source]), np.concatenate([none, *row])
