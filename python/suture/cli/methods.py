"""``suture methods``."""

from __future__ import annotations

import click

from suture.analysis.methods import methods as run
from suture.cli.complete import words
from suture.errors import UsageError, near
from suture.render.terminal import emit_json


@click.command(short_help="List merge methods, or describe one")
@click.argument("name", required=False, shell_complete=words(lambda: {s["name"]: s["summary"] for s in run()}))
@click.option("--json", "as_json", is_flag=True, help="Print the specs as JSON")
@click.option("--markdown", is_flag=True, help="Print all as a page of Markdown")
def methods(name: str | None, as_json: bool, markdown: bool) -> None:
    """List merge methods, or describe NAME: formula, parameters, paper, cost."""
    specs = run()
    chosen = [s for s in specs if name in (None, s["name"])]
    if not chosen:
        meant = near(str(name), [s["name"] for s in specs]) or "; `suture methods` lists them"
        raise UsageError(f"unknown method `{name}`{meant}")
    if as_json:
        emit_json(chosen if name is None else chosen[0])
        return
    from suture.render import catalogue

    if markdown:
        click.echo(catalogue.markdown(chosen), nl=False)
    elif name is None:
        catalogue.list_all(chosen)
    else:
        catalogue.describe(chosen[0])
