"""``suture moe average``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Write a dense model of the mean of all experts")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@writing
def average(model: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write a dense model whose layers are the mean of MODEL's experts to OUT.

    \b
    Example:
      suture moe average mixture dense
    """
    with bar("averaging", quiet or dry_run) as progress:
        report = verbs.average(model, out, settings=settings(options), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
