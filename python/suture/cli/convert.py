"""``suture convert``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import beside_gguf, decoding, settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.convert import convert as run


@click.command(short_help="Write a model in safetensors")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@decoding
@beside_gguf
@writing
def convert(model: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write MODEL to OUT in safetensors: every tensor bit for bit, and the files beside it.

    MODEL is whatever suture reads, such as a folder with pytorch_model.bin. Its pickle is read and never run.

    \b
    Example:
      suture convert downloaded converted --shard-size 5GB
    """
    how = settings(options)
    with bar("converting", quiet or dry_run) as progress:
        report = run(model, out, settings=how, dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
