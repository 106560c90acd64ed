"""``suture twin``: make, materialise, info."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.lora import numbers
from suture.cli.options import computing, reading, settings, writing
from suture.errors import UsageError
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import twin as run


@click.group(short_help="Keep experts as a shared model and small differences (Twin-Merging)")
def twin() -> None:
    """Keep several fine-tunes as one shared model and what each has beyond it, compressed, and mix them by weights.

    The method is Twin-Merging, arXiv 2406.15479; what weighs the experts by the input is not part of it here.
    """


@twin.command(short_help="Merge EXPERTS, and keep what each has beyond that")
@click.argument("base", type=click.Path())
@click.argument("experts", type=click.Path(), nargs=-1, required=True)
@click.argument("out", type=click.Path())
@click.option("--shared", metavar="METHOD", required=True, help="Merge method of the shared expert")
@click.option(
    "--parameter",
    "parameters",
    metavar="NAME=VALUE",
    multiple=True,
    help="A parameter of it; values with commas between are one for each expert",
)
@click.option(
    "--form",
    type=click.Choice(run.FORMS),
    default="svd",
    show_default=True,
    help="How differences are compressed: factors, the largest elements, random ones",
)
@click.option(
    "--rank-share", type=float, metavar="S", help="svd: rank of a matrix, of its smaller side  [default: 0.1]"
)
@click.option("--density", type=float, metavar="D", help="magnitude, random: share of its elements  [default: 0.1]")
@click.option(
    "--heads",
    type=click.Choice(run.HEADS),
    default="shared",
    show_default=True,
    help="Output heads, biases: the shared expert's, or each expert's own",
)
@click.option("--exact-svd", is_flag=True, help="svd: decompose in f64, not by a block Krylov space")
@click.option("--dtype", metavar="DTYPE", help="svd: dtype of the factors  [default: float32]")
@click.option("--memory", metavar="SIZE", help="Most memory to use, such as 256MiB")
@click.option("--shard-size", metavar="SIZE", help="Most bytes in a shard of the shared expert, such as 5GB")
@click.option("--seed", type=int, metavar="N", help="Seed of random methods and of --form random  [default: 0]")
@click.option(
    "--nan",
    type=click.Choice(["error", "allow"]),
    default="error",
    show_default=True,
    help="What to do on NaN and infinities",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing twin")
@click.option("--dry-run", is_flag=True, help="Show sizes and ranks; write nothing")
@click.option("-v", "--verbose", is_flag=True, help="Say what happens to every tensor")
@computing
@reading
def make(
    base: str,
    experts: tuple[str, ...],
    out: str,
    shared: str,
    parameters: tuple[str, ...],
    form: str,
    rank_share: float | None,
    density: float | None,
    heads: str,
    exact_svd: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Merge EXPERTS, fine-tunes of BASE, into a shared one, and write it with what each has beyond it to OUT.

    Of task_arithmetic the weights are 1 and lambda is 0.3 if nothing is said, as in the paper.

    \b
    Examples:
      suture twin make base math law code twin --shared task_arithmetic
      suture twin make base math law twin --shared ties --parameter density=0.2 --parameter weight=0.6,0.4
    """
    if options["seed"] is None:
        del options["seed"]
    how = settings(options)
    with bar("making", quiet or dry_run) as progress:
        report = run.make(
            base,
            experts,
            out,
            shared=shared,
            parameters=_parameters(parameters),
            rank_share=rank_share,
            density=density,
            form=form,
            heads=heads,
            exact_svd=exact_svd,
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@twin.command(short_help="Write a model of a twin: one expert, or a mixture")
@click.argument("twin", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--weights", metavar="LIST", help="A number for each expert, in order: 0.7,0.3")
@click.option("--only", metavar="NAME", help="The one expert that is wanted")
@writing
def materialise(
    twin: str,
    out: str,
    weights: str | None,
    only: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the shared expert of TWIN, and what its experts have beyond it times their weights, as a model to OUT.

    Weights need not sum to 1. The sum is formed in f64, and rounded once.

    \b
    Examples:
      suture twin materialise twin law --only law
      suture twin materialise twin mixed --weights 0.7,0.3
    """
    how = settings(options)
    with bar("materialising", quiet or dry_run) as progress:
        report = run.materialise(
            twin, out, weights=numbers(weights), only=only, settings=how, dry_run=dry_run, progress=progress
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@twin.command(short_help="Show what a twin holds")
@click.argument("twin", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print all there is as JSON")
def info(twin: str, as_json: bool) -> None:
    """Show what TWIN holds: the shared expert, the others in the order of weights, and sizes."""
    from suture.render.terminal import emit_json, say
    from suture.render.twin import lines

    found = run.info(twin)
    if as_json:
        emit_json(found)
        return
    for line in lines(found):
        say(line)


def _parameters(texts: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of a method, each said once."""
    found: dict[str, Any] = {}
    for text in texts:
        name, value = _parameter(text)
        if name in found:
            raise UsageError(f"--parameter: `{name}` is given twice; values for each expert go in one: {name}=0.6,0.4")
        found[name] = value
    return found


def _parameter(text: str) -> tuple[str, Any]:
    """A parameter of a method: a number, numbers, a truth value, or a word."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"--parameter: expected NAME=VALUE such as lambda=0.3, found `{text}`")
    values = [_value(part) for part in value.split(",")]
    return name, values if len(values) > 1 else values[0]


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
