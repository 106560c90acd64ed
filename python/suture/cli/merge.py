"""``suture merge``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.mergekit import aliases, settle
from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.merge import merge as run


@click.command(short_help="Merge models by a config")
@click.argument("config", type=click.Path())
@click.argument("out", type=click.Path(), required=False)
@click.option("--ignore-unknown", is_flag=True, help="Pass over keys and parameters of CONFIG that nobody knows")
@click.option(
    "--vocab",
    type=click.Choice(["error", "base", "crop", "pad"]),
    help="Where tables of tokens differ in rows, and no tokenizer is asked for  [default: error]",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "base", "skip"]),
    help="A tensor that a model lacks: stop, take the base's, or leave that model out  [default: error]",
)
@click.option(
    "--experts",
    type=click.Choice(["packed", "apart", "as-base"]),
    help="How OUT stores experts: in one tensor, each by itself, or as the base  [default: as-base]",
)
@click.option("--routers-from", type=click.Path(), metavar="MODEL", help="Keep MODEL's routers of experts")
@click.option("--seed", type=int, metavar="N", help="Seed of random methods  [default: 0]")
@writing
@aliases
def merge(
    config: str, out: str | None, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Merge models by CONFIG, a YAML file in mergekit's grammar, and write the result to OUT.

    Model paths in CONFIG are looked for in the current folder, then in the config's. With --dry-run --verbose, every
    tensor is shown with its parameters and the lines they come from. The flags of mergekit-yaml are understood.
    See `suture methods` for what there is.
    """
    out = settle(options, out)
    how = settings(options)
    with bar("merging", quiet or dry_run) as progress:
        report = run(config, out, settings=how, dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
