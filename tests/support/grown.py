"""Row plans applied in NumPy, and small models that they are applied to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suture.vocab.rowplan import MIX, PAD, ZERO, RowPlan, Rows

Array = NDArray[Any]


def matrix(rows: Rows, old: int, names: Any = ()) -> Array:
    """P [new, old] of a table without noise, whose padding is the mean of its rows that are tokens."""
    made = np.zeros((len(rows.source), old))
    for i, (source, row) in enumerate(zip(rows.source, rows.row, strict=True)):
        if source == 0:
            made[i, row] = 1
        elif source == MIX:
            begin, end = rows.starts[row], rows.starts[row + 1]
            made[i, rows.index[begin:end]] = rows.weight[begin:end]
        else:
            assert source in (ZERO, PAD)
    tokens = [i for i in range(len(made)) if i < len(names) and names[i] is not None]
    for at in np.flatnonzero(rows.source == PAD):
        made[at] = made[tokens].mean(axis=0)
    return made


def applied(plan: RowPlan, tables: dict[str, Array], axes: dict[str, int] | None = None) -> dict[str, Array]:
    """Tables of a model after a plan: rows as they are are copied, others summed in f64."""
    made = {}
    for name, table in tables.items():
        axis = (axes or {}).get(name, 0)
        turned = np.moveaxis(table, axis, 0)
        rows = plan.table if plan.head is None or "head" not in name else plan.head
        mixed = (matrix(rows, len(turned), plan.names) @ turned.reshape(len(turned), -1).astype(np.float64)).reshape(
            -1, *turned.shape[1:]
        )
        out = mixed.astype(table.dtype)
        own = rows.source == 0
        out[own] = turned[rows.row[own]]
        made[name] = np.ascontiguousarray(np.moveaxis(out, 0, axis))
    return made


def check_plan(plan: RowPlan, old: int) -> None:
    """What every plan keeps to: rows and mixes that there are, as many of all as there are rows."""
    rows = plan.table
    assert len(rows.row) == len(rows.source) == len(plan.kind) == len(plan.why) == plan.rows
    assert sum(plan.counts().values()) == plan.rows
    assert plan.why.max(initial=-1) < len(plan.reasons)
    assert rows.starts[0] == 0
    assert rows.starts[-1] == len(rows.index) == len(rows.weight)
    assert len(rows.noise) == len(rows.starts) - 1
    own = rows.row[rows.source == 0]
    assert (own >= 0).all()
    assert (own < old).all()
    mixes = rows.row[rows.source == MIX]
    assert (mixes >= 0).all()
    assert (mixes < len(rows.noise)).all()
    assert (rows.index >= 0).all()
    assert (rows.index < old).all()
    for begin, end in zip(rows.starts, rows.starts[1:], strict=False):
        assert end > begin
        assert (np.diff(rows.index[begin:end]) > 0).all()
    assert len(plan.names) <= plan.rows
    assert all(new < plan.rows for new in plan.moved.values())
    if plan.undo:
        assert set(own.tolist()) == set(range(old))
    for name, source in plan.copied:
        assert Path(source).is_file(), name


def laid(plan: RowPlan, place: Path) -> Path:
    """The files of a plan's tokenizer in a new folder."""
    place.mkdir()
    for name, data in plan.written:
        (place / name).write_bytes(data)
    for name, source in plan.copied:
        (place / name).write_bytes(Path(source).read_bytes())
    return place
