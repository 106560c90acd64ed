"""``suture layers``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.options import settings, writing
from suture.errors import UsageError
from suture.render.outcome import present
from suture.render.progress import bar
from suture.surgery.layers import layers as run


@click.command(short_help="Keep, drop, repeat or stack layers")
@click.argument("places", nargs=-1, required=True, type=click.Path(), metavar="[MODEL] OUT")
@click.option("--keep", metavar="LAYERS", help="The layers that stay, in this order, such as 0-7,12,15-31")
@click.option("--drop", metavar="LAYERS", help="The layers that go, or least:N by --influence")
@click.option("--repeat", metavar="LAYERS", help="The layers that come twice, the copies behind them")
@click.option("--stride", type=int, metavar="N", help="Keep the last of every N layers (BiStil)")
@click.option("--from-slices", metavar="A=0-23,B=8-31", help="Layers of several models, without MODEL")
@click.option(
    "--scale", metavar="NAME=X,...", help="Multiply matrices, such as o_proj=0.5; with --repeat in the copies"
)
@click.option("--influence", type=click.Path(), metavar="FILE", help="JSON of `suture text influence`, for --drop")
@click.option("--report", type=click.Path(), metavar="BASE", help="Tell what training from BASE changed in what goes")
@writing
def layers(
    places: tuple[str, ...], scale: str | None, dry_run: bool, quiet: bool, verbose: bool, as_json: bool, **options: Any
) -> None:
    """Write MODEL with other layers to OUT: some kept, dropped, repeated, or stacked of several models.

    Layers are counted from 0 and copied bit for bit; config.json says what they now are, or the plan is refused.

    \b
    Examples:
      suture layers model smaller --drop 20-23
      suture layers model larger --repeat 8-15 --scale o_proj=0.5,down_proj=0.5
      suture layers model smaller --drop least:4 --influence found.json --report base
      suture layers stacked --from-slices A=0-23,B=8-31
    """
    names = ("keep", "drop", "repeat", "stride", "from_slices", "influence", "report")
    asked = {name: options.pop(name) for name in names}
    if len(places) > 2 or (len(places) < 2) != (asked["from_slices"] is not None):
        raise UsageError("expected MODEL and OUT, or with --from-slices OUT alone")
    model = None if len(places) < 2 else places[0]
    with bar("writing layers", quiet or dry_run) as progress:
        report = run(
            model,
            places[-1],
            **asked,
            scale=_factors(scale),
            settings=settings(options),
            dry_run=dry_run,
            progress=progress,
        )
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)


def _factors(text: str | None) -> dict[str, float] | None:
    """Factors by a part of a name.

    Raises:
        UsageError: if one is no number.
    """
    if text is None:
        return None
    out = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        try:
            out[name.strip()] = float(value)
        except ValueError:
            raise UsageError(
                f"--scale: expected names and factors such as o_proj=0.5, found `{item}`", at="scale"
            ) from None
    return out
