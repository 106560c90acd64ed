"""``suture moe from_dense``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import moe as verbs


@click.command(short_help="Make a dense model one of experts")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--experts", type=int, required=True, help="How many experts.")
@click.option("--top-k", type=int, default=2, show_default=True, help="Experts that a token goes to.")
@click.option("--last", type=int, help="How many of the last layers get experts; all if not given.")
@click.option("--router", default="random", show_default=True, help="random, or a NumPy file of centroids.")
@click.option("--family", type=click.Path(), help="A file of groups of languages, one for each expert.")
@writing
def from_dense(
    model: str,
    out: str,
    experts: int,
    top_k: int,
    last: int | None,
    router: str,
    family: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make MODEL, a dense one, a model of experts that are all copies of its own layers (Post-MoE), in OUT.

    It computes what it did: the router's weights add up to 1. Qwen can have experts in its last layers alone.

    \b
    Example:
      suture moe --from-dense qwen mixture --experts 12 --top-k 2 --last 2
    """
    with bar("copying", quiet or dry_run) as progress:
        report = verbs.from_dense(
            model,
            out,
            experts=experts,
            top_k=top_k,
            last=last,
            router=router,
            family=family,
            settings=settings(options),
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
