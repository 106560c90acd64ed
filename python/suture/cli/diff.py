"""``suture diff``."""

from __future__ import annotations

import csv
from typing import Any

import click

from suture.analysis import diff as run
from suture.cli.options import emit_json, reading, settings
from suture.errors import SutureError, UsageError
from suture.render.progress import bar

METRICS = ["mean_abs", "max_abs", "l2", "relative_l2", "cosine", "changed", "flipped", "nonfinite"]


@click.command(short_help="Measure what a fine-tune changed")
@click.argument("base", type=click.Path())
@click.argument("tuned", type=click.Path())
@click.option("--by", type=click.Choice(["layer", "module", "tensor"]), help="Table instead of the heat map")
@click.option("--sort", type=click.Choice(METRICS), help="Sort the table, largest first (cosine: smallest first)")
@click.option(
    "--metric",
    type=click.Choice(METRICS),
    default="relative_l2",
    show_default=True,
    help="Metric of the heat map",
)
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(),
    metavar="FILE",
    help="Write the table (by tensor, or as --by) as CSV",
)
@reading
def diff(
    base: str,
    tuned: str,
    by: str | None,
    sort: str | None,
    metric: str,
    csv_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what a fine-tune changed, by layer, module or tensor.

    BASE and TUNED are read once, in parallel. Without --by a heat map of layers by modules is shown.
    """
    with bar("comparing", quiet) as progress:
        found = run(base, tuned, settings=settings(options), progress=progress)
    rows = found[{"layer": "layers", "module": "modules"}.get(by or "", "tensors")]
    if sort:
        rows.sort(key=lambda r: float(r[sort]), reverse=sort != "cosine")
    if csv_file:
        _write_csv(csv_file, rows)
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.comparison import show_heat_map, show_table

        if by or sort:
            show_table(found, by or "tensor", rows)
        else:
            show_heat_map(found, metric)


def _write_csv(path: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        raise UsageError(f"{path}: nothing to write; the checkpoints share no tensor")
    try:
        with open(path, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            for row in rows:
                shape = {"shape": "x".join(map(str, row["shape"]))} if "shape" in row else {}
                writer.writerow({**row, **shape})
    except OSError as e:
        raise SutureError(f"{path}: cannot write: {e.strerror}", path) from None
