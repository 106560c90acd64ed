"""``suture compat``."""

from __future__ import annotations

import click

from suture.analysis.compat import compat as run
from suture.render.terminal import emit_json, warn


@click.command(short_help="Tell whether models can be merged or swapped")
@click.argument("models", type=click.Path(), nargs=-1, required=True)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors; the exit code tells")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
@click.pass_context
def compat(ctx: click.Context, models: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Compare MODELS with the first of them: can they be merged, can layers of the others be put into it?

    Headers, config.json and tokenizer files are read, weights are not. Exit code 0 if they can be merged or swapped, 1
    if neither.

    \b
    Example:
      suture compat math swahili telugu
    """
    found = run(*models)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.compatibility import show_compatibility

        show_compatibility(found)
    if found["merge"]["answer"] == found["swap"]["answer"] == "no":
        ctx.exit(1)
