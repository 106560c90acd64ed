"""``suture schema``."""

from __future__ import annotations

import json

import click

from suture.analysis.schema import SCHEMAS
from suture.analysis.schema import schema as run
from suture.cli.complete import words

_HELP = f"""Print the JSON Schema (draft 2020-12) of merge configs, for editors, or of what a verb prints with --json.

NAME is one of {", ".join(SCHEMAS)}.

\b
Examples:
  suture schema config > suture-config.schema.json
  suture schema report | check-jsonschema --schemafile - out/suture.json
"""


@click.command(short_help="Print JSON Schemas of configs and reports", help=_HELP)
@click.argument("of", metavar="NAME", shell_complete=words(lambda: SCHEMAS))
def schema(of: str) -> None:
    """Print the JSON Schema of one of `SCHEMAS`."""
    click.echo(json.dumps(run(of), indent=2))
