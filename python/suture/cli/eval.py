"""``suture eval``."""

from __future__ import annotations

import click

from suture.errors import UsageError
from suture.render.terminal import emit_json, say, warn


@click.command("eval", short_help="Command lines for harnesses, and a table of what they found")
@click.argument("models", type=click.Path(), nargs=-1, required=True)
@click.option("--emit", "harness", type=click.Choice(["lm-eval", "lighteval"]), help="Print the commands of a harness")
@click.option("--tasks", metavar="LIST", help="Tasks, as the harness names them")
@click.option("--few-shot", type=click.IntRange(0), metavar="N", help="Examples before each question")
@click.option("--dtype", default="bfloat16", show_default=True, help="Dtype the harness loads weights in")
@click.option("--out", default="results", show_default=True, type=click.Path(), help="Where the harness writes")
@click.option("--table", "tabulate", is_flag=True, help="MODELS are results of a harness: compare them")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON")
def eval(
    models: tuple[str, ...],
    harness: str | None,
    tasks: str | None,
    few_shot: int | None,
    dtype: str,
    out: str,
    tabulate: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Print the command lines that evaluate MODELS by a harness; nothing is run. With --table, MODELS are what it
    wrote, and parents (all but the last) are shown against the child.

    \b
    Examples:
      suture eval math swahili merged --emit lm-eval --tasks belebele_swh_Latn,mgsm_direct_sw > run.sh
      suture eval results/math results/swahili results/merged --table
    """
    if tabulate == (harness is not None):
        raise UsageError("give --emit HARNESS for command lines, or --table for what a harness found")
    if harness is not None:
        from suture.text.harness import emit

        listed = [t.strip() for t in (tasks or "").split(",") if t.strip()]
        lines = emit(*models, harness=harness, tasks=listed, out=out, dtype=dtype, few_shot=few_shot)
        if as_json:
            emit_json({"schema": 1, "harness": harness, "commands": lines})
        else:
            for line in lines:
                click.echo(line)
        return
    if tasks is not None or few_shot is not None:
        raise UsageError("--tasks and --few-shot are of --emit; a table has all tasks that its results share")
    from suture.text.harness import table

    found = table(*models)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.text import show_evaluation

        show_evaluation(found)
        if len(models) == 1:
            say("one result alone has nothing to stand against; give the parents' before it", err=True)
