"""``suture moe swap``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Put experts of another model in the places of some")
@click.argument("model", type=click.Path())
@click.option("--from", "donor", required=True, type=click.Path(), help="The model whose experts are taken.")
@click.argument("out", type=click.Path())
@click.option("--experts", required=True, help="Which: 0=2 puts its expert 2 in the place of 0.")
@click.option("--router", is_flag=True, help="Take the rows of its routers too.")
@writing
def swap(
    model: str,
    donor: str,
    out: str,
    experts: str,
    router: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with experts of another in the places of some of its own to OUT.

    \b
    Example:
      suture moe swap mixture --from tuned out --experts 0,3=1 --router
    """
    with bar("swapping", quiet or dry_run) as progress:
        report = verbs.swap(
            model,
            donor,
            out,
            experts=experts,
            router=router,
            settings=settings(options),
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
