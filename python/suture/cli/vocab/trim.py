"""``suture vocab trim``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from suture.cli.options import settings, writing
from suture.errors import UsageError
from suture.render.outcome import present
from suture.render.progress import bar


@click.command(short_help="Leave out the tokens that texts do not need")
@click.argument("model", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--text", type=click.Path(), multiple=True, metavar="FILE", help="Text in a language; can be repeated")
@click.option(
    "--languages",
    multiple=True,
    metavar="NAME=FILE,...",
    help="Text by its language, of which several files can have one; can be repeated",
)
@click.option(
    "--min-share",
    type=float,
    default=0.0,
    metavar="S",
    help="Share of a language's tokens that a token needs to stay, such as 1e-6  [default: any use]",
)
@click.option(
    "--mode",
    type=click.Choice(["exact", "closure"]),
    default="exact",
    show_default=True,
    help="BPE: keep what is made on the way to tokens that stay, or all that any merges make them from",
)
@click.option(
    "--characters",
    type=click.Choice(["all", "used"]),
    default="all",
    show_default=True,
    help="Which single characters stay",
)
@click.option("--pad-to", type=int, default=1, metavar="N", help="Pad the rows to a multiple of N")
@click.option("--plan", "keep", type=click.Path(), metavar="FILE", help="Keep the plan in FILE too")
@writing
def trim(
    model: str,
    out: str,
    text: tuple[str, ...],
    languages: tuple[str, ...],
    min_share: float,
    mode: str,
    characters: str,
    pad_to: int,
    keep: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write MODEL without the tokens that the texts do not use to OUT.

    All lines of the texts are segmented as before, which is tried on each. With --min-share rare tokens leave too, and
    lines that have them change; they are counted. A token stays if any of the languages uses it enough.

    \b
    Examples:
      suture vocab trim base small --text german.txt --text swahili.txt
      suture vocab trim base small --languages de=news.txt,de=web.txt,sw=wiki.txt --min-share 1e-6
    """
    from suture.surgery.vocab_trim import trim as run

    how = settings(options)
    with bar("trimming", quiet) as progress:
        report = run(
            model,
            out,
            text=_texts(text, languages),
            min_share=min_share,
            mode=mode,
            characters=characters,
            pad_to=pad_to,
            settings=how,
            dry_run=dry_run,
            progress=progress,
            keep=keep,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


def _texts(files: Sequence[str], languages: Sequence[str]) -> dict[str, list[str]]:
    """The files of each language.

    Raises:
        UsageError: if a language has no name or no file.
    """
    found = {name: [name] for name in files}
    for part in (part for whole in languages for part in whole.split(",")):
        name, equals, path = part.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--languages: expected NAME=FILE, found `{part}`", at="languages")
        found.setdefault(name, []).append(path)
    return found
