"""``suture merge``."""

from __future__ import annotations

from typing import Any

import click

from suture.cli.mergekit import aliases, settle
from suture.cli.options import beside_gguf, computing, decoding, settings, writing
from suture.render.outcome import present
from suture.render.progress import bar
from suture.render.terminal import say, warn
from suture.surgery.merge import merge as run


@click.command(short_help="Merge models by a config")
@click.argument("config", type=click.Path())
@click.argument("out", type=click.Path(), required=False)
@click.option("--all-of", is_flag=True, help="CONFIG is a set of models: merge it by twelve methods, and compare")
@click.option("--ignore-unknown", is_flag=True, help="Pass over keys and parameters of CONFIG that nobody knows")
@click.option(
    "--vocab",
    type=click.Choice(["error", "base", "crop", "pad"]),
    help="Where tables of tokens differ in rows, and no tokenizer is asked for  [default: error]",
)
@click.option(
    "--missing",
    type=click.Choice(["error", "base", "skip"]),
    help="A tensor that a model lacks: stop, take the base's, or leave that model out  [default: error]",
)
@click.option(
    "--experts",
    type=click.Choice(["packed", "apart", "as-base"]),
    help="How OUT stores experts: in one tensor, each by itself, or as the base  [default: as-base]",
)
@click.option("--routers-from", type=click.Path(), metavar="MODEL", help="Keep MODEL's routers of experts")
@click.option("--explain", is_flag=True, help="Say in words what CONFIG does to which tensors; write nothing")
@click.option("--seed", type=int, metavar="N", help="Seed of random methods  [default: 0]")
@computing
@decoding
@beside_gguf
@writing
@aliases
def merge(
    config: str,
    out: str | None,
    all_of: bool,
    explain: bool,
    dry_run: bool,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Merge models by CONFIG, a YAML file in mergekit's grammar, and write the result to OUT.

    Model paths in CONFIG are looked for in the current folder, then in the config's. With --dry-run --verbose, every
    tensor is shown with its parameters and the lines they come from. The flags of mergekit-yaml are understood.
    See `suture methods` for what there is.

    With --all-of, CONFIG has no `merge_method`: each of the methods of "Mix Data or Merge Models?" (or of those listed
    under `methods`) goes to a folder of OUT, and a table says how far what it gives is from every expert.
    """
    out = settle(options, "merged" if explain and out is None and options["out_path"] is None else out)
    how = settings(options)
    with bar("merging", quiet or dry_run or explain) as progress:
        report = run(config, out, settings=how, all_of=all_of, dry_run=dry_run or explain, progress=progress)
    if explain and not as_json:
        from suture.analysis.methods import methods
        from suture.render.explain import explained

        warn(*report.warnings)
        for line in explained(report, {spec["name"]: spec for spec in methods()}):
            say(line, hang=len(line) - len(line.lstrip(" ")) + 4)
        return
    present(report, as_json=as_json, quiet=quiet, verbose=verbose)
