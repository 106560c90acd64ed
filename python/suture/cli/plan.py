"""``suture plan``."""

from __future__ import annotations

import shlex
from typing import Any

import click

from suture.cli.options import settings
from suture.errors import UsageError
from suture.render.parts import planned
from suture.render.terminal import emit_json, say, warn
from suture.results.parts import Outlook
from suture.surgery.plan import plan as run

#: Options that say what a machine can do.
_RATES = ("disk_read", "disk_write", "network", "storage", "compute")


@click.command(short_help="Tell what a merge reads and writes, and how it divides")
@click.argument("config", type=click.Path())
@click.argument("out", type=click.Path(), default="OUT")
@click.option("--parts", type=int, metavar="N", help="Divide it into N parts, and show the commands")
@click.option("--estimate", is_flag=True, help="Tell what it takes on one machine and on more, and why")
@click.option("--machines", metavar="LIST", help="With --estimate: how many  [default: 1,2,4,8,16,32,64]")
@click.option("--disk-read", type=float, metavar="GB/S", help="What a machine reads a second, if not as measured here")
@click.option("--disk-write", type=float, metavar="GB/S", help="What it writes a second, if not as measured here")
@click.option("--network", type=float, metavar="GB/S", help="What goes to and from a machine, if files are not its own")
@click.option("--storage", type=float, metavar="GB/S", help="What all machines together can read and write a second")
@click.option("--compute", type=float, metavar="GB/S", help="What it computes on, if not as measured here")
@click.option("--threads", type=int, metavar="N", help="Threads that compute on a machine  [default: one per core]")
@click.option("--dtype", metavar="DTYPE", help="Dtype of every float tensor written, such as bfloat16")
@click.option("--shard-size", metavar="SIZE", help="Most bytes in a shard, such as 5GB")
@click.option("--seed", type=int, metavar="N", help="Seed of random methods  [default: 0]")
@click.option("--nan", type=click.Choice(["error", "allow"]), help="What to do on NaN and infinities  [default: error]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def plan(
    config: str, out: str, parts: int | None, estimate: bool, machines: str | None, as_json: bool, **options: Any
) -> None:
    """Tell what the merge by CONFIG would read and write, shard by shard. Only headers are read.

    With --parts it is divided as --part 1/N to --part N/N of `suture merge` divide it, on any machine, and the
    commands are shown, for OUT.

    With --estimate it is told what it takes on several machines, each like this one or as the rates say that are given:
    what is not given is measured here, which reads a sample of a model and writes a file beside OUT.

    \b
    Examples:
      suture plan config.yaml out --parts 16
      suture plan config.yaml out --estimate --disk-read 5 --disk-write 3 --network 3
    """
    try:
        found = _found(config, out, parts, estimate, machines, options)
    except UsageError as e:
        name = e.at or ""
        if name.isidentifier() and str(e).startswith(f"{name}:"):
            raise UsageError(f"--{name.replace('_', '-')}{str(e).removeprefix(name)}", at=name) from None
        raise
    if as_json:
        emit_json(found)
        return
    warn(*found["warnings"])
    for line in planned(found):
        say(line, hang=4)


def _found(
    config: str, out: str, parts: int | None, estimate: bool, machines: str | None, options: dict[str, Any]
) -> Outlook:
    """What is found of the merge; errors are by the names of the API."""
    known = {name: value and value * 1e9 for name in _RATES if (value := options.pop(name)) is not None}
    if not estimate and (known or machines is not None):
        name = next(iter(known), "machines")
        raise UsageError(f"{name}: goes with --estimate", at=name)
    given = {key: value for key, value in options.items() if value is not None}
    more = shlex.join(word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value)))
    many = _numbers(machines or "1,2,4,8,16,32,64") if estimate else None
    return run(config, out, parts=parts, settings=settings(given), options=more, machines=many, rates=known)


def _numbers(text: str) -> list[int]:
    """The numbers in a list such as ``1,2,4``."""
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise UsageError(f"machines: expected numbers such as 1,2,4, found `{text}`", at="machines")
    return [int(word) for word in words]
