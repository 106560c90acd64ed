"""``suture vocab inspect``."""

from __future__ import annotations

import click

from suture.render.terminal import emit_json, warn


@click.command(short_help="Show what a vocabulary is, and how it cuts text")
@click.argument("model", type=click.Path())
@click.option("--text", type=click.Path(), multiple=True, metavar="FILE", help="Text in UTF-8 to cut; again for more")
@click.option("--no-weights", is_flag=True, help="Do not look for rows that are hardly trained")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def inspect(model: str, text: tuple[str, ...], no_weights: bool, quiet: bool, as_json: bool) -> None:
    """Show what the vocabulary of MODEL is: kind, sizes, special tokens, scripts; which rows look hardly trained; and
    on text how many tokens a word, a character and a byte take, by script.

    MODEL may be a folder with the files of a tokenizer alone.

    \b
    Example:
      suture vocab inspect model --text swahili.txt --text german.txt
    """
    from suture.analysis.vocab_inspect import inspect as run

    found = run(model, text=text, weights=not no_weights)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.vocabulary import show_inspection

        show_inspection(found)
