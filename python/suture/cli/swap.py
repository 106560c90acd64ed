"""``suture swap``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import swap as run


@click.command(short_help="Put layers of one model into another")
@click.option("--into", required=True, type=click.Path(), metavar="RECIPIENT", help="Model whose rest is kept")
@click.option("--from", "donor", required=True, type=click.Path(), metavar="DONOR", help="Model that gives layers")
@click.argument("out", type=click.Path())
@click.option("--bottom", type=int, default=0, metavar="B", help="Layers from the bottom that the donor gives")
@click.option("--top", type=int, default=0, metavar="T", help="Layers from the top that the donor gives")
@click.option("--transition", type=int, default=0, metavar="R", help="Layers next to these that are blended")
@click.option(
    "--blend",
    type=float,
    default=0.5,
    show_default=True,
    metavar="W",
    help="The donor's share in a blended layer",
)
@click.option(
    "--layers",
    metavar="LIST",
    help="Layers the donor gives, such as 0-4,30,31; instead of --bottom and --top",
)
@click.option(
    "--modules", metavar="GLOB", help="Move only these modules, such as 'self_attn.*'; commas between several"
)
@click.option(
    "--non-layer",
    type=click.Choice(["into", "from", "mean"]),
    default="into",
    show_default=True,
    help="Whose embeddings, final norm and head to take",
)
@writing
def swap(
    into: str, donor: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Put layers of DONOR into RECIPIENT and write the result to OUT.

    What is not blended is moved bit for bit. Layers count from 0 at the embedding.

    \b
    Example:
      suture swap --into math-expert --from swahili-expert merged --bottom 5 --top 2 --transition 1
    """
    how = settings(options)
    with bar("swapping", quiet or dry_run) as progress:
        report = run(into, donor, out, **options, settings=how, dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
