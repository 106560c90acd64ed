"""``suture inspect``."""

from __future__ import annotations

from typing import Any

import click

from suture.analysis.inspect import inspect as run
from suture.cli.options import reading, settings
from suture.render.progress import bar
from suture.render.terminal import emit_json, warn


@click.command(short_help="Show what is in a checkpoint")
@click.argument("path", type=click.Path())
@click.option("--tensors", is_flag=True, help="List every tensor")
@click.option("--stats", is_flag=True, help="Read the weights: range, mean, norm, zeros, NaN of every float tensor")
@reading
def inspect(path: str, tensors: bool, stats: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Show what is in a checkpoint: layers, tensors, dtypes, sizes.

    PATH is a safetensors file, one of torch.save, or a folder of them. Only headers are read, unless --stats is
    given.
    """
    with bar("reading", quiet or not stats) as progress:
        found = run(path, stats=stats, settings=settings(options), progress=progress)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.inspection import show

        show(found, tensors or stats)
