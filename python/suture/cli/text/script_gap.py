"""``suture text script-gap``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.text.options import run_how, running, tables, texts
from suture.cli.text.written import check, out


@click.command("script-gap", short_help="Text against its romanisation, by layer")
@click.argument("models", type=click.Path(), nargs=-1, required=True)
@texts
@click.option("--romanise", default="uroman", show_default=True, metavar="uroman|FILE",
              help="By uroman, or by a file of lines and their romanisation with a tab between")  # fmt: skip
@click.option("--pool", type=click.Choice(["last", "mean", "weighted"]), default="mean", show_default=True,
              help="What stands for a line")  # fmt: skip
@run_how
@tables
def script_gap(
    models: tuple[str, ...],
    text: tuple[str, ...],
    lines: int | None,
    romanise: str,
    pool: str,
    csv_file: str | None,
    parquet_file: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """How far a text is from its own romanisation, by layer: 1 less the mean cosine (TransliCo looks at layer 8).

    \b
    Examples:
      suture text script-gap model --text ru.txt --text hi.txt
      suture text script-gap before after --text ru.txt --romanise ru-latin.tsv
    """
    how = running(options)
    from suture.text.gap import script_gap as run

    check(csv_file, parquet_file)
    found = run(*models, text=text, romanise=romanise, pool=pool, lines=lines, running=how)
    from suture.render.text import show_layers

    out(
        found,
        found["layers"],
        lambda f: show_layers(f, "gap", "baseline"),
        quiet=quiet,
        as_json=as_json,
        csv_file=csv_file,
        parquet_file=parquet_file,
    )
