"""``suture vocab words``."""

from __future__ import annotations

import click

from suture.render.terminal import emit_json, warn


@click.command(short_help="Write word vectors, and look up translations")
@click.argument("model", type=click.Path())
@click.option("--words", "words_file", type=click.Path(), metavar="FILE", help="Words, one a line")
@click.option(
    "--out", type=click.Path(), metavar="FILE", help="Where to write vectors: .vec, .txt, .npy or .safetensors"
)
@click.option("--dictionary", type=click.Path(), metavar="FILE", help="Words and translations, with a tab between")
@click.option(
    "--other", type=click.Path(), metavar="MODEL", help="The model that translations are of  [default: MODEL]"
)
@click.option("--neighbours", type=int, default=10, show_default=True, metavar="K", help="Neighbours of CSLS")
@click.option("--overwrite", is_flag=True, help="Replace existing files")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def words(
    model: str,
    words_file: str | None,
    out: str | None,
    dictionary: str | None,
    other: str | None,
    neighbours: int,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Make static vectors of words: the mean of the rows that their tokens have in the embedding of MODEL.

    With --dictionary, tell how many translations are nearest to their words, by cosine and by CSLS.

    \b
    Examples:
      suture vocab words model --words words.txt --out words.vec
      suture vocab words model --dictionary en-sw.tsv
    """
    from suture.analysis.vocab_words import words as run

    found = run(
        model,
        words_file,
        out=out,
        dictionary=dictionary,
        other=other,
        neighbours=neighbours,
        overwrite=overwrite,
    )
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.vocabulary import show_words

        show_words(found)
