"""``suture vocab apply``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar


@click.command(short_help="Carry out a kept plan on another model of the same vocabulary")
@click.argument("plan", type=click.Path())
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@writing
def apply(plan: str, model: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **o: Any) -> None:
    """Carry out PLAN, which a verb of `suture vocab` kept (or the folder of its output), on MODEL, and write OUT.

    MODEL must have the tokens and rows that the plan was made for: a base's plan is good for its chat model.

    \b
    Examples:
      suture vocab trim base base-small --text corpus.txt --plan small.json
      suture vocab apply small.json chat chat-small
    """
    from suture.surgery.vocab_plans import apply as run

    with bar("writing", quiet) as progress:
        report = run(plan, model, out, settings=settings(o), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
