"""``suture lora``: fold, merge, swap, split, convert."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.lora_convert import convert
from suture.cli.lora_split import split
from suture.cli.options import settings, writing
from suture.cli.swap import swap
from suture.errors import UsageError
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import lora as run


@click.group(short_help="Fold adapters into models; merge, swap, split and convert them")
def lora() -> None:
    """Fold adapters into a model, merge them with each other, swap their layers, split them or convert them.

    A model with an adapter in it is also a model wherever one is named, as MODEL+ADAPTER, without being written.
    """


WEIGHTS = click.option("--weights", metavar="LIST", help="What the change of each is multiplied by, such as 0.7,0.3")


@lora.command(short_help="Fold adapters into a model")
@click.argument("model", type=click.Path())
@click.argument("adapters", type=click.Path(), nargs=-1, required=True)
@click.argument("out", type=click.Path())
@WEIGHTS
@writing
def fold(
    model: str,
    adapters: tuple[str, ...],
    out: str,
    weights: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fold ADAPTERS into MODEL, one after the other, and write the result to OUT.

    Every weight is the sum in f64, rounded once.

    \b
    Example:
      suture lora fold base swahili-lora merged
    """
    how = settings(options)
    with bar("folding", quiet or dry_run) as progress:
        report = run.fold(
            model, adapters, out, weights=numbers(weights), settings=how, dry_run=dry_run, progress=progress
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@lora.command(short_help="Merge adapters of one model into one")
@click.argument("adapters", type=click.Path(), nargs=-1, required=True)
@click.argument("out", type=click.Path())
@WEIGHTS
@click.option("--rank", type=int, metavar="R", help="Most ranks of a module: the best approximation; its error is told")
@writing
def merge(
    adapters: tuple[str, ...],
    out: str,
    weights: str | None,
    rank: int | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Merge ADAPTERS of one model into one adapter, whose change is the sum of theirs, and write it to OUT.

    Their ranks are put side by side, so that nothing is lost.

    \b
    Example:
      suture lora merge math-lora swahili-lora both --weights 0.7,0.3
    """
    how = settings(options)
    with bar("merging", quiet or dry_run) as progress:
        report = run.merge_adapters(
            adapters, out, weights=numbers(weights), rank=rank, settings=how, dry_run=dry_run, progress=progress
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


for command in (swap, split, convert):
    lora.add_command(command)


def numbers(listed: str | None) -> list[float] | None:
    """The numbers of a list."""
    try:
        return None if listed is None else [float(part) for part in listed.split(",")]
    except ValueError:
        raise UsageError(f"--weights: expected numbers such as 0.7,0.3, found `{listed}`") from None
