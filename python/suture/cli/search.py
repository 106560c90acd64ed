"""``suture search``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from suture.cli.options import reading, settings
from suture.render.search import Trajectory, show, write_html
from suture.render.terminal import emit_json, warn
from suture.searching.run import search as run


@click.command(short_help="Find coefficients of a merge by an evaluator")
@click.argument("config", type=click.Path())
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option(
    "--evaluate", metavar="COMMAND", help="Command that prints a candidate's score; {model} stands for its folder"
)
@click.option(
    "--objective", metavar="NAME", help="Instead: distance:TARGET, balance or interference, from weights alone"
)
@click.option("--budget", type=int, default=100, show_default=True, metavar="N", help="Candidates to judge in all")
@click.option("--workers", type=int, default=1, show_default=True, metavar="N", help="Candidates judged at a time")
@click.option("--minimise", "--minimize", is_flag=True, help="A lower score is better")
@click.option("--metric", metavar="KEY", help="Key of the score in the JSON that COMMAND prints")
@click.option("--timeout", type=float, metavar="S", help="Seconds that COMMAND may take")
@click.option(
    "--failures", type=int, default=0, show_default=True, metavar="N", help="Evaluations that may fail before it stops"
)
@click.option(
    "--state", type=click.Path(), metavar="FILE", help="Where the search is kept  [default: OUT/search.sqlite]"
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Seed of the search")
@click.option("--sampler", default="cma", show_default=True, metavar="NAME", help="cma, or a sampler of optuna's")
@click.option(
    "--sigma", type=float, default=1 / 6, metavar="X", help="How far the first generation goes  [default: 1/6]"
)
@click.option("--population", type=int, metavar="N", help="Candidates in a generation")
@click.option("--keep", is_flag=True, help="Keep every candidate, in OUT/candidates")
@click.option("--in-memory", is_flag=True, help="Make candidates in a model in memory: in Python alone")
@click.option("--memory", metavar="SIZE", help="Most memory a merge uses, such as 256MiB")
@click.option("--dry-run", is_flag=True, help="Show what would be searched; judge nothing")
@reading
def search(config: str, out: Path | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Find coefficients of the merge CONFIG that make COMMAND's score highest, and write them to OUT/best.yml.

    In CONFIG what is searched is `{search: [LOW, HIGH]}`; a config of mergekit-evolve is one too. The same command
    goes on with a search that was interrupted, and with a larger --budget with one that ended.

    \b
    Examples:
      suture search evolve.yml found --evaluate 'python score.py {model}' --budget 200
      suture search merge.yml found --objective distance:target --budget 500
      suture merge found/best.yml merged
    """
    out = out or Path(f"{Path(config).stem}-search")
    how = settings({k: options.pop(k) for k in ("memory", "threads", "io")})
    dry = options["dry_run"]
    page = out / "report.html"
    with Trajectory(quiet or as_json or dry) as watch:
        found = run(config, out, settings=how, watch=watch, report=lambda f: write_html(f, page), **options)
    warn(*found.warnings)
    if as_json:
        emit_json(found.data)
    elif not quiet:
        show(found, dry=dry, page=page)
