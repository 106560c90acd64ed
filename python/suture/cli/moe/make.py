"""``suture moe make``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Make a mixture of dense models by a config")
@click.argument("config", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--allow-alike", is_flag=True, help="Go on where experts have the same prompts.")
@writing
def make(
    config: str, out: str, allow_alike: bool, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Make the mixture of experts that CONFIG says, in mergekit-moe's grammar, in OUT.

    Experts are copied as bytes; attention, norms and embeddings are the base's. Routers are made of prompts
    (gate_mode: hidden, hidden_avg, hidden_last run the base, cheap_embed does not) or drawn (random, uniform_random).

    \b
    Example:
      suture moe three-experts.yml mixture
    """
    with bar("mixing", quiet or dry_run) as progress:
        report = verbs.make(
            config, out, allow_alike=allow_alike, settings=settings(options), dry_run=dry_run, progress=progress
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
