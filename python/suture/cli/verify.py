"""``suture verify``."""

from __future__ import annotations

from typing import Any

import click

from suture.analysis.verify import verify as run
from suture.cli.options import reading, settings
from suture.errors import SutureError
from suture.render.progress import bar
from suture.render.terminal import emit_json, say
from suture.render.units import size


@click.command(short_help="Check an output against its digests")
@click.argument("out", type=click.Path())
@reading
def verify(out: str, quiet: bool, as_json: bool, **options: Any) -> None:
    """Read OUT again and compare every tensor, and the small files beside them, with the digests in its suture.json.

    OUT may be a delta, a twin, or a folder of several outputs, too.
    """
    with bar("verifying", quiet) as progress:
        found = run(out, settings=settings(options), progress=progress)
    if as_json:
        emit_json(found)
    differing = found["differing"]
    if differing:
        more = f", and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise SutureError(f"{out}: tensor `{differing[0]}` differs from its digest{more}; write the output again", out)
    if files := found["files"]:
        more = f", and {len(files) - 1} more" if len(files) > 1 else ""
        raise SutureError(f"{out}: the tensors are what was written; `{files[0]}` is changed or gone{more}", out)
    if not (quiet or as_json):
        unknown = found["unknown"]
        but = f", but for {unknown:,} that a store has copied: of these none is known" if unknown else ""
        say(f"{found['tensors']} tensors, {size(found['bytes'])}: all match their digests{but}")
