"""``suture moe dense``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Write a dense model of one expert")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--expert", type=int, required=True, help="Which.")
@writing
def dense(
    model: str, out: str, expert: int, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Write a dense model of one of MODEL's experts to OUT.

    \b
    Example:
      suture moe dense mixture expert-2 --expert 2
    """
    with bar("writing", quiet or dry_run) as progress:
        report = verbs.dense(model, out, expert=expert, settings=settings(options), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
