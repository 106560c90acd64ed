"""``suture modules``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.errors import UsageError
from suture.render.outcome import present, present_all
from suture.render.progress import bar
from suture.render.terminal import say
from suture.surgery import modules as verbs

ACTIONS = ("list", "drop", "keep", "clone", "graft", "default", "split")


@click.command(short_help="Language modules: list, drop, keep, clone, graft")
@click.argument("model", type=click.Path())
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("out", type=click.Path(), required=False)
@click.option("--languages", metavar="A,B,...", help="The modules, by their names")
@click.option("--as", "name", metavar="NAME", help="With clone: what the new module is called")
@click.option("--from", "donor", type=click.Path(), help="With graft: the model whose modules are taken")
@click.option("--ignore-trunk", is_flag=True, help="With graft: go on where the trunks differ")
@writing
def modules(
    model: str,
    action: str,
    out: str | None,
    languages: str | None,
    name: str | None,
    donor: str | None,
    ignore_trunk: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """List MODEL's language modules, or write it to OUT with others.

    Modules are those of X-MOD, of AdapterHub and MAD-X, and the groups of X-ALMA. What stays, stays bit for bit.

    \b
    Examples:
      suture modules xmod list
      suture modules xmod keep smaller --languages en_XX,sw_KE
      suture modules xmod clone larger --languages sw_KE --as zu_ZA
      suture modules xmod graft out --from tuned --languages sw_KE
    """
    if action == "list":
        rows = verbs.listed(model)
        if as_json:
            click.echo(verbs.as_json(rows))
            return
        for row in rows:
            mark = "  (default)" if row["default"] else ""
            say(f"{row['name']}  {row['kind']}, {row['tensors']} tensors, {row['bytes']:,} bytes{mark}")
        return
    if out is None:
        raise UsageError(f"{action}: expected OUT, where the model is written", at="out")
    listed = [n.strip() for n in (languages or "").split(",") if n.strip()]
    if not listed and action != "split":
        raise UsageError("--languages: is missing; name the modules, such as en_XX,sw_KE", at="languages")
    if (name is not None) != (action == "clone") or (donor is not None) != (action == "graft"):
        raise UsageError("--as goes with clone, --from with graft, and both need them")
    if len(listed) > 1 and action in ("clone", "default"):
        raise UsageError(f"--languages: {action} takes one, found {len(listed)}", at="languages")
    with bar("writing modules", quiet or dry_run) as progress:
        more: dict[str, Any] = {"settings": settings(options), "dry_run": dry_run, "progress": progress}
        if action == "clone":
            done = verbs.clone(model, out, listed[0], name or "", **more)
        elif action == "graft":
            done = verbs.graft(model, donor or "", out, listed, ignore_trunk=ignore_trunk, **more)
        elif action == "default":
            done = verbs.default(model, out, listed[0], **more)
        elif action == "split":
            apart = verbs.split(model, out, listed, **more)
        else:
            done = (verbs.keep if action == "keep" else verbs.drop)(model, out, listed, **more)
    if action == "split":
        present_all(apart, as_json=as_json, quiet=quiet, verbose=verbose)
    else:
        present(done, as_json=as_json, quiet=quiet, verbose=verbose)
