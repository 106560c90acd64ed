"""``suture moe drop``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Leave experts out")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--experts", required=True, help="Which, such as 0,2,5-7.")
@writing
def drop(
    model: str, out: str, experts: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Write MODEL without some of its experts to OUT; the routers lose their rows.

    \b
    Example:
      suture moe drop mixture smaller --experts 3,5-7
    """
    with bar("dropping", quiet or dry_run) as progress:
        report = verbs.drop(model, out, experts=experts, settings=settings(options), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
