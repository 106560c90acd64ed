"""``suture revert``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import beside_gguf, computing, decoding, settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.revert import revert as run


@click.command(short_help="Reset layers of a fine-tune to its base")
@click.argument("base", type=click.Path())
@click.argument("tuned", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--layers", metavar="LIST", help="Layers to reset, such as 0-4,30,31, or all")
@click.option("--modules", metavar="LIST", help="Reset only these modules: parts of names, globs, filters")
@click.option("--stack", metavar="NAME", help="Stack that layers are numbered in, if not the main one; see inspect")
@click.option("--outside", is_flag=True, help="Reset what is in no layer too: embeddings, final norm, head")
@click.option("--ignore", metavar="LIST", help="Tensors that stay and need not be in both models: filters")
@computing
@decoding
@beside_gguf
@writing
def revert(
    base: str, tuned: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Reset layers of TUNED to what they are in BASE and write the result to OUT, bit for bit.

    \b
    Example:
      suture revert base math-expert reset --layers 0-4,30,31
    """
    how = settings(options)
    with bar("reverting", quiet or dry_run) as progress:
        report = run(base, tuned, out, **options, settings=how, dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
