"""Rows of a comparison as a Parquet file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from suture.errors import SutureError, UsageError
from suture.render.report.extra import need

#: Columns of text; a text in any other column is a figure that JSON cannot write (`inf`, `nan`).
_TEXTS = frozenset({"name", "dtype", "layer", "module", "tensor", "token", "tuned", "label", "model", "base", "a", "b",
                    "language"})  # fmt: skip


def write_parquet(rows: Sequence[Mapping[str, Any]], path: str | PathLike[str]) -> None:
    """Write the rows to `path`, a column for each key of the first one.

    Figures are float64 (infinite ones too), counts int64, names text, shapes lists of int64.

    Args:
        rows: rows of one kind, such as ``found["models"][0]["tensors"]``; the same that the CSV has.
        path: the file to write; one that exists is replaced.

    Raises:
        UsageError: if there are no rows.
        SutureError: if the extra `report` is not installed or the file cannot be written.
    """
    if not rows:
        raise UsageError(f"{fspath(path)}: nothing to write; the checkpoints share no tensor")
    need("pyarrow", "--parquet")
    parquet, pa = need("pyarrow.parquet", "--parquet"), need("pyarrow", "--parquet")
    columns = {name: _column(name, [row[name] for row in rows], pa) for name in rows[0]}
    try:
        parquet.write_table(pa.table(columns), fspath(path), compression="zstd")
    except OSError as e:
        raise SutureError(f"{fspath(path)}: cannot write: {e.strerror or e}", path) from None


def _column(name: str, values: list[Any], pa: Any) -> Any:
    # `layer` is a number in some tables.
    if name in _TEXTS and not any(isinstance(v, int) for v in values):
        # A lone surrogate (from a path that is no UTF-8) is no text to Arrow.
        return pa.array([None if v is None else v.encode(errors="replace").decode() for v in values], pa.string())
    if name == "shape":
        return pa.array(values, pa.list_(pa.int64()))
    if all(isinstance(v, bool) for v in values):
        return pa.array(values, pa.bool_())
    if all(isinstance(v, int) for v in values):
        return pa.array(values, pa.int64())
    return pa.array([None if v is None else float(v) for v in values], pa.float64())
