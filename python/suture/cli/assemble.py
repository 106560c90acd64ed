"""``suture assemble``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.assemble import assemble as run


@click.command(short_help="Put parts of several checkpoints together")
@click.argument("config", type=click.Path())
@click.argument("out", type=click.Path())
@writing
def assemble(config: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write OUT of parts of several checkpoints, each under a prefix of its own, as CONFIG (YAML) says.

    An encoder out of an encoder-decoder, a language model with adapters folded in, a projection between them that is a
    ridge regression on states, drawn, or of a file. What nothing is asked of is passed as bytes.

    \b
    Examples:
      suture assemble stack.yml stacked
      suture assemble encoder.yml encoder --dry-run
    """
    with bar("assembling", quiet or dry_run) as progress:
        report = run(config, out, settings=settings(options), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
