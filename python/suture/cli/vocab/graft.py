"""``suture vocab graft``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing


@click.command(short_help="Put embeddings tuned on one checkpoint into its sibling")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option(
    "--from", "adapted", type=click.Path(), required=True, metavar="ADAPTED", help="The model that gives rows"
)
@click.option("--base", type=click.Path(), metavar="BASE", help="The model ADAPTED was tuned from  [default: MODEL]")
@click.option(
    "--trunk",
    type=click.Choice(["check", "ignore"]),
    default="check",
    show_default=True,
    help="Whether all else of ADAPTED must be as BASE has it",
)
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="Keep the plan of rows")
@writing
def graft(
    model: str,
    out: str,
    adapted: str,
    base: str | None,
    trunk: str,
    keep: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Put the embeddings, heads and biases of ADAPTED into MODEL, and write the result to OUT (RAMEN's graft).

    ADAPTED was tuned from BASE with all but its rows kept, and MODEL too was tuned from BASE: then the rows fit. If
    vocabularies differ, the tokenizer and its numbers are those of ADAPTED.

    \b
    Example:
      suture vocab graft english-task german-task --from german-embeddings --base english
    """
    from suture.render.outcome import present
    from suture.render.progress import bar
    from suture.surgery.vocab_graft import graft as run

    how = settings(options)
    with bar("grafting", quiet or dry_run) as progress:
        report = run(
            model,
            adapted,
            out,
            base=base,
            trunk=trunk,
            keep=keep,
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
