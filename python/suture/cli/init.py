"""``suture init``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from suture.analysis.init import init as run
from suture.analysis.init import unfinished
from suture.analysis.methods import methods
from suture.cli.complete import words
from suture.errors import SutureError, UsageError
from suture.render.terminal import say, warn
from suture.render.units import plural


@click.command(short_help="Write a merge config to edit")
@click.argument("models", type=click.Path(), nargs=-1)
@click.option("--base", type=click.Path(), help="Model they were tuned from")
@click.option(
    "--method",
    metavar="NAME",
    shell_complete=words(lambda: {s["name"]: s["summary"] for s in methods()}),
    help="Merge method  [default: chosen by the models]",
)
@click.option(
    "--from-proposal",
    "proposed",
    type=click.Path(),
    metavar="FILE",
    help="What `suture swap --auto BASE --dry-run --json` printed, instead of models; - for stdin",
)
@click.option("-o", "--out", default="merge.yml", show_default=True, type=click.Path(), help="File; - for stdout")
@click.option("--overwrite", is_flag=True, help="Replace an existing file")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
def init(
    models: tuple[str, ...],
    base: str | None,
    method: str | None,
    proposed: str | None,
    out: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write a config that merges MODELS, or the models in a folder, with a comment for all that can be set.

    It runs as it is. With --base it merges changes of that model, by `ties`, or of one model by `task_arithmetic`;
    without, two models by `slerp` and more by `linear`.

    \b
    Examples:
      suture init math swahili --base base
      suture init experts -o experts.yml
      suture swap --into math --from swahili out --auto base --dry-run --json | suture init --from-proposal -
    """
    file = Path(out)
    if out != "-" and file.resolve().parent != Path.cwd():
        # Another folder's config names models by where they are, not by where we are.
        models = tuple(m if "://" in m else str(Path(m).resolve()) for m in models)
        base = base if base is None or "://" in base else str(Path(base).resolve())
    text = run(*models, base=base, method=method, **_proposal(proposed))
    if out != "-" and not overwrite and (file.exists() or file.is_symlink()):
        raise SutureError(f"{out}: exists already; choose another file (-o), or pass --overwrite", out)
    if out == "-":
        click.echo(text, nl=False)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as e:
        raise SutureError(f"{out}: cannot write: {e.strerror}", out) from None
    if quiet:
        return
    for line in unfinished(text):
        warn(f"{out}: fill in `{line}` before it runs")
    count = plural(text.count("\n  - model: "), "model")
    say(f"{out}: written, of {count}; run it with `suture merge {out} OUT`", err=True)


def _proposal(file: str | None) -> dict[str, Any]:
    """The proposal in a plan, or alone, and the swap that took it."""
    if file is None:
        return {}
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        data = json.loads(text)
    except (OSError, ValueError, RecursionError) as e:
        problem = e.strerror if isinstance(e, OSError) else "is not JSON"
        raise UsageError(f"--from-proposal: {file}: cannot be read: {problem}") from None
    whole = data if isinstance(data, dict) else {}
    found = whole.get("proposal", whole)
    if not isinstance(found, dict) or not {"scores", "into", "donor", "base", "alpha", "stack"} <= found.keys():
        raise UsageError(
            f"--from-proposal: {file}: holds no proposal; expected what swap --auto --dry-run --json prints"
        )
    recipe = whole.get("recipe")
    return {"proposal": found, "swap": recipe.get("swap") if isinstance(recipe, dict) else None}
