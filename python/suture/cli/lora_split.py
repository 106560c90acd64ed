"""``suture lora split``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.lora_convert import facts, told
from suture.cli.options import settings, writing
from suture.errors import UsageError
from suture.render.outcome import present
from suture.render.progress import bar


@click.command("split", short_help="Split an adapter by layers, modules or languages")
@click.argument("adapter", type=click.Path())
@click.argument("out", type=click.Path())
@click.option("--by", required=True, type=click.Choice(["layer", "module", "language"]), help="What goes apart")
@click.option(
    "--layers", metavar="LIST", help="By layer: the layers of each piece, such as 0-7,8-15  [default: one each]"
)
@click.option("--stack", metavar="NAME", help="By layer: the stack that layers are numbered in; see inspect")
@click.option("--module", "modules", multiple=True, metavar="NAME=REGEX", help="By module: a piece, of names that fit")
@click.option("--languages", metavar="A,B,...", help="By language: which of the adapters in the file  [default: all]")
@facts
@writing
def split(
    adapter: str,
    out: str,
    by: str,
    layers: str | None,
    stack: str | None,
    modules: tuple[str, ...],
    languages: str | None,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write ADAPTER as several, each into a folder of OUT that PEFT loads; every tensor is in one of them.

    By language a file is split that holds several adapters under names: of PEFT, AdapterHub, X-ALMA.

    \b
    Examples:
      suture lora split math-lora pieces --by layer --layers 0-7,8-15
      suture lora split math-lora pieces --by module --module attention=self_attn --module mlp=mlp
      suture lora split x-alma pieces --by language --languages 1,3
    """
    from suture.surgery.lora_split import split_adapter

    patterns = dict(_named(item) for item in modules)
    if len(patterns) < len(modules):
        raise UsageError("--module: two pieces have one name", at="modules")
    given = told(options)
    with bar("splitting", quiet or dry_run) as progress:
        report = split_adapter(
            adapter,
            out,
            by=by,
            layers=layers,
            stack=stack,
            modules=patterns or None,
            languages=[n.strip() for n in (languages or "").split(",") if n.strip()],
            given=given,
            settings=settings(options),
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


def _named(item: str) -> tuple[str, str]:
    """A piece and its pattern.

    Raises:
        UsageError: if it is none.
    """
    name, equals, pattern = item.partition("=")
    if not equals or not name or not pattern:
        raise UsageError(f"--module: expected a name and a pattern such as mlp=mlp, found `{item}`", at="modules")
    return name, pattern
