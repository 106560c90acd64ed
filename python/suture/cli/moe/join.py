"""``suture moe join``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Put experts of files behind a model's own")
@click.argument("model", type=click.Path())
@click.argument("files", nargs=-1, required=True, type=click.Path())
@click.argument("out", type=click.Path())
@writing
def join(
    model: str,
    files: tuple[str, ...],
    out: str,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with the experts of FILES, as `suture moe split` writes them, behind its own, to OUT.

    \b
    Example:
      suture moe join mixture experts/expert-3.safetensors larger
    """
    with bar("joining", quiet or dry_run) as progress:
        report = verbs.join(model, files, out, settings=settings(options), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
