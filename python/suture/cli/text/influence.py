"""``suture text influence``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.text.options import run_how, running, tables, texts_or_not
from suture.cli.text.written import check, out
from suture.errors import UsageError


@click.command(short_help="What layers and experts do with a text")
@click.argument("model", type=click.Path())
@texts_or_not
@click.option("--random", type=click.IntRange(1), metavar="N", help="For files: N rows of random tokens, not a text")
@click.option("--gram", type=click.Path(), metavar="FILE", help="Write Gram matrices of inputs, for regmean")
@click.option("--fisher", type=click.Path(), metavar="FILE", help="Write squared gradients, for fisher")
@click.option("--importance", type=click.Path(), metavar="FILE", help="Write weights times norms of inputs (Wanda)")
@click.option("--overwrite", is_flag=True, help="Replace existing files")
@run_how
@tables
def influence(
    model: str,
    text: tuple[str, ...],
    lines: int | None,
    random: int | None,
    gram: str | None,
    fisher: str | None,
    importance: str | None,
    overwrite: bool,
    csv_file: str | None,
    parquet_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """How much each layer turns the states of a text (block influence: layers of least are those to drop first), and of
    a model with experts which of them each language is routed to.

    With --gram, --fisher or --importance, statistics of the text are written instead, as files of safetensors with a
    tensor for each weight, that methods of a merge take.

    \b
    Examples:
      suture text influence model --text en.txt --text sw.txt
      suture text influence expert --text sw.txt --gram gram.safetensors
    """
    from suture.render.text import show_influence, show_statistics

    how = running(options)
    if gram or fisher or importance:
        from suture.text.activations import statistics

        if csv_file or parquet_file:
            raise UsageError("--csv and --parquet are of the figures by layer; --gram and the like write other files")
        made = statistics(model, text=text or None, random=random, gram=gram, fisher=fisher, importance=importance,
                          lines=lines, overwrite=overwrite, running=how)  # fmt: skip
        out(made, [], show_statistics, quiet=quiet, as_json=as_json)
        return
    if not text or random:
        raise UsageError("--text: expected a text; random tokens are for --gram, --fisher and --importance alone")
    from suture.text.blocks import influence as run

    check(csv_file, parquet_file)
    found = run(model, text=text, lines=lines, running=how)
    out(found, found["layers"], show_influence, quiet=quiet, as_json=as_json, csv_file=csv_file,
        parquet_file=parquet_file)  # fmt: skip
