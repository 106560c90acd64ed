"""``suture swap``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from suture.cli.complete import words
from suture.cli.options import beside_gguf, computing, decoding, kept, settings, writing
from suture.errors import UsageError
from suture.proposal import ALPHA, TAU
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.swap import swap as run


@click.command(short_help="Put layers of one model into another")
@click.option("--into", required=True, type=click.Path(), metavar="RECIPIENT", help="Model whose rest is kept")
@click.option(
    "--from",
    "donors",
    required=True,
    multiple=True,
    # A path, with or without a list behind it: so that a shell completes it as one.
    type=click.Path(),
    metavar="DONOR[=LIST]",
    help="Model that gives layers; of several donors each gives the layers of its list",
)
@click.argument("out", type=click.Path())
@click.option("--bottom", type=int, default=0, metavar="B", help="Layers from the bottom that the donor gives")
@click.option("--top", type=int, default=0, metavar="T", help="Layers from the top that the donor gives")
@click.option("--transition", type=int, default=0, metavar="R", help="Layers next to these that are blended")
@click.option("--transition-bottom", type=int, metavar="R", help="The same next to the bottom alone")
@click.option("--transition-top", type=int, metavar="R", help="The same next to the top alone")
@click.option(
    "--blend",
    default="0.5",
    show_default=True,
    metavar="W",
    shell_complete=words(lambda: {"ramp": "the share falls over the transition"}),
    help="The donor's share in a blended layer; ramp lets it fall over the transition",
)
@click.option(
    "--layers",
    metavar="LIST",
    help="Layers the donor gives, such as 0-4,30,31, or all; instead of --bottom and --top",
)
@click.option(
    "--modules", metavar="LIST", help="Move only these modules: parts of names, globs or filters, such as mlp,'*.q_*'"
)
@click.option("--stack", metavar="NAME", help="Stack that layers are numbered in, if not the main one; see inspect")
@click.option("--heads", metavar="LIST", help="Move only these attention heads, such as 0-3,7")
@click.option(
    "--non-layer",
    type=click.Choice(["into", "from", "base", "mean"]),
    help="Whose embeddings, final norm and head to take  [default: into]",
)
@click.option(
    "--ignore", metavar="LIST", help="Tensors that stay the recipient's and need not be in all models: filters"
)
@click.option("--auto", type=click.Path(), metavar="BASE", help="Choose the layers by what each model changed of BASE")
@click.option(
    "--auto-by",
    type=click.Choice(["layer", "module", "edges"]),
    help="How: by layer, by attention and feed-forward, or as bottom and top  [default: layer]",
)
@click.option(
    "--evidence",
    type=click.Path(),
    metavar="FILE",
    help="With --auto: choose by similarity of languages too, the JSON of `suture text similarity`",
)
@click.option("--tau", type=float, help=f"Difference of scores that decides nothing  [default: {TAU}]")
@click.option("--alpha", type=float, help=f"The donor's share where undecided  [default: {ALPHA}]")
@click.option("--base", type=click.Path(), help="Model both were tuned from, for --non-layer base and --donor-base")
@click.option(
    "--donor-base", type=click.Path(), help="Model the donor was tuned from: move its change, not its weights"
)
@click.option("--chat-template", metavar="NAME", help="Chat template of OUT: auto, a name such as chatml, or Jinja")
@computing
@decoding
@beside_gguf
@writing
def swap(
    into: str,
    donors: tuple[str, ...],
    out: str,
    blend: str,
    auto: str | None,
    auto_by: str | None,
    base: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Put layers of DONOR into RECIPIENT and write the result to OUT.

    What is not blended is moved bit for bit. Layers count from 0 at the embedding.

    \b
    Examples:
      suture swap --into math --from swahili merged --bottom 5 --top 2
      suture swap --into math --from swahili merged --auto base --dry-run
      suture swap --into math --from swahili out --auto base --evidence base.json
      suture swap --into math --from swahili=0-4 --from telugu=30,31 merged
    """
    how = settings(options)
    if auto is not None and base not in (None, auto):
        raise UsageError(f"--base `{base}` and --auto `{auto}` name two bases; give one")
    if auto is None and auto_by is not None:
        raise UsageError("--auto-by says how --auto chooses the layers; give --auto BASE too")
    with bar("swapping", quiet or dry_run) as progress:
        report = run(
            into,
            _donors(donors),
            out,
            **options,
            blend=_share(blend),
            base=auto or base,
            auto=None if auto is None else auto_by or "layer",
            settings=how,
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose, options=kept(how))


def _donors(given: tuple[str, ...]) -> str | dict[str, str]:
    """One donor, or several with the layers of each."""
    if len(given) == 1 and (Path(given[0]).exists() or not re.fullmatch(r".+=([^=]*\d[\d\s,-]*|all)", given[0])):
        return given[0]
    donors: dict[str, str] = {}
    for text in given:
        path, _, layers = text.rpartition("=")
        if not path or not layers:
            raise UsageError(f"--from: expected DONOR=LAYERS for each of several donors, found `{text}`")
        if path in donors:
            raise UsageError(f"--from: `{path}` is given twice; list all its layers at once")
        donors[path] = layers
    return donors


def _share(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
