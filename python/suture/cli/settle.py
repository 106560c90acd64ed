"""``suture settle``."""

from __future__ import annotations

import click

from suture.render.terminal import emit_json, say
from suture.surgery.finish import settle as run


@click.command(short_help="Join what a round of parts has found")
@click.argument("out", type=click.Path())
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def settle(out: str, quiet: bool, as_json: bool) -> None:
    """Join what --part 1/N --round 1 to --part N/N --round 1 have found for OUT, in the order of the plan.

    Methods that count over a layer, a module or the whole model need it before parts can be made; some need several
    rounds.
    """
    found = run(out)
    if as_json:
        emit_json(found)
    elif not quiet:
        due = found["rounds"] + 1
        then = (
            f"round {due} is wanted: give --round {due}" if found["wanted"] else "parts can be made: leave --round out"
        )
        say(f"round {found['rounds']} is settled; {then}")
