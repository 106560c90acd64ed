"""``suture vocab compare``."""

from __future__ import annotations

import click

from suture.render.terminal import emit_json, warn


@click.command(short_help="Tell what two vocabularies share, and whether rows can be exchanged")
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--neighbours", type=int, default=0, metavar="K", help="Compare the K nearest tokens in the embeddings")
@click.option(
    "--sample", type=int, default=2000, show_default=True, metavar="N", help="Most tokens whose neighbours are compared"
)
@click.option(
    "--misses", type=int, default=20, show_default=True, metavar="N", help="Tokens to find the nearest string of"
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of what is drawn")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def compare(a: str, b: str, neighbours: int, sample: int, misses: int, seed: int, quiet: bool, as_json: bool) -> None:
    """Compare the vocabularies of A and B: which tokens are the same by bytes and word start, which nearly, how numbers
    are cut, and whether rows of one can stand in the other.

    \b
    Example:
      suture vocab compare large small --neighbours 10
    """
    from suture.analysis.vocab_compare import compare as run

    found = run(a, b, neighbours=neighbours, sample=sample, misses=misses, seed=seed)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.vocabulary import show_comparison

        show_comparison(found)
