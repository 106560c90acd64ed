"""``suture text rank``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.text.options import parallels, run_how, running, tables
from suture.cli.text.written import check, out


@click.command(short_help="Languages by their nearness to one")
@click.argument("model", type=click.Path())
@parallels
@click.option("--layers", metavar="LIST", help="Layers to average, such as 8-16; 1 is the first  [default: all]")
@run_how
@tables
def rank(
    model: str,
    parallel: tuple[str, ...],
    pivot: str,
    lines: int | None,
    layers: str | None,
    csv_file: str | None,
    parquet_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Rank languages by the cosine of their sentences' last tokens to those of the translations in one language
    (Language Ranker), averaged over layers; with what wrong pairs have, and MEXA beside it.

    \b
    Example:
      suture text rank model --parallel opus/ --layers 8-16
    """
    how = running(options)
    from suture.text.ranked import rank as run

    check(csv_file, parquet_file)
    found = run(model, parallel_text=parallel, pivot=pivot, layers=layers, lines=lines, running=how)
    from suture.render.text import show_ranking

    rows = [{k: v for k, v in row.items() if k != "by_layer"} for row in found["languages"]]
    out(found, rows, show_ranking, quiet=quiet, as_json=as_json, csv_file=csv_file, parquet_file=parquet_file)
