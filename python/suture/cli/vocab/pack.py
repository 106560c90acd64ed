"""``suture vocab pack``: add, list, remove, materialise, extract."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import reading, settings, writing
from suture.render.outcome import present
from suture.render.progress import bar


@click.group(short_help="Keep several vocabularies on one trunk (Hydra)")
def pack() -> None:
    """Keep models that differ in their tokens alone as one trunk, and packs of tokenizer, embeddings and head."""


@pack.command(short_help="Put the vocabulary of a model into a folder of packs")
@click.argument("packs", type=click.Path())
@click.argument("model", type=click.Path())
@click.option("--name", required=True, metavar="NAME", help="What the pack is called")
@reading
def add(packs: str, model: str, name: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Put the vocabulary of MODEL, a model or a pack, into the folder PACKS, which the first model makes.

    All but the rows of tokens must be the same bytes in all.

    \b
    Examples:
      suture vocab pack add hydra llama --name english
      suture vocab pack add hydra llama-tatar --name tatar
    """
    from suture.surgery import vocab_pack

    how = settings(options)
    with bar("adding", quiet) as progress:
        told = vocab_pack.add(packs, model, name=name, settings=how, progress=progress)
    _show(told, as_json=as_json, quiet=quiet)


@pack.command("list", short_help="Show the packs in a folder")
@click.argument("packs", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def list_(packs: str, as_json: bool) -> None:
    """Show the trunk and the packs in the folder PACKS."""
    from suture.surgery import vocab_pack

    _show(vocab_pack.listed(packs), as_json=as_json, quiet=False)


@pack.command(short_help="Delete a pack")
@click.argument("packs", type=click.Path())
@click.argument("name")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def remove(packs: str, name: str, quiet: bool, as_json: bool) -> None:
    """Delete the pack NAME of the folder PACKS. What the trunk came with stays."""
    from suture.surgery import vocab_pack

    _show(vocab_pack.remove(packs, name), as_json=as_json, quiet=quiet)


@pack.command(short_help="Write the trunk with one of the packs as a model")
@click.argument("packs", type=click.Path())
@click.argument("name")
@click.argument("out", type=click.Path())
@writing
def materialise(
    packs: str,
    name: str,
    out: str,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write the trunk of PACKS with the pack NAME, a model by itself, to OUT.

    Its tensors are the original's, byte for byte; where the file system can, blocks are shared with the trunk.

    \b
    Example:
      suture vocab pack materialise hydra tatar llama-tatar
    """
    from suture.surgery import vocab_pack

    how = settings(options)
    with bar("writing", quiet or dry_run) as progress:
        report = vocab_pack.materialise(packs, name, out, settings=how, dry_run=dry_run, progress=progress)
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


@pack.command(short_help="Write the vocabulary of a fine-tune as a pack")
@click.argument("base", type=click.Path())
@click.argument("tuned", type=click.Path())
@click.argument("out", type=click.Path())
@reading
def extract(base: str, tuned: str, out: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Write the vocabulary of TUNED as a pack to OUT, if all but its rows of tokens are those of BASE.

    BASE is a model or a folder of packs.

    \b
    Example:
      suture vocab pack extract llama llama-tatar tatar-pack
    """
    from suture.render.terminal import emit_json, say
    from suture.surgery import vocab_pack

    told = vocab_pack.extract(base, tuned, out, settings=settings(options))
    if as_json:
        emit_json(told)
    elif not quiet:
        say(f"{out}: {told['rows']:,} rows in {', '.join(sorted(told['tables']))}")


def _show(told: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    from suture.render.terminal import emit_json, say

    if as_json:
        emit_json(told)
    elif not quiet:
        say(f"{told['folder']}: a trunk of {told['trunk']['tensors']:,} tensors")
        for one in told["packs"]:
            say(f"  {one['name']}: {one['rows']:,} rows in {', '.join(one['tensors'])}")
