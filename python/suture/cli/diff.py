"""``suture diff``."""

from __future__ import annotations

import csv
from collections.abc import Callable
from typing import Any

import click

from suture.analysis.diff import ABOVE, metrics
from suture.analysis.diff import diff as run
from suture.analysis.layers import frozen, listed_layers, moved
from suture.analysis.masked import complain
from suture.analysis.recipes import diff_recipes, is_report
from suture.cli.complete import words
from suture.cli.options import background, on_device, reading, settings
from suture.cli.text.written import check as check_files
from suture.errors import SutureError, UsageError, near
from suture.render.progress import bar
from suture.render.terminal import emit_json, say, warn
from suture.results import Comparison, Metric, Row, Tuned

#: Rows of a table, what each is, and whether they have the figures of --spread, by what --by calls it.
TABLES: dict[str, tuple[Callable[[Tuned], list[Row]], tuple[str, ...], bool]] = {
    "layer": (lambda m: m["layers"], ("layer",), True),
    "module": (lambda m: m["modules"], ("module",), True),
    "tensor": (lambda m: m["tensors"], ("name",), True),
    "head": (lambda m: m["heads"], ("layer", "module", "head"), False),
    "neuron": (lambda m: m["neurons"], ("layer", "module", "group"), False),
    "token": (lambda m: m["tokens"], ("tensor", "row", "token"), False),
}


def _names(spread: bool) -> dict[str, str]:
    """The metrics and what they are, for a shell."""
    return {m["name"]: m["summary"] for m in metrics(spread=spread)}


@click.command(short_help="Measure what fine-tunes changed")
@click.argument("base", type=click.Path())
@click.argument("tuned", type=click.Path(), nargs=-1, required=True)
@click.option("--by", type=click.Choice(list(TABLES)), help="Table instead of the heat map")
@click.option(
    "--sort",
    metavar="METRIC",
    shell_complete=words(lambda: _names(spread=True)),
    help="Sort the table, largest first (cosine: smallest first)",
)
@click.option(
    "--metric",
    default="relative_l2",
    show_default=True,
    metavar="METRIC",
    shell_complete=words(lambda: _names(spread=False)),
    help="Metric of the heat map",
)
@background
@click.option("--heads", is_flag=True, help="Measure every attention head")
@click.option("--neurons", type=int, default=0, metavar="N", help="Measure N groups of neurons of each module")
@click.option("--tokens", type=int, default=0, metavar="K", help="List the K most changed rows of each vocabulary")
@click.option("--spread", is_flag=True, help="Quantiles, Gini coefficient and shares above thresholds; reads twice")
@click.option("--above", default=ABOVE, show_default=True, metavar="LIST", help="The thresholds; x: times mean |base|")
@click.option("--layers", metavar="LIST", help="Read these layers only (0-4,30,vision,outside)")
@click.option(
    "--frozen", "frozen_list", metavar="LIST", help="Fail if one of these layers changed (0-4,30,vision,outside)"
)
@click.option("--trained", "trained_list", metavar="LIST", help="Fail if anything but these layers changed")
@click.option("--mask", "mask_file", type=click.Path(), metavar="FILE", help="Fail if what `suture mask` froze changed")
@click.option("--stage", metavar="NAME", help="With --mask: one of its stages; all together otherwise")
@click.option("--csv", "csv_file", type=click.Path(), metavar="FILE", help="Write the table as CSV")
@click.option("--parquet", "parquet_file", type=click.Path(), metavar="FILE", help="Write the table as Parquet")
@click.option("--plot", "plot_file", type=click.Path(), metavar="FILE", help="Draw the heat map as .svg or .png")
@click.option("--html", "html_file", type=click.Path(), metavar="FILE", help="Write everything as one HTML page")
@on_device
@click.option("--recipes", is_flag=True, help="Compare where two outputs come from, by their suture.json")
@reading
def diff(
    base: str,
    tuned: tuple[str, ...],
    by: str | None,
    sort: str | None,
    metric: str,
    background: str | None,
    heads: bool,
    neurons: int,
    tokens: int,
    spread: bool,
    above: str,
    layers: str | None,
    frozen_list: str | None,
    trained_list: str | None,
    mask_file: str | None,
    stage: str | None,
    csv_file: str | None,
    parquet_file: str | None,
    plot_file: str | None,
    html_file: str | None,
    recipes: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what fine-tunes changed, by layer, module, tensor, head, neuron group or token.

    BASE and every TUNED are read once, in parallel. Without --by a heat map of layers by modules is shown. With
    several TUNED, how their changes relate is shown too.

    \b
    Examples:
      suture diff base math-expert swahili-expert
      suture diff base math-expert --by head --sort relative_l2
      suture diff base math-expert swahili-expert --html report.html
      suture diff base tuned --frozen 0-4,outside
      suture diff base tuned --mask mask.json --stage 2
      suture diff s3://models/base s3://models/tuned --layers 0-4
      suture diff merge-1 merge-2 --recipes
    """
    if recipes or all(map(is_report, (base, *tuned))):
        _diff_recipes(base, tuned, quiet=quiet, as_json=as_json)
        return
    if html_file:
        # The page shows all there is.
        if options["device"] != "cpu":
            raise UsageError("--html shows all figures, and --device computes those of one reading; leave one out")
        heads, spread = heads or _has_heads(base), True
        neurons, tokens = neurons or 16, tokens or 20
    heads, neurons, tokens = heads or by == "head", neurons or (by == "neuron") * 16, tokens or (by == "token") * 20
    known = _check_metrics(by, sort, metric, spread, above)
    check_files(csv_file, parquet_file, html_file, plot_file)
    if plot_file and not plot_file.lower().endswith((".svg", ".png")):
        raise UsageError(f"{plot_file}: a plot is written as .svg or .png; give the file one of these endings")
    checks = [(frozen, frozen_list), (moved, trained_list)]
    asked = [(check, listed_layers(base, listed)) for check, listed in checks if listed is not None]
    # What is not read cannot be called unchanged.
    if asked and layers is not None and (trained_list is not None or asked[0][1] - listed_layers(base, layers)):
        raise UsageError("--layers: leaves out what --frozen and --trained are held against; leave --layers out")
    with bar("comparing", quiet) as progress:
        found = run(
            base, *tuned, heads=heads, neurons=neurons, tokens=tokens, spread=spread, above=above, layers=layers,
            mask=mask_file, stage=stage, settings=settings(options), progress=progress,
        )  # fmt: skip
    for option, name in (("--sort", sort), ("--metric", metric)):
        if name in known and name not in {m["name"] for m in found["metrics"]}:
            raise UsageError(f"{option}: `{name}` is there where a model has quantised weights, and none of these has")
    rows_of, keys, _ = TABLES[by or "tensor"]
    rows = [rows_of(model) for model in found["models"]]
    if sort:
        for table in rows:
            # What has no figure comes last, whichever way.
            sign = 1 if known[sort]["ascending"] else -1
            table.sort(key=lambda r: (r[sort] is None, sign * float(r[sort] or 0)))
    if csv_file and not any(rows):
        raise UsageError(f"{csv_file}: nothing to write; the checkpoints share no {by or 'tensor'}")
    _write_files(found, rows, metric, csv_file, parquet_file, plot_file, html_file)
    if not quiet:
        warn(*found["warnings"])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.comparison import show_masks, show_pairs, show_steps, show_table, warn_of_strangers
        from suture.render.heatmap import show_heat_map

        for model, table in zip(found["models"], rows, strict=True):
            if by or sort:
                show_table(found, model, keys, table, first=sort)
            else:
                show_heat_map(found, model, metric, background)
            show_steps(model)
        show_masks(found)
        show_pairs(found)
        warn_of_strangers(found)
        measured = {"head": heads, "neuron": neurons, "token": tokens, "layer": spread and len(tuned) == 1}
        if hidden := [f"`--by {name}`" for name, asked in measured.items() if asked and not (by or sort or html_file)]:
            say(f"measured too, and shown by {', '.join(hidden)}, --json and --html", err=True)
        for file in (f for f in (csv_file, parquet_file, plot_file, html_file) if f):
            say(f"wrote {file}", err=True)
    for check, listed in asked:
        check(found, listed)
    if mask_file is not None:
        complain(found)


def _diff_recipes(one: str, others: tuple[str, ...], *, quiet: bool, as_json: bool) -> None:
    if len(others) != 1:
        raise UsageError(f"--recipes compares two outputs, found {len(others) + 1}")
    found = diff_recipes(one, others[0])
    if as_json:
        emit_json(found)
    elif not quiet:
        from suture.render.recipes import show_recipes

        show_recipes(found)


def _has_heads(base: str) -> bool:
    """True if the base's config.json tells how many heads there are."""
    from suture.analysis.inspect import inspect

    try:
        return any(stack["heads"] for stack in inspect(base)["stacks"])
    except SutureError:
        return False


def _check_metrics(by: str | None, sort: str | None, metric: str, spread: bool, above: str) -> dict[str, Metric]:
    """All metrics by their names; tells of a misspelt one before anything is read."""
    known = {m["name"]: m for m in metrics(spread=True, above=above)}
    plain = [name for name, m in known.items() if not m["spread"]]
    more = known.keys() - plain
    listed = ", ".join(f"`{name}`" for name in plain)
    if by and metric != "relative_l2":
        raise UsageError(f"--metric is the heat map's, and --by shows a table instead; sort it with `--sort {metric}`")
    if above != ABOVE and not spread:
        raise UsageError("--above: the shares above thresholds need --spread")
    if metric in more:
        raise UsageError(f"--metric: `{metric}` is not there by layer and module at once; expected one of {listed}")
    if sort in more and by is not None and not TABLES[by][2]:
        raise UsageError(f"--sort: `{sort}` is not there by {by}; expected one of {listed}")
    for option, name in (("--sort", sort), ("--metric", metric)):
        if name in more and not spread:
            raise UsageError(f"{option}: `{name}` needs --spread")
        if name is not None and name not in known:
            fitting = known if option == "--sort" else plain
            meant = near(name, fitting) or f"; expected one of {', '.join(f'`{n}`' for n in fitting)}"
            raise UsageError(f"{option}: unknown metric `{name}`{meant}")
    return known


def _write_files(
    found: Comparison,
    rows: list[list[Row]],
    metric: str,
    csv_file: str | None,
    parquet_file: str | None,
    plot_file: str | None,
    html_file: str | None,
) -> None:
    several = len(rows) > 1
    labels = [model["label"] for model in found["models"]]
    flat = [({"model": label} if several else {}) | r for label, t in zip(labels, rows, strict=True) for r in t]
    if csv_file:
        _write_csv(csv_file, [_flat(row) for row in flat])
    if parquet_file:
        from suture.render.report import write_parquet

        write_parquet(flat, parquet_file)
    if plot_file:
        from suture.render.report import write_plot

        write_plot(found, plot_file, metric=metric)
    if html_file:
        from suture.proposal import propose_from
        from suture.render.report import write_html

        write_html(found, html_file, proposal=propose_from(found) if several else None)


def _flat(row: Row) -> Row:
    return {**row, "shape": "x".join(map(str, row["shape"]))} if "shape" in row else row


def _write_csv(path: str, rows: list[Row]) -> None:
    try:
        with open(path, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as e:
        raise SutureError(f"{path}: cannot write: {e.strerror}", path) from None
