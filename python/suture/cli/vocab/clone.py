"""``suture vocab clone``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar


@click.command(short_help="Give a model its tokens a second time")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--share", type=float, default=1.0, show_default=True, help="Part of all rows to clone, drawn by --seed")
@click.option("--shift", is_flag=True, help="Put the clone of row i at i + V, and padding where there is none")
@click.option("--tokens", type=click.Path(), metavar="FILE", help="Clone the tokens in FILE, one a line")
@click.option(
    "--noise", type=float, default=0.0, show_default=True, metavar="S", help="Noise on clones, by each row's size"
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of --share and --noise")
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="Keep the plan, to apply it again or undo it")
@writing
def clone(
    model: str,
    out: str,
    share: float,
    shift: bool,
    tokens: str | None,
    noise: float,
    seed: int,
    keep: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with the rows of its tokens once more behind them to OUT.

    Text in clones, or in any mix of both, gets the same logits, bit for bit. The tokenizer stays: a clone's number is
    its token's and V, the rows that there were.

    \b
    Examples:
      suture vocab clone model twice
      suture vocab clone model half --share 0.5 --shift
      suture vocab clone model some --tokens words.txt --noise 0.01 --seed 7
    """
    from suture.surgery import vocab_clone

    how = settings(options)
    with bar("cloning", quiet or dry_run) as progress:
        report = vocab_clone.clone(
            model,
            out,
            share=share,
            shift=shift,
            tokens=tokens,
            noise=noise,
            seed=seed,
            keep=keep,
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
