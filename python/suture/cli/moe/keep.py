"""``suture moe keep``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Keep some experts, listed or most used")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--experts", help="Which, such as 0,2,5-7.")
@click.option(
    "--counts",
    type=click.Path(),
    help="JSON of how often tokens go to each (`suture text influence`)",
)
@click.option("--top", type=int, help="With --counts: how many of each layer are kept.")
@writing
def keep(
    model: str,
    out: str,
    experts: str | None,
    counts: str | None,
    top: int | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with some of its experts alone to OUT: those listed, or each layer's most used.

    \b
    Example:
      suture moe keep mixture smaller --counts routed.json --top 4
    """
    with bar("keeping", quiet or dry_run) as progress:
        report = verbs.keep(
            model,
            out,
            experts=experts,
            counts=counts,
            top=top,
            settings=settings(options),
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
