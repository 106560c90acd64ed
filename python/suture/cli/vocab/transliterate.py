"""``suture vocab transliterate``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar


@click.command(short_help="Give a model its tokens in another script too (TransMI)")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option(
    "--map", "table", default="uroman", show_default=True, metavar="TSV|uroman", help="Where other forms are from"
)
@click.option(
    "--mode",
    type=click.Choice(["max", "min", "mean"]),
    default="max",
    show_default=True,
    help="The row of a form of several tokens: by best score, by worst, their mean",
)
@click.option("--only", type=click.Path(), metavar="FILE", help="Give forms to the tokens in FILE alone, one a line")
@click.option("--scripts", metavar="NAMES", help="Give forms to tokens of these scripts alone, as Cyrillic or '!Latin'")
@click.option("--text", type=click.Path(), multiple=True, metavar="FILE", help="Tell what becomes of the lines of FILE")
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="Keep the plan, to apply it again or undo it")
@writing
def transliterate(
    model: str,
    out: str,
    table: str,
    mode: str,
    only: str | None,
    scripts: str | None,
    text: tuple[str, ...],
    keep: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with other forms of its tokens, such as romanised ones, to OUT.

    Text in that form is then cut into tokens that mean what they do in their own script. A TSV has a token and its form
    in each line. The tokenizer is a Unigram one, as in the paper, or BPE.

    \b
    Examples:
      suture vocab transliterate xlm-r out --scripts '!Latin' --text corpus.txt
      suture vocab transliterate model out --map maltese-arabic.tsv --only words.txt
    """
    from suture.surgery import vocab_transliterate

    how = settings(options)
    with bar("transliterating", quiet or dry_run) as progress:
        report = vocab_transliterate.transliterate(
            model,
            out,
            map=table,
            mode=mode,
            only=only,
            scripts=None if scripts is None else scripts.split(","),
            text=text,
            keep=keep,
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
