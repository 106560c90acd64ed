"""``suture finish``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import reading, settings
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.finish import finish as run


@click.command(short_help="Put the parts of an output together")
@click.argument("out", type=click.Path())
@click.option("--verify", is_flag=True, help="Read all shards again first, and compare them with their digests")
@click.option("--overwrite", is_flag=True, help="Replace an existing output")
@click.option("-v", "--verbose", is_flag=True, help="Say what happened to every tensor")
@reading
def finish(out: str, verify: bool, verbose: bool, quiet: bool, as_json: bool, **options: Any) -> None:
    """Put the parts of OUT together, which --part 1/N to --part N/N of a verb that writes have made.

    Nothing but the folder of the parts beside OUT is needed. The output is the one that the verb would have written
    without --part, byte for byte; suture.json tells which part was made where.

    \b
    Example:
      seq 4 | xargs -P 4 -I{} suture merge config.yaml out --part {}/4
      suture finish out
    """
    how = settings(options)
    with bar("verifying", quiet or not verify) as progress:
        report = run(out, verify=verify, settings=how, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
