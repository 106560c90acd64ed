"""The result of a verb, to all places that were asked for."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from suture.errors import SutureError, UsageError
from suture.escape import printable
from suture.render.terminal import emit_json, say, warn


def check(
    csv_file: str | None, parquet_file: str | None, html_file: str | None = None, plot_file: str | None = None
) -> None:
    """See before anything is run that the files can be written.

    Raises:
        UsageError: if a file is called ``-``.
        SutureError: if its folder is not there, or the extra `report` is not installed.
    """
    for option, file, module in (("--csv", csv_file, None), ("--parquet", parquet_file, "pyarrow"),
                                 ("--html", html_file, "altair"), ("--plot", plot_file, "altair")):  # fmt: skip
        if file == "-":
            raise UsageError(f"{option}: expected the name of a file, found `-`")
        if file and not os.path.isdir(os.path.dirname(file) or "."):
            raise SutureError(f"{file}: cannot write: its folder is not there", file)
        if file and module:
            from suture.render.report.extra import need

            need(module, option)


def out(
    found: Any,
    rows: Sequence[Mapping[str, Any]],
    show: Callable[[Any], None],
    *,
    quiet: bool,
    as_json: bool,
    csv_file: str | None = None,
    parquet_file: str | None = None,
    wrote: Sequence[str] = (),
) -> None:
    """Write tables, print warnings and the result.

    Raises:
        SutureError: if a file cannot be written.
    """
    if csv_file:
        try:
            with open(csv_file, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows({k: printable(v) if isinstance(v, str) else v for k, v in r.items()} for r in rows)
        except OSError as e:
            raise SutureError(f"{csv_file}: cannot write: {e.strerror}", csv_file) from None
    if parquet_file:
        from suture.render.report import write_parquet

        write_parquet(rows, parquet_file)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        show(found)
        for name in (f for f in (csv_file, parquet_file, *wrote) if f):
            say(f"wrote {name}", err=True)
