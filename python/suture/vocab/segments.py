"""Rows of a table as runs.

A segment is one of

* ``[count, model, row]``: `count` rows of that model's table, from `row` on;
* ``{"mean": [[model, row], ...]}``: one row, the mean of these;
* ``{"zero": count}``: rows of zeros;
* ``{"pad": count}``: rows that are no tokens, each the mean of all rows of the new table that are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Segment: TypeAlias = list[int] | dict[str, Any]

#: In the place of a model: the mean of several, zeros, a row that is no token.
MEAN, ZERO, PAD = -1, -2, -3


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
    if not len(model):
        return []
    goes_on = (model[1:] == model[:-1]) & (model[1:] != MEAN)
    goes_on &= (model[1:] < 0) | (row[1:] == row[:-1] + 1)
    starts = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    counts = np.diff(np.append(starts, len(model)))
    made: list[Segment] = []
    for at, count in zip(starts.tolist(), counts.tolist(), strict=True):
        kind = int(model[at])
        if kind == MEAN:
            made.append({"mean": means[at]})
        elif kind in (ZERO, PAD):
            made.append({"zero" if kind == ZERO else "pad": count})
        else:
            made.append([count, kind, int(row[at])])
    return made
