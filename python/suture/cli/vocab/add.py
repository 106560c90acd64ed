"""``suture vocab add``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar


@click.command(short_help="Give a model further tokens")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--tokens", required=True, metavar="FILE|TEXT", help="Tokens: a file with one a line, or with commas")
@click.option(
    "--init",
    default="mean",
    show_default=True,
    metavar="HOW",
    help="Rows: mean, copy:X, mix:0.7*X+0.3*Y, subwords, subwords:TEXT",
)
@click.option("--normal", is_flag=True, help="Tokens that are text, not special")
@click.option("--reserved", metavar="PATTERN", help="Replace tokens of such names first, as '<unused*>'")
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="Keep the plan, to apply it again or undo it")
@writing
def add(
    model: str,
    out: str,
    tokens: str,
    init: str,
    normal: bool,
    reserved: str | None,
    keep: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with further tokens to OUT. Those it has keep their numbers and their logits, bit for bit.

    A file may say behind a tab how the row of a token is made, if not by --init. Rows that no token has are taken
    first.

    \b
    Examples:
      suture vocab add model out --tokens '<2gl>,<2eu>' --init 'mix:0.7*<2pt>+0.3*<2es>'
      suture vocab add model out --tokens '<|im_start|>,<|im_end|>'
      suture vocab add nllb out --tokens glg_Latn --init copy:por_Latn
    """
    from suture.surgery import vocab_add

    how = settings(options)
    with bar("adding", quiet or dry_run) as progress:
        report = vocab_add.add(
            model,
            out,
            tokens=tokens,
            init=init,
            special=not normal,
            reserved=reserved,
            keep=keep,
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
