"""``suture moe split``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present_all
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Write each expert to a file of its own")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@writing
def split(model: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write each expert of MODEL, with its rows of the routers, to a file of its own in the folder OUT.

    \b
    Example:
      suture moe split mixture experts
    """
    with bar("splitting", quiet or dry_run) as progress:
        reports = verbs.split(model, out, settings=settings(options), dry_run=dry_run, progress=progress)
    present_all(reports, as_json=as_json, quiet=quiet, verbose=verbose)
