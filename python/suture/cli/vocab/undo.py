"""``suture vocab undo``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar


@click.command(short_help="Give a model its former vocabulary back")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--plan", type=click.Path(), metavar="FILE", help="The plan, if it does not lie beside MODEL")
@writing
def undo(
    model: str, out: str, plan: str | None, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **o: Any
) -> None:
    """Write MODEL, which a verb of `suture vocab` made, with the vocabulary that it had before, to OUT.

    Rows, tokenizer and numbers of tokens are what they were, to the byte. Plans that leave rows out cannot be undone.

    \b
    Examples:
      suture vocab undo cloned back
    """
    from suture.surgery.vocab_plans import undo as run

    with bar("writing", quiet) as progress:
        report = run(model, out, plan=plan, settings=settings(o), dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
