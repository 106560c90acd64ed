"""``suture delta``: extract, info, apply, revert, compose."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.lora import WEIGHTS, numbers
from suture.cli.options import reading, settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import delta as run


@click.group(short_help="Keep what a fine-tune changed: extract, apply, revert, compose")
def delta() -> None:
    """Keep what leads from a model to its fine-tune by itself, a fraction of the size, and put it in again.

    A model with a delta in it is also a model wherever one is named, as MODEL+DELTA, without being written.
    """


@delta.command(short_help="Take what leads from BASE to TUNED out of them")
@click.argument("base", type=click.Path())
@click.argument("tuned", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--form", type=click.Choice(run.FORMS), required=True, help="How changes are kept")
@click.option("--rank", type=int, metavar="R", help="lowrank, lora: most ranks of a matrix")
@click.option("--rank-share", type=float, metavar="S", help="lowrank, lora: the same as a share of its smaller side")
@click.option("--energy", type=float, metavar="E", help="lowrank, lora: share of each change's squares to keep")
@click.option(
    "--density", type=float, metavar="D", help="sparse: share of the model's elements to keep  [default: all changed]"
)
@click.option("--keep", type=int, metavar="K", help="sparse: the same as their number")
@click.option("--exact", is_flag=True, help="Keep what makes applying and reverting bit for bit, too")
@click.option("--embed", is_flag=True, help="Tables of tokens and heads as other matrices, not whole")
@click.option("--exact-svd", is_flag=True, help="lowrank, lora: decompose in f64, not by random projections")
@click.option("--memory", metavar="SIZE", help="Most memory to use, such as 256MiB")
@click.option("--dtype", metavar="DTYPE", help="lowrank, lora: dtype of the factors  [default: float32]")
@click.option(
    "--nan",
    type=click.Choice(["error", "allow"]),
    default="error",
    show_default=True,
    help="What to do on NaN and infinities",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output")
@click.option("--dry-run", is_flag=True, help="Show how each tensor would be kept; write nothing")
@click.option("-v", "--verbose", is_flag=True, help="Say what happens to every tensor")
@reading
def extract(
    base: str,
    tuned: str,
    out: str,
    form: str,
    rank: int | None,
    rank_share: float | None,
    energy: float | None,
    density: float | None,
    keep: int | None,
    exact: bool,
    embed: bool,
    exact_svd: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Take what leads from BASE to TUNED out of them, and write it to OUT.

    \b
    sparse   the largest changes of the whole model, one by one
    lowrank  factors (U, S, V) of the change of each matrix
    lora     the same as an adapter, which PEFT loads
    bits     the sign of each change, and a scale a tensor (BitDelta)
    xor      all changes, bit for bit, compressed

    \b
    Examples:
      suture delta extract base tuned adapter --form lora --rank 64
      suture delta extract base tuned small --form sparse --density 0.05
      suture delta extract base tuned archive --form xor
    """
    how = settings(options)
    with bar("extracting", quiet or dry_run) as progress:
        report = run.extract(
            base,
            tuned,
            out,
            form=form,
            rank=rank,
            rank_share=rank_share,
            energy=energy,
            density=density,
            keep=keep,
            exact=exact,
            embed=embed,
            exact_svd=exact_svd,
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@delta.command(short_help="Show what a delta is and belongs to")
@click.argument("delta", type=click.Path())
@click.option("--tensors", is_flag=True, help="List every tensor")
@click.option("--json", "as_json", is_flag=True, help="Print all there is as JSON")
def info(delta: str, tensors: bool, as_json: bool) -> None:
    """Show what DELTA is: its form, the models it belongs to, sizes, and how much of each change it keeps."""
    from suture.render.delta import lines
    from suture.render.terminal import emit_json, say

    found = run.info(delta)
    if as_json:
        emit_json(found)
        return
    for line in lines(found, tensors):
        say(line)


@delta.command(short_help="Put deltas into the model they belong to")
@click.argument("base", type=click.Path())
@click.argument("deltas", type=click.Path(), nargs=-1, required=True)
@click.argument("out", type=click.Path())
@WEIGHTS
@writing
def apply(
    base: str,
    deltas: tuple[str, ...],
    out: str,
    weights: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Put DELTAS into BASE, and write the result to OUT.

    One that is exact gives the tuned model's bytes; several are added, in f64, and rounded once.

    \b
    Example:
      suture delta apply base swahili-delta math-delta both --weights 1,0.5
    """
    how = settings(options)
    with bar("applying", quiet or dry_run) as progress:
        report = run.apply(
            base, deltas, out, weights=numbers(weights), settings=how, dry_run=dry_run, progress=progress
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@delta.command(short_help="Take a delta out of the model it leads to")
@click.argument("tuned", type=click.Path())
@click.argument("delta", type=click.Path())
@click.argument("out", type=click.Path())
@writing
def revert(
    tuned: str, delta: str, out: str, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Take DELTA out of TUNED, the model it leads to, and write its base to OUT.

    One that is exact gives the base's bytes.

    \b
    Example:
      suture delta revert tuned archive base
    """
    how = settings(options)
    with bar("reverting", quiet or dry_run) as progress:
        report = run.revert(tuned, delta, out, settings=how, dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@delta.command(short_help="Write several deltas as one")
@click.argument("deltas", type=click.Path(), nargs=-1, required=True)
@click.argument("out", type=click.Path())
@WEIGHTS
@click.option("--memory", metavar="SIZE", help="Most memory to use, such as 256MiB")
@click.option("--overwrite", is_flag=True, help="Replace an existing output")
@click.option("-v", "--verbose", is_flag=True, help="Say what happens to every tensor")
@reading
def compose(
    deltas: tuple[str, ...],
    out: str,
    weights: str | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write DELTAS of one base as their sum to OUT, or a chain of lossless ones as one step.

    \b
    Example:
      suture delta compose swahili-delta math-delta both --weights 1,0.5
    """
    report = run.compose(deltas, out, weights=numbers(weights), settings=settings(options))
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@delta.command("import", short_help="Write a pytorch_diff.bin of LT-SFT as a delta")
@click.argument("base", type=click.Path())
@click.argument("file", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace an existing output")
@click.option("-v", "--verbose", is_flag=True, help="Say what happens to every tensor")
@reading
def import_(base: str, file: str, out: str, quiet: bool, verbose: bool, as_json: bool, **options: Any) -> None:
    """Write FILE, a pytorch_diff.bin of LT-SFT that belongs to BASE, as a sparse delta to OUT.

    Only tensors, numbers and names are read of it; nothing in it is run. It needs PyTorch.
    """
    report = run.read_diff(base, file, out, settings=settings(options))
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@delta.command(short_help="Write a sparse delta as a pytorch_diff.bin of LT-SFT, or as a mask")
@click.argument("delta", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--mask", is_flag=True, help="Only where it changes something, as BOOL tensors in safetensors")
@click.option("--overwrite", is_flag=True, help="Replace an existing file")
def export(delta: str, out: str, mask: bool, overwrite: bool) -> None:
    """Write DELTA, which is sparse, to the file OUT as LT-SFT has it; it needs PyTorch, a mask does not."""
    run.write_diff(delta, out, mask=mask, overwrite=overwrite)
