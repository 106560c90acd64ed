"""``suture text similarity``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.text.options import parallels, run_how, running, tables
from suture.cli.text.written import check, out

#: What is shown, and what its baseline is called.
METRICS = {"cosine": "baseline", "centred": "centred_baseline", "euclidean": "euclidean_baseline",
           "mexa": "mexa_chance", "retrieval": "retrieval_chance"}  # fmt: skip


@click.command(short_help="How near translations are, by layer")
@click.argument("models", type=click.Path(), nargs=-1, required=True)
@parallels
@click.option("--pool", type=click.Choice(["last", "mean", "weighted"]),
              help="What stands for a sentence  [default: weighted for decoders, else mean]")  # fmt: skip
@click.option("--metric", type=click.Choice(list(METRICS)), default="cosine", show_default=True, help="What is shown")
@click.option("--html", "html_file", type=click.Path(), metavar="FILE", help="Write curves and maps as one HTML page")
@run_how
@tables
def similarity(
    models: tuple[str, ...],
    parallel: tuple[str, ...],
    pivot: str,
    lines: int | None,
    pool: str | None,
    metric: str,
    html_file: str | None,
    csv_file: str | None,
    parquet_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """How near the states of translations are to each other, by layer and language, beside those of wrong pairs.

    Several models are shown side by side: experts and what became of them, before and after a merge. Layer 0 is the
    embedding. The JSON is what `suture swap --auto BASE --evidence FILE` takes.

    \b
    Examples:
      suture text similarity model --parallel texts/ --pivot en
      suture text similarity base merged --parallel ntrex.tsv --metric mexa --html curves.html
      suture text similarity base --parallel texts/ --json > base.json
    """
    how = running(options)
    from suture.text.similar import similarity as run

    check(csv_file, parquet_file, html_file)
    found = run(*models, parallel_text=parallel, pivot=pivot, pool=pool, lines=lines, running=how)
    if html_file:
        from suture.render.report.curves import write_curves

        write_curves(found, html_file, metric, METRICS)
    from suture.render.text import show_layers

    out(
        found,
        found["layers"],
        lambda f: show_layers(f, metric, METRICS[metric]),
        quiet=quiet,
        as_json=as_json,
        csv_file=csv_file,
        parquet_file=parquet_file,
        wrote=[html_file] if html_file else [],
    )
