"""``suture vocab transplant``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery import vocab_transplant as run


@click.command(short_help="Give MODEL the tokenizer of another")
@click.argument("model", type=click.Path())
@click.option(
    "--from", "donor", type=click.Path(), required=True, help="Whose tokenizer: a model, or a folder of its files"
)
@click.argument("out", type=click.Path())
@click.option("--method", type=click.Choice(run.METHODS), required=True, help="What makes rows that MODEL lacks")
@click.option("--helper", type=click.Path(), help="clp: a small model with that tokenizer  [default: the donor]")
@click.option("--vectors", type=click.Path(), metavar="FILE", help="nearest, sparsemax: vectors of the new tokens")
@click.option(
    "--source-vectors",
    type=click.Path(),
    metavar="FILE",
    help="nearest: vectors of MODEL's tokens  [default: in --vectors]",
)
@click.option("--table", type=click.Path(), metavar="TSV", help="alignment: old unit, new unit, count")
@click.option("--units", type=click.Choice(run.UNITS), help="alignment: what stands in the table  [default: tokens]")
@click.option("--min-count", type=float, metavar="N", help="alignment: pass over lines that count less  [default: 1]")
@click.option("--smooth/--no-smooth", default=None, help="alignment: lend counts to tokens without  [default: smooth]")
@click.option("--k", type=int, metavar="K", help="omp: most rows of a sum [64]; nearest: neighbours [10]")
@click.option("--tolerance", type=float, metavar="T", help="omp: share of a row that may be left  [default: 1e-12]")
@click.option("--top-k", type=int, metavar="K", help="clp: keep the most similar tokens alone  [default: all]")
@click.option("--temperature", type=float, metavar="T", help="nearest: of the softmax  [default: 0.1]")
@click.option("--reference", is_flag=True, default=None, help="omp, clp, nearest: as published code has it")
@click.option("--fuzzy", is_flag=True, help="Tokens that differ by case or word start alone are the same")
@click.option(
    "--fallback",
    type=click.Choice(["subwords", "mean"]),
    help="What is left gets the mean of its pieces, or of all  [default: subwords; overlap: mean]",
)
@click.option("--max-gain", type=float, metavar="G", help="Most a new row may be longer than the donor's explains")
@click.option(
    "--over-gain",
    type=click.Choice(["cap", "reject"]),
    default="cap",
    show_default=True,
    help="Scale down what is above, or give it the fallback",
)
@click.option("--pad-to-multiple-of", type=int, default=1, metavar="N", help="Rows of the tables are a multiple of N")
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="Keep the plan, to apply it to other models")
@writing
def transplant(
    model: str,
    donor: str,
    out: str,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL with another's tokenizer to OUT.

    Tokens that both have keep MODEL's rows: special ones by role, others by their bytes and whether a word begins
    there. What makes the rows of the others:

    \b
    overlap    nothing: the mean of all
    subwords   the mean of their pieces in MODEL's tokenizer (FVT)
    omp        sums of rows, found in the donor's space (orthogonal matching pursuit)
    clp        all common tokens, by their cosines in a helper (CLP-Transfer)
    nearest    the nearest tokens by vectors you bring (WECHSEL)
    sparsemax  the near common tokens by vectors you bring (FOCUS)
    alignment  tokens that they are aligned with in translations (trans-tokenization)

    \b
    Examples:
      suture vocab transplant base --from donor out --method omp
      suture vocab transplant base --from german-tokenizer out --method clp --helper small-german --top-k 100
      suture vocab transplant base --from tatar-tokenizer out --method alignment --table en-tt.tsv
    """
    how = settings(options)
    with bar("transplanting", quiet or dry_run) as progress:
        report = run.vocab_transplant(model, donor, out, settings=how, dry_run=dry_run, progress=progress, **options)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
