"""Rows of a table as runs.

A segment is one of

* ``[count, model, row]``: `count` rows of that model's table, from `row` on;
* ``{"mean": [[model, row], ...]}``: one row, the mean of these;
* ``{"mix": number}``: one row, a weighted sum of rows, by its number among the mixes;
* ``{"zero": count}``: rows of zeros;
* ``{"pad": count}``: rows that are no tokens, each the mean of all rows of the new table that are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    return _told(found, lambda at, _: {"mean": means[at]})


def runs_of(rows: Rows) -> list[Segment]:
    """The runs of the rows of a plan."""
    return _told(_runs(rows.source, rows.row), lambda _, mix: {"mix": mix})


def _runs(source: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """How long each run is, what it is of, its first row there, where it begins; what is formed stands alone."""
    if not len(source):
        return np.zeros((0, 4), dtype=np.int64)
    goes_on = (source[1:] == source[:-1]) & (source[1:] != MIX)
    goes_on &= (source[1:] < 0) | (row[1:] == row[:-1] + 1)
    starts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    counts = np.diff(np.append(starts, len(source)))
    return np.column_stack([counts, source[starts], row[starts], starts])


def _told(found: NDArray[np.int64], formed: Callable[[int, int], dict[str, Any]]) -> list[Segment]:
    """Runs as data; what is formed from where it stands, and its row."""
    told: list[Segment] = found[:, :3].tolist()
    for i in np.flatnonzero(found[:, 1] < 0).tolist():
        count, kind, first, at = found[i].tolist()
        told[i] = formed(at, first) if kind == MIX else {"zero" if kind == ZERO else "pad": count}
    return told


def rows_of(runs: Sequence[Segment]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The source and row of each row, of the runs that :func:`runs_of` gives.

    Raises:
        ValueError: if there are more rows than `MOST`.
    """
    found = np.array([run if isinstance(run, list) else _counted(run) for run in runs])
    if not len(found):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if found.dtype.kind != "i" or found.shape[1:] != (3,) or (found[:, 0] < 0).any():
        raise ValueError("runs of rows")
    counts, kinds, firsts = found.T
    if counts.max() > MOST or counts.sum() > MOST:
        raise ValueError(f"more than {MOST:,} rows")
    # What is in no table has no place there that goes on.
    row = np.repeat(firsts, counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    source = np.repeat(kinds, counts)
    return source, row + np.where(source >= 0, within, 0)


def _counted(run: Mapping[str, Any]) -> list[Any]:
    """Count, kind and number of what is in no table."""
    if "mix" in run:
        return [1, MIX, run["mix"]]
    return [run["zero"], ZERO, 0] if "zero" in run else [run["pad"], PAD, 0]
