"""``suture text loss``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.text.options import run_how, running, tables, texts
from suture.cli.text.written import check, out


@click.command(short_help="Bits per byte by language")
@click.argument("models", type=click.Path(), nargs=-1, required=True)
@texts
@run_how
@tables
def loss(
    models: tuple[str, ...],
    text: tuple[str, ...],
    lines: int | None,
    csv_file: str | None,
    parquet_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Bits per byte of each text under each model: how well it predicts them, whatever its vocabulary.

    With several models the last is the child: it is compared with the best of the others, with an interval of 95 %.

    \b
    Examples:
      suture text loss math swahili merged --text en.txt --text sw.txt
      suture text loss merged --text texts/ --json
    """
    how = running(options)
    from suture.text.losses import loss as run

    check(csv_file, parquet_file)
    found = run(*models, text=text, lines=lines, running=how)
    from suture.render.text import show_loss

    out(found, found["losses"], show_loss, quiet=quiet, as_json=as_json, csv_file=csv_file, parquet_file=parquet_file)
