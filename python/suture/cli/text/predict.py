"""``suture text predict``."""

from __future__ import annotations

import click

from suture.cli.text.written import out

_out = (
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors"),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON"),
)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


@click.group(short_help="Transfer as a regression on features of languages")
def predict() -> None:
    """Predict transfer between languages from a table of what is known of them: typology, vocabularies, similarity.

    A fitted correlation, with the error of languages left out, and nothing more.
    """


@predict.command(short_help="Fit scores of pairs to features, by ridge regression")
@click.argument("table", type=click.Path())
@click.option("--score", default="score", show_default=True, metavar="COLUMN", help="What to predict")
@click.option("--features", metavar="LIST", help="From what  [default: all other columns of numbers]")
@click.option("--target", default="target", show_default=True, metavar="COLUMN", help="What to leave out in turn")
@click.option("--group", metavar="COLUMN", help="Fit each value of it alone, such as types of tasks")
@click.option("--curve", metavar="COLUMN", help="A number n of which ln n is a feature: a + b ln n")
@click.option("--ridge", type=float, default=1.0, show_default=True, help="Strength of the ridge")
@_out[0]
@_out[1]
def fit(
    table: str,
    score: str,
    features: str | None,
    target: str,
    group: str | None,
    curve: str | None,
    ridge: float,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fit scores of pairs of languages to features, by ridge regression; errors are of target languages left out.

    \b
    Examples:
      suture text predict fit pairs.csv --json > fit.json
      suture text predict fit pairs.csv --features syntax,overlap --group task
      suture text predict fit few-shot.csv --curve examples
    """
    from suture.render.text import show_fit
    from suture.text.predict import fit as run

    found = run(table, score=score, features=_listed(features), target=target, group=group, curve=curve, ridge=ridge)
    out(found, [], show_fit, quiet=quiet, as_json=as_json)


@predict.command(short_help="Predict scores by what `fit --json` printed")
@click.argument("fitted", type=click.Path())
@click.argument("table", type=click.Path())
@_out[0]
@_out[1]
def use(fitted: str, table: str, quiet: bool, as_json: bool) -> None:
    """Predict scores of the rows of TABLE by FITTED, what `fit --json` printed.

    \b
    Example:
      suture text predict use fit.json new-pairs.csv
    """
    from suture.render.text import show_predictions
    from suture.text.predict import use as run

    out(run(fitted, table), [], show_predictions, quiet=quiet, as_json=as_json)


@predict.command(short_help="List languages that may help another")
@click.argument("table", type=click.Path())
@click.option("--to", required=True, metavar="LANGUAGE", help="The language to be helped, in the column `target`")
@click.option("--features", metavar="LIST", help="Similarities  [default: all columns of numbers]")
@click.option("--counts", metavar="LIST", help="Those that are counts, which enter as ln(1 + n)")
@_out[0]
@_out[1]
def helpers(table: str, to: str, features: str | None, counts: str | None, quiet: bool, as_json: bool) -> None:
    """List languages that may help another, by the mean of z-scored similarities (When Is Multilinguality a Curse?).

    \b
    Example:
      suture text predict helpers pairs.csv --to sw --counts shared_tokens
    """
    from suture.render.text import show_helpers
    from suture.text.predict import helpers as run

    found = run(table, to=to, features=_listed(features), counts=_listed(counts) or ())
    out(found, [], show_helpers, quiet=quiet, as_json=as_json)
