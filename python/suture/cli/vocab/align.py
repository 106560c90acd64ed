"""``suture vocab align``."""

from __future__ import annotations

import sys
from typing import Any

import click

from suture.cli.options import settings, writing
from suture.escape import printable
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import vocab_align as run


@click.command(short_help="Map the tokens of A to those of B")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--method", type=click.Choice(run.METHODS), required=True, help="How a match is found")
@click.option("--text", "texts", type=click.Path(), multiple=True, metavar="FILE", help="stats: UTF-8, one or several")
@click.option("--fuzzy", is_flag=True, help="bytes: tokens that differ by case or word start alone are the same")
@click.option("--reference", is_flag=True, help="stats: choose as published code does, the rarer of equal pairs")
@click.option("-o", "--output", type=click.Path(), metavar="TSV", help="Where the map goes  [default: printed]")
@click.option("--write", "out", type=click.Path(), metavar="OUT", help="Write B with A's tokenizer, rows by the map")
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="With --write: keep the plan")
@writing
def align(
    a: str,
    b: str,
    method: str,
    texts: tuple[str, ...],
    fuzzy: bool,
    reference: bool,
    output: str | None,
    out: str | None,
    keep: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find for each token of A one of B: a table of tabs, or the model B with the tokenizer of A.

    \b
    exact  the same text
    bytes  the same bytes and word start, however they are written
    mined  the same, and else the least edit distance (FuseLLM)
    stats  what stands for the same text most often (FuseChat); needs --text

    \b
    Examples:
      suture vocab align student teacher --method mined -o map.tsv
      suture vocab align student teacher --method stats --text corpus.txt -o map.tsv
    """
    from suture.render.terminal import emit_json, say

    how = settings(options)
    found, told = run.vocab_align(
        a, b, method=method, texts=texts, fuzzy=fuzzy, reference=reference, output=output, overwrite=how.overwrite,
        settings=how,
    )  # fmt: skip
    if out is not None:
        with bar("writing", quiet or dry_run) as progress:
            report = run.write_aligned(
                found, b, a, out, method=method, keep=keep, settings=how, dry_run=dry_run, progress=progress
            )
        present(report, as_json=as_json, quiet=quiet, verbose=verbose)
    elif as_json:
        emit_json(told)
    elif output is None:
        for line in found.lines():
            # A token may hold what moves the cursor of a terminal.
            click.echo("\t".join(map(printable, line.split("\t"))) if sys.stdout.isatty() else line)
    elif not quiet:
        classes = ", ".join(f"{count:,} {name}" for name, count in told["classes"].items())
        say(f"{told['tokens']:,} tokens: {classes}; {100 * told['coverage']:.1f} % have a match")
